// CRC-32C (Castagnoli), the checksum of WAL records, pg_control and of our own files.

// Slicing-by-16: sixteen tables let the loop take 16 bytes a round; about 1.1 GB/s here, where a
// byte-wise table gives 0.4 and the native packages cost 500 ns a call before the first byte.
const TABLES = buildTables();
const [T0, T1, T2, T3, T4, T5, T6, T7] = TABLES as Int32Array[];
const [T8, T9, TA, TB, TC, TD, TE, TF] = TABLES.slice(8) as Int32Array[];

function buildTables(): Int32Array[] {
  const tables = Array.from({ length: 16 }, () => new Int32Array(256));
  for (let i = 0; i < 256; i++) {
    let crc = i;
    for (let bit = 0; bit < 8; bit++) {
      crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
    }
    tables[0]![i] = crc;
  }
  for (let t = 1; t < 16; t++) {
    for (let i = 0; i < 256; i++) {
      const previous = tables[t - 1]![i]!;
      tables[t]![i] = (previous >>> 8) ^ tables[0]![previous & 0xff]!;
    }
  }
  return tables;
}

/** The state to start from; pass what `updateCrc32c` returned to go on over more bytes. */
export const CRC32C_START = -1;

/** Feeds bytes [start, end) into a running CRC (not yet inverted). */
export function updateCrc32c(state: number, bytes: Uint8Array, start: number, end: number): number {
  let crc = state;
  let at = start;
  for (const stop = end - 15; at < stop; at += 16) {
    crc =
      TF![(bytes[at]! ^ crc) & 0xff]! ^
      TE![(bytes[at + 1]! ^ (crc >>> 8)) & 0xff]! ^
      TD![(bytes[at + 2]! ^ (crc >>> 16)) & 0xff]! ^
      TC![(bytes[at + 3]! ^ (crc >>> 24)) & 0xff]! ^
      TB![bytes[at + 4]!]! ^
      TA![bytes[at + 5]!]! ^
      T9![bytes[at + 6]!]! ^
      T8![bytes[at + 7]!]! ^
      T7![bytes[at + 8]!]! ^
      T6![bytes[at + 9]!]! ^
      T5![bytes[at + 10]!]! ^
      T4![bytes[at + 11]!]! ^
      T3![bytes[at + 12]!]! ^
      T2![bytes[at + 13]!]! ^
      T1![bytes[at + 14]!]! ^
      T0![bytes[at + 15]!]!;
  }
  for (; at < end; at++) {
    crc = T0![(crc ^ bytes[at]!) & 0xff]! ^ (crc >>> 8);
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
