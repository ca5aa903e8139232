// Raw LZ4 blocks: decompresses what wal_compression = lz4 writes, and compresses layer files' blocks.
//
// Source: the LZ4 block format. Sequences of: a token (high four bits literal length, low four match
// length - 4; 15 is continued by bytes to add, the last below 255), the literals, a distance (u16,
// little-endian), the match. The last sequence ends after its literals: five bytes at least, and the
// last match begins at least twelve bytes before the end.
//
// Eight bytes are copied at a time where up to seven too many do no harm: 1.3 to 1.8 times as fast on
// pages and deltas (docs/decisions/0020-compressed-layer-blocks.md).

const MIN_MATCH = 4;
const LAST_LITERALS = 5;
const LAST_MATCH_START = 12;
const MAX_DISTANCE = 0xffff;
const HASH_BITS = 13;
/** After this many places without a match the next ones are looked at with gaps, which grow. */
const SEARCHES_SHIFT = 6;

/** Where the bytes that continue a length end: the first that is not 255. */
function lengthEnd(bytes: Uint8Array, from: number): number {
  let at = from;
  while (bytes[at] === 255) {
    at++;
  }
  return at;
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

/** False where `source` is not exactly `target.length` bytes compressed. */
export function decompressLz4Block(source: Uint8Array, target: Uint8Array): boolean {
  const sourceEnd = source.length;
  const targetEnd = target.length;
  const sourceView = viewOf(source);
  const targetView = viewOf(target);
  let from = 0;
  let to = 0;
  while (from < sourceEnd) {
    const token = source[from++]!;
    let literals = token >>> 4;
    if (literals < 15 && from + 18 <= sourceEnd && to + 16 <= targetEnd) {
      targetView.setBigInt64(to, sourceView.getBigInt64(from, true), true);
      targetView.setBigInt64(to + 8, sourceView.getBigInt64(from + 8, true), true);
    } else {
      if (literals === 15) {
        const last = lengthEnd(source, from);
        if (last >= sourceEnd) {
          return false;
        }
        literals += (last - from) * 255 + source[last]!;
        from = last + 1;
      }
      if (from + literals > sourceEnd || to + literals > targetEnd) {
        return false;
      }
      copyLiterals(source, sourceView, from, target, targetView, to, literals);
    }
    from += literals;
    to += literals;
    if (from === sourceEnd) {
      return to === targetEnd;
    }
    if (from + 2 > sourceEnd) {
      return false;
    }
    const distance = source[from]! | (source[from + 1]! << 8);
    from += 2;
    let length = (token & 0x0f) + MIN_MATCH;
    if (length === 15 + MIN_MATCH) {
      const last = lengthEnd(source, from);
      if (last >= sourceEnd) {
        return false;
      }
      length += (last - from) * 255 + source[last]!;
      from = last + 1;
    }
    if (distance === 0 || distance > to || to + length > targetEnd) {
      return false;
    }
    copyMatch(target, targetView, to, distance, length);
    to += length;
  }
  return false;
}

function copyLiterals(
  source: Uint8Array,
  sourceView: DataView,
  from: number,
  target: Uint8Array,
  targetView: DataView,
  to: number,
  length: number,
): void {
  const rounded = length + 8;
  if (length > 128 || from + rounded > source.length || to + rounded > target.length) {
    target.set(source.subarray(from, from + length), to);
    return;
  }
  for (let i = 0; i < length; i += 8) {
    targetView.setBigInt64(to + i, sourceView.getBigInt64(from + i, true), true);
  }
}

/** The match may overlap what it makes: `distance` 1 repeats a byte. */
function copyMatch(
  target: Uint8Array,
  view: DataView,
  at: number,
  distance: number,
  length: number,
): void {
  const end = at + length;
  let to = at;
  if (distance >= 8 && end + 8 <= target.length) {
    for (; to < end; to += 8) {
      view.setBigInt64(to, view.getBigInt64(to - distance, true), true);
    }
  } else if (distance === 1) {
    target.fill(target[at - 1]!, at, end);
  } else {
    for (; to < end; to++) {
      target[to] = target[to - distance]!;
    }
  }
}

/** Where four bytes with this hash were last seen; one block at a time is compressed, so it is kept. */
const places = new Int32Array(1 << HASH_BITS);

function hash(fourBytes: number): number {
  return Math.imul(fourBytes, 0x9e3779b1) >>> (32 - HASH_BITS);
}

/** Compresses all of `source`; returns the bytes used in `target`, or 0 where they would not fit it. */
export function compressLz4Block(source: Uint8Array, target: Uint8Array): number {
  const view = viewOf(source);
  const lastStart = source.length - LAST_MATCH_START;
  places.fill(-1);
  let literalsFrom = 0;
  let to = 0;
  let searches = 1 << SEARCHES_SHIFT;
  for (let at = 0; at <= lastStart; ) {
    const fourBytes = view.getUint32(at, true);
    const slot = hash(fourBytes);
    let match = places[slot]!;
    places[slot] = at;
    if (match < 0 || at - match > MAX_DISTANCE || view.getUint32(match, true) !== fourBytes) {
      at += searches++ >>> SEARCHES_SHIFT;
      continue;
    }
    searches = 1 << SEARCHES_SHIFT;
    const end = matchEnd(source, view, match + MIN_MATCH, at + MIN_MATCH);
    while (at > literalsFrom && match > 0 && source[at - 1] === source[match - 1]) {
      at--;
      match--;
    }
    to = putSequence(source, literalsFrom, at, end - at, at - match, target, to);
    if (to === 0) {
      return 0;
    }
    if (end <= lastStart) {
      places[hash(view.getUint32(end - 2, true))] = end - 2;
    }
    at = end;
    literalsFrom = end;
  }
  return putSequence(source, literalsFrom, source.length, 0, 0, target, to);
}

/** Where the bytes from `at` on stop to equal those from `match` on. */
function matchEnd(source: Uint8Array, view: DataView, match: number, at: number): number {
  const limit = source.length - LAST_LITERALS;
  const distance = at - match;
  let to = at;
  while (to + 4 <= limit && view.getUint32(to, true) === view.getUint32(to - distance, true)) {
    to += 4;
  }
  while (to < limit && source[to] === source[to - distance]) {
    to++;
  }
  return to;
}

/** Literals [from, end) and a match, or none where `length` is 0; returns where it ends, 0: no room. */
function putSequence(
  source: Uint8Array,
  from: number,
  end: number,
  length: number,
  distance: number,
  target: Uint8Array,
  start: number,
): number {
  const literals = end - from;
  // A token, a distance, and one byte for each 255 of both lengths.
  if (start + literals + ((literals + length) >>> 7) + 8 > target.length) {
    return 0;
  }
  const rest = length === 0 ? 0 : length - MIN_MATCH;
  let to = start;
  target[to++] = (Math.min(literals, 15) << 4) | Math.min(rest, 15);
  if (literals >= 15) {
    to = putLength(target, to, literals - 15);
  }
  if (literals > 32) {
    target.set(source.subarray(from, end), to);
    to += literals;
  } else {
    for (let at = from; at < end; ) {
      target[to++] = source[at++]!;
    }
  }
  if (length > 0) {
    target[to++] = distance & 0xff;
    target[to++] = distance >>> 8;
    if (rest >= 15) {
      to = putLength(target, to, rest - 15);
    }
  }
  return to;
}

function putLength(target: Uint8Array, start: number, length: number): number {
  let to = start;
  let rest = length;
  for (; rest >= 255; rest -= 255) {
    target[to++] = 255;
  }
  target[to++] = rest;
  return to;
}
