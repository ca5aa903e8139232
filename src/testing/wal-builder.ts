// Lays records out as WAL pages, so that tests can make WAL of any shape without a Postgres.

import {
  addLsn,
  alignLsn,
  type Lsn,
  lsnHigh,
  lsnLow,
  pageOffset,
  toLsn,
  WAL_SEGMENT_SIZE,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { encodePageHeader, XLP_FIRST_IS_OVERWRITE_CONTRECORD } from "../postgres/wal-page.ts";
import { recordCrc } from "../postgres/xlog-record.ts";

export interface BuiltRecord {
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly bytes: Uint8Array;
}

export class WalBuilder {
  readonly startLsn: Lsn;
  readonly systemId: bigint;
  readonly records: BuiltRecord[] = [];
  readonly #pageMagic: number;
  readonly #segmentSize: number;
  #bytes = new Uint8Array(1024 * 1024);
  #length = 0;
  #prevLsn: Lsn;

  constructor(options: {
    readonly startLsn: Lsn;
    readonly pageMagic: number;
    readonly prevLsn?: Lsn;
    readonly systemId?: bigint;
    readonly segmentSize?: number;
  }) {
    this.startLsn = options.startLsn;
    this.#pageMagic = options.pageMagic;
    this.#prevLsn = options.prevLsn ?? toLsn(0);
    this.systemId = options.systemId ?? 7_000_000_000_000_000_001n;
    this.#segmentSize = options.segmentSize ?? WAL_SEGMENT_SIZE;
  }

  get endLsn(): Lsn {
    return addLsn(this.startLsn, this.#length);
  }

  /** The WAL from startLsn on. */
  get bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** Appends a record (as encodeRecord makes it); its xl_prev and CRC are set here. */
  append(record: Uint8Array): BuiltRecord {
    if (pageOffset(this.endLsn) === 0) {
      this.#header(0, 0);
    }
    const startLsn = this.endLsn;
    const bytes = record.slice();
    const view = new DataView(bytes.buffer);
    view.setUint32(8, lsnLow(this.#prevLsn), true);
    view.setUint32(12, lsnHigh(this.#prevLsn), true);
    view.setUint32(20, recordCrc(bytes, 0, bytes.length), true);
    this.#put(bytes);
    this.#length += alignLsn(this.endLsn) - this.endLsn;
    this.#prevLsn = startLsn;
    const built = { startLsn, endLsn: this.endLsn, bytes };
    this.records.push(built);
    return built;
  }

  /** Writes the part of a record that fits the page, and begins the next page as a restarted Postgres does. */
  appendAborted(record: Uint8Array): Lsn {
    const startLsn = this.endLsn;
    const room = XLOG_BLCKSZ - pageOffset(startLsn);
    const bytes = record.slice();
    const view = new DataView(bytes.buffer);
    view.setUint32(8, lsnLow(this.#prevLsn), true);
    view.setUint32(12, lsnHigh(this.#prevLsn), true);
    this.#raw(bytes.subarray(0, room));
    this.#header(0, XLP_FIRST_IS_OVERWRITE_CONTRECORD);
    return startLsn;
  }

  /** Empty pages up to the segment's end, as XLOG_SWITCH leaves them. */
  finishSegment(): void {
    const end = Math.ceil(this.endLsn / this.#segmentSize) * this.#segmentSize;
    this.#reserve(end - this.endLsn);
    this.#length += end - this.endLsn;
    const last = this.records.pop()!;
    this.records.push({ ...last, endLsn: toLsn(end) });
  }

  /** Appends bytes as they are. */
  appendRaw(bytes: Uint8Array): void {
    this.#raw(bytes);
  }

  #put(bytes: Uint8Array): void {
    let at = 0;
    while (at < bytes.length) {
      if (pageOffset(this.endLsn) === 0) {
        this.#header(bytes.length - at, 0);
      }
      const room = XLOG_BLCKSZ - pageOffset(this.endLsn);
      const part = bytes.subarray(at, at + room);
      this.#raw(part);
      at += part.length;
    }
  }

  #header(remainingLength: number, flags: number): void {
    this.#reserve(XLOG_BLCKSZ);
    const view = new DataView(this.#bytes.buffer);
    const at = this.#length;
    this.#length += encodePageHeader(view, at, {
      pageMagic: this.#pageMagic,
      pageLsn: this.endLsn,
      systemId: this.systemId,
      timeline: 1,
      segmentSize: this.#segmentSize,
      remainingLength,
    });
    view.setUint16(at + 2, view.getUint16(at + 2, true) | flags, true);
  }

  #raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  #reserve(length: number): void {
    if (this.#length + length + XLOG_BLCKSZ > this.#bytes.length) {
      const grown = new Uint8Array((this.#length + length + XLOG_BLCKSZ) * 2);
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
  }
}
