// Decompresses pglz, Postgres's own LZ format (common/pg_lzcompress.c).
//
// A control byte, then 8 items, one for each of its bits from the lowest: 0 a literal byte; 1 a
// match of two bytes, length - 3 in the low four bits of the first, the distance (1 to 4095) in its
// high four and the second; length 18 has a third byte that adds to it.

/** False where `source` is not exactly `target.length` bytes compressed. */
export function decompressPglz(source: Uint8Array, target: Uint8Array): boolean {
  const sourceEnd = source.length;
  const targetEnd = target.length;
  let from = 0;
  let to = 0;
  while (from < sourceEnd && to < targetEnd) {
    let control = source[from++]!;
    for (let item = 0; item < 8 && from < sourceEnd && to < targetEnd; item++, control >>= 1) {
      if ((control & 1) === 0) {
        target[to++] = source[from++]!;
        continue;
      }
      if (from + 2 > sourceEnd) {
        return false;
      }
      const first = source[from]!;
      const distance = ((first & 0xf0) << 4) | source[from + 1]!;
      let length = (first & 0x0f) + 3;
      from += 2;
      if (length === 18) {
        if (from >= sourceEnd) {
          return false;
        }
        length += source[from++]!;
      }
      if (distance === 0 || distance > to) {
        return false;
      }
      // Byte by byte, because source and target of a match may overlap.
      for (const end = Math.min(to + length, targetEnd); to < end; to++) {
        target[to] = target[to - distance]!;
      }
    }
  }
  return from === sourceEnd && to === targetEnd;
}
