// WAL segment files, one or a directory of them: a stock pg_wal, an archive, a safekeeper's timeline, its object store.

import {
  closeSync,
  existsSync,
  fstatSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { errnoCode, errorMessage, StorageError } from "../base/errors.ts";
import {
  formatLsn,
  type Lsn,
  lsnFromParts,
  pageStart,
  parseWalFileName,
  segmentNumber,
  segmentOffset,
  segmentStart,
  walFileName,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { versionFromPageMagic } from "../postgres/versions.ts";
import { LONG_PAGE_HEADER_SIZE, XLP_LONG_HEADER } from "../postgres/wal-page.ts";
import {
  decodeStoredHead,
  decodeStoredSegment,
  MAX_HEAD_BYTES,
  type StoredSegmentHead,
} from "../wal-decoder/stored-segment.ts";
import type { WalSource } from "./wal-source.ts";

const CHUNK_BYTES = 16 * XLOG_BLCKSZ;
const MIN_SEGMENT_SIZE = 1024 * 1024;
const MAX_SEGMENT_SIZE = 1024 * 1024 * 1024;
const NAME_PATTERN = /^([0-9A-F]{8})[0-9A-F]{16}(?:\.partial)?$/;

export interface SegmentFilesOptions {
  /** Begin at the page of this LSN; absent: with the first segment. */
  readonly startLsn?: Lsn | undefined;
  /** Postgres's timeline, which is the first part of a segment's name; absent: the only one there is. */
  readonly timeline?: number | undefined;
}

function invalid(code: string, message: string): StorageError {
  return new StorageError("invalid", code, message);
}

/** `path`: a segment file, or a directory that has some, or has a `pg_wal` that does. */
export function openSegmentFiles(path: string, options: SegmentFilesOptions = {}): WalSource {
  let isDirectory: boolean;
  try {
    isDirectory = statSync(path).isDirectory();
  } catch (error) {
    throw readError(path, error);
  }
  return isDirectory ? openDirectory(path, options) : openFile(path, options);
}

function readError(path: string, error: unknown): StorageError {
  return errnoCode(error) === "ENOENT"
    ? new StorageError("not-found", "no-wal-file", `${path} does not exist`)
    : new StorageError("unavailable", "wal-file-error", `read ${path}: ${errorMessage(error)}`);
}

/** One segment's bytes, whether they are the file's or come out of an object of the object store. */
class SegmentFile {
  readonly #fd: number;
  /** Of an object: it is unpacked as a whole. */
  readonly #unpacked: Uint8Array | undefined;
  readonly sizeBytes: number;
  /** Of an object: its own word for its place in the WAL. */
  readonly head: StoredSegmentHead | undefined;

  /** System errors; StorageError `corrupt` for a damaged object. */
  constructor(path: string) {
    this.#fd = openSync(path, "r");
    try {
      const first = new Uint8Array(MAX_HEAD_BYTES);
      const length = readSync(this.#fd, first, 0, first.length, 0);
      this.head = decodeStoredHead(first.subarray(0, length), path);
      this.#unpacked =
        this.head === undefined ? undefined : decodeStoredSegment(readFileSync(path), path);
      this.sizeBytes = this.#unpacked?.length ?? fstatSync(this.#fd).size;
    } catch (error) {
      closeSync(this.#fd);
      throw error;
    }
  }

  /** How many bytes it read into `buffer`: at most `length`, 0 at the end. */
  read(buffer: Uint8Array, length: number, at: number): number {
    if (this.#unpacked === undefined) {
      return readSync(this.#fd, buffer, 0, length, at);
    }
    const bytes = this.#unpacked.subarray(at, at + length);
    buffer.set(bytes);
    return bytes.length;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

/** What a segment's first page says; both undefined where it is all zeros. */
interface SegmentHead {
  readonly pageLsn: Lsn | undefined;
  readonly segmentSize: number | undefined;
  readonly fileSize: number;
}

function readHead(path: string): SegmentHead {
  const bytes = new Uint8Array(LONG_PAGE_HEADER_SIZE);
  let length: number;
  let fileSize: number;
  try {
    const file = new SegmentFile(path);
    try {
      if (file.head !== undefined && isSegmentSize(file.head.segmentSize)) {
        const { startLsn, segmentSize } = file.head;
        return { pageLsn: startLsn, segmentSize, fileSize: file.sizeBytes };
      }
      length = file.read(bytes, bytes.length, 0);
      fileSize = file.sizeBytes;
    } finally {
      file.close();
    }
  } catch (error) {
    throw error instanceof StorageError ? error : readError(path, error);
  }
  if (length < LONG_PAGE_HEADER_SIZE) {
    throw invalid("not-wal", `${path} is not WAL: it has ${length} bytes`);
  }
  const view = new DataView(bytes.buffer);
  const magic = view.getUint16(0, true);
  if (magic === 0) {
    return { pageLsn: undefined, segmentSize: undefined, fileSize };
  }
  if (versionFromPageMagic(magic) === undefined) {
    const found = magic.toString(16).padStart(4, "0");
    throw invalid("not-wal", `${path} is not WAL of Postgres 14 to 18: its page magic is ${found}`);
  }
  if ((view.getUint16(2, true) & XLP_LONG_HEADER) === 0) {
    throw invalid("not-wal", `${path} is not a WAL segment: its first page has no long header`);
  }
  const high = view.getUint32(12, true);
  const segmentSize = view.getUint32(32, true);
  if (high >= 2 ** 21 || !isSegmentSize(segmentSize)) {
    throw invalid("not-wal", `${path} is not WAL: segment size ${segmentSize} in its header`);
  }
  return { pageLsn: lsnFromParts(high, view.getUint32(8, true)), segmentSize, fileSize };
}

/** IsValidWalSegSize, access/xlog_internal.h. */
function isSegmentSize(size: number): boolean {
  return size >= MIN_SEGMENT_SIZE && size <= MAX_SEGMENT_SIZE && Number.isInteger(Math.log2(size));
}

/** Of a segment whose first page is zeros: safekeepers keep full sizes. */
function segmentSizeOf(path: string, head: SegmentHead): number {
  if (head.segmentSize === undefined && !isSegmentSize(head.fileSize)) {
    throw invalid("not-wal", `${path} is not WAL: it begins with zeros and is no whole segment`);
  }
  return head.segmentSize ?? head.fileSize;
}

function openFile(path: string, options: SegmentFilesOptions): WalSource {
  const head = readHead(path);
  const segmentSize = segmentSizeOf(path, head);
  const name = basename(path).replace(/\.partial$/, "");
  const segno = parseWalFileName(name, segmentSize);
  const named = segno === undefined ? undefined : ((segno * segmentSize) as Lsn);
  if (named !== undefined && head.pageLsn !== undefined && head.pageLsn !== named) {
    const [found, want] = [formatLsn(head.pageLsn), formatLsn(named)];
    throw invalid(
      "other-wal",
      `${path} holds WAL of ${found}, not of ${want} (a recycled segment?)`,
    );
  }
  const firstLsn = named ?? head.pageLsn;
  if (firstLsn === undefined || firstLsn % segmentSize !== 0) {
    throw invalid(
      "not-wal",
      `${path}: neither its name nor its first page tells its place in the WAL`,
    );
  }
  const { startLsn = firstLsn } = options;
  if (segmentStart(startLsn, segmentSize) !== firstLsn) {
    throw invalid("lsn-not-here", `start ${formatLsn(startLsn)} is not inside ${path}`);
  }
  return new SegmentFiles(new Map([[segmentNumber(firstLsn, segmentSize), path]]), {
    segmentSize,
    startLsn: pageStart(startLsn),
    directory: dirname(path),
    timeline: undefined,
  });
}

function openDirectory(path: string, options: SegmentFilesOptions): WalSource {
  const inside = join(path, "pg_wal");
  const own = segmentNames(path);
  const directory = own.length === 0 && existsSync(inside) ? inside : path;
  const all = own.length === 0 ? segmentNames(directory) : own;
  const timelines = [...new Set(all.map((name) => Number.parseInt(name.slice(0, 8), 16)))];
  const timeline = options.timeline ?? timelines[0];
  if (timeline === undefined) {
    throw new StorageError("not-found", "no-wal-file", `${path} has no WAL segment files`);
  }
  if (options.timeline === undefined && timelines.length > 1) {
    const list = timelines.toSorted((a, b) => a - b).join(", ");
    throw invalid(
      "timeline-switch",
      `${directory} has WAL of timelines ${list}: choose one with --timeline`,
    );
  }
  const names = all.filter((name) => Number.parseInt(name.slice(0, 8), 16) === timeline);
  if (names.length === 0) {
    throw new StorageError(
      "not-found",
      "no-wal-file",
      `${directory} has no WAL of timeline ${timeline}`,
    );
  }
  const firstPath = join(directory, names[0]!);
  const segmentSize = segmentSizeOf(firstPath, readHead(firstPath));
  const files = new Map<number, string>();
  for (const name of names) {
    const segno = parseWalFileName(name.replace(/\.partial$/, ""), segmentSize);
    if (segno !== undefined && !files.has(segno)) {
      files.set(segno, join(directory, name)); // the whole one sorts before its .partial
    }
  }
  // Names of one timeline sort as their segments do.
  const [first = 0] = files.keys();
  const startLsn = pageStart(options.startLsn ?? ((first * segmentSize) as Lsn));
  if (!files.has(segmentNumber(startLsn, segmentSize))) {
    throw missingSegment(directory, segmentNumber(startLsn, segmentSize), timeline, segmentSize);
  }
  return new SegmentFiles(files, { segmentSize, startLsn, directory, timeline });
}

function segmentNames(directory: string): string[] {
  try {
    return readdirSync(directory)
      .filter((name) => NAME_PATTERN.test(name))
      .toSorted();
  } catch (error) {
    throw readError(directory, error);
  }
}

function missingSegment(
  directory: string,
  segno: number,
  timeline: number,
  segmentSize: number,
): StorageError {
  const name = walFileName(segno, timeline, segmentSize);
  const at = formatLsn((segno * segmentSize) as Lsn);
  return new StorageError(
    "not-found",
    "missing-segment",
    `segment ${name} (from ${at} on) is missing in ${directory}`,
  );
}

interface Place {
  readonly segmentSize: number;
  readonly startLsn: Lsn;
  readonly directory: string;
  /** Undefined: one file was named, and what follows it is of no interest. */
  readonly timeline: number | undefined;
}

class SegmentFiles implements WalSource {
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  readonly #files: ReadonlyMap<number, string>;
  readonly #place: Place;
  /** Set where a file ends before its segment does. */
  #truncated: string | undefined;
  /** Set where the pages of an older use of a recycled segment begin. */
  #recycledFrom: Lsn | undefined;

  constructor(files: ReadonlyMap<number, string>, place: Place) {
    this.#files = files;
    this.#place = place;
    this.startLsn = place.startLsn;
    this.segmentSize = place.segmentSize;
  }

  *chunks(): Generator<Uint8Array> {
    const { segmentSize } = this;
    const buffer = new Uint8Array(CHUNK_BYTES);
    for (let segno = segmentNumber(this.startLsn, segmentSize); ; segno++) {
      const path = this.#files.get(segno);
      if (path === undefined) {
        return;
      }
      const firstLsn = (segno * segmentSize) as Lsn;
      let at = this.startLsn > firstLsn ? segmentOffset(this.startLsn, segmentSize) : 0;
      const file = new SegmentFile(path);
      try {
        while (at < segmentSize) {
          const length = file.read(buffer, Math.min(CHUNK_BYTES, segmentSize - at), at);
          if (length === 0) {
            this.#truncated = `${path} ends after ${at} of ${segmentSize} bytes`;
            return;
          }
          const good = this.#current(buffer, length, (firstLsn + at) as Lsn);
          yield buffer.subarray(0, good);
          if (good < length) {
            return;
          }
          at += length;
        }
      } finally {
        file.close();
      }
    }
  }

  /**
   * Bytes in front of the first page that says it is older WAL. Postgres renames old segments
   * for reuse, so that behind the end of WAL there is some of that.
   */
  #current(buffer: Uint8Array, length: number, lsn: Lsn): number {
    const view = new DataView(buffer.buffer);
    for (let at = 0; at + 16 <= length; at += XLOG_BLCKSZ) {
      const found = view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true);
      if (versionFromPageMagic(view.getUint16(at, true)) !== undefined && found < lsn + at) {
        this.#recycledFrom = (lsn + at) as Lsn;
        return at;
      }
    }
    return length;
  }

  endProblem(endLsn: Lsn, openRecord: Lsn | undefined): StorageError | undefined {
    const { directory, timeline } = this.#place;
    const open =
      openRecord === undefined ? "" : `the record at ${formatLsn(openRecord)} is not whole: `;
    if (this.#truncated !== undefined) {
      return new StorageError("corrupt", "truncated-wal", `${open}${this.#truncated}`);
    }
    if (this.#recycledFrom !== undefined) {
      const at = formatLsn(this.#recycledFrom);
      return open === ""
        ? undefined
        : new StorageError("corrupt", "truncated-wal", `${open}from ${at} on there is older WAL`);
    }
    const next = segmentNumber(endLsn, this.segmentSize);
    const more = [...this.#files.keys()].some((segno) => segno > next);
    if (timeline === undefined || (openRecord === undefined && !more)) {
      return undefined;
    }
    const missing = missingSegment(directory, next, timeline, this.segmentSize);
    return new StorageError(missing.kind, missing.code, `${open}${missing.message}`);
  }
}
