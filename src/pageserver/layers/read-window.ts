// The piece of a layer file that was read last: blocks of an image are small, and scans read one behind the other.

/** A hundred blocks of pages that compress well, or eight that do not. */
export const WINDOW_BYTES = 64 << 10;

/** An immutable file. */
export interface WindowedFile {
  readonly sizeBytes: number;
  /** Bytes [offset, offset + length) to the start of `into`; throws where it cannot have all of them. */
  readInto(into: Uint8Array, offset: number, length: number): void;
}

/** One for all files: whoever reads on where the last read ended gets more than it asks for from the disk. */
export class ReadWindow {
  readonly #bytes = new Uint8Array(WINDOW_BYTES);
  #file: WindowedFile | undefined;
  #start = 0;
  #end = 0;

  /** Bytes [offset, offset + length) of the file, good until the next call; undefined where they are too many. */
  lend(file: WindowedFile, offset: number, length: number): Uint8Array | undefined {
    if (length > WINDOW_BYTES) {
      return undefined;
    }
    if (file !== this.#file || offset < this.#start || offset + length > this.#end) {
      const goesOn = file === this.#file && offset >= this.#start && offset <= this.#end;
      this.#file = undefined;
      this.#end = offset + length;
      if (!goesOn || !this.#readAhead(file, offset)) {
        file.readInto(this.#bytes, offset, length);
      }
      this.#file = file;
      this.#start = offset;
    }
    const from = offset - this.#start;
    return this.#bytes.subarray(from, from + length);
  }

  /** False where not all of it can be read: what was asked for perhaps can. */
  #readAhead(file: WindowedFile, offset: number): boolean {
    const end = Math.min(offset + WINDOW_BYTES, file.sizeBytes);
    try {
      file.readInto(this.#bytes, offset, end - offset);
    } catch {
      return false;
    }
    this.#end = end;
    return true;
  }

  /** What is on the disk may be something else from now on. */
  forget(file: WindowedFile): void {
    if (this.#file === file) {
      this.#file = undefined;
    }
  }
}
