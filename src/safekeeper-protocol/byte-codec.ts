// Bounds-checked big-endian reading and writing of small protocol messages.

import { StorageError } from "../base/errors.ts";

const TWO_32 = 2 ** 32;
const TEXT = new TextDecoder("utf-8", { fatal: true });

/** Reads a message front to back; every read names what it wanted where bytes are missing. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  #take(count: number, what: string): number {
    const at = this.#at;
    if (count > this.#bytes.length - at) {
      throw new StorageError(
        "invalid",
        "short-message",
        `message ends inside ${what}: ${count} bytes wanted at offset ${at}, ${this.remaining} left`,
      );
    }
    this.#at = at + count;
    return at;
  }

  u8(what: string): number {
    return this.#view.getUint8(this.#take(1, what));
  }

  u16(what: string): number {
    return this.#view.getUint16(this.#take(2, what));
  }

  u32(what: string): number {
    return this.#view.getUint32(this.#take(4, what));
  }

  /** A u64 that must be below 2^53. */
  u64(what: string): number {
    const at = this.#take(8, what);
    const value = this.#view.getUint32(at) * TWO_32 + this.#view.getUint32(at + 4);
    if (value > Number.MAX_SAFE_INTEGER) {
      throw new StorageError("invalid", "number-too-large", `${what} is 2^53 or more`);
    }
    return value;
  }

  bigU64(what: string): bigint {
    return this.#view.getBigUint64(this.#take(8, what));
  }

  /** Zero-terminated UTF-8. */
  cstring(what: string): string {
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) {
      throw new StorageError("invalid", "short-message", `${what} has no terminating zero`);
    }
    const bytes = this.#bytes.subarray(this.#at, end);
    this.#at = end + 1;
    try {
      return TEXT.decode(bytes);
    } catch (cause) {
      throw new StorageError("invalid", "bad-text", `${what} is not UTF-8`, { cause });
    }
  }

  /** A view of the message's own bytes. */
  bytes(count: number, what: string): Uint8Array {
    const at = this.#take(count, what);
    return this.#bytes.subarray(at, at + count);
  }
}

/** Appends to a buffer that grows. */
export class ByteWriter {
  #bytes: Uint8Array;
  #view: DataView;
  #length = 0;

  constructor(capacity = 128) {
    this.#bytes = new Uint8Array(capacity);
    this.#view = new DataView(this.#bytes.buffer);
  }

  /** Makes room; `#bytes` and `#view` may be other objects afterwards. */
  #reserve(count: number): number {
    const at = this.#length;
    if (at + count > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(at + count, this.#bytes.length * 2));
      grown.set(this.#bytes);
      this.#bytes = grown;
      this.#view = new DataView(grown.buffer);
    }
    this.#length = at + count;
    return at;
  }

  u8(value: number): void {
    const at = this.#reserve(1);
    this.#view.setUint8(at, value);
  }

  u16(value: number): void {
    const at = this.#reserve(2);
    this.#view.setUint16(at, value);
  }

  u32(value: number): void {
    const at = this.#reserve(4);
    this.#view.setUint32(at, value);
  }

  u64(value: number): void {
    const at = this.#reserve(8);
    this.#view.setUint32(at, Math.floor(value / TWO_32));
    this.#view.setUint32(at + 4, value % TWO_32);
  }

  bigU64(value: bigint): void {
    const at = this.#reserve(8);
    this.#view.setBigUint64(at, value);
  }

  cstring(text: string): void {
    this.raw(Buffer.from(text));
    this.u8(0);
  }

  raw(bytes: Uint8Array): void {
    const at = this.#reserve(bytes.length);
    this.#bytes.set(bytes, at);
  }

  /** What was written; the writer must not be used afterwards. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#length);
  }
}
