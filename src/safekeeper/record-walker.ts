// Finds where WAL records end in a byte stream of any chunking, checking headers and CRCs, without buffering.

import { CRC32C_START, finishCrc32c, updateCrc32c } from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";
import { alignLsn, formatLsn, INVALID_LSN, type Lsn, XLOG_BLCKSZ } from "../base/lsn.ts";

/*
 * access/xlog_internal.h and xlogrecord.h, versions 14-18, little-endian:
 *   page header   0 u16 magic, 2 u16 info, 4 u32 timeline, 8 u64 page address, 16 u32 rem_len, 20 pad
 *                 first page of a segment: + 24 u64 system id, 32 u32 segment size, 36 u32 page size
 *   record        0 u32 tot_len, 4 u32 xid, 8 u64 prev, 16 u8 info, 17 u8 rmid, 20 u32 crc, 24 data
 * Records begin at multiples of 8 and go on behind the header of the next page; rem_len is what is
 * left of the record there. The CRC covers data, then the header up to the CRC. XLOG_SWITCH ends
 * its segment.
 */

const SHORT_HEADER = 24;
const LONG_HEADER = 40;
const RECORD_HEADER = 24;
/** XLogRecordMaxSize is 1020 MiB since 16; before, anything palloc can hold. */
const MAX_RECORD = 0x3fffffff;
const XLP_FIRST_IS_CONTRECORD = 1;
const XLP_LONG_HEADER = 2;
const XLP_FIRST_IS_OVERWRITE_CONTRECORD = 8;
const XLOG_SWITCH = 0x40;
/** First and last page magic of the majors 14 to 18. */
const FIRST_MAGIC = 0xd10d;
const LAST_MAGIC = 0xd118;
const TWO_32 = 2 ** 32;

/** Walks WAL from a record end on. After a StorageError it must be thrown away. */
export class RecordWalker {
  readonly #segmentSize: number;
  #position: Lsn;
  #recordLsn: Lsn;
  /** Start of the record that is being read or was read last; 0 before the first. */
  #recordStart: Lsn = INVALID_LSN;
  /** Bytes of the current record still to come; 0 between records. */
  #remaining = 0;
  #crc = 0;
  /** Headers can be split over chunks and (records') over pages. */
  readonly #header = new Uint8Array(RECORD_HEADER);
  readonly #headerView = new DataView(this.#header.buffer);
  #headerFill = 0;
  readonly #page = new Uint8Array(LONG_HEADER);
  readonly #pageView = new DataView(this.#page.buffer);
  #pageFill = 0;
  /** Up to here bytes have no meaning: alignment, or the rest of a segment after XLOG_SWITCH. */
  #skipTo: Lsn = INVALID_LSN;

  /** `startLsn` is the end of a record, or where the first one of the timeline begins. */
  constructor(startLsn: Lsn, segmentSize: number) {
    this.#segmentSize = segmentSize;
    this.#position = startLsn;
    this.#recordLsn = startLsn;
  }

  /** Where the next byte fed belongs. */
  get position(): Lsn {
    return this.#position;
  }

  /** End of the last whole record, as Postgres's EndRecPtr. */
  get recordLsn(): Lsn {
    return this.#recordLsn;
  }

  /**
   * StorageError `corrupt`, code `wal-end` where zeros stand in place of a record or page header.
   */
  feed(bytes: Uint8Array): void {
    const length = bytes.length;
    let at = 0;
    while (at < length) {
      const position = this.#position;
      if (position < this.#skipTo) {
        at += this.#advance(Math.min(this.#skipTo - position, length - at));
        if (this.#position === this.#skipTo) {
          this.#recordLsn = this.#skipTo;
        }
        continue;
      }
      const pageOffset = position % XLOG_BLCKSZ;
      if (pageOffset === 0 || this.#pageFill > 0) {
        at += this.#feedPageHeader(bytes, at);
        continue;
      }
      const room = Math.min(XLOG_BLCKSZ - pageOffset, length - at);
      if (this.#headerFill < RECORD_HEADER) {
        at += this.#feedRecordHeader(bytes, at, room);
      } else {
        const take = Math.min(room, this.#remaining);
        this.#crc = updateCrc32c(this.#crc, bytes, at, at + take);
        this.#remaining -= take;
        at += this.#advance(take);
      }
      if (this.#headerFill === RECORD_HEADER && this.#remaining === 0) {
        this.#endRecord();
      }
    }
  }

  #advance(count: number): number {
    this.#position = (this.#position + count) as Lsn;
    return count;
  }

