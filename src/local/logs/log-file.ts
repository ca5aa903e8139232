// The end of a log file, and what comes to it: in little memory, however long it is and its lines are.

import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { errnoCode } from "../../base/errors.ts";
import { olderLog } from "../../base/logs/log-rotation.ts";
import {
  isOfLevel,
  type LogEntry,
  type LogLevel,
  LogParser,
  type LogSource,
} from "./log-entries.ts";

/** Of one read. */
const CHUNK_BYTES = 256 * 1024;
/** Further back nobody looks for entries of a level. */
const MAX_TAIL_BYTES = 16 * 1024 * 1024;
/** Who follows and is further behind goes on at the end. */
const MAX_BEHIND_BYTES = 4 * 1024 * 1024;
/** Of one question. */
const MAX_POLLED = 1000;

export interface LogChoice {
  readonly source: LogSource;
  /** Graver ones come too. */
  readonly level: LogLevel;
  /** Lines stay as they are, but for what harms. */
  readonly isRaw?: boolean;
}

/** How far a log was read. */
interface Place {
  readonly inode: number;
  readonly offset: number;
}

export interface LogTail {
  /** The newest last. */
  readonly entries: readonly LogEntry[];
  /** False: there may be older ones. */
  readonly isAll: boolean;
  readonly follower: LogFollower;
}

/**
 * At most `count` entries, none where there is no file yet; also of what was put away, where the log has begun anew. Rejects
 * with what the file system says.
 */
export async function readLogTail(
  path: string,
  choice: LogChoice,
  count: number,
): Promise<LogTail> {
  const tail = await readTailOf(path, choice, count);
  const older = olderLog(path);
  if (!tail.isAll || tail.entries.length >= count || older === undefined) {
    return tail;
  }
  const { entries, isAll } = await readLogTail(older, choice, count - tail.entries.length);
  return { ...tail, entries: entries.concat(tail.entries), isAll };
}

async function readTailOf(path: string, choice: LogChoice, count: number): Promise<LogTail> {
  const file = await openLog(path);
  if (file === undefined) {
    return { entries: [], isAll: true, follower: new LogFollower(path, choice, undefined) };
  }
  try {
    const { ino: inode, size } = await file.stat();
    for (let bytes = CHUNK_BYTES; ; bytes *= 4) {
      const from = Math.max(0, size - Math.min(bytes, MAX_TAIL_BYTES));
      const read = await readEntries(file, choice, { from, to: size, count });
      if (from === 0 || bytes >= MAX_TAIL_BYTES || read.entries.length === count) {
        const follower = new LogFollower(path, choice, { inode, offset: read.offset });
        const { entries, isAll } = read;
        return { entries, isAll: isAll && from === 0, follower };
      }
    }
  } finally {
    await file.close();
  }
}

/** The last `count` of `[from, to)`, and up to which offset lines have ended. */
async function readEntries(
  file: FileHandle,
  { source, level, isRaw = false }: LogChoice,
  { from, to, count }: { readonly from: number; readonly to: number; readonly count: number },
): Promise<{ entries: LogEntry[]; isAll: boolean; offset: number }> {
  const parser = new LogParser(source, { isRaw, isInside: from > 0 });
  let entries: LogEntry[] = [];
  let isAll = true;
  let offset = from;
  const take = (more: readonly LogEntry[]) => {
    entries = entries.concat(more.filter((entry) => isOfLevel(entry, level)));
    if (entries.length > count) {
      entries = entries.slice(-count);
      isAll = false;
    }
  };
  for (let at = from; at < to; ) {
    const bytes = await readAt(file, at, to);
    if (bytes.length === 0) {
      break;
    }
    take(parser.push(bytes));
    at += bytes.length;
    const end = bytes.lastIndexOf("\n");
    offset = end < 0 ? offset : at - bytes.length + end + 1;
  }
  take(parser.flush());
  return { entries, isAll, offset };
}

/** All entries of the last `maxBytes` bytes of a log, with what of it was put away, as text, in pieces. */
export async function* readLogText(
  path: string,
  source: LogSource,
  maxBytes = MAX_TAIL_BYTES,
): AsyncGenerator<Uint8Array> {
  const file = await openLog(path);
  if (file === undefined) {
    return;
  }
  try {
    const { size } = await file.stat();
    const from = Math.max(0, size - maxBytes);
    const older = olderLog(path);
    if (size < maxBytes && older !== undefined) {
      yield* readLogText(older, source, maxBytes - size);
    }
    const parser = new LogParser(source, { isRaw: true, isInside: from > 0 });
    const textOf = (entries: readonly LogEntry[]) =>
      Buffer.from(entries.map((entry) => `${lineOf(entry)}\n`).join(""));
    for (let at = from; at < size; ) {
      const bytes = await readAt(file, at, size);
      if (bytes.length === 0) {
        break;
      }
      at += bytes.length;
      yield textOf(parser.push(bytes));
    }
    yield textOf(parser.flush());
  } finally {
    await file.close();
  }
}

/**
 * What `read` makes of the newest line of which it makes something, among the last 16 MB; undefined where there is none.
 * A line that has no end yet is none, and of one longer than 256 kB only the end is seen. Rejects as readLogTail.
 */
