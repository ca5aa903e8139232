// Tar archives of plain files as a stream: what one safekeeper sends another.

import { StorageError } from "../../base/errors.ts";

/*
 * POSIX ustar: blocks of 512 bytes; a header, the content padded to a block, and in the end two blocks
 * of zeros. Header fields used: name (0, 100 bytes), mode (100, 8), uid, gid (108, 116), size (124, 12,
 * octal), mtime (136, 12), checksum (148, 8: sum of all bytes of the header with this field as
 * spaces), type (156, '0'), magic (257, "ustar\0" "00").
 */

const BLOCK = 512;
const MAX_NAME = 100;
/** What eleven octal digits can say. */
const MAX_SIZE = 8 ** 11 - 1;

export function tarHeader(name: string, sizeBytes: number): Uint8Array {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, at: number, width: number) =>
    header.write(`${value.toString(8).padStart(width - 1, "0")}\0`, at, "latin1");
  header.write(name, 0, MAX_NAME, "latin1");
  octal(0o600, 100, 8);
  octal(0, 108, 8);
  octal(0, 116, 8);
  octal(sizeBytes, 124, 12);
  octal(0, 136, 12);
  header.write("0", 156, "latin1");
  header.write("ustar\u000000", 257, "latin1");
  header.write(`${checksum(header).toString(8).padStart(6, "0")}\0 `, 148, "latin1");
  return header;
}

/** What follows a file's content. */
export function tarPadding(sizeBytes: number): Uint8Array {
  return new Uint8Array((BLOCK - (sizeBytes % BLOCK)) % BLOCK);
}

export const TAR_END = new Uint8Array(2 * BLOCK);

function checksum(header: Uint8Array): number {
  let sum = 0;
  for (let i = 0; i < BLOCK; i++) {
    sum += i >= 148 && i < 156 ? 32 : header[i]!;
  }
  return sum;
}

export type TarEvent =
  | { readonly type: "begin"; readonly name: string; readonly sizeBytes: number }
  /** The next bytes of the file that began last, lent for the moment. */
  | { readonly type: "data"; readonly bytes: Uint8Array }
  | { readonly type: "end" };

/** Takes an archive in pieces. StorageError `corrupt` where it is no archive of plain files. */
export class TarReader {
  readonly #header = Buffer.alloc(BLOCK);
  #headerFill = 0;
  #left = 0;
  #padding = 0;
  #zeroBlocks = 0;

  /** What the next bytes of the archive say. */
  *read(chunk: Uint8Array): Generator<TarEvent> {
    for (let at = 0; at < chunk.length; ) {
      if (this.#left > 0) {
        const take = Math.min(this.#left, chunk.length - at);
        yield { type: "data", bytes: chunk.subarray(at, at + take) };
        at += take;
        this.#left -= take;
        if (this.#left === 0) {
          yield { type: "end" };
        }
      } else if (this.#padding > 0) {
        const take = Math.min(this.#padding, chunk.length - at);
        at += take;
        this.#padding -= take;
      } else {
        const take = Math.min(BLOCK - this.#headerFill, chunk.length - at);
        this.#header.set(chunk.subarray(at, at + take), this.#headerFill);
        at += take;
        this.#headerFill += take;
        if (this.#headerFill === BLOCK) {
          this.#headerFill = 0;
          yield* this.#takeHeader();
        }
      }
    }
  }

  *#takeHeader(): Generator<TarEvent> {
    if (this.#header.every((byte) => byte === 0)) {
      this.#zeroBlocks++;
      return;
    }
    const { name, sizeBytes } = parseHeader(this.#header, this.#zeroBlocks);
    this.#left = sizeBytes;
    this.#padding = tarPadding(sizeBytes).length;
    yield { type: "begin", name, sizeBytes };
    if (sizeBytes === 0) {
      yield { type: "end" };
    }
  }

  /** After the last bytes; StorageError `corrupt` where more should have come. */
  finish(): void {
    if (this.#zeroBlocks < 2 || this.#headerFill > 0) {
      throw badArchive("it ends early");
    }
  }
}

function parseHeader(header: Buffer, zeroBlocks: number): { name: string; sizeBytes: number } {
  const text = (at: number, width: number) =>
    header.toString("latin1", at, at + width).replace(/[\0 ].*$/s, "");
  const octal = (at: number, width: number) => {
    const digits = text(at, width);
    return /^[0-7]+$/.test(digits) ? Number.parseInt(digits, 8) : -1;
  };
  if (zeroBlocks > 0) {
    throw badArchive("something follows its end");
  }
  if (text(257, 6) !== "ustar" || octal(148, 8) !== checksum(header)) {
    throw badArchive("a header is damaged");
  }
  const sizeBytes = octal(124, 12);
  if (header.toString("latin1", 156, 157) !== "0" || sizeBytes < 0 || sizeBytes > MAX_SIZE) {
    throw badArchive("an entry is no plain file");
  }
  return { name: text(0, MAX_NAME), sizeBytes };
}

function badArchive(problem: string): StorageError {
  return new StorageError("corrupt", "bad-archive", `tar archive: ${problem}`);
}
