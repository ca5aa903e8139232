// Framing of the Postgres frontend/backend protocol 3.0, shared by our server and client sides.
//
// Source: Postgres documentation "Message Formats". After start-up every message is
//   u8 type, i32 length (big-endian, counts itself but not the type), body.

import { StorageError } from "../../base/errors.ts";

/** The version that a client asks for in its StartupMessage: 3.0. */
export const PROTOCOL_3 = 196608;
/** Larger than anything Strata sends (128 KiB of WAL, 32 pages, lists of relations). */
export const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
/** A message up to this size gets its memory at once; a larger one as its bytes arrive. */
const EAGER_BYTES = 256 * 1024;
/** Memory from this size on is used again instead of left to the garbage collector, which counts it but seldom frees it in time. */
const REUSED_BYTES = 16 * 1024;
/** Memory of finished messages, for the next ones of any reader. */
const spares: Uint8Array[] = [];
const MAX_SPARES = 4;

/** A typed message with its five-byte header. */
export function encodeMessage(type: string, ...parts: Uint8Array[]): Buffer {
  let length = 4;
  for (const part of parts) {
    length += part.length;
  }
  const message = Buffer.allocUnsafe(1 + length);
  message.write(type, 0, "latin1");
  message.writeInt32BE(length, 1);
  let at = 5;
  for (const part of parts) {
    message.set(part, at);
    at += part.length;
  }
  return message;
}

export function cstring(text: string): Buffer {
  return Buffer.from(`${text}\0`);
}

export function int16(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(2);
  bytes.writeInt16BE(value);
  return bytes;
}

export function int32(value: number): Buffer {
  const bytes = Buffer.allocUnsafe(4);
  bytes.writeInt32BE(value);
  return bytes;
}

/** Cuts the cstrings of a body, up to an empty one or the end. `corrupt` on a missing terminator. */
export function readCstrings(body: Uint8Array): string[] {
  const texts: string[] = [];
  let at = 0;
  while (at < body.length && body[at] !== 0) {
    const end = body.indexOf(0, at);
    if (end < 0) {
      throw new StorageError("corrupt", "bad-message", "string without its terminating zero");
    }
    texts.push(Buffer.from(body.buffer, body.byteOffset + at, end - at).toString());
    at = end + 1;
  }
  return texts;
}

/** Bounds the memory of unfinished messages, over all the readers that share it. */
export class ReceiveBudget {
  readonly #limitBytes: number;
  #usedBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  /** StorageError `unavailable` where that is too much. */
  take(bytes: number): void {
    if (this.#usedBytes + bytes > this.#limitBytes) {
      throw new StorageError(
        "unavailable",
        "too-much-unfinished",
        `unfinished messages of all connections hold ${this.#usedBytes} bytes: ` +
          `no ${bytes} more`,
      );
    }
    this.#usedBytes += bytes;
  }

  give(bytes: number): void {
    this.#usedBytes -= bytes;
  }
}

/** At least `capacity` bytes. */
function memoryFor(capacity: number): Uint8Array {
  const spare = capacity >= REUSED_BYTES ? spares.pop() : undefined;
  return spare !== undefined && spare.length >= capacity ? spare : new Uint8Array(capacity);
}

function giveBack(memory: Uint8Array): void {
  const isReused = memory.length >= REUSED_BYTES && memory.length <= EAGER_BYTES;
  if (isReused && spares.length < MAX_SPARES) {
    spares.push(memory);
  }
}

/**
 * Turns a byte stream into messages. A message that lies whole in one chunk is handed out in place;
 * one that spans chunks is gathered. What is allocated for it is at most EAGER_BYTES, or twice what
 * has arrived, whatever length it claims.
 */
export class MessageReader {
  #pending: Uint8Array | undefined;
  /** How much of it the budget knows of; the rest is memory that was left over. */
  #capacity = 0;
  /** Of the whole message that is pending. */
  #pendingLength = 0;
  #filled = 0;
  readonly #header = new Uint8Array(5);
  #headerFilled = 0;
  readonly #maxBytes: number;
  readonly #budget: ReceiveBudget | undefined;

  constructor(maxBytes = MAX_MESSAGE_BYTES, budget?: ReceiveBudget) {
    this.#maxBytes = maxBytes;
    this.#budget = budget;
  }

  /** No message has begun. */
  get isEmpty(): boolean {
    return this.#pending === undefined && this.#headerFilled === 0;
  }

  /** Forgets an unfinished message: no more will come. */
  release(): void {
    if (this.#pending !== undefined) {
      giveBack(this.#finish(this.#pending));
    }
  }

  #finish(pending: Uint8Array): Uint8Array {
    this.#budget?.give(this.#capacity);
    this.#pending = undefined;
    return pending;
  }

  /** Hands out each message that `chunk` completes. `body` is lent for the call only. */
  push(chunk: Uint8Array, onMessage: (type: number, body: Uint8Array) => void): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#pending !== undefined) {
        const take = Math.min(this.#pendingLength - this.#filled, chunk.length - at);
        const pending = this.#grown(this.#pending, this.#filled + take);
        pending.set(chunk.subarray(at, at + take), this.#filled);
        this.#filled += take;
        at += take;
        if (this.#filled < this.#pendingLength) {
          return;
        }
        this.#finish(pending);
        onMessage(this.#header[0]!, pending.subarray(0, this.#pendingLength));
        giveBack(pending);
        continue;
      }
      const wanted = Math.min(5 - this.#headerFilled, chunk.length - at);
      this.#header.set(chunk.subarray(at, at + wanted), this.#headerFilled);
      this.#headerFilled += wanted;
      at += wanted;
      if (this.#headerFilled < 5) {
        return;
      }
      this.#headerFilled = 0;
      const length = this.#bodyLength();
      if (at + length <= chunk.length) {
        const body = chunk.subarray(at, at + length);
        at += length;
        onMessage(this.#header[0]!, body);
      } else {
        const capacity = Math.min(length, EAGER_BYTES);
        this.#budget?.take(capacity);
        this.#pending = memoryFor(capacity);
        this.#capacity = capacity;
        this.#pendingLength = length;
        this.#filled = 0;
      }
    }
  }

  /** Room for `needed` bytes of the pending message, in the end for exactly all of it. */
  #grown(pending: Uint8Array, needed: number): Uint8Array {
    if (needed <= this.#capacity) {
      return pending;
    }
    const capacity = Math.min(this.#pendingLength, Math.max(needed, this.#capacity) * 2);
    this.#budget?.take(capacity - this.#capacity);
    this.#capacity = capacity;
    const grown = new Uint8Array(capacity);
    grown.set(pending.subarray(0, this.#filled));
    giveBack(pending);
    this.#pending = grown;
    return grown;
  }

  #bodyLength(): number {
    const h = this.#header;
    const length = ((h[1]! << 24) | (h[2]! << 16) | (h[3]! << 8) | h[4]!) - 4;
    if (length < 0 || length > this.#maxBytes) {
      throw new StorageError(
        "corrupt",
        "bad-message",
        `message of type 0x${h[0]!.toString(16)} claims a length of ${length + 4} bytes`,
      );
    }
    return length;
  }
}
