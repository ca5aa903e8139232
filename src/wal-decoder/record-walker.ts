// Finds where WAL records end in a byte stream of any chunking, checking headers and CRCs, without buffering.
//
// Unlike WalStream this keeps no record bytes: a running CRC is enough to know that a record is
// whole, so a 1 GB record costs no memory and each byte is summed once, however it arrives.
// Layouts: postgres/wal-page.ts and postgres/xlog-record.ts.
//
// Checked, as xlogreader.c does: page magic, flags, address, system identifier, segment size,
// xlp_rem_len; record length, the xl_prev chain, CRC-32C. A record that a crashed primary gave up
// (XLP_FIRST_IS_OVERWRITE_CONTRECORD) is skipped; whether the record behind it names it, the
// decoder checks.

import {
  CRC32C_START,
  finishCrc32c,
  updateCrc32c,
  updateCrc32cIn,
  wordsOf,
} from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";
import {
  addLsn,
  alignLsn,
  formatLsn,
  INVALID_LSN,
  type Lsn,
  maxLsn,
  pageOffset,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { XLOG_SWITCH } from "../postgres/opcodes.ts";
import { RM_XLOG_ID, XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import {
  LONG_PAGE_HEADER_SIZE,
  pageHeaderProblem,
  pageHeaderSize,
  type WalPageExpectation,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
} from "../postgres/wal-page.ts";
import { RECORD_CRC_OFFSET, RECORD_HEADER_SIZE, RECORD_MAX_SIZE } from "../postgres/xlog-record.ts";

const TWO_32 = 2 ** 32;

export interface RecordWalkerOptions {
  /** The end of a record, or where the first one of the timeline begins. */
  readonly startLsn: Lsn;
  readonly segmentSize: number;
  /** Start of the record before, which the first record must name; 0 or absent: not known. */
  readonly prevLsn?: Lsn;
  /** Of the major that writes the WAL; absent: any major that Strata knows. */
  readonly pageMagic?: number;
  /** Checked against the header of each segment where given. */
  readonly systemId?: bigint;
}

/** What a mark keeps; see `mark`. */
interface Mark {
  position: Lsn;
  recordEndLsn: Lsn;
  recordStart: Lsn;
  remaining: number;
  crc: number;
  headerFill: number;
  readonly header: Uint8Array;
  pageFill: number;
  readonly page: Uint8Array;
}

export interface WalProblem {
  /** Of the page or record that is wrong. */
  readonly lsn: Lsn;
  readonly text: string;
  /** `wal-end` where zeros stand in place of a record or page header, else `corrupt-wal`. */
  readonly code: string;
}

/** Little-endian. Of single bytes, as records begin anywhere in memory. */
function uint32At(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)) >>> 0
  );
}

export class RecordWalker {
  readonly #segmentSize: number;
  readonly #expected: WalPageExpectation;
  #position: Lsn;
  #recordEndLsn: Lsn;
  #prevRecordLsn: Lsn;
  /** Start of the record that is being read or was read last. */
  #recordStart: Lsn;
  /** Bytes behind its header still to come. */
  #remaining = 0;
  #crc = 0;
  /** Bytes of its header that are here; 0 between records. Headers may be split over chunks and pages. */
  #headerFill = 0;
  readonly #header = new Uint8Array(RECORD_HEADER_SIZE);
  readonly #headerView = new DataView(this.#header.buffer);
  #pageFill = 0;
  readonly #page = new Uint8Array(LONG_PAGE_HEADER_SIZE);
  readonly #pageView = new DataView(this.#page.buffer);
  /** Up to here bytes have no meaning: alignment, or the rest of a segment after XLOG_SWITCH. */
  #skipTo: Lsn = INVALID_LSN;
  #problem: WalProblem | undefined;
  readonly #mark: Mark;

