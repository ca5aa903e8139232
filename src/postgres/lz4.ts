// Decompresses one raw LZ4 block, as wal_compression = lz4 writes it.
//
// Source: the LZ4 block format. Sequences of: a token (high four bits literal length, low four match
// length - 4; 15 is continued by bytes to add, the last below 255), the literals, a distance (u16,
// little-endian), the match. The last sequence ends after its literals.

/** False where `source` is not exactly `target.length` bytes compressed. */
export function decompressLz4Block(source: Uint8Array, target: Uint8Array): boolean {
  const sourceEnd = source.length;
  const targetEnd = target.length;
  let from = 0;
  let to = 0;
  while (from < sourceEnd) {
    const token = source[from++]!;
    let literals = token >>> 4;
    if (literals === 15) {
      let more = 255;
      while (more === 255) {
        if (from >= sourceEnd) {
          return false;
        }
        more = source[from++]!;
        literals += more;
      }
    }
    if (from + literals > sourceEnd || to + literals > targetEnd) {
      return false;
    }
    for (const end = to + literals; to < end; ) {
      target[to++] = source[from++]!;
    }
    if (from === sourceEnd) {
      return to === targetEnd;
    }
    if (from + 2 > sourceEnd) {
      return false;
    }
    const distance = source[from]! | (source[from + 1]! << 8);
    from += 2;
    let length = (token & 0x0f) + 4;
    if (length === 19) {
      let more = 255;
      while (more === 255) {
        if (from >= sourceEnd) {
          return false;
        }
        more = source[from++]!;
        length += more;
      }
    }
    if (distance === 0 || distance > to || to + length > targetEnd) {
      return false;
    }
    for (const end = to + length; to < end; to++) {
      target[to] = target[to - distance]!;
    }
  }
  return false;
}
