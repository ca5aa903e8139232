// Reads the main data of a record field by field, within its bounds.

import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";

const EMPTY_VIEW = new DataView(new ArrayBuffer(0));

/** Every read checks the length: StorageError `corrupt` with the record's LSN. */
export class MainData {
  #view: DataView = EMPTY_VIEW;
  #record: XLogRecord | undefined;
  #at = 0;
  #end = 0;

  /** Starts at the first byte of a decoded record's main data. */
  open(record: XLogRecord): this {
    this.#record = record;
    this.#view = record.view;
    this.#at = record.mainOffset;
    this.#end = record.mainOffset + record.mainLength;
    return this;
  }

  get remaining(): number {
    return this.#end - this.#at;
  }

  #take(length: number): number {
    const at = this.#at;
    if (length < 0 || this.#end - at < length) {
      const record = this.#record!;
      const fields = { rmid: record.rmid, info: record.info, mainLength: record.mainLength };
      throw corruptWal(record.startLsn, "main data is too short", fields);
    }
    this.#at = at + length;
    return at;
  }

  skip(length: number): void {
    this.#take(length);
  }

  u8(): number {
    return this.#view.getUint8(this.#take(1));
  }

  u16(): number {
    return this.#view.getUint16(this.#take(2), true);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  i32(): number {
    return this.#view.getInt32(this.#take(4), true);
  }

  i64(): bigint {
    return this.#view.getBigInt64(this.#take(8), true);
  }

  u64(): bigint {
    return this.#view.getBigUint64(this.#take(8), true);
  }

  /** A count of items of `width` bytes that must follow; never negative or more than fit. */
  count(width: number): number {
    const count = this.i32();
    if (count < 0 || count * width > this.remaining) {
      const record = this.#record!;
      throw corruptWal(
        record.startLsn,
        `${count} items of ${width} bytes do not fit the main data`,
      );
    }
    return count;
  }

  /** The next bytes, lent: a view of the record. */
  bytes(length: number): Uint8Array {
    const at = this.#take(length);
    return this.#record!.bytes.subarray(at, at + length);
  }

  /** A zero-terminated string of less than `limit` bytes; what is no UTF-8 in it is replaced. */
  text(limit: number): string {
    const from = this.#at;
    this.skipString();
    const length = this.#at - 1 - from;
    const record = this.#record!;
    if (length >= limit) {
      throw corruptWal(record.startLsn, `a text of ${length} bytes, not less than ${limit}`);
    }
    return Buffer.from(record.bytes.subarray(from, from + length)).toString("utf8");
  }

  /** Skips a zero-terminated string. */
  skipString(): void {
    while (this.u8() !== 0) {
      // u8 stops at the end of the data.
    }
  }
}