  #corrupt(lsn: Lsn, problem: string, code = "bad-wal"): StorageError {
    return new StorageError("corrupt", code, `WAL at ${formatLsn(lsn)}: ${problem}`, {
      fields: { lsn: formatLsn(lsn) },
    });
  }

  #feedPageHeader(bytes: Uint8Array, at: number): number {
    const start = (this.#position - this.#pageFill) as Lsn;
    const isFirst = start % this.#segmentSize === 0;
    const size = isFirst ? LONG_HEADER : SHORT_HEADER;
    const take = Math.min(size - this.#pageFill, bytes.length - at);
    for (let i = 0; i < take; i++) {
      this.#page[this.#pageFill + i] = bytes[at + i]!;
    }
    this.#pageFill += take;
    this.#advance(take);
    if (this.#pageFill === size) {
      this.#pageFill = 0;
      this.#checkPageHeader(start, isFirst);
    }
    return take;
  }

  #checkPageHeader(start: Lsn, isFirst: boolean): void {
    const view = this.#pageView;
    const magic = view.getUint16(0, true);
    if (magic < FIRST_MAGIC || magic > LAST_MAGIC) {
      const code = magic === 0 ? "wal-end" : "bad-wal";
      throw this.#corrupt(start, `page magic is ${magic.toString(16)}`, code);
    }
    const info = view.getUint16(2, true);
    const address = view.getUint32(12, true) * TWO_32 + view.getUint32(8, true);
    if (address !== start) {
      throw this.#corrupt(start, `page address is ${formatLsn(address as Lsn)}`);
    }
    if (isFirst !== ((info & XLP_LONG_HEADER) !== 0)) {
      throw this.#corrupt(start, "long page header where none belongs, or none where one does");
    }
    if (isFirst && view.getUint32(32, true) !== this.#segmentSize) {
      throw this.#corrupt(start, `segment size is ${view.getUint32(32, true)}`);
    }
    const inRecord = this.#headerFill > 0;
    if ((info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0) {
      // The rest of the record was never written: a primary crashed and went on behind it.
      this.#headerFill = 0;
      this.#remaining = 0;
      return;
    }
    const continues = (info & XLP_FIRST_IS_CONTRECORD) !== 0;
    const remainder = view.getUint32(16, true);
    if (continues !== inRecord || (inRecord && remainder !== this.#bytesLeft())) {
      throw this.#corrupt(
        start,
        `page continues ${remainder} bytes of a record, ${inRecord ? this.#bytesLeft() : 0} expected`,
      );
    }
  }

  /** Of the current record, header included. */
  #bytesLeft(): number {
    return this.#headerFill < RECORD_HEADER
      ? this.#headerView.getUint32(0, true) - this.#headerFill
      : this.#remaining;
  }

  #feedRecordHeader(bytes: Uint8Array, at: number, room: number): number {
    if (this.#headerFill === 0) {
      this.#recordStart = this.#position;
    }
    const take = Math.min(room, RECORD_HEADER - this.#headerFill);
    for (let i = 0; i < take; i++) {
      this.#header[this.#headerFill + i] = bytes[at + i]!;
    }
    const before = this.#headerFill;
    this.#headerFill += take;
    this.#advance(take);
    if (before < 4 && this.#headerFill >= 4) {
      const total = this.#headerView.getUint32(0, true);
      if (total < RECORD_HEADER || total > MAX_RECORD) {
        const code = total === 0 ? "wal-end" : "bad-wal";
        throw this.#corrupt(this.#recordStart, `record of ${total} bytes`, code);
      }
    }
    if (this.#headerFill === RECORD_HEADER) {
      this.#remaining = this.#headerView.getUint32(0, true) - RECORD_HEADER;
      this.#crc = CRC32C_START;
      const previous =
        this.#headerView.getUint32(12, true) * TWO_32 + this.#headerView.getUint32(8, true);
      if (previous >= this.#recordStart) {
        throw this.#corrupt(this.#recordStart, "record names a later one as its predecessor");
      }
    }
    return take;
  }

  #endRecord(): void {
    const crc = finishCrc32c(updateCrc32c(this.#crc, this.#header, 0, 20));
    if (crc !== this.#headerView.getUint32(20, true)) {
      throw this.#corrupt(this.#recordStart, "record checksum does not match");
    }
    this.#headerFill = 0;
    let end = alignLsn(this.#position);
    if (this.#header[17] === 0 && (this.#header[16]! & 0xf0) === XLOG_SWITCH) {
      end = (Math.ceil(end / this.#segmentSize) * this.#segmentSize) as Lsn;
    }
    if (end === this.#position) {
      this.#recordLsn = end;
    } else {
      this.#skipTo = end;
    }
  }
}
