// Bounds logs, which would fill the disk some day: one that has grown too long is put away, and begins anew.
//
// - Who writes it has it open, as Postgres's processes have theirs, and opens it to append: so it is copied, then cut to
//   nothing, and they go on at its new beginning. A line that is written between the last look at its end and the cut, some
//   microseconds, is lost.
// - `x.log` becomes `x.log.1`, that one `x.log.2`; the oldest goes. A crash in between leaves some lines twice.
// - Where it cannot be copied because the disk is full, it is cut all the same: that is what the disk needs most.

import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  lstatSync,
  openSync,
  readFileSync,
  readlinkSync,
  readSync,
  renameSync,
  writeSync,
} from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { setIdleRepeatingTimer } from "../clock.ts";
import { errnoCode } from "../errors.ts";
import type { Logger } from "../log.ts";

/** How long a log becomes before it is put away. */
const MAX_LOG_BYTES = 32 * 1024 * 1024;
/** That are put away. */
const KEPT = 2;
const LOOK_INTERVAL_MS = 5000;
const CHUNK_BYTES = 1024 * 1024;
/** Of what comes while it is being copied. */
const MAX_LAST_CHUNKS = 64;
const STDERR = 2;

/** What was written before that to the same log; undefined where nothing older is kept. */
export function olderLog(path: string): string | undefined {
  const number = Number(/\.(\d)$/.exec(path)?.[1] ?? 0);
  const first = number === 0 ? path : path.slice(0, -2);
  return number < KEPT ? `${first}.${number + 1}` : undefined;
}

/** Looks after them from now on; does not keep the process alive. */
export function boundLogs(paths: readonly string[], logger: Logger): void {
  let isLooking = false;
  setIdleRepeatingTimer(() => {
    if (isLooking) {
      return;
    }
    isLooking = true;
    void Promise.all(paths.map((path) => boundLog(path, logger))).finally(() => {
      isLooking = false;
    });
  }, LOOK_INTERVAL_MS);
}

/** This process's standard error, where that is a file that is appended to. */
export function boundOwnLog(logger: Logger): void {
  const path = ownLog();
  if (path !== undefined) {
    boundLogs([path], logger);
  }
}

function ownLog(): string | undefined {
  try {
    const flags = /^flags:\s+(\d+)/m.exec(readFileSync(`/proc/self/fdinfo/${STDERR}`, "latin1"));
    const isAppended = (Number.parseInt(flags?.[1] ?? "0", 8) & constants.O_APPEND) !== 0;
    return isAppended && fstatSync(STDERR).isFile()
      ? readlinkSync(`/proc/self/fd/${STDERR}`)
      : undefined;
  } catch {
    return undefined;
  }
}

/** Puts the log away where it is longer than `maxBytes`. Never rejects: whoever writes it has other things to do. */
export async function boundLog(
  path: string,
  logger: Logger,
  maxBytes = MAX_LOG_BYTES,
): Promise<void> {
  try {
    const status = lstatSync(path, { throwIfNoEntry: false });
    if (status === undefined || !status.isFile() || status.size <= maxBytes) {
      return;
    }
    shift(path);
    const copiedBytes = await copy(path, maxBytes);
    logger.info({ path, copiedBytes }, "a log has been put away, and begins anew");
  } catch (error) {
    logger.warn({ path, error }, "a log cannot be put away");
  }
}

function shift(path: string): void {
  const names = [path];
  for (let older = olderLog(path); older !== undefined; older = olderLog(older)) {
    names.push(older);
  }
  for (let i = names.length - 1; i > 1; i--) {
    try {
      renameSync(names[i - 1]!, names[i]!);
    } catch (error) {
      if (errnoCode(error) !== "ENOENT") {
        throw error;
      }
    }
  }
}

/** Bytes that were kept. The log is empty afterwards. */
async function copy(path: string, maxBytes: number): Promise<number> {
  const { O_RDWR, O_NOFOLLOW, O_WRONLY, O_CREAT, O_TRUNC } = constants;
  const log = openSync(path, O_RDWR | O_NOFOLLOW);
  try {
    const older = await open(olderLog(path)!, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, 0o600);
    try {
      return await copyAndCut(log, older, maxBytes);
    } finally {
      await older.close();
    }
  } finally {
    closeSync(log);
  }
}

async function copyAndCut(log: number, older: FileHandle, maxBytes: number): Promise<number> {
  const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
  const { size } = fstatSync(log);
  // Who writes faster than we look keeps the end.
  const from = size > 2 * maxBytes ? size - maxBytes : 0;
  let at = from;
  try {
    while (at < size) {
      const length = readSync(log, chunk, 0, Math.min(chunk.length, size - at), at);
      if (length === 0) {
        break;
      }
      await older.appendFile(chunk.subarray(0, length));
      at += length;
    }
    // From here to the cut nothing else of this process runs.
    for (let i = 0; i < MAX_LAST_CHUNKS && at < fstatSync(log).size; i++) {
      const length = readSync(log, chunk, 0, chunk.length, at);
      writeAll(older.fd, chunk.subarray(0, length));
      at += length;
    }
  } catch (error) {
    if (errnoCode(error) !== "ENOSPC") {
      throw error;
    }
  }
  ftruncateSync(log, 0);
  return at - from;
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let done = 0; done < bytes.length; ) {
    done += writeSync(fd, bytes, done);
  }
}
