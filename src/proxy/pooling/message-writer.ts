// Puts messages one after another into one buffer, for one write. One for all clients: nobody else writes before `take` or `drop`,
// and thousands that are idle have no buffer of their own.

const FIRST_BYTES = 4096;
const HEADER_BYTES = 5;

export class MessageWriter {
  #buffer = Buffer.allocUnsafe(FIRST_BYTES);
  #length = 0;
  /** Where the message that is being written begins. */
  #start = 0;

  message(type: number, body: Uint8Array): void {
    this.begin(type);
    this.bytes(body);
    this.end();
  }

  begin(type: number): void {
    this.#reserve(HEADER_BYTES);
    this.#start = this.#length;
    this.#buffer[this.#length] = type;
    this.#length += HEADER_BYTES;
  }

  bytes(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#buffer.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  /** latin1. */
  text(text: string): void {
    this.#reserve(text.length);
    this.#buffer.write(text, this.#length, "latin1");
    this.#length += text.length;
  }

  end(): void {
    this.#buffer.writeInt32BE(this.#length - this.#start - 1, this.#start + 1);
  }

  /** All that was written, which is the caller's then; undefined where nothing was. */
  take(): Buffer | undefined {
    if (this.#length === 0) {
      return undefined;
    }
    const taken = this.#buffer.subarray(0, this.#length);
    // A socket may hold it: the next one begins behind it, or elsewhere.
    this.#buffer =
      this.#buffer.length - this.#length >= FIRST_BYTES / 4
        ? this.#buffer.subarray(this.#length)
        : Buffer.allocUnsafe(FIRST_BYTES);
    this.#length = 0;
    return taken;
  }

  /** Nothing of what was written will be sent. */
  drop(): void {
    this.#length = 0;
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes > this.#buffer.length) {
      const grown = Buffer.allocUnsafe(Math.max(this.#buffer.length * 2, this.#length + bytes));
      grown.set(this.#buffer.subarray(0, this.#length));
      this.#buffer = grown;
    }
  }
}
