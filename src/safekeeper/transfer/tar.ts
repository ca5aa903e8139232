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

/** Where the files of an archive go. */
export interface TarReceiver {
  /** A file begins; throws where it is not wanted. */
  begin(name: string, sizeBytes: number): void | Promise<void>;
  /** Its next bytes, lent for the call. */
  data(bytes: Uint8Array): void | Promise<void>;
  end(): void | Promise<void>;
}

/**
 * Reads an archive to its end. StorageError `corrupt` where it is no archive of plain files, or ends
 * early; the receiver's own errors as they are.
 */
export async function readTar(
  chunks: AsyncIterable<Uint8Array>,
  receiver: TarReceiver,
): Promise<void> {
  const header = Buffer.alloc(BLOCK);
  let headerFill = 0;
  let left = 0;
  let padding = 0;
  let zeroBlocks = 0;
  for await (const chunk of chunks) {
    let at = 0;
    while (at < chunk.length) {
      if (left > 0) {
        const take = Math.min(left, chunk.length - at);
        await receiver.data(chunk.subarray(at, at + take));
        at += take;
        left -= take;
        if (left === 0) {
          await receiver.end();
        }
      } else if (padding > 0) {
        const take = Math.min(padding, chunk.length - at);
        at += take;
        padding -= take;
      } else {
        const take = Math.min(BLOCK - headerFill, chunk.length - at);
        header.set(chunk.subarray(at, at + take), headerFill);
        at += take;
        headerFill += take;
        if (headerFill < BLOCK) {
          continue;
        }
        headerFill = 0;
        if (header.every((byte) => byte === 0)) {
          zeroBlocks++;
          continue;
        }
        const { name, sizeBytes } = parseHeader(header, zeroBlocks);
        left = sizeBytes;
        padding = tarPadding(sizeBytes).length;
        await receiver.begin(name, sizeBytes);
        if (left === 0) {
          await receiver.end();
        }
      }
    }
  }
  if (zeroBlocks < 2 || headerFill > 0) {
    throw badArchive("it ends early");
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
