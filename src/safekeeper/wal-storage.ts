// One timeline's WAL on disk: segment files as Postgres names them, written synchronously, flushed so or beside more writes.

import { join } from "node:path";
import { type Disk, diskError, REAL_DISK } from "../base/disk.ts";
import { errnoCode, StorageError } from "../base/errors.ts";
import {
  formatLsn,
  INVALID_LSN,
  type Lsn,
  maxLsn,
  parseWalFileName,
  segmentNumber,
  segmentOffset,
  walFileName,
} from "../base/lsn.ts";
import { RecordWalker } from "../wal-decoder/record-walker.ts";
import { isRecordEnd } from "./record-end.ts";

/*
 * Invariants:
 * - A segment file always has its full size. It begins as a hole. Ahead of the write position zeros
 *   are written FILL_BYTES at a time, so that most fdatasyncs find their blocks allocated and need
 *   no journal commit (the reason why Postgres zero-fills its segments; here without 16 MiB at
 *   once).
 * - Behind the end of WAL there may be garbage after a crash. `truncate` turns all of it into zeros
 *   before a new term writes: else a restart could take records of an older term for newer ones.
 * - Everything is synchronous: fewer wake-ups mean a third less commit latency than libuv's thread
 *   pool. But a flush of bulk WAL, which takes milliseconds, may go on beside the next writes
 *   (`beginFlush`). One at a time; it covers what was written before it began. `flush` covers all.
 */

const FILL_BYTES = 256 * 1024;
/** So large a write pays for its blocks itself: zeros ahead of it would double what is written. */
const BULK_BYTES = FILL_BYTES / 2;
const ZEROS = new Uint8Array(FILL_BYTES);
const SCAN_BYTES = 256 * 1024;

export class WalStorage {
  readonly #directory: string;
  readonly #segmentSize: number;
  readonly #disk: Disk;
  readonly #pageMagic: number | undefined;
  #systemId: bigint | undefined;
  #walker: RecordWalker;
  /** The segment that is being written. */
  #fd = -1;
  #segno = -1;
  /**
   * The same file opened once more, for flushes in another thread: the kernel tells each open file of a write that failed once. With one
   * for both, a flush here could pass because the one in the other thread was told already, which nobody knows of yet.
   */
  #syncFd = -1;
  /** The descriptor of a flush that was begun and has not ended; `#syncFd` where its segment is still being written. */
  #flushingFd = -1;
  /** Offset in it below which blocks are known to be allocated. */
  #filledTo = 0;
  #dirty = false;
  /** Set by a failed flush: the kernel may have dropped what it could not write. */
  #failed: StorageError | undefined;

  /**
   * `endLsn` as found by `findEndOfWal`, or where a new timeline begins. With `pageMagic` WAL of any
   * other major is refused.
   */
  constructor(
    directory: string,
    segmentSize: number,
    endLsn: Lsn,
    disk: Disk = REAL_DISK,
    pageMagic?: number,
  ) {
    this.#directory = directory;
    this.#segmentSize = segmentSize;
    this.#disk = disk;
    this.#pageMagic = pageMagic;
    this.#walker = this.#walkFrom(endLsn);
  }

