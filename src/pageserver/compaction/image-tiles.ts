// The key space, divided by the newest image layers at or below an LSN: each part is compacted on its own.

import { type Lsn, minLsn } from "../../base/lsn.ts";
import { comparePrefixes, decodeKey, encodeKey, type KeyPrefix, keyAfter } from "../layers/key.ts";
import { FIRST_KEY, LAST_KEY, type LayerName } from "../layers/layer-format.ts";

export interface Key {
  readonly prefix: KeyPrefix;
  readonly index: number;
}

/** A layer of the timeline, as far as planning goes. */
export interface PlannedLayer {
  readonly file: {
    readonly name: LayerName;
    readonly sizeBytes: number;
    readonly isImage: boolean;
    readonly lsnStart: Lsn;
    readonly lsnEnd: Lsn;
  };
  readonly capLsn: Lsn;
}

/** Keys [start, end], of which a read at the LSN ends in `image` at the latest; undefined: in none. */
export interface ImageTile<L> {
  readonly start: Key;
  readonly end: Key;
  readonly image: L | undefined;
}

/** The last LSN that the timeline sees of the layer. */
export const lastLsnOf = ({ file, capLsn }: PlannedLayer): Lsn =>
  minLsn((file.lsnEnd - 1) as Lsn, capLsn);

export function compareKey(a: Key, b: Key): number {
  return comparePrefixes(a.prefix, b.prefix) || a.index - b.index;
}

/** The key before; the first one has none. */
export function keyBefore({ prefix, index }: Key): Key {
  const bytes = encodeKey(prefix, index);
  for (let at = bytes.length - 1; at >= 0; at--) {
    bytes[at]!--;
    if (bytes[at] !== 0xff) {
      break;
    }
  }
  return decodeKey(bytes);
}

/** Tiles side by side over all keys; searched by key range. */
export class ImageTiles<L extends PlannedLayer> {
  readonly tiles: readonly ImageTile<L>[];
  /** The images that a read at the LSN may end in. */
  readonly images: ReadonlySet<L>;

  /** By the images at or below `lsn`. */
  constructor(layers: readonly L[], lsn: Lsn) {
    const images = layers
      .filter(({ file, capLsn }) => file.isImage && file.lsnStart <= minLsn(lsn, capLsn))
      .sort((a, b) => b.file.lsnStart - a.file.lsnStart);
    const starts = boundaries(images);
    this.tiles = joined(starts, paint(images, starts));
    this.images = new Set(this.tiles.flatMap(({ image }) => image ?? []));
  }

  /** The tiles with keys of [start, end]. */
  overlapping(start: Key, end: Key): readonly ImageTile<L>[] {
    const { tiles } = this;
    const first = lastAtOrBelow(tiles.length, (i) => compareKey(tiles[i]!.start, start));
    let last = first;
    while (last + 1 < tiles.length && compareKey(tiles[last + 1]!.start, end) <= 0) {
      last++;
    }
    return tiles.slice(first, last + 1);
  }
}

/** First keys of the pieces that no image covers in part. */
function boundaries(images: readonly PlannedLayer[]): Key[] {
  const keys: Key[] = [FIRST_KEY];
  for (const { file } of images) {
    const { keyStart, keyEnd } = file.name;
    const after = keyAfter(keyEnd.prefix, keyEnd.index);
    keys.push(keyStart, ...(after === undefined ? [] : [after]));
  }
  keys.sort(compareKey);
  return keys.filter((key, i) => i === 0 || compareKey(key, keys[i - 1]!) !== 0);
}

/** For each piece its newest image. */
function paint<L extends PlannedLayer>(
  newestFirst: readonly L[],
  starts: readonly Key[],
): (L | undefined)[] {
  const painted: (L | undefined)[] = starts.map(() => undefined);
  /** From a piece to the next one that may be free; pieces with an image are passed in few steps. */
  const nextFree = starts.map((_, i) => i);
  const free = (from: number): number => {
    let at = from;
    while (at < starts.length && nextFree[at] !== at) {
      at = nextFree[at]!;
    }
    for (let i = from; i < at; ) {
      const next = nextFree[i]!;
      nextFree[i] = at;
      i = next;
    }
    return at;
  };
  for (const image of newestFirst) {
    const { keyStart, keyEnd } = image.file.name;
    const first = lastAtOrBelow(starts.length, (i) => compareKey(starts[i]!, keyStart));
    for (let i = free(first); i < starts.length && compareKey(starts[i]!, keyEnd) <= 0; ) {
      painted[i] = image;
      nextFree[i] = i + 1;
      i = free(i + 1);
    }
  }
  return painted;
}

function joined<L>(starts: readonly Key[], painted: readonly (L | undefined)[]): ImageTile<L>[] {
  const tiles: ImageTile<L>[] = [];
  for (let first = 0; first < starts.length; ) {
    let next = first + 1;
    while (next < starts.length && painted[next] === painted[first]) {
      next++;
    }
    const end = next === starts.length ? LAST_KEY : keyBefore(starts[next]!);
    tiles.push({ start: starts[first]!, end, image: painted[first] });
    first = next;
  }
  return tiles;
}

/** Index of the last of `count` ascending elements whose order against what is looked for is not positive; 0 at least. */
function lastAtOrBelow(count: number, order: (i: number) => number): number {
  let low = 0;
  let high = count;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (order(middle) <= 0) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return Math.max(0, low - 1);
}
