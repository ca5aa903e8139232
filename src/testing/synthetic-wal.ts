// Makes well-formed WAL (page headers, records, CRCs) of any shape, for tests that need no Postgres.

import { CRC32C_START, finishCrc32c, updateCrc32c } from "../base/crc32c.ts";
import { addLsn, alignLsn, type Lsn, WAL_SEGMENT_SIZE, XLOG_BLCKSZ } from "../base/lsn.ts";

const PAGE_MAGIC_17 = 0xd116;
const RECORD_HEADER = 24;
const TWO_32 = 2 ** 32;

export interface SyntheticRecord {
  /** Whole length, at least 24. */
  readonly length: number;
  readonly rmid?: number;
  readonly info?: number;
}

/** Appends records from a start LSN on; `bytes` is what the WAL holds there. */
export class SyntheticWal {
  readonly startLsn: Lsn;
  readonly #segmentSize: number;
  readonly #systemId: bigint;
  #bytes = new Uint8Array(64 * 1024);
  #length = 0;
  #previous = 0;
  /** End of each record, as Postgres's EndRecPtr. */
  readonly recordEnds: Lsn[] = [];
  readonly recordStarts: Lsn[] = [];

  constructor(startLsn: Lsn, segmentSize = WAL_SEGMENT_SIZE, systemId = 42n) {
    this.startLsn = startLsn;
    this.#segmentSize = segmentSize;
    this.#systemId = systemId;
  }

  get endLsn(): Lsn {
    return addLsn(this.startLsn, this.#length);
  }

  /** A copy of WAL [begin, end). */
  read(begin: Lsn, end: Lsn): Uint8Array {
    return this.#bytes.slice(begin - this.startLsn, end - this.startLsn);
  }

  /** Another WAL that begins alike up to `lsn`, a record end. */
  fork(lsn: Lsn): SyntheticWal {
    const fork = new SyntheticWal(this.startLsn, this.#segmentSize, this.#systemId);
    fork.#bytes = this.#bytes.slice();
    fork.#length = lsn - this.startLsn;
    const count = this.recordEnds.filter((end) => end <= lsn).length;
    fork.recordEnds.push(...this.recordEnds.slice(0, count));
    fork.recordStarts.push(...this.recordStarts.slice(0, count));
    fork.#previous = this.recordStarts[count - 1] ?? 0;
    return fork;
  }

  /** Returns the record's end. The data is derived from `seed`. */
  append(record: SyntheticRecord, seed = this.recordEnds.length): Lsn {
    const bytes = new Uint8Array(record.length);
    for (let i = RECORD_HEADER; i < bytes.length; i++) {
      bytes[i] = (i * 31 + seed * 7 + 1) & 0xff;
    }
    this.#beginPage(0);
    const start = this.endLsn;
    const view = new DataView(bytes.buffer);
    view.setUint32(0, record.length, true);
    view.setUint32(4, seed, true);
    view.setUint32(8, this.#previous % TWO_32, true);
    view.setUint32(12, Math.floor(this.#previous / TWO_32), true);
    view.setUint8(16, record.info ?? 0);
    view.setUint8(17, record.rmid ?? 10);
    const crc = updateCrc32c(CRC32C_START, bytes, RECORD_HEADER, bytes.length);
    view.setUint32(20, finishCrc32c(updateCrc32c(crc, bytes, 0, 20)), true);
    let done = 0;
    while (done < bytes.length) {
      this.#beginPage(bytes.length - done);
      const room = XLOG_BLCKSZ - (this.endLsn % XLOG_BLCKSZ);
      const take = Math.min(room, bytes.length - done);
      this.#push(bytes.subarray(done, done + take));
      done += take;
    }
    this.#push(new Uint8Array(alignLsn(this.endLsn) - this.endLsn));
    if (record.rmid === 0 && record.info === 0x40) {
      this.#fillSegment();
    }
    this.#previous = start;
    this.recordStarts.push(start);
    this.recordEnds.push(this.endLsn);
    return this.endLsn;
  }

  /** XLOG_SWITCH: the rest of the segment is empty pages. */
  appendSwitch(): Lsn {
    return this.append({ length: RECORD_HEADER, rmid: 0, info: 0x40 });
  }

  #fillSegment(): void {
    while (this.endLsn % this.#segmentSize !== 0) {
      this.#beginPage(0);
      this.#push(new Uint8Array(XLOG_BLCKSZ - (this.endLsn % XLOG_BLCKSZ)));
    }
  }

  #beginPage(remaining: number): void {
    const lsn = this.endLsn;
    if (lsn % XLOG_BLCKSZ !== 0) {
      return;
    }
    const isFirst = lsn % this.#segmentSize === 0;
    const header = new Uint8Array(isFirst ? 40 : 24);
    const view = new DataView(header.buffer);
    // A record is never cut before its first byte: `append` has opened the page by then.
    const isContinued = remaining > 0;
    view.setUint16(0, PAGE_MAGIC_17, true);
    view.setUint16(2, (isFirst ? 2 : 0) | (isContinued ? 1 : 0), true);
    view.setUint32(4, 1, true);
    view.setUint32(8, lsn % TWO_32, true);
    view.setUint32(12, Math.floor(lsn / TWO_32), true);
    view.setUint32(16, isContinued ? remaining : 0, true);
    if (isFirst) {
      view.setBigUint64(24, this.#systemId, true);
      view.setUint32(32, this.#segmentSize, true);
      view.setUint32(36, XLOG_BLCKSZ, true);
    }
    this.#push(header);
  }

  #push(bytes: Uint8Array): void {
    if (this.#length + bytes.length > this.#bytes.length) {
      const grown = new Uint8Array(
        Math.max(this.#bytes.length * 2, this.#length + bytes.length + 65536),
      );
      grown.set(this.#bytes);
      this.#bytes = grown;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }
}