  #walkFrom(startLsn: Lsn): RecordWalker {
    return new RecordWalker({
      startLsn,
      segmentSize: this.#segmentSize,
      ...(this.#pageMagic === undefined ? {} : { pageMagic: this.#pageMagic }),
      ...(this.#systemId === undefined ? {} : { systemId: this.#systemId }),
    });
  }

  /** From the next `truncate` on (each term begins with one) WAL of other systems is refused; 0n: none is. */
  expectSystemId(systemId: bigint): void {
    this.#systemId = systemId === 0n ? undefined : systemId;
  }

  /** Where the next byte belongs. */
  get writeLsn(): Lsn {
    return this.#walker.position;
  }

  /** End of the last whole record that was written. */
  get recordLsn(): Lsn {
    return this.#walker.recordEndLsn;
  }

  /**
   * Writes WAL at `lsn`, which must be `writeLsn`; not durable before `flush`. StorageError
   * `corrupt` where the bytes are not WAL, `unavailable` where the disk is full. After an error
   * only `truncate` makes it usable again.
   */
  write(lsn: Lsn, bytes: Uint8Array): void {
    this.#checkUsable();
    if (lsn !== this.#walker.position) {
      throw new StorageError(
        "unavailable",
        "wal-position-lost",
        `WAL is at ${formatLsn(this.#walker.position)} after an earlier error, ` +
          `not at ${formatLsn(lsn)}`,
      );
    }
    this.#walker.feed(bytes);
    let done = 0;
    while (done < bytes.length) {
      const at = (lsn + done) as Lsn;
      const offset = segmentOffset(at, this.#segmentSize);
      const length = Math.min(bytes.length - done, this.#segmentSize - offset);
      this.#openForWrite(segmentNumber(at, this.#segmentSize), offset);
      this.#writeToSegment(bytes.subarray(done, done + length), offset);
      done += length;
    }
  }

  /** Makes everything written durable. */
  flush(): void {
    this.#checkUsable();
    if (!this.#dirty && !this.#flushesHere) {
      return;
    }
    this.#sync(() => this.#disk.fdatasync(this.#fd));
    this.#dirty = false;
  }

  /** Whether a flush that was begun, and has not ended, is of the segment that is being written. */
  get #flushesHere(): boolean {
    return this.#flushingFd >= 0 && this.#flushingFd === this.#syncFd;
  }

  /**
   * Begins to make durable what is written by now, while more may be written. Returns the descriptor to call fdatasync of, in another
   * thread; then `endFlush` is due, whatever comes of it. Undefined where there is nothing to do, or another one has not ended.
   */
  beginFlush(): number | undefined {
    this.#checkUsable();
    if (!this.#dirty || this.#flushingFd >= 0) {
      return undefined;
    }
    if (this.#syncFd < 0) {
      try {
        this.#syncFd = this.#disk.open(this.#path(this.#segno), "r");
      } catch (error) {
        throw diskError(error, "open WAL segment to flush it");
      }
    }
    this.#dirty = false;
    this.#flushingFd = this.#syncFd;
    return this.#flushingFd;
  }

  /** What was written before `beginFlush` is durable, unless there is an `error`: then it throws what `flush` does. */
  endFlush(error?: unknown): void {
    const fd = this.#flushingFd;
    this.#flushingFd = -1;
    if (fd !== this.#syncFd) {
      // Its segment is no longer the one that is written.
      this.#disk.close(fd);
    }
    if (error !== undefined) {
      this.#fail(error);
    }
    // Whether or not it was this one that the disk has told.
    this.#checkUsable();
  }

  /**
   * StorageError `invalid` where no record ends at `lsn`, below the end of the log, which begins at
   * `startLsn` here.
   */
  expectRecordEnd(lsn: Lsn, startLsn: Lsn): void {
    const reader = new WalReader(this.#directory, this.#segmentSize, this.#disk);
    try {
      const log = { read: reader.read.bind(reader), segmentSize: this.#segmentSize, startLsn };
      if (!isRecordEnd(log, lsn)) {
        const message = `no WAL record ends at ${formatLsn(lsn)}`;
        throw new StorageError("invalid", "no-record-end", message);
      }
    } finally {
      reader.close();
    }
  }

  /** Makes everything from `lsn` on disappear, durably; the next write belongs at `lsn`. */
  truncate(lsn: Lsn): void {
    this.#checkUsable();
    this.#closeSegment();
    this.#dirty = false;
    try {
      this.#cutFrom(lsn, false);
    } catch (error) {
      throw diskError(error, `truncate WAL at ${formatLsn(lsn)}`);
    }
    this.#walker = this.#walkFrom(lsn);
  }

  /**
   * To be called once after `findEndOfWal`, before anybody is told of that end: makes the WAL from
   * `flushedLsn`, which is known to be on disk, up to the end durable, and nothing but that. What a
   * process finds may be in the page cache alone, if the one before was killed before its flush; and
   * after a flush that failed the kernel takes such bytes for clean, so they are written once more.
   */
  settleAfterStart(flushedLsn: Lsn): void {
    const end = this.writeLsn;
    const reader = new WalReader(this.#directory, this.#segmentSize, this.#disk);
    try {
      for (let at = flushedLsn; at < end; ) {
        const offset = segmentOffset(at, this.#segmentSize);
        const length = Math.min(SCAN_BYTES, this.#segmentSize - offset, end - at);
        this.#openForWrite(segmentNumber(at, this.#segmentSize), this.#segmentSize);
        this.#dirty = true;
        this.#disk.write(this.#fd, reader.read(at, length), offset);
        at = (at + length) as Lsn;
      }
      this.flush();
      this.#cutFrom(end, true);
      this.#sync(() => this.#disk.fsyncDirectory(this.#directory));
    } catch (error) {
      throw diskError(error, `make WAL up to ${formatLsn(end)} durable`);
    } finally {
      reader.close();
      this.#closeSegment();
    }
  }

  /** Removes the segments that end at or below `lsn`; returns how many. */
  removeBelow(lsn: Lsn): number {
    const first = segmentNumber(lsn, this.#segmentSize);
    // Lowest first: after a crash in between, what is left is still without a gap.
    const old = listSegments(this.#directory, this.#segmentSize, this.#disk)
      .filter((segno) => segno < first)
      .sort((a, b) => a - b);
    for (const segno of old) {
      this.#disk.unlink(this.#path(segno));
    }
    return old.length;
  }

  close(): void {
    this.#closeSegment();
  }

  #checkUsable(): void {
    if (this.#failed !== undefined) {
      throw this.#failed;
    }
  }

  /**
   * A failure is final, also for what comes later: of what it could not write the kernel says at the next sync that it is written, and
   * a segment that is there, or a cut that was made, looks as if nothing were left to do.
   */
  #sync(sync: () => void): void {
    try {
      sync();
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(cause: unknown): never {
    this.#failed ??= new StorageError(
      "internal",
      "wal-flush-failed",
      "flush of WAL failed: this timeline is refused until the safekeeper restarts",
      { cause },
    );
    throw this.#failed;
  }

  #path(segno: number): string {
    return join(this.#directory, walFileName(segno, 1, this.#segmentSize));
  }

  #closeSegment(): void {
    if (this.#fd >= 0) {
      this.#disk.close(this.#fd);
      this.#fd = -1;
      this.#segno = -1;
    }
    if (this.#syncFd >= 0 && !this.#flushesHere) {
      this.#disk.close(this.#syncFd);
    }
    this.#syncFd = -1;
  }

  #openForWrite(segno: number, offset: number): void {
    if (segno === this.#segno) {
      return;
    }
    if (this.#fd >= 0) {
      this.flush();
      this.#closeSegment();
    }
    const path = this.#path(segno);
    let fd = -1;
    try {
      const isNew = !this.#disk.exists(path);
      fd = this.#disk.open(path, isNew ? "wx+" : "r+");
      if (isNew || this.#disk.size(fd) !== this.#segmentSize) {
        this.#disk.truncate(fd, this.#segmentSize);
        this.#sync(() => {
          this.#disk.fsync(fd);
          this.#disk.fsyncDirectory(this.#directory);
        });
      }
    } catch (error) {
      if (fd >= 0) {
        this.#disk.close(fd);
      }
      throw diskError(error, `open WAL segment ${path}`);
    }
    this.#fd = fd;
    this.#segno = segno;
    this.#filledTo = offset;
  }

  #writeToSegment(bytes: Uint8Array, offset: number): void {
    const end = offset + bytes.length;
    try {
      this.#dirty = true;
      this.#disk.write(this.#fd, bytes, offset);
    } catch (error) {
      throw diskError(error, "write WAL");
    }
    if (end <= this.#filledTo) {
      return;
    }
    if (bytes.length >= BULK_BYTES) {
      this.#filledTo = end;
      return;
    }
    const fillTo = Math.min(Math.ceil((end + 1) / FILL_BYTES) * FILL_BYTES, this.#segmentSize);
    this.#filledTo = fillTo;
    try {
      if (fillTo > end) {
        this.#disk.write(this.#fd, ZEROS.subarray(0, fillTo - end), end);
      }
    } catch {
      // Filling is only for speed. A full disk shows at the next write of real WAL.
      this.#filledTo = end;
    }
  }

  /** `always`: also zeros that are there may not be durable. */
  #cutFrom(lsn: Lsn, always: boolean): void {
    const last = segmentNumber(lsn, this.#segmentSize);
    // Highest first: a crash in between leaves no gap that could be taken for an end.
    const later = listSegments(this.#directory, this.#segmentSize, this.#disk)
      .filter((segno) => segno > last)
      .sort((a, b) => b - a);
    for (const segno of later) {
      this.#disk.unlink(this.#path(segno));
    }
    this.#zeroFrom(last, segmentOffset(lsn, this.#segmentSize), always);
    if (later.length > 0) {
      this.#sync(() => this.#disk.fsyncDirectory(this.#directory));
    }
  }

  #zeroFrom(segno: number, offset: number, always: boolean): void {
    let fd: number;
    try {
      fd = this.#disk.open(this.#path(segno), "r+");
    } catch (error) {
      if (errnoCode(error) === "ENOENT") {
        return;
      }
      throw error;
    }
    try {
      if (always || !isZeroFrom(this.#disk, fd, offset, this.#segmentSize)) {
        this.#disk.truncate(fd, offset);
        this.#disk.truncate(fd, this.#segmentSize);
        this.#sync(() => this.#disk.fsync(fd));
      }
    } finally {
      this.#disk.close(fd);
    }
  }
}

/** Whether nothing but zeros stands in the file from `offset` to its full size. */
function isZeroFrom(disk: Disk, fd: number, offset: number, size: number): boolean {
  if (disk.size(fd) !== size) {
    return false;
  }
  const buffer = Buffer.allocUnsafe(Math.min(SCAN_BYTES, size - offset));
  for (let at = offset; at < size; ) {
    const count = disk.read(fd, buffer, 0, Math.min(SCAN_BYTES, size - at), at);
    if (count === 0 || !buffer.subarray(0, count).equals(ZEROS.subarray(0, count))) {
      return false;
    }
    at += count;
  }
  return true;
}

/** Segment numbers present, in no order. */
export function listSegments(
  directory: string,
  segmentSize: number,
  disk: Disk = REAL_DISK,
): number[] {
  const segments: number[] = [];
  for (const name of disk.list(directory)) {
    const segno = parseWalFileName(name, segmentSize);
    if (segno !== undefined) {
      segments.push(segno);
    }
  }
  return segments;
}

/** Start of the oldest segment from which on none is missing up to `endLsn`; `endLsn` where there is none. */
export function findStartOfWal(
  directory: string,
  segmentSize: number,
  endLsn: Lsn,
  disk: Disk = REAL_DISK,
): Lsn {
  const present = new Set(listSegments(directory, segmentSize, disk));
  const last = segmentNumber(maxLsn((endLsn - 1) as Lsn, INVALID_LSN), segmentSize);
  let first = last;
  while (present.has(first - 1) && present.has(last)) {
    first--;
  }
  return present.has(last) ? ((first * segmentSize) as Lsn) : endLsn;
}

/** Puts a whole segment, of which `bytes` are the first ones and zeros the rest, in its place, durably. */
export function restoreSegment(
  directory: string,
  segmentSize: number,
  lsn: Lsn,
  bytes: Uint8Array,
  disk: Disk = REAL_DISK,
): void {
  const path = join(directory, walFileName(segmentNumber(lsn, segmentSize), 1, segmentSize));
  const temporary = `${path}.tmp`;
  try {
    const fd = disk.open(temporary, "w");
    try {
      disk.write(fd, bytes, 0);
      disk.truncate(fd, segmentSize);
      disk.fsync(fd);
    } finally {
      disk.close(fd);
    }
    disk.rename(temporary, path);
    disk.fsyncDirectory(directory);
  } catch (error) {
    throw diskError(error, `restore WAL segment ${path}`);
  }
}

export interface EndOfWal {
  /** End of the last whole record. */
  readonly endLsn: Lsn;
  /** What stands there instead of a record; undefined for zeros or the end of the files. */
  readonly stoppedBy: string | undefined;
}

/**
 * Walks the records on disk from `fromLsn`, a record end known to have been flushed. StorageError
 * `corrupt` where even the WAL before it is not there.
 */
export function findEndOfWal(
  directory: string,
  segmentSize: number,
  fromLsn: Lsn,
  localStartLsn: Lsn,
  disk: Disk = REAL_DISK,
): EndOfWal {
  const walker = new RecordWalker({ startLsn: fromLsn, segmentSize });
  const reader = new WalReader(directory, segmentSize, disk);
  try {
    if (fromLsn > localStartLsn) {
      reader.read((fromLsn - 1) as Lsn, 1);
    }
    for (;;) {
      const at = walker.position;
      const room = segmentSize - segmentOffset(at, segmentSize);
      const bytes = reader.readSome(at, Math.min(SCAN_BYTES, room));
      if (bytes.length === 0) {
        return { endLsn: walker.recordEndLsn, stoppedBy: undefined };
      }
      try {
        walker.feed(bytes);
      } catch (error) {
        if (!(error instanceof StorageError)) {
          throw error;
        }
        const stoppedBy = error.code === "wal-end" ? undefined : error.message;
        return { endLsn: walker.recordEndLsn, stoppedBy };
      }
    }
  } finally {
    reader.close();
  }
}

/** Reads WAL; keeps the last segment open. */
export class WalReader {
  readonly #directory: string;
  readonly #segmentSize: number;
  readonly #disk: Disk;
  #fd = -1;
  #segno = -1;

  constructor(directory: string, segmentSize: number, disk: Disk = REAL_DISK) {
    this.#directory = directory;
    this.#segmentSize = segmentSize;
    this.#disk = disk;
  }

  /**
   * `length` bytes of WAL at `lsn`, in a buffer of the caller's own; the caller knows that they
   * were written. StorageError `corrupt`: `wal-segment-missing`, `wal-segment-short`.
   */
  read(lsn: Lsn, length: number): Uint8Array {
    const bytes = Buffer.allocUnsafe(length);
    let done = 0;
    while (done < length) {
      const at = (lsn + done) as Lsn;
      const offset = segmentOffset(at, this.#segmentSize);
      this.#open(segmentNumber(at, this.#segmentSize), at);
      const want = Math.min(length - done, this.#segmentSize - offset);
      const count = this.#disk.read(this.#fd, bytes, done, want, offset);
      if (count === 0) {
        throw new StorageError(
          "corrupt",
          "wal-segment-short",
          `WAL segment of ${formatLsn(at)} ends before it`,
        );
      }
      done += count;
    }
    return bytes;
  }

  /**
   * At most `length` bytes within one segment; fewer or none where its file ends before. It is short
   * where the end came while it was made or cut.
   */
  readSome(lsn: Lsn, length: number): Uint8Array {
    try {
      this.#open(segmentNumber(lsn, this.#segmentSize), lsn);
    } catch (error) {
      if (error instanceof StorageError && error.code === "wal-segment-missing") {
        return new Uint8Array(0);
      }
      throw error;
    }
    const bytes = Buffer.allocUnsafe(length);
    const offset = segmentOffset(lsn, this.#segmentSize);
    return bytes.subarray(0, this.#disk.read(this.#fd, bytes, 0, length, offset));
  }

  close(): void {
    if (this.#fd >= 0) {
      this.#disk.close(this.#fd);
      this.#fd = -1;
      this.#segno = -1;
    }
  }

  #open(segno: number, lsn: Lsn): void {
    if (segno === this.#segno) {
      return;
    }
    this.close();
    const path = join(this.#directory, walFileName(segno, 1, this.#segmentSize));
    try {
      this.#fd = this.#disk.open(path, "r");
    } catch (error) {
      if (errnoCode(error) === "ENOENT") {
        throw new StorageError(
          "corrupt",
          "wal-segment-missing",
          `WAL at ${formatLsn(lsn)} is not here: no file ${path}`,
        );
      }
      throw diskError(error, `open ${path}`);
    }
    this.#segno = segno;
  }
}
