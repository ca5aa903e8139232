// Reads the records of a WAL directory in order, and tells the end of the WAL from damage inside it.
//
// Postgres's recovery ends at the first thing that is no valid record, whatever follows. For a check that
// is not good enough, so what follows is looked at: if a later page in the directory carries its own
// address, the WAL went on there, and what stopped us is damage or a hole (StorageError `corrupt`).
// If none does, it is the end: zeros, or older WAL in a recycled file, or a record that was cut off.

import { closeSync, openSync, readSync, statSync } from "node:fs";
import { errorMessage, StorageError } from "../base/errors.ts";
import {
  alignLsn,
  formatLsn,
  type Lsn,
  lsnHigh,
  lsnLow,
  pageStart,
  parseLsn,
  segmentNumber,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { PG_VERSIONS, versionFromPageMagic } from "../postgres/versions.ts";
import { LONG_PAGE_HEADER_SIZE, pageHeaderProblem, pageHeaderSize } from "../postgres/wal-page.ts";
import { RECORD_HEADER_SIZE, type XLogRecord } from "../postgres/xlog-record.ts";
import { WalStream } from "../wal-decoder/wal-stream.ts";
import type { BaseBackup } from "./base-backup.ts";
import type { WalDirectory } from "./wal-directory.ts";

const CHUNK_SIZE = 256 * 1024;
const HEADER_SIZE = LONG_PAGE_HEADER_SIZE;

/** Why and where reading stopped. */
export interface WalEnd {
  /** End of the last record that was read. */
  readonly lsn: Lsn;
  /** `until`: the caller's limit; `end`: nothing follows; `torn`: an unfinished record follows. */
  readonly kind: "until" | "end" | "torn";
  /** One line for people. */
  readonly reason: string;
}

export class WalReader {
  readonly #wal: WalDirectory;
  readonly #base: BaseBackup;
  readonly #untilLsn: Lsn | undefined;
  readonly #stream: WalStream;
  readonly #segmentSize: number;
  readonly #chunk = new Uint8Array(CHUNK_SIZE);
  #fd: number | undefined;
  #file = "";
  /** Bytes of the file, and how many of them were read. */
  #fileSize = 0;
  #fileRead = 0;
  #segno: number;
  #lastEndLsn: Lsn;
  #end: WalEnd | undefined;

  /**
   * `wal` is made to follow the base's timeline. StorageError `invalid` or `not-found` where it does
   * not have the base's first segment, or that is no WAL, or of another cluster or major.
   */
  constructor(wal: WalDirectory, base: BaseBackup, untilLsn?: Lsn) {
    this.#wal = wal;
    this.#base = base;
    this.#untilLsn = untilLsn;
    this.#lastEndLsn = base.startLsn;
    this.#segmentSize = base.control.segmentSize;
    wal.follow(base.timeLineId, base.startLsn);
    this.#segno = segmentNumber(base.startLsn, this.#segmentSize);
    this.#stream = new WalStream({
      startLsn: base.startLsn,
      pageMagic: PG_VERSIONS[base.major].pageMagic,
      segmentSize: this.#segmentSize,
      systemId: base.control.systemId,
    });
    if (wal.pathOf(this.#segno) === undefined) {
      throw this.#noFirstSegment();
    }
    this.#openSegment();
    const problem = this.#firstPageProblem();
    if (problem !== undefined) {
      this.close();
      const message = `'${this.#file}': ${problem}`;
      throw new StorageError("invalid", "not-this-wal", message);
    }
  }

  #noFirstSegment(): StorageError {
    const wanted = this.#wal.nameOf(this.#segno);
    const start = formatLsn(this.#base.startLsn);
    const segnos = this.#wal.segnos();
    const last = segnos.at(-1);
    if (last !== undefined && last < this.#segno) {
      const message = `the base is newer than the WAL: it starts at ${start}, in segment ${wanted}, and '${this.#wal.path}' ends with ${this.#wal.nameOf(last)}`;
      return new StorageError("invalid", "base-newer-than-wal", message);
    }
    const message = `segment ${wanted}, in which the base starts at ${start}, is missing in '${this.#wal.path}'`;
    return new StorageError("not-found", "missing-segment", message);
  }

  /** End of the last record read; the base's start before the first. */
  get recordEndLsn(): Lsn {
    return this.#lastEndLsn;
  }

  /** Set once `next` has returned undefined. */
  get end(): WalEnd | undefined {
    return this.#end;
  }

  /** Bytes of WAL from the base's start to the end of the last segment file. */
  get totalBytes(): number {
    const last = this.#wal.segnos().at(-1) ?? this.#segno;
    return (last + 1) * this.#segmentSize - this.#base.startLsn;
  }

  /**
   * The next record, lent until the next call; undefined at the end. StorageError `corrupt` where WAL
   * is damaged and goes on after it, `not-found` where a segment in the middle is missing.
   */
  next(): XLogRecord | undefined {
    while (this.#end === undefined) {
      let found: boolean;
      try {
        found = this.#stream.next();
      } catch (error) {
        this.#stopAt(errorMessage(error), error);
        break;
      }
      if (found) {
        const { record } = this.#stream;
        if (this.#untilLsn === undefined || record.startLsn < this.#untilLsn) {
          this.#lastEndLsn = record.endLsn;
          return record;
        }
        this.#finish("until", `stopped at ${formatLsn(this.#untilLsn)}`);
      } else if (this.#stream.stop === "zeroed") {
        this.#stopAt("zeros follow", undefined);
      } else {
        this.#readMore();
      }
    }
    return undefined;
  }

  #finish(kind: WalEnd["kind"], reason: string): void {
    this.#end = { lsn: this.#lastEndLsn, kind, reason };
    this.close();
  }

  #readMore(): void {
    if (this.#fileRead < this.#fileSize) {
      const wanted = Math.min(CHUNK_SIZE, this.#fileSize - this.#fileRead);
      const got = readSync(this.#fd!, this.#chunk, 0, wanted, this.#fileRead);
      if (got > 0) {
        this.#fileRead += got;
        this.#stream.feed(this.#chunk, 0, got);
        return;
      }
    }
    const later = this.#wal.segnos().filter((segno) => segno > this.#segno);
    if (this.#fileRead < this.#segmentSize) {
      const what = `'${this.#file}' ends after ${this.#fileRead} of ${this.#segmentSize} bytes`;
      if (later.length > 0) {
        throw new StorageError("corrupt", "short-segment", `${what}, and more segments follow`);
      }
      this.#endOfFiles(what);
      return;
    }
    if (this.#wal.pathOf(this.#segno + 1) === undefined) {
      const name = this.#wal.nameOf(this.#segno + 1);
      if (later.length > 0) {
        const message = `segment ${name} is missing in '${this.#wal.path}', which goes on with ${this.#wal.nameOf(later[0]!)}`;
        throw new StorageError("not-found", "missing-segment", message);
      }
      this.#endOfFiles(`there is no segment ${name}`);
      return;
    }
    this.#segno++;
    this.#openSegment();
    const problem = this.#firstPageProblem();
    // A recycled file that was not written yet says that it is at an older place: that is an end.
    if (problem !== undefined && !/^page says it is at/.test(problem)) {
      throw new StorageError("corrupt", "not-this-wal", `'${this.#file}': ${problem}`);
    }
  }

  #endOfFiles(reason: string): void {
    const torn = this.#stream.fedLsn > nextRecordPlace(this.#lastEndLsn, this.#segmentSize);
    this.#finish(torn ? "torn" : "end", reason);
  }

  #openSegment(): void {
    this.close();
    this.#file = this.#wal.pathOf(this.#segno)!;
    this.#fileSize = Math.min(statSync(this.#file).size, this.#segmentSize);
    this.#fd = openSync(this.#file, "r");
    const offset = this.#stream.fedLsn - this.#segno * this.#segmentSize;
    this.#fileRead = Math.min(Math.max(offset, 0), this.#fileSize);
  }

  /** What is wrong with the header of the open segment's first page; undefined for zeros too. */
  #firstPageProblem(): string | undefined {
    const header = new Uint8Array(HEADER_SIZE);
    const got = readSync(this.#fd!, header, 0, HEADER_SIZE, 0);
    if (got < HEADER_SIZE) {
      return `it is no WAL segment: it has ${got} bytes`;
    }
    const view = new DataView(header.buffer);
    const magic = view.getUint16(0, true);
    if (magic === 0 && header.every((byte) => byte === 0)) {
      return undefined;
    }
    const version = versionFromPageMagic(magic);
    if (version === undefined) {
      return `it is no WAL of Postgres 14 to 18: page magic is ${magic.toString(16)}`;
    }
    const { major, control } = this.#base;
    if (version.major !== major) {
      return `it is WAL of Postgres ${version.major}, and the base is of ${major}`;
    }
    const lsn = (this.#segno * this.#segmentSize) as Lsn;
    return pageHeaderProblem(view, 0, lsn, {
      pageMagic: magic,
      segmentSize: this.#segmentSize,
      systemId: control.systemId,
    });
  }

  /** Nothing valid at the end of the last record: the end, unless WAL goes on after it. */
  #stopAt(reason: string, cause: unknown): void {
    const later = this.#continuation(cause);
    if (later !== undefined) {
      const message = `the WAL after ${formatLsn(this.#lastEndLsn)} is damaged: ${reason}; it goes on at ${formatLsn(later)}`;
      throw new StorageError("corrupt", "damaged-wal", message, { cause });
    }
    this.#finish(cause === undefined ? "end" : "torn", reason);
  }

  /** Where WAL goes on after what stopped us; undefined: nowhere. */
  #continuation(cause: unknown): Lsn | undefined {
    const { lsn, length } = cause instanceof StorageError ? cause.fields : {};
    const start = typeof lsn === "string" ? parseLsn(lsn) : undefined;
    if (start === undefined || typeof length !== "number") {
      return this.#laterPage(this.#stream.position);
    }
    // A whole record with a wrong CRC: its own pages prove nothing, the next record does.
    const end = endOfRecord(start, length, this.#segmentSize);
    return this.#isRecordAfter(end, start) ? end : this.#laterPage(end);
  }

  /** Whether a record at `lsn`, on the same page as the end of the one before, names that one. */
  #isRecordAfter(lsn: Lsn, previous: Lsn): boolean {
    const segno = segmentNumber(lsn, this.#segmentSize);
    const path = this.#wal.pathOf(segno);
    if (lsn % XLOG_BLCKSZ === 0 || path === undefined) {
      return false;
    }
    const header = new Uint8Array(RECORD_HEADER_SIZE);
    const fd = openSync(path, "r");
    try {
      readSync(fd, header, 0, RECORD_HEADER_SIZE, lsn - segno * this.#segmentSize);
    } finally {
      closeSync(fd);
    }
    const view = new DataView(header.buffer);
    return (
      view.getUint32(8, true) === lsnLow(previous) && view.getUint32(12, true) === lsnHigh(previous)
    );
  }

  /** The first page from `lsn` on that is where it says it is; undefined: none. */
  #laterPage(lsn: Lsn): Lsn | undefined {
    const first = pageStart(lsn) === lsn ? lsn : pageStart(lsn) + XLOG_BLCKSZ;
    const segno = segmentNumber(first as Lsn, this.#segmentSize);
    for (const later of this.#wal.segnos().filter((one) => one >= segno)) {
      const start = later * this.#segmentSize;
      const fd = openSync(this.#wal.pathOf(later)!, "r");
      try {
        // Of later segments one page is enough.
        const end = later === segno ? start + this.#segmentSize : start + XLOG_BLCKSZ;
        for (let at = Math.max(first, start); at < end; at += XLOG_BLCKSZ) {
          if (this.#isOwnPage(fd, at as Lsn, start)) {
            return at as Lsn;
          }
        }
      } finally {
        closeSync(fd);
      }
    }
    return undefined;
  }

  #isOwnPage(fd: number, lsn: Lsn, segmentStart: number): boolean {
    const header = new Uint8Array(HEADER_SIZE);
    if (readSync(fd, header, 0, HEADER_SIZE, lsn - segmentStart) < HEADER_SIZE) {
      return false;
    }
    const expected = {
      pageMagic: PG_VERSIONS[this.#base.major].pageMagic,
      segmentSize: this.#segmentSize,
      systemId: this.#base.control.systemId,
    };
    return pageHeaderProblem(new DataView(header.buffer), 0, lsn, expected) === undefined;
  }

  close(): void {
    if (this.#fd !== undefined) {
      closeSync(this.#fd);
      this.#fd = undefined;
    }
  }
}

/** Where the record after one that ends at `lsn` begins at the latest: page headers are skipped. */
function nextRecordPlace(lsn: Lsn, segmentSize: number): number {
  return lsn % XLOG_BLCKSZ === 0 ? lsn + pageHeaderSize(lsn, segmentSize) : lsn;
}

/** EndRecPtr of a record of `length` bytes that starts at `start`. */
function endOfRecord(start: Lsn, length: number, segmentSize: number): Lsn {
  let at: number = start;
  for (let left = alignLsn(length as Lsn) as number; left > 0; ) {
    if (at % XLOG_BLCKSZ === 0) {
      at += pageHeaderSize(at as Lsn, segmentSize);
    }
    const part = Math.min(left, XLOG_BLCKSZ - (at % XLOG_BLCKSZ));
    at += part;
    left -= part;
  }
  return at as Lsn;
}
