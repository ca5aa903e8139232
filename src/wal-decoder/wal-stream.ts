// Cuts a stream of WAL bytes into whole, checked records.
//
// Input arrives in chunks of any size, in LSN order, and is copied into an arena in which a byte's
// offset is congruent to its LSN modulo the page size: page arithmetic is on small integers, records
// are 8-byte aligned for the CRC, and the caller's buffer is free again at once (the copy costs one
// percent of the CRC). A record inside one page is used where it lies; one that crosses pages is put
// together in a second buffer, each byte copied there once.
//
// Checked, as xlogreader.c does: page magic, flags, address, system identifier, segment size,
// xlp_rem_len; record length, resource manager, the xl_prev chain, CRC-32C; and that an aborted
// contrecord is named by the record that replaces it. Block references are checked by
// XLogRecord.decode, which only those who want the contents call.

import { CRC32C_START, finishCrc32c, updateCrc32c, updateCrc32cWords } from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";
import {
  formatLsn,
  INVALID_LSN,
  type Lsn,
  pageOffset,
  pageStart,
  toLsn,
  WAL_SEGMENT_SIZE,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { XLOG_OVERWRITE_CONTRECORD, XLOG_SWITCH } from "../postgres/opcodes.ts";
import {
  RM_MAX_BUILTIN_ID,
  RM_MIN_CUSTOM_ID,
  RM_XLOG_ID,
  XLR_RMGR_INFO_MASK,
} from "../postgres/rmgr.ts";
import { versionFromPageMagic } from "../postgres/versions.ts";
import {
  checkPageHeader,
  corruptWal,
  pageHeaderSize,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
} from "../postgres/wal-page.ts";
import {
  RECORD_CRC_OFFSET,
  RECORD_HEADER_SIZE,
  RECORD_MAX_SIZE,
  recordCrc,
  XLogRecord,
} from "../postgres/xlog-record.ts";

const PAGE_MASK = XLOG_BLCKSZ - 1;
const ARENA_SIZE = 128 * 1024;
const ASSEMBLY_SIZE = 64 * 1024;
/** A larger assembly buffer is let go after its record. */
const ASSEMBLY_KEPT = 4 * 1024 * 1024;

type Step = 0 | 1 | 2;
const NEED_MORE = 0;
const FOUND = 1;
const AGAIN = 2;

/**
 * Why `next` returned false:
 * - `more`: all fed bytes are used up or belong to a record that is not complete yet.
 * - `zeroed`: where a record or page should begin there are zeros: the end of what was written.
 *   Whether that is normal is the caller's to say (a segment file: yes; a stream: no).
 */
export type WalStop = "more" | "zeroed";

export interface WalStreamOptions {
  /** A record's end or start; at a page or segment start the header is expected there and skipped. */
  readonly startLsn: Lsn;
  /** Start of the record before, which the first record must name; 0 or absent: not known. */
  readonly prevLsn?: Lsn;
  /** Of the major that wrote the WAL (PG_VERSIONS); every page must carry it. */
  readonly pageMagic: number;
  readonly segmentSize?: number;
  /** Checked against the header of each segment where given. */
  readonly systemId?: bigint;
}

export class WalStream {
  /** The record that the last successful `next` found; valid until the next `next` or `feed`. */
  readonly record = new XLogRecord();
  readonly #pageMagic: number;
  readonly #segmentSize: number;
  readonly #expected: { pageMagic: number; segmentSize: number; systemId: bigint | undefined };

  #arena: Uint8Array = new Uint8Array(ARENA_SIZE);
  #view: DataView = new DataView(this.#arena.buffer);
  #words: Int32Array = new Int32Array(this.#arena.buffer);
  /** LSN of the arena's first byte: a page start. */
  #baseLsn: Lsn;
  /** Next byte to look at: a record's end, or the start of the page that continues a record. */
  #pos: number;
  /** End of the bytes in the arena. */
  #fill: number;
  /** Bytes yet to come that are dropped: the rest of a segment after XLOG_SWITCH. */
  #skip = 0;

  #assembly: Uint8Array = new Uint8Array(ASSEMBLY_SIZE);
  #assemblyView: DataView = new DataView(this.#assembly.buffer);
  /** A record that crosses pages is being put together: its length (0: none), bytes so far, start. */
  #totalLength = 0;
  #gotLength = 0;
  #startLsn: Lsn = INVALID_LSN;

  #recordEndLsn: Lsn;
  #prevLsn: Lsn;
  #overwrittenLsn: Lsn = INVALID_LSN;
  #stop: WalStop = "more";

  constructor(options: WalStreamOptions) {
    if (versionFromPageMagic(options.pageMagic) === undefined) {
      const magic = options.pageMagic.toString(16);
      throw new StorageError("unsupported", "unsupported-pg-version", `page magic ${magic}`);
    }
    this.#pageMagic = options.pageMagic;
    this.#segmentSize = options.segmentSize ?? WAL_SEGMENT_SIZE;
    this.#expected = {
      pageMagic: this.#pageMagic,
      segmentSize: this.#segmentSize,
      systemId: options.systemId,
    };
    this.#prevLsn = options.prevLsn ?? INVALID_LSN;
    this.#recordEndLsn = options.startLsn;
    const offset = pageOffset(options.startLsn);
    const headerSize = pageHeaderSize(pageStart(options.startLsn), this.#segmentSize);
    if (offset % 8 !== 0 || (offset > 0 && offset < headerSize)) {
      const text = formatLsn(options.startLsn);
      throw new StorageError("invalid", "bad-lsn", `${text} is not where a record ends`);
    }
    this.#baseLsn = pageStart(options.startLsn);
    this.#pos = pageOffset(options.startLsn);
    this.#fill = this.#pos;
  }

  /** End of the last complete record; startLsn before the first. */
  get recordEndLsn(): Lsn {
    return this.#recordEndLsn;
  }

  /** Start of the last complete record; options.prevLsn before the first. */
  get prevRecordLsn(): Lsn {
    return this.#prevLsn;
  }

  /** LSN of the byte that `feed` expects next. */
  get fedLsn(): Lsn {
    return (this.#baseLsn + this.#fill - this.#skip) as Lsn;
  }

  /** Where `next` looks next: a record's place, or the start of a page; after an error, what it is about. */
  get position(): Lsn {
    return (this.#baseLsn + this.#pos) as Lsn;
  }

  get stop(): WalStop {
    return this.#stop;
  }

  /** Appends bytes [start, end), which begin at `fedLsn`; they are copied. */
  feed(bytes: Uint8Array, start = 0, end = bytes.length): void {
    let from = start;
    if (this.#skip > 0) {
      const dropped = Math.min(this.#skip, end - from);
      this.#skip -= dropped;
      from += dropped;
    }
    const length = end - from;
    if (length <= 0) {
      return;
    }
    if (this.#fill + length > this.#arena.length) {
      this.#makeRoom(length);
    }
    this.#arena.set(
      from === 0 && length === bytes.length ? bytes : bytes.subarray(from, end),
      this.#fill,
    );
    this.#fill += length;
  }

  /** Moves what is still needed to the arena's front, and grows it where that is not enough. */
  #makeRoom(length: number): void {
    const keepFrom = this.#pos & ~PAGE_MASK;
    const kept = this.#fill - keepFrom;
    const needed = kept + length;
    if (needed <= this.#arena.length) {
      this.#arena.copyWithin(0, keepFrom, this.#fill);
    } else {
      let size = this.#arena.length;
      while (size < needed) {
        size *= 2;
      }
      const grown = new Uint8Array(size);
      grown.set(this.#arena.subarray(keepFrom, this.#fill));
      this.#arena = grown;
      this.#view = new DataView(grown.buffer);
      this.#words = new Int32Array(grown.buffer);
    }
    this.#baseLsn = (this.#baseLsn + keepFrom) as Lsn;
    this.#pos -= keepFrom;
    this.#fill -= keepFrom;
  }

  /**
   * Finds the next record and puts it into `record`; false where there is none yet (see `stop`).
   * StorageError `corrupt`, with the LSN, where the bytes are not WAL; then the stream is of no more use.
   */
  next(): boolean {
    this.#stop = "more";
    for (;;) {
      const step = this.#totalLength > 0 ? this.#continueRecord() : this.#startRecord();
      if (step !== AGAIN) {
        return step === FOUND;
      }
    }
  }

  #startRecord(): Step {
    let at = this.#pos;
    const available = this.#fill;
    if ((at & PAGE_MASK) === 0) {
      const pageLsn = (this.#baseLsn + at) as Lsn;
      const headerSize = pageHeaderSize(pageLsn, this.#segmentSize);
      if (available - at < headerSize) {
        return NEED_MORE;
      }
      if (this.#isZero(at, headerSize)) {
        return this.#zeroed();
      }
      const flags = checkPageHeader(this.#view, at, pageLsn, this.#expected);
      if ((flags & XLP_FIRST_IS_CONTRECORD) !== 0) {
        throw corruptWal(pageLsn, "page continues a record, but one should begin here");
      }
      at += headerSize;
    }
    if (available - at < 4) {
      return NEED_MORE;
    }
    const startLsn = (this.#baseLsn + at) as Lsn;
    const length = this.#view.getUint32(at, true);
    if (length === 0) {
      return this.#zeroed();
    }
    if (length < RECORD_HEADER_SIZE || length > RECORD_MAX_SIZE) {
      throw corruptWal(startLsn, `invalid record length ${length}`);
    }
    const pageLeft = XLOG_BLCKSZ - (at & PAGE_MASK);
    const wanted = length <= pageLeft ? (length + 7) & ~7 : pageLeft;
    if (available - at >= RECORD_HEADER_SIZE && pageLeft >= RECORD_HEADER_SIZE) {
      this.#checkHeader(this.#view, at, startLsn);
    }
    if (available - at < wanted) {
      return NEED_MORE;
    }
    if (length <= pageLeft) {
      this.#finish(this.#arena, this.#view, at, length, startLsn, at + wanted);
      return FOUND;
    }
    this.#totalLength = length;
    this.#gotLength = 0;
    this.#startLsn = startLsn;
    this.#takeFragment(at, pageLeft);
    this.#pos = at + pageLeft;
    return AGAIN;
  }

  #continueRecord(): Step {
    const at = this.#pos;
    const pageLsn = (this.#baseLsn + at) as Lsn;
    const headerSize = pageHeaderSize(pageLsn, this.#segmentSize);
    if (this.#fill - at < headerSize) {
      return NEED_MORE;
    }
    if (this.#isZero(at, headerSize)) {
      return this.#zeroed();
    }
    const flags = checkPageHeader(this.#view, at, pageLsn, this.#expected);
    if ((flags & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      // The writer crashed in this record and, restarted, put another one over its rest.
      this.#overwrittenLsn = this.#startLsn;
      this.#totalLength = 0;
      return AGAIN;
    }
    const remaining = this.#view.getUint32(at + 16, true);
    const missing = this.#totalLength - this.#gotLength;
    if ((flags & XLP_FIRST_IS_CONTRECORD) === 0 || remaining !== missing) {
      const start = formatLsn(this.#startLsn);
      throw corruptWal(pageLsn, `page does not continue the record at ${start}`, {
        remaining,
        missing,
      });
    }
    const fragment = Math.min(missing, XLOG_BLCKSZ - headerSize);
    const wanted = headerSize + ((fragment + 7) & ~7);
    if (this.#fill - at < wanted) {
      return NEED_MORE;
    }
    const gotBefore = this.#gotLength;
    this.#takeFragment(at + headerSize, fragment);
    if (gotBefore < RECORD_HEADER_SIZE) {
      this.#checkHeader(this.#assemblyView, 0, this.#startLsn);
    }
    if (this.#gotLength === this.#totalLength) {
      const length = this.#totalLength;
      const end = at + wanted;
      this.#finish(this.#assembly, this.#assemblyView, 0, length, this.#startLsn, end);
      this.#totalLength = 0;
      return FOUND;
    }
    this.#pos = at + XLOG_BLCKSZ;
    return AGAIN;
  }

  /** Appends to the assembly buffer, which gets its full size only when a second page has confirmed it. */
  #takeFragment(at: number, length: number): void {
    const got = this.#gotLength;
    if (got === 0 && this.#assembly.length > ASSEMBLY_KEPT) {
      this.#setAssembly(new Uint8Array(ASSEMBLY_SIZE));
    }
    if (got + length > this.#assembly.length) {
      const grown = new Uint8Array(this.#totalLength);
      grown.set(this.#assembly.subarray(0, got));
      this.#setAssembly(grown);
    }
    this.#assembly.set(this.#arena.subarray(at, at + length), got);
    this.#gotLength = got + length;
  }

  #setAssembly(bytes: Uint8Array): void {
    this.#assembly = bytes;
    this.#assemblyView = new DataView(bytes.buffer);
  }

  /** Checks what must hold before the rest of a record is worth waiting for. */
  #checkHeader(view: DataView, at: number, startLsn: Lsn): void {
    const rmid = view.getUint8(at + 17);
    if (rmid > RM_MAX_BUILTIN_ID && rmid < RM_MIN_CUSTOM_ID) {
      throw corruptWal(startLsn, `invalid resource manager ${rmid}`);
    }
    const prev = view.getUint32(at + 12, true) * 2 ** 32 + view.getUint32(at + 8, true);
    if (this.#prevLsn === INVALID_LSN ? prev >= startLsn : prev !== this.#prevLsn) {
      const known = this.#prevLsn !== INVALID_LSN;
      const expected = known ? `expected ${formatLsn(this.#prevLsn)}` : "which is not before it";
      const found = prev <= Number.MAX_SAFE_INTEGER ? formatLsn(toLsn(prev)) : `${prev}`;
      throw corruptWal(startLsn, `previous record is said to be at ${found}, ${expected}`);
    }
  }

  /** Checks the CRC of a whole record and makes it the current one; `end`: arena offset after it. */
  #finish(
    bytes: Uint8Array,
    view: DataView,
    at: number,
    length: number,
    startLsn: Lsn,
    end: number,
  ): void {
    const crc = view.getUint32(at + 20, true);
    const computed =
      view === this.#view
        ? alignedRecordCrc(this.#words, bytes, at, length)
        : recordCrc(bytes, at, length);
    if (crc !== computed) {
      throw corruptWal(startLsn, "incorrect record checksum", { crc, computed, length });
    }
    let endLsn = (this.#baseLsn + end) as Lsn;
    const rmid = view.getUint8(at + 17);
    const opcode = view.getUint8(at + 16) & XLR_RMGR_INFO_MASK;
    if (rmid === RM_XLOG_ID) {
      if (opcode === XLOG_SWITCH) {
        endLsn = toLsn(Math.ceil(endLsn / this.#segmentSize) * this.#segmentSize);
      }
      if (this.#overwrittenLsn !== INVALID_LSN && opcode === XLOG_OVERWRITE_CONTRECORD) {
        this.#checkOverwrite(view, at, length, startLsn);
      }
    }
    if (this.#overwrittenLsn !== INVALID_LSN) {
      const aborted = formatLsn(this.#overwrittenLsn);
      throw corruptWal(startLsn, `the aborted record at ${aborted} is not acknowledged`);
    }
    this.record.setHeader(bytes, view, at, startLsn, endLsn, this.#pageMagic);
    this.#recordEndLsn = endLsn;
    this.#prevLsn = startLsn;
    this.#pos = end;
    const skipped = endLsn - (this.#baseLsn + end);
    if (skipped > 0) {
      this.#skipAhead(endLsn);
    }
  }

  /** xl_overwrite_contrecord: u64 overwritten_lsn, i64 time, behind a short data header. */
  #checkOverwrite(view: DataView, at: number, length: number, startLsn: Lsn): void {
    const data = at + RECORD_HEADER_SIZE + 2;
    if (length < RECORD_HEADER_SIZE + 2 + 16 || view.getUint8(data - 2) !== 255) {
      throw corruptWal(startLsn, "malformed OVERWRITE_CONTRECORD");
    }
    const named = view.getUint32(data + 4, true) * 2 ** 32 + view.getUint32(data, true);
    if (named === this.#overwrittenLsn) {
      this.#overwrittenLsn = INVALID_LSN;
    }
  }

  /** After XLOG_SWITCH: drops what there is, or is to come, of the segment. */
  #skipAhead(endLsn: Lsn): void {
    const target = endLsn - this.#baseLsn;
    if (target <= this.#fill) {
      this.#pos = target;
      return;
    }
    this.#skip = target - this.#fill;
    // The record that is handed out may lie in the arena, so its bytes stay where they are.
    this.#baseLsn = (endLsn - XLOG_BLCKSZ * Math.ceil(this.#fill / XLOG_BLCKSZ)) as Lsn;
    this.#fill = XLOG_BLCKSZ * Math.ceil(this.#fill / XLOG_BLCKSZ);
    this.#pos = this.#fill;
  }

  #isZero(at: number, length: number): boolean {
    for (let i = at; i < at + length; i++) {
      if (this.#arena[i] !== 0) {
        return false;
      }
    }
    return true;
  }

  #zeroed(): Step {
    this.#stop = "zeroed";
    return NEED_MORE;
  }
}

/**
 * recordCrc where `at` is a multiple of 8 and `words` views the same memory from byte 0 on: half the
 * time for a record of 70 bytes, as most are (no look-up of a view, no bytes before the first word).
 */
function alignedRecordCrc(
  words: Int32Array,
  bytes: Uint8Array,
  at: number,
  length: number,
): number {
  const end = at + length;
  const wordEnd = end >>> 2;
  const first = at >>> 2;
  let crc = updateCrc32cWords(CRC32C_START, words, first + RECORD_HEADER_SIZE / 4, wordEnd);
  crc = updateCrc32c(crc, bytes, wordEnd * 4, end);
  return finishCrc32c(updateCrc32cWords(crc, words, first, first + RECORD_CRC_OFFSET / 4));
}