  constructor(options: RecordWalkerOptions) {
    this.#segmentSize = options.segmentSize;
    this.#expected = {
      pageMagic: options.pageMagic,
      segmentSize: options.segmentSize,
      systemId: options.systemId,
    };
    this.#position = options.startLsn;
    this.#recordEndLsn = options.startLsn;
    this.#recordStart = options.startLsn;
    this.#prevRecordLsn = options.prevLsn ?? INVALID_LSN;
    this.#mark = {
      position: options.startLsn,
      recordEndLsn: options.startLsn,
      recordStart: options.startLsn,
      remaining: 0,
      crc: 0,
      headerFill: 0,
      header: new Uint8Array(RECORD_HEADER_SIZE),
      pageFill: 0,
      page: new Uint8Array(LONG_PAGE_HEADER_SIZE),
    };
  }

  /** Where the next byte fed belongs. */
  get position(): Lsn {
    return this.#position;
  }

  /** The first byte from `position` on that is looked at; ahead of it inside padding (XLOG_SWITCH). */
  get neededLsn(): Lsn {
    return maxLsn(this.#position, this.#skipTo);
  }

  /** End of the last whole record, padding included (Postgres's EndRecPtr); startLsn before the first. */
  get recordEndLsn(): Lsn {
    return this.#recordEndLsn;
  }

  /** Start of that record; options.prevLsn before the first. */
  get prevRecordLsn(): Lsn {
    return this.#prevRecordLsn;
  }

  /** A record begins before `position` and goes on there: it is whole at no LSN up to here. */
  get isInsideRecord(): boolean {
    return this.#headerFill > 0 && this.#problem === undefined;
  }

  /** What was wrong with the bytes fed, until `rewind`. */
  get problem(): WalProblem | undefined {
    return this.#problem;
  }

  /**
   * StorageError `corrupt` where the bytes are not WAL; code `wal-end` where zeros stand in place of
   * a record or page header. Afterwards only `rewind` makes the walker usable again.
   */
  feed(bytes: Uint8Array): void {
    if (!this.tryFeed(bytes)) {
      const { lsn, text, code } = this.#problem!;
      throw new StorageError("corrupt", code, `WAL at ${formatLsn(lsn)}: ${text}`, {
        fields: { lsn: formatLsn(lsn) },
      });
    }
  }

  /** As `feed`, but where something is wrong it says so with false, and `problem` says what. */
  tryFeed(bytes: Uint8Array): boolean {
    const length = bytes.length;
    let at = 0;
    while (at < length && this.#problem === undefined) {
      const position = this.#position;
      if (position < this.#skipTo) {
        at += this.#advance(Math.min(this.#skipTo - position, length - at));
        if (this.#position === this.#skipTo) {
          this.#recordComplete(this.#skipTo);
        }
        continue;
      }
      const inPage = pageOffset(position);
      if (inPage === 0 || this.#pageFill > 0) {
        at += this.#feedPageHeader(bytes, at);
        continue;
      }
      const room = Math.min(XLOG_BLCKSZ - inPage, length - at);
      if (this.#headerFill === 0 && room >= RECORD_HEADER_SIZE && inPage % 8 === 0) {
        const taken = this.#feedWholeRecords(bytes, at, room);
        if (taken > 0) {
          at += taken;
          continue;
        }
      }
      if (this.#headerFill < RECORD_HEADER_SIZE) {
        at += this.#feedRecordHeader(bytes, at, room);
        continue;
      }
      const take = Math.min(room, this.#remaining);
      this.#crc = updateCrc32c(this.#crc, bytes, at, at + take);
      this.#remaining -= take;
      at += this.#advance(take);
      if (this.#remaining === 0) {
        this.#endRecord();
      }
    }
    return this.#problem === undefined;
  }

  /**
   * Takes records, with their padding, that lie whole in the next `room` bytes, all of one page, as nearly all do: in place, for half of the time of a
   * record in pieces. Stops before one that does not, or in which anything is unusual or wrong, and returns the bytes taken.
   */
  #feedWholeRecords(bytes: Uint8Array, start: number, room: number): number {
    const end = start + room;
    const position = this.#position;
    const words = wordsOf(bytes);
    let recordEndLsn = this.#recordEndLsn;
    let prevLsn = this.#prevRecordLsn;
    let at = start;
    while (end - at >= RECORD_HEADER_SIZE) {
      const lsn = (position + (at - start)) as Lsn;
      const length = uint32At(bytes, at);
      const padded = (length + 7) & -8;
      if (length < RECORD_HEADER_SIZE || length > end - at || padded > end - at) {
        break;
      }
      const prev = uint32At(bytes, at + 12) * TWO_32 + uint32At(bytes, at + 8);
      if (prevLsn === INVALID_LSN ? prev >= lsn : prev !== prevLsn) {
        break;
      }
      const info = bytes[at + 16]! & XLR_RMGR_INFO_MASK;
      if (bytes[at + 17] === RM_XLOG_ID && info === XLOG_SWITCH) {
        break;
      }
      let crc = updateCrc32cIn(CRC32C_START, bytes, words, at + RECORD_HEADER_SIZE, at + length);
      crc = updateCrc32cIn(crc, bytes, words, at, at + RECORD_CRC_OFFSET);
      if (finishCrc32c(crc) !== uint32At(bytes, at + RECORD_CRC_OFFSET)) {
        break;
      }
      prevLsn = lsn;
      at += padded;
      recordEndLsn = (lsn + padded) as Lsn;
    }
    if (at > start) {
      this.#recordStart = prevLsn;
      this.#prevRecordLsn = prevLsn;
      this.#recordEndLsn = recordEndLsn;
      this.#position = recordEndLsn;
    }
    return at - start;
  }

  /** Takes the padding before `neededLsn` as fed, whatever bytes it has. */
  skipPadding(): void {
    if (this.#position < this.#skipTo) {
      this.#position = this.#skipTo;
      this.#recordComplete(this.#skipTo);
    }
  }

  /** Remembers the state here, so that bytes that may change yet can be fed again; replaces the last mark. */
  mark(): void {
    const mark = this.#mark;
    mark.position = this.#position;
    mark.recordEndLsn = this.#recordEndLsn;
    mark.recordStart = this.#recordStart;
    mark.remaining = this.#remaining;
    mark.crc = this.#crc;
    mark.headerFill = this.#headerFill;
    mark.header.set(this.#header);
    mark.pageFill = this.#pageFill;
    mark.page.set(this.#page);
  }

  /**
   * Forgets what was wrong and the record that is not whole: back to the end of the last whole record
   * or, where none became whole since `mark`, to there. Whole records stay found.
   */
  rewind(): void {
    this.#problem = undefined;
    if (this.#position < this.#skipTo) {
      // Only padding of a whole record is missing.
      return;
    }
    const mark = this.#mark;
    if (this.#recordEndLsn !== mark.recordEndLsn) {
      this.#position = this.#recordEndLsn;
      this.#headerFill = 0;
      this.#pageFill = 0;
      return;
    }
    this.#position = mark.position;
    this.#recordStart = mark.recordStart;
    this.#remaining = mark.remaining;
    this.#crc = mark.crc;
    this.#headerFill = mark.headerFill;
    this.#header.set(mark.header);
    this.#pageFill = mark.pageFill;
    this.#page.set(mark.page);
  }

  #advance(count: number): number {
    this.#position = (this.#position + count) as Lsn;
    return count;
  }

  // The error is made only where it is thrown: a stack trace costs more than a small record.
  #wrong(lsn: Lsn, text: string, code = "corrupt-wal"): void {
    this.#problem = { lsn, text, code };
  }

  #feedPageHeader(bytes: Uint8Array, at: number): number {
    const pageLsn = (this.#position - this.#pageFill) as Lsn;
    const size = pageHeaderSize(pageLsn, this.#segmentSize);
    const take = Math.min(size - this.#pageFill, bytes.length - at);
    for (let i = 0; i < take; i++) {
      this.#page[this.#pageFill + i] = bytes[at + i]!;
    }
    this.#pageFill += take;
    this.#advance(take);
    if (this.#pageFill === size) {
      this.#pageFill = 0;
      this.#checkPageHeader(pageLsn);
    }
    return take;
  }

  #checkPageHeader(pageLsn: Lsn): void {
    const view = this.#pageView;
    if (view.getUint16(0, true) === 0) {
      this.#wrong(pageLsn, "page magic is 0", "wal-end");
      return;
    }
    const problem = pageHeaderProblem(view, 0, pageLsn, this.#expected);
    if (problem !== undefined) {
      this.#wrong(pageLsn, problem);
      return;
    }
    const info = view.getUint16(2, true);
    const missing = this.#bytesMissing();
    if (missing > 0 && (info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      // The rest of the record was never written: a primary crashed and went on behind it.
      this.#headerFill = 0;
      return;
    }
    const continues = (info & XLP_FIRST_IS_CONTRECORD) !== 0;
    const remaining = view.getUint32(16, true);
    if (continues !== missing > 0 || (missing > 0 && remaining !== missing)) {
      const found = continues ? remaining : 0;
      this.#wrong(pageLsn, `page continues ${found} bytes of a record, ${missing} expected`);
    }
  }

  /** Of the current record, header included; 0 between records. */
  #bytesMissing(): number {
    if (this.#headerFill === 0) {
      return 0;
    }
    return this.#headerFill < RECORD_HEADER_SIZE
      ? this.#headerView.getUint32(0, true) - this.#headerFill
      : this.#remaining;
  }

  #feedRecordHeader(bytes: Uint8Array, at: number, room: number): number {
    const before = this.#headerFill;
    if (before === 0) {
      this.#recordStart = this.#position;
    }
    const take = Math.min(room, RECORD_HEADER_SIZE - before);
    for (let i = 0; i < take; i++) {
      this.#header[before + i] = bytes[at + i]!;
    }
    this.#headerFill += take;
    this.#advance(take);
    if (before < 4 && this.#headerFill >= 4) {
      const length = this.#headerView.getUint32(0, true);
      if (length < RECORD_HEADER_SIZE || length > RECORD_MAX_SIZE) {
        const code = length === 0 ? "wal-end" : undefined;
        this.#wrong(this.#recordStart, `invalid record length ${length}`, code);
        return take;
      }
    }
    if (this.#headerFill === RECORD_HEADER_SIZE) {
      this.#checkRecordHeader();
    }
    return take;
  }

  #checkRecordHeader(): void {
    const view = this.#headerView;
    const prev = view.getUint32(12, true) * TWO_32 + view.getUint32(8, true);
    const known = this.#prevRecordLsn !== INVALID_LSN;
    if (known ? prev !== this.#prevRecordLsn : prev >= this.#recordStart) {
      const expected = known ? `expected ${formatLsn(this.#prevRecordLsn)}` : "not before it";
      this.#wrong(
        this.#recordStart,
        `previous record is said to be at ${formatLsn(prev as Lsn)}, ${expected}`,
      );
      return;
    }
    this.#remaining = view.getUint32(0, true) - RECORD_HEADER_SIZE;
    this.#crc = CRC32C_START;
    if (this.#remaining === 0) {
      this.#endRecord();
    }
  }

  #endRecord(): void {
    const crc = finishCrc32c(updateCrc32c(this.#crc, this.#header, 0, RECORD_CRC_OFFSET));
    if (crc !== this.#headerView.getUint32(RECORD_CRC_OFFSET, true)) {
      this.#wrong(this.#recordStart, "incorrect record checksum");
      return;
    }
    this.#headerFill = 0;
    let end = alignLsn(this.#position);
    if (
      this.#header[17] === RM_XLOG_ID &&
      (this.#header[16]! & XLR_RMGR_INFO_MASK) === XLOG_SWITCH
    ) {
      const pastSwitch = addLsn(end, this.#segmentSize - 1);
      end = (pastSwitch - (pastSwitch % this.#segmentSize)) as Lsn;
    }
    if (end === this.#position) {
      this.#recordComplete(end);
    } else {
      this.#skipTo = end;
    }
  }

  #recordComplete(end: Lsn): void {
    this.#recordEndLsn = end;
    this.#prevRecordLsn = this.#recordStart;
  }
}
