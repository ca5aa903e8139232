// CRC-32C (Castagnoli), the checksum of WAL records, pg_control and of our own files.

// Slicing-by-16 over 32-bit loads: sixteen tables let the loop take 16 bytes a round. Byte loads
// in the same loop run at 0.4 of the speed, sixteen arrays instead of one at 0.9 (crc32c.bench.ts), and the
// native packages cost 500 ns a call before the first byte.
/** Entry 256 * k + b: the CRC of byte b and k zero bytes after it. */
const TABLE = buildTable();

/** Ranges shorter than this are not worth the look-up of a word view. */
const WORD_LOADS_FROM = 12;
/** The views below are kept alive by the cache, so huge one-off buffers stay out of it. */
const CACHED_BUFFER_LIMIT = 32 * 1024 * 1024;

// Word views of the two buffers used last: a WAL stream alternates between its arena and the
// buffer in which it puts long records together, and making a view costs more than a small record.
let bufferA: ArrayBufferLike = new ArrayBuffer(0);
let wordsA = new Int32Array(bufferA);
let bufferB: ArrayBufferLike = bufferA;
let wordsB = wordsA;

function buildTable(): Int32Array {
  const table = new Int32Array(16 * 256);
  for (let i = 0; i < 256; i++) {
    let crc = i;
    for (let bit = 0; bit < 8; bit++) {
      crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    table[i] = crc;
  }
  for (let i = 256; i < table.length; i++) {
    const previous = table[i - 256]!;
    table[i] = (previous >>> 8) ^ table[previous & 0xff]!;
  }
  return table;
}

/** The state to start from; pass what `updateCrc32c` returned to go on over more bytes. */
export const CRC32C_START = -1;

/** Feeds bytes [start, end) into a running CRC (not yet inverted). */
export function updateCrc32c(state: number, bytes: Uint8Array, start: number, end: number): number {
  return end - start < WORD_LOADS_FROM
    ? updateBytes(state, bytes, start, end)
    : updateCrc32cIn(state, bytes, wordsOf(bytes), start, end);
}

/**
 * The same with `words` = `wordsOf(bytes)`, for who sums many ranges of the same bytes: to ask an array for its buffer is a call into V8
 * that costs as much as 30 bytes.
 */
export function updateCrc32cIn(
  state: number,
  bytes: Uint8Array,
  words: Int32Array,
  start: number,
  end: number,
): number {
  // The view starts at byte 0 of the buffer, so alignment is that of the absolute position.
  const base = bytes.byteOffset;
  const aligned = Math.min(start + (-(base + start) & 3), end);
  const from = (base + aligned) >>> 2;
  const wordEnd = Math.max(from, (base + end) >>> 2);
  const crc = updateBytes(state, bytes, start, aligned);
  const rest = aligned + (wordEnd - from) * 4;
  return updateBytes(updateCrc32cWords(crc, words, from, wordEnd), bytes, rest, end);
}

/** A view of all words of the memory that has `bytes`. */
export function wordsOf(bytes: Uint8Array): Int32Array {
  const buffer = bytes.buffer;
  if (buffer === bufferA) {
    return wordsA;
  }
  if (buffer === bufferB) {
    return wordsB;
  }
  const words = new Int32Array(buffer, 0, buffer.byteLength >>> 2);
  if (buffer.byteLength <= CACHED_BUFFER_LIMIT) {
    bufferB = bufferA;
    wordsB = wordsA;
    bufferA = buffer;
    wordsA = words as Int32Array<ArrayBuffer>;
  }
  return words;
}

function updateBytes(state: number, bytes: Uint8Array, start: number, end: number): number {
  let crc = state;
  for (let at = start; at < end; at++) {
    crc = TABLE[(crc ^ bytes[at]!) & 0xff]! ^ (crc >>> 8);
  }
  return crc;
}

/** As updateCrc32c over the bytes of words [from, end), for who has a word view at hand. */
export function updateCrc32cWords(
  state: number,
  words: Int32Array,
  from: number,
  end: number,
): number {
  // Four words a round, the last up to three one by one.
  const table = TABLE;
  let crc = state;
  let at = from;
  for (const stop = end - 3; at < stop; at += 4) {
    const a = words[at]! ^ crc;
    const b = words[at + 1]!;
    const c = words[at + 2]!;
    const d = words[at + 3]!;
    crc =
      table[0xf00 + (a & 0xff)]! ^
      table[0xe00 + ((a >>> 8) & 0xff)]! ^
      table[0xd00 + ((a >>> 16) & 0xff)]! ^
      table[0xc00 + (a >>> 24)]! ^
      table[0xb00 + (b & 0xff)]! ^
      table[0xa00 + ((b >>> 8) & 0xff)]! ^
      table[0x900 + ((b >>> 16) & 0xff)]! ^
      table[0x800 + (b >>> 24)]! ^
      table[0x700 + (c & 0xff)]! ^
      table[0x600 + ((c >>> 8) & 0xff)]! ^
      table[0x500 + ((c >>> 16) & 0xff)]! ^
      table[0x400 + (c >>> 24)]! ^
      table[0x300 + (d & 0xff)]! ^
      table[0x200 + ((d >>> 8) & 0xff)]! ^
      table[0x100 + ((d >>> 16) & 0xff)]! ^
      table[d >>> 24]!;
  }
  for (; at < end; at++) {
    const a = words[at]! ^ crc;
    crc =
      table[0x300 + (a & 0xff)]! ^
      table[0x200 + ((a >>> 8) & 0xff)]! ^
      table[0x100 + ((a >>> 16) & 0xff)]! ^
      table[a >>> 24]!;
  }
  return crc;
}

/** Ends a running CRC: the value as Postgres stores it, an unsigned 32-bit number. */
export function finishCrc32c(state: number): number {
  return ~state >>> 0;
}

/** CRC-32C of bytes [start, end). */
export function crc32c(bytes: Uint8Array, start = 0, end = bytes.length): number {
  return finishCrc32c(updateCrc32c(CRC32C_START, bytes, start, end));
}
