// Levels of about one size become one, ten at a time: so n small flushes leave some log(n) levels for a read to pass.
//
// As in size-tiered compaction (Bigtable's merging compactions, Cassandra's STCS): each byte is written once more for
// each size that it grows through, which only layers of small flushes do.

import type { Lsn } from "../../base/lsn.ts";
import { lastLsnOf, type PlannedLayer } from "./image-tiles.ts";

/** Smaller levels count as of one size. */
const SMALLEST_BYTES = 1 << 20;

/** Delta layers side by side, over the same LSNs. */
interface Level<L> {
  readonly layers: L[];
  bytes: number;
  /** How many boundaries are below it; undefined: it lies across one. */
  readonly segment: number | undefined;
}

export interface LevelMerge<L extends PlannedLayer> {
  /** The timeline's, newest first. */
  readonly layers: readonly L[];
  /** Which of them are part of a level. */
  readonly isOfLevel: (layer: L) => boolean;
  /** Which of them reads of the newest LSN pass; a level with none of them stays as it is. */
  readonly isPassed: (layer: L) => boolean;
  /** Ascending: branch points, images. */
  readonly boundaries: readonly Lsn[];
  /** So many become one. */
  readonly count: number;
  /** What they have together at the most. */
  readonly maxBytes: number;
}

/** The newest levels, one after the other, that are worth being one. */
export function levelsToMerge<L extends PlannedLayer>(merge: LevelMerge<L>): L[] | undefined {
  const { count, maxBytes } = merge;
  const sizeClass = (bytes: number) =>
    Math.floor(Math.log(Math.max(1, bytes / SMALLEST_BYTES)) / Math.log(count));
  let window: Level<L>[] = [];
  for (const level of levelsOf(merge)) {
    const { segment, bytes } = level;
    const fits = window.every(
      (one) => one.segment === segment && sizeClass(one.bytes) === sizeClass(bytes),
    );
    const isCandidate = segment !== undefined && level.layers.some(merge.isPassed);
    window = isCandidate ? [...(fits ? window : []), level] : [];
    const found = window.flatMap(({ layers }) => layers);
    const isDue = window.length >= Math.max(2, count) && bytesOf(window) <= maxBytes;
    if (isDue && !hasOthersBetween(merge.layers, found)) {
      return found;
    }
  }
  return undefined;
}

const bytesOf = (levels: readonly { bytes: number }[]) =>
  levels.reduce((sum, { bytes }) => sum + bytes, 0);

/** Newest first. */
function levelsOf<L extends PlannedLayer>({
  layers,
  isOfLevel,
  boundaries,
}: LevelMerge<L>): Level<L>[] {
  const levels: Level<L>[] = [];
  for (const layer of layers.filter(isOfLevel)) {
    const last = levels.at(-1);
    if (last !== undefined && isBeside(last.layers[0]!, layer)) {
      last.layers.push(layer);
      last.bytes += layer.file.sizeBytes;
    } else {
      const below = countBelow(boundaries, layer.file.lsnStart);
      const segment = below === countBelow(boundaries, lastLsnOf(layer)) ? below : undefined;
      levels.push({ layers: [layer], bytes: layer.file.sizeBytes, segment });
    }
  }
  return levels;
}

const isBeside = (a: PlannedLayer, b: PlannedLayer) =>
  a.file.lsnStart === b.file.lsnStart && lastLsnOf(a) === lastLsnOf(b);

function countBelow(ascending: readonly Lsn[], lsn: Lsn): number {
  let [low, high] = [0, ascending.length];
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (ascending[middle]! < lsn) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/** Reads go from layer to layer by LSN: no other deltas may lie in the middle of what the merged ones make. */
function hasOthersBetween<L extends PlannedLayer>(
  layers: readonly L[],
  merged: readonly L[],
): boolean {
  const inside = new Set(merged);
  const start = Math.min(...merged.map(({ file }) => file.lsnStart));
  const last = Math.max(...merged.map(lastLsnOf));
  return layers.some(
    (layer) =>
      !layer.file.isImage &&
      !inside.has(layer) &&
      lastLsnOf(layer) >= start &&
      layer.file.lsnStart <= last,
  );
}
