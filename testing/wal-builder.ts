// Makes well-formed WAL (page headers, records, CRCs) of any shape, for tests that need no Postgres.

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
} from "../src/base/lsn.ts";
import { XLOG_SWITCH } from "../src/postgres/opcodes.ts";
import { RM_HEAP_ID, RM_XLOG_ID } from "../src/postgres/rmgr.ts";
import { PG_VERSIONS } from "../src/postgres/versions.ts";
import { encodePageHeader, XLP_FIRST_IS_OVERWRITE_CONTRECORD } from "../src/postgres/wal-page.ts";
import { RECORD_HEADER_SIZE, recordCrc } from "../src/postgres/xlog-record.ts";

export interface BuiltRecord {
  readonly startLsn: Lsn;
  /** Postgres's EndRecPtr. */
  readonly endLsn: Lsn;
  readonly bytes: Uint8Array;
}

export interface WalBuilderOptions {
  readonly startLsn: Lsn;
  /** That of 17 where absent. */
  readonly pageMagic?: number;
  /** What the first record names as its predecessor. */
  readonly prevLsn?: Lsn;
  readonly systemId?: bigint;
  readonly segmentSize?: number;
}

/** Appends records from a start LSN on. */
export class WalBuilder {
  readonly startLsn: Lsn;
  readonly systemId: bigint;
  readonly records: BuiltRecord[] = [];
  /** End of each record. */
  readonly recordEnds: Lsn[] = [];
  readonly #options: WalBuilderOptions;
  readonly #segmentSize: number;
  #bytes = new Uint8Array(64 * 1024);
  #length = 0;
  #prevLsn: Lsn;

  constructor(options: WalBuilderOptions) {
    this.#options = options;
    this.startLsn = options.startLsn;
    this.systemId = options.systemId ?? 42n;
    this.#segmentSize = options.segmentSize ?? WAL_SEGMENT_SIZE;
    this.#prevLsn = options.prevLsn ?? toLsn(0);
  }

  get endLsn(): Lsn {
    return addLsn(this.startLsn, this.#length);
  }

  /** A copy of the WAL from startLsn on. */
  get bytes(): Uint8Array {
    return this.#bytes.slice(0, this.#length);
  }

  /** A copy of WAL [begin, end). */
  read(begin: Lsn, end: Lsn): Uint8Array {
    return this.#bytes.slice(begin - this.startLsn, end - this.startLsn);
  }

  /** Another WAL that begins alike up to `lsn`, a record end. */
  fork(lsn: Lsn): WalBuilder {
    const fork = new WalBuilder(this.#options);
    const shared = this.records.filter(({ endLsn }) => endLsn <= lsn);
    fork.#raw(this.read(this.startLsn, lsn));
    fork.records.push(...shared);
    fork.recordEnds.push(...this.recordEnds.slice(0, shared.length));
    fork.#prevLsn = shared.at(-1)?.startLsn ?? fork.#prevLsn;
    return fork;
  }

  /** Appends a record (as encodeRecord makes it); its xl_prev and CRC are set here. */
  append(record: Uint8Array): BuiltRecord {
    if (pageOffset(this.endLsn) === 0) {
      this.#header(0, 0);
    }
    const startLsn = this.endLsn;
    const bytes = this.#linked(record);
    new DataView(bytes.buffer).setUint32(20, recordCrc(bytes, 0, bytes.length), true);
    this.#put(bytes);
    this.#reserve(8);
    this.#length += alignLsn(this.endLsn) - this.endLsn;
    this.#prevLsn = startLsn;
    const built = { startLsn, endLsn: this.endLsn, bytes };
    this.records.push(built);
    this.recordEnds.push(built.endLsn);
    return built;
  }

  /** Appends a record of `length` bytes (at least 24), whose data say nothing; returns its end. */
  appendFilled(length: number, seed = this.records.length): Lsn {
    const bytes = new Uint8Array(length);
    for (let i = RECORD_HEADER_SIZE; i < length; i++) {
      bytes[i] = (i * 31 + seed * 7 + 1) & 0xff;
    }
    const view = new DataView(bytes.buffer);
    view.setUint32(0, length, true);
    view.setUint32(4, seed, true);
    view.setUint8(17, RM_HEAP_ID);
    return this.append(bytes).endLsn;
  }

  /** Appends XLOG_SWITCH and the empty pages up to the segment's end, which it returns. */
  appendSwitch(): Lsn {
    const bytes = new Uint8Array(RECORD_HEADER_SIZE);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, RECORD_HEADER_SIZE, true);
    view.setUint8(16, XLOG_SWITCH);
    view.setUint8(17, RM_XLOG_ID);
    this.append(bytes);
    while (this.endLsn % this.#segmentSize !== 0) {
      if (pageOffset(this.endLsn) === 0) {
        this.#header(0, 0);
      }
      this.#raw(new Uint8Array(XLOG_BLCKSZ - pageOffset(this.endLsn)));
    }
    this.records.push({ ...this.records.pop()!, endLsn: this.endLsn });
    this.recordEnds[this.recordEnds.length - 1] = this.endLsn;
    return this.endLsn;
  }

  /**
   * Writes the part of a record that fits the page, and begins the next page as a restarted Postgres
   * does. Returns the record's start.
   */
  appendAborted(record: Uint8Array): Lsn {
    const startLsn = this.endLsn;
    const room = XLOG_BLCKSZ - pageOffset(startLsn);
    this.#raw(this.#linked(record).subarray(0, room));
    this.#header(0, XLP_FIRST_IS_OVERWRITE_CONTRECORD);
    return startLsn;
  }

  /** A copy that names the record before. */
  #linked(record: Uint8Array): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(record);
    const view = new DataView(bytes.buffer);
    view.setUint32(8, lsnLow(this.#prevLsn), true);
    view.setUint32(12, lsnHigh(this.#prevLsn), true);
    return bytes;
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
      pageMagic: this.#options.pageMagic ?? PG_VERSIONS[17].pageMagic,
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
    if (this.#length + length > this.#bytes.length) {
      const grown = new Uint8Array((this.#length + length) * 2);
      grown.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = grown;
    }
  }
}