export async function newestLine<T>(
  path: string,
  read: (line: string) => T | undefined,
): Promise<T | undefined> {
  const file = await openLog(path);
  if (file === undefined) {
    return undefined;
  }
  try {
    const { size } = await file.stat();
    const first = Math.max(0, size - MAX_TAIL_BYTES);
    /** The end of a line, of which the beginning is further up. */
    let rest: Buffer = Buffer.alloc(0);
    for (let to = size; to > first; ) {
      const from = Math.max(first, to - CHUNK_BYTES);
      const bytes = await readAt(file, from, to);
      if (bytes.length < to - from) {
        // It begins anew: what was there is gone.
        return undefined;
      }
      const piece = Buffer.concat([bytes, rest]);
      const begin = from === 0 ? 0 : piece.indexOf("\n") + 1;
      const lines = piece.subarray(begin).toString("utf8").split("\n");
      // Behind the last end there is nothing, or a line that is being written.
      for (const line of lines.slice(0, -1).toReversed()) {
        const found = read(line);
        if (found !== undefined) {
          return found;
        }
      }
      const end = begin === 0 ? piece.length : begin;
      rest = piece.subarray(Math.max(0, end - CHUNK_BYTES), end);
      to = from;
    }
    return undefined;
  } finally {
    await file.close();
  }
}

/** As it stands in a terminal or a file. */
export function lineOf({ text, cutBytes }: LogEntry): string {
  return cutBytes === 0 ? text : `${text} [${cutBytes} bytes left out]`;
}

/** What comes to a log behind a place. One question at a time. */
export class LogFollower {
  readonly #path: string;
  readonly #choice: LogChoice;
  #place: Place | undefined;
  #parser: LogParser;

  /** `place`: undefined: there is no file yet. */
  constructor(path: string, choice: LogChoice, place: Place | undefined) {
    this.#path = path;
    this.#choice = choice;
    this.#place = place;
    this.#parser = this.#newParser(false);
  }

  /** Entries since the last question, some of them where there are very many. Rejects as readLogTail. */
  async poll(): Promise<LogEntry[]> {
    const file = await openLog(this.#path);
    if (file === undefined) {
      return [];
    }
    try {
      const { ino: inode, size } = await file.stat();
      const rest = await this.#restOfShorter(inode, size);
      const found = this.#whereFrom(inode, size, rest !== undefined);
      const bytes = await readAt(file, found.offset, size);
      const offset = found.offset + bytes.length;
      this.#place = { inode, offset };
      const entries = [...(rest ?? []), ...this.#parser.push(bytes)];
      // An entry of several lines is written at once: at the end of the file it is whole.
      if (offset >= size && !this.#parser.isInLine) {
        entries.push(...this.#parser.flush());
      }
      const wanted = entries.filter((one) => isOfLevel(one, this.#choice.level));
      const left = Math.max(0, wanted.length - MAX_POLLED);
      const notes = left === 0 ? found.notes : [note(`${left} entries left out`)];
      return notes.concat(wanted.slice(left));
    } finally {
      await file.close();
    }
  }

  /** What had come to the log before it was put away and began anew; undefined where it did not, or that is not there. */
  async #restOfShorter(inode: number, size: number): Promise<LogEntry[] | undefined> {
    const before = this.#place;
    const older = olderLog(this.#path);
    const isShorter = before?.inode === inode && size < before.offset;
    const file = isShorter && older !== undefined ? await openLog(older) : undefined;
    if (file === undefined) {
      return undefined;
    }
    try {
      const end = (await file.stat()).size;
      let at = before!.offset;
      if (end < at || end - at > MAX_BEHIND_BYTES) {
        return undefined;
      }
      const entries: LogEntry[] = [];
      while (at < end) {
        const bytes = await readAt(file, at, end);
        if (bytes.length === 0) {
          break;
        }
        entries.push(...this.#parser.push(bytes));
        at += bytes.length;
      }
      return [...entries, ...this.#parser.flush()];
    } finally {
      await file.close();
    }
  }

  #whereFrom(inode: number, size: number, hasRest: boolean): { offset: number; notes: LogEntry[] } {
    const before = this.#place;
    if (before === undefined || before.inode !== inode || size < before.offset) {
      this.#parser = this.#newParser(false);
      const isCutOff = before !== undefined && !hasRest;
      return { offset: 0, notes: isCutOff ? [note("the log begins anew")] : [] };
    }
    const behind = size - before.offset;
    if (behind <= MAX_BEHIND_BYTES) {
      return { offset: before.offset, notes: [] };
    }
    this.#parser = this.#newParser(true);
    const left = behind - CHUNK_BYTES;
    return { offset: size - CHUNK_BYTES, notes: [note(`about ${left} bytes left out`)] };
  }

  #newParser(isInside: boolean): LogParser {
    return new LogParser(this.#choice.source, { isRaw: this.#choice.isRaw ?? false, isInside });
  }
}

/** Ours, not the log's. */
function note(text: string): LogEntry {
  return { level: "warn", text: `(${text})`, cutBytes: 0 };
}

/** Undefined where there is none, or something else in its place: nobody waits for a pipe. */
async function openLog(path: string): Promise<FileHandle | undefined> {
  try {
    const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = constants;
    const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    if ((await file.stat()).isFile()) {
      return file;
    }
    await file.close();
    return undefined;
  } catch (error) {
    if (errnoCode(error) === "ENOENT" || errnoCode(error) === "ELOOP") {
      return undefined;
    }
    throw error;
  }
}

/** Some of `[from, to)`; empty at the end. */
async function readAt(file: FileHandle, from: number, to: number): Promise<Buffer> {
  const length = Math.min(CHUNK_BYTES, to - from);
  if (length <= 0) {
    return Buffer.alloc(0);
  }
  const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, from);
  return buffer.subarray(0, bytesRead);
}
