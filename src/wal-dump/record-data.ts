// Reads C structs out of a record's data by offset, within their bounds.

import { type Lsn, lsnFromParts } from "../base/lsn.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";

/** Main data, or the data of one block reference. Offsets are from its first byte. */
export class RecordData {
  readonly length: number;
  readonly #record: XLogRecord;
  readonly #start: number;

  private constructor(record: XLogRecord, start: number, length: number) {
    this.#record = record;
    this.#start = start;
    this.length = length;
  }

  /** Of a decoded record; valid as long as that is. */
  static main(record: XLogRecord): RecordData {
    return new RecordData(record, record.mainOffset, record.mainLength);
  }

  /** Undefined where the record has no such reference, or no data for it. */
  static block(record: XLogRecord, id: number): RecordData | undefined {
    const i = record.findBlock(id);
    const length = i < 0 ? 0 : record.dataLength[i]!;
    return length === 0 ? undefined : new RecordData(record, record.dataOffset[i]!, length);
  }

  /** Every read goes through here: StorageError `corrupt` where the data ends too early. */
  #at(offset: number, width: number): number {
    if (offset < 0 || offset + width > this.length) {
      throw corruptWal(
        this.#record.startLsn,
        `${width} bytes wanted at ${offset} of ${this.length} bytes of data`,
      );
    }
    return this.#start + offset;
  }

  u8(offset: number): number {
    return this.#record.view.getUint8(this.#at(offset, 1));
  }

  i8(offset: number): number {
    return this.#record.view.getInt8(this.#at(offset, 1));
  }

  u16(offset: number): number {
    return this.#record.view.getUint16(this.#at(offset, 2), true);
  }

  u32(offset: number): number {
    return this.#record.view.getUint32(this.#at(offset, 4), true);
  }

  i32(offset: number): number {
    return this.#record.view.getInt32(this.#at(offset, 4), true);
  }

  i64(offset: number): bigint {
    return this.#record.view.getBigInt64(this.#at(offset, 8), true);
  }

  u64(offset: number): bigint {
    return this.#record.view.getBigUint64(this.#at(offset, 8), true);
  }

  f64(offset: number): number {
    return this.#record.view.getFloat64(this.#at(offset, 8), true);
  }

  /** StorageError `corrupt` where it is none that Strata can have. */
  lsn(offset: number): Lsn {
    const [low, high] = [this.u32(offset), this.u32(offset + 4)];
    if (high >= 2 ** 21) {
      throw corruptWal(this.#record.startLsn, `LSN ${high.toString(16)}/${low.toString(16)}`);
    }
    return lsnFromParts(high, low);
  }

  /** BlockIdData: the high half comes first. */
  blockId(offset: number): number {
    return this.u16(offset) * 0x10000 + this.u16(offset + 2);
  }

  /** A count at `offset` of items of `width` bytes at `first`; never negative or more than fit. */
  count(offset: number, first: number, width: number): number {
    const count = this.i32(offset);
    this.check(first, count, width);
    return count;
  }

  /** StorageError `corrupt` unless `count` items of `width` bytes are there at `offset`. */
  check(offset: number, count: number, width: number): void {
    if (offset < 0 || count < 0 || offset + count * width > this.length) {
      throw corruptWal(
        this.#record.startLsn,
        `${count} items of ${width} bytes at ${offset} of ${this.length} bytes of data`,
      );
    }
  }

  bytes(offset: number, length: number): Uint8Array {
    const at = this.#at(offset, length);
    return this.#record.bytes.subarray(at, at + length);
  }

  /** Up to a zero byte, or the end of the data. */
  text(offset: number): string {
    const bytes = this.bytes(offset, Math.max(0, this.length - offset));
    const zero = bytes.indexOf(0);
    return Buffer.from(zero < 0 ? bytes : bytes.subarray(0, zero)).toString();
  }
}
