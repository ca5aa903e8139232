// Decides which of a timeline's layers are compacted next, in what range of keys, and to what end.

import { addLsn, type Lsn, MAX_LSN } from "../../base/lsn.ts";
import type { LayerFate } from "../api.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE, type LayerName } from "../layers/layer-format.ts";
import {
  compareKey,
  type ImageTile,
  ImageTiles,
  type Key,
  lastLsnOf,
  type PlannedLayer,
} from "./image-tiles.ts";
import type { KeyRange } from "./layer-cursor.ts";
import { levelsToMerge } from "./level-merge.ts";

export interface PlanSettings {
  /** So many layers over all keys on top of each other become a level, and so many levels of about one size another one. */
  readonly levelAfterLayers: number;
  /** Less than this is not worth a rewrite, whatever the shares below say. */
  readonly minCompactionBytes: number;
  /** Image layers are made when the deltas above the last ones have so many times their bytes. */
  readonly imageRatio: number;
  /** What is kept below the cutoff is rewritten when so many times as much has come to it. */
  readonly collectRatio: number;
  /** Image layers end at about this size; images of more than four are made in turn, each in its range of keys. */
  readonly imageLayerBytes: number;
}

export interface PlanSituation<L extends PlannedLayer> {
  /** Newest first. */
  readonly layers: readonly L[];
  /** Whether reads that find nothing go on in an ancestor. */
  readonly hasAncestor: boolean;
  /** Below it only `retained` is read. */
  readonly cutoff: Lsn;
  /** Ascending, below the cutoff: branch points, leases. */
  readonly retained: readonly Lsn[];
  /** Versions of whole records only are at or below it. */
  readonly consistentLsn: Lsn;
  /** All of them, in any order. */
  readonly branchPoints: readonly Lsn[];
  /** Layers that a collection wrote, and for which retained LSNs: another one would only write them again. */
  readonly collected: ReadonlyMap<L, readonly Lsn[]>;
  /** Whether making images of these keys has failed lately. */
  readonly isSetAside: (range: KeyRange) => boolean;
}

/**
 * - `level`: layers of flushes, or levels, become one level of files side by side, nothing is dropped
 * - `images`: image layers; nothing is removed
 * - `collect`: what no retained LSN reads goes; `inputs` may be empty, then nothing is written
 */
export interface CompactionPlan<L> {
  readonly goal: "level" | "images" | "collect";
  readonly inputs: readonly L[];
  readonly range: KeyRange;
  /** Versions of the inputs above it are not read. */
  readonly maxLsn: Lsn;
  /** Layers whose place the outputs take. */
  readonly remove: readonly L[];
  readonly retained: readonly Lsn[];
  readonly cutoff: Lsn;
  readonly cutPoints: readonly Lsn[];
  /** Delta layers of some size end before these keys. */
  readonly keyCuts: readonly Key[];
  readonly imageLayerLsn: Lsn | undefined;
  readonly moreBelow: boolean;
}

const ALL_KEYS: KeyRange = { start: FIRST_KEY, end: LAST_KEY };
/** So many image layers are made in one step, and what is collected in one is as much. */
const SMALL_RANGES = 4;
/** A range with fewer deltas is left alone: a share of what is not worth a rewrite of all. */
const MIN_RANGE_SHARE = 1 / 8;

/** Undefined where nothing is to be done. */
export function planCompaction<L extends PlannedLayer>(
  situation: PlanSituation<L>,
  settings: PlanSettings,
): CompactionPlan<L> | undefined {
  // A record that is larger than a layer is still being taken in: more is to come at its LSN.
  if (situation.layers.some((layer) => lastLsnOf(layer) > situation.consistentLsn)) {
    return undefined;
  }
  const plans = new Plans(situation, settings);
  return situation.hasAncestor
    ? (plans.level() ?? plans.mergeLevels() ?? plans.collectOnBranch())
    : (plans.remove() ??
        plans.collect() ??
        plans.imagesOfAll() ??
        plans.level() ??
        plans.imagesOfRange() ??
        plans.levelForImages() ??
        plans.mergeLevels());
}

/**
 * What collects all that may go, however little that is. Image layers are only made where all there is lies below the
 * cutoff: elsewhere they would free nothing yet.
 */
export function planCollectionNow<L extends PlannedLayer>(
  situation: PlanSituation<L>,
): CompactionPlan<L> | undefined {
  const { layers, consistentLsn, hasAncestor } = situation;
  const [newest] = layers;
  if (newest === undefined || lastLsnOf(newest) > consistentLsn) {
    return undefined;
  }
  const plans = new Plans(situation, HOWEVER_LITTLE);
  return hasAncestor
    ? plans.collectOnBranch()
    : (plans.remove() ?? plans.collect() ?? planImagesNow(situation));
}

const HOWEVER_LITTLE: PlanSettings = {
  levelAfterLayers: 2,
  minCompactionBytes: 0,
  imageRatio: 0,
  collectRatio: 0,
  imageLayerBytes: Number.POSITIVE_INFINITY,
};

/** What `planCollectionNow`, again and again, makes of the layers there are. */
export function collectionFates<L extends PlannedLayer>(
  situation: PlanSituation<L>,
): Map<L, LayerFate> {
  const { layers, cutoff, collected, hasAncestor, consistentLsn } = situation;
  const [removed, rewritten] = [new Set<L>(), new Set<L>()];
  if (layers.every((layer) => lastLsnOf(layer) <= consistentLsn)) {
    const plans = new Plans(withImages(situation), HOWEVER_LITTLE);
    for (const layer of hasAncestor ? [] : (plans.remove()?.remove ?? [])) {
      removed.add(layer);
    }
    for (const plan of hasAncestor ? plans.collectionsOnBranch() : plans.collections()) {
      const inputs = new Set(plan.inputs);
      for (const layer of plan.remove) {
        (inputs.has(layer) ? rewritten : removed).add(layer);
      }
    }
  }
  const fateOf = (layer: L): LayerFate => {
    if (removed.has(layer)) {
      return "removed";
    }
    if (rewritten.has(layer)) {
      return "rewritten";
    }
    if (lastLsnOf(layer) > cutoff) {
      return "above_cutoff";
    }
    return collected.has(layer) ? "needed_below_cutoff" : "needed_at_cutoff";
  };
  return new Map(layers.map((layer) => [layer, fateOf(layer)]));
}

/** As if the image layers were there already that a collection makes. */
function withImages<L extends PlannedLayer>(situation: PlanSituation<L>): PlanSituation<L> {
  const plan = planImagesNow(situation);
  if (plan === undefined) {
    return situation;
  }
  const [lsnStart, lsnEnd] = [plan.maxLsn, addLsn(plan.maxLsn, 1)];
  const keys = { keyStart: FIRST_KEY, keyEnd: LAST_KEY };
  const images: PlannedLayer = {
    file: {
      name: { kind: LAYER_KIND_IMAGE, ...keys, lsnStart, lsnEnd },
      sizeBytes: 0,
      isImage: true,
      lsnStart,
      lsnEnd,
    },
    capLsn: lsnStart,
  };
  return { ...situation, layers: [images as L, ...situation.layers] };
}

function planImagesNow<L extends PlannedLayer>(
  situation: PlanSituation<L>,
): CompactionPlan<L> | undefined {
  const { layers, cutoff, hasAncestor } = situation;
  const isDue = !hasAncestor && layers[0] !== undefined && lastLsnOf(layers[0]) <= cutoff;
  return isDue ? new Plans(situation, HOWEVER_LITTLE).imagesOfAll() : undefined;
}

class Plans<L extends PlannedLayer> {
  readonly #situation: PlanSituation<L>;
  readonly #settings: PlanSettings;
  /** Where reads of the newest LSN end. */
  readonly #newest: ImageTiles<L>;
  /** Where reads of the cutoff end. */
  readonly #base: ImageTiles<L>;
  /** Deltas above the newest images of some of their keys, the newest first. */
  readonly #above: readonly L[];
  /** Of these, layers of flushes that are above all files side by side: they become the next level. */
  readonly #flushed: ReadonlySet<L>;
  /** There are few images: all keys are one range. */
  readonly #isSmall: boolean;
  /** With deltas of so many bytes images of all keys pay. */
  readonly #dueBytes: number;

  constructor(situation: PlanSituation<L>, settings: PlanSettings) {
    const { layers, cutoff } = situation;
    this.#situation = situation;
    this.#settings = settings;
    this.#newest = new ImageTiles(layers, Number.MAX_SAFE_INTEGER as Lsn);
    this.#base = new ImageTiles(layers, cutoff);
    this.#above = layers.filter((layer) => this.#isAbove(layer, () => true));
    const level = this.#above.findIndex(({ file }) => !coversAllKeys(file.name));
    this.#flushed = new Set(level < 0 ? this.#above : this.#above.slice(0, level));
    const base = bytesOf([...this.#newest.images]);
    this.#isSmall = base <= settings.imageLayerBytes * SMALL_RANGES;
    this.#dueBytes = Math.max(settings.minCompactionBytes, base * settings.imageRatio);
  }

  /** Whether these are deltas above the newest images of some tile that counts. */
  #isAbove(layer: L, counts: (tile: ImageTile<L>) => boolean): boolean {
    return !layer.file.isImage && lastLsnOf(layer) > this.#bases(this.#newest, layer, counts).low;
  }

  /** Where images cannot be made, deltas stay above older ones: they are no reason to try again. */
  #freshBytes(): number {
    const counts = (tile: ImageTile<L>) => !this.#situation.isSetAside(tile);
    return bytesOf(this.#above.filter((layer) => this.#isAbove(layer, counts)));
  }

  /** LSNs of the images below a layer's keys: the lowest, -1 where some have none, and the highest. */
  #bases(
    tiles: ImageTiles<L>,
    { file }: L,
    counts: (tile: ImageTile<L>) => boolean = () => true,
  ): { low: number; high: number } {
    const { keyStart, keyEnd } = file.name;
    let [low, high] = [Number.POSITIVE_INFINITY, -1];
    for (const tile of tiles.overlapping(keyStart, keyEnd).filter(counts)) {
      const lsn = tile.image?.file.lsnStart ?? -1;
      low = Math.min(low, lsn);
      high = Math.max(high, lsn);
    }
    return { low, high };
  }

  /** Layers below the images at or below the cutoff of all their keys; with the highest LSN of those. */
  #covered(): { layer: L; high: number }[] {
    return this.#situation.layers.flatMap((layer) => {
      const { low, high } = this.#bases(this.#base, layer);
      return lastLsnOf(layer) <= low && !this.#base.images.has(layer) ? { layer, high } : [];
    });
  }

  #isRetained({ file }: L, high: number): boolean {
    return this.#situation.retained.some((lsn) => file.lsnStart <= lsn && lsn < high);
  }

  /** What nobody reads: the images above it are at or below the cutoff, and no retained LSN is between. */
  remove(): CompactionPlan<L> | undefined {
    const remove = this.#covered()
      .filter(({ layer, high }) => !this.#isRetained(layer, high))
      .map(({ layer }) => layer);
    return remove.length === 0 ? undefined : { ...collection([], ALL_KEYS, [], false), remove };
  }

  /** What only retained LSNs read: what they do not need of it goes. */
  collect(): CompactionPlan<L> | undefined {
    return this.collections().next().value;
  }

  /** Each on its own. */
  *collections(): Generator<CompactionPlan<L>, undefined> {
    const { retained } = this.#situation;
    for (const group of groupsByKeys(this.#covered(), ({ layer }) => layer.file.name)) {
      const layers = group.members.map(({ layer }) => layer);
      const high = Math.max(...group.members.map((member) => member.high));
      const needed = retained.filter((lsn) => lsn < high);
      if (this.#isReady(layers) && this.#isWorthIt(layers)) {
        const plan = collection(layers, group.range, needed, false);
        // Images in the range may have different LSNs, and no delta layer may lie across one.
        const images = this.#base.overlapping(group.range.start, group.range.end);
        const lsns = images.flatMap(({ image }) => image?.file.lsnStart ?? []);
        yield { ...plan, cutPoints: sorted([...needed, ...lsns]) };
      }
    }
  }

  /** A branch's own layers stay deltas: what they lack is in its ancestors. */
  collectOnBranch(): CompactionPlan<L> | undefined {
    return this.collectionsOnBranch().next().value;
  }

  /** Each on its own. */
  *collectionsOnBranch(): Generator<CompactionPlan<L>, undefined> {
    const { layers, cutoff, retained } = this.#situation;
    const below = layers.filter((layer) => lastLsnOf(layer) <= cutoff);
    for (const { range, members } of groupsByKeys(below, ({ file }) => file.name)) {
      if (this.#isReady(members) && this.#isWorthIt(members)) {
        const newest = Math.max(...members.map(lastLsnOf)) as Lsn;
        const needed = [...retained.filter((lsn) => lsn < newest), newest];
        yield collection(members, range, needed, true);
      }
    }
  }

  /** Much over all keys is first made a level, so that a step has one range of it. */
  #isReady(layers: readonly L[]): boolean {
    const { imageLayerBytes } = this.#settings;
    return (
      bytesOf(layers) <= imageLayerBytes * SMALL_RANGES ||
      !layers.some((layer) => this.#flushed.has(layer))
    );
  }

  #isWorthIt(layers: readonly L[]): boolean {
    const { collected, retained } = this.#situation;
    const { minCompactionBytes, collectRatio } = this.#settings;
    const kept = layers.filter((layer) => collected.has(layer));
    const isLess = kept.some((layer) =>
      collected.get(layer)!.some((lsn) => !retained.includes(lsn)),
    );
    const fresh = bytesOf(layers) - bytesOf(kept);
    return isLess
      ? bytesOf(layers) >= minCompactionBytes
      : fresh > 0 && fresh >= Math.max(minCompactionBytes, bytesOf(kept) * collectRatio);
  }

  /** Of many layers of flushes, since a read may have to look at each. */
  level(): CompactionPlan<L> | undefined {
    const isDue = this.#flushed.size >= Math.max(2, this.#settings.levelAfterLayers);
    return isDue ? this.#levelOf([...this.#flushed]) : undefined;
  }

  /** Of few, where that is what images wait for. */
  levelForImages(): CompactionPlan<L> | undefined {
    const inputs = [...this.#flushed];
    const isDue = inputs.length > 0 && !this.#isSmall && bytesOf(inputs) >= this.#dueBytes;
    return isDue ? this.#levelOf(inputs) : undefined;
  }

  /** Of many small levels. */
  mergeLevels(): CompactionPlan<L> | undefined {
    const { levelAfterLayers, imageLayerBytes } = this.#settings;
    const { layers, collected } = this.#situation;
    const above = new Set(this.#above);
    const found = levelsToMerge({
      layers,
      // What was an ancestor's is read by others, too: a level of ours would be a copy.
      isOfLevel: (layer) =>
        !layer.file.isImage &&
        layer.capLsn === MAX_LSN &&
        !this.#flushed.has(layer) &&
        !collected.has(layer),
      isPassed: (layer) => above.has(layer),
      boundaries: this.#boundaries(0 as Lsn),
      count: levelAfterLayers,
      maxBytes: imageLayerBytes * SMALL_RANGES,
    });
    return found && this.#levelOf(found);
  }

  /** LSNs from `start` on that no delta layer is made across: where branches begin, and of images. */
  #boundaries(start: Lsn): Lsn[] {
    const { branchPoints, layers } = this.#situation;
    const images = layers.filter(({ file }) => file.isImage && file.lsnStart >= start);
    return sorted([...branchPoints, ...images.map(({ file }) => file.lsnStart)]);
  }

  #levelOf(inputs: readonly L[]): CompactionPlan<L> {
    const start = Math.min(...inputs.map(({ file }) => file.lsnStart)) as Lsn;
    return {
      goal: "level",
      inputs,
      range: ALL_KEYS,
      maxLsn: lastLsnOf(inputs[0]!),
      remove: inputs,
      retained: [],
      cutoff: 0 as Lsn,
      cutPoints: this.#boundaries(start),
      keyCuts: this.#newest.tiles.slice(1).map(({ start }) => start),
      imageLayerLsn: undefined,
      moreBelow: true,
    };
  }

  /** Images of all keys at once, where there is not much of them. */
  imagesOfAll(): CompactionPlan<L> | undefined {
    const fresh = this.#isSmall ? this.#freshBytes() : 0;
    return fresh > 0 && fresh >= this.#dueBytes
      ? imagesAt(lastLsnOf(this.#above[0]!), [...this.#above, ...this.#newest.images], ALL_KEYS)
      : undefined;
  }

  /** Images of the range whose deltas are the most, against its images, up to where the last level ends. */
  imagesOfRange(): CompactionPlan<L> | undefined {
    const levels = this.#above.filter((layer) => !this.#flushed.has(layer));
    const lsn = levels.reduce((end, layer) => Math.max(end, lastLsnOf(layer)), -1) as Lsn;
    if (this.#isSmall || lsn < 0 || [...this.#flushed].some(({ file }) => file.lsnStart <= lsn)) {
      return undefined;
    }
    const { minCompactionBytes, imageRatio } = this.#settings;
    const deltas = this.#deltaBytes(levels);
    let worst: ImageTile<L> | undefined;
    let worstScore = 1;
    for (const tile of this.#newest.tiles) {
      const due = Math.max(
        minCompactionBytes * MIN_RANGE_SHARE,
        (tile.image?.file.sizeBytes ?? 0) * imageRatio,
      );
      const score = (deltas.get(tile) ?? 0) / Math.max(1, due);
      if (score >= worstScore && !this.#situation.isSetAside(tile)) {
        worst = tile;
        worstScore = score;
      }
    }
    return worst && this.#imagesOf(worst, lsn, levels);
  }

  #imagesOf({ start, end, image }: ImageTile<L>, lsn: Lsn, levels: readonly L[]) {
    const base = image?.file.lsnStart ?? -1;
    const isAbove = (layer: L) =>
      lastLsnOf(layer) > base &&
      compareKey(layer.file.name.keyStart, end) <= 0 &&
      compareKey(layer.file.name.keyEnd, start) >= 0;
    const inputs = [...levels.filter(isAbove), ...(image === undefined ? [] : [image])];
    return imagesAt(lsn, inputs, { start, end });
  }

  /** Of each tile, above its image; a layer that has keys of several counts for each in equal parts. */
  #deltaBytes(levels: readonly L[]): Map<ImageTile<L>, number> {
    const sums = new Map<ImageTile<L>, number>();
    for (const layer of levels) {
      const { keyStart, keyEnd } = layer.file.name;
      const tiles = this.#newest.overlapping(keyStart, keyEnd);
      for (const tile of tiles) {
        if (lastLsnOf(layer) > (tile.image?.file.lsnStart ?? -1)) {
          sums.set(tile, (sums.get(tile) ?? 0) + layer.file.sizeBytes / tiles.length);
        }
      }
    }
    return sums;
  }
}

const bytesOf = (layers: readonly PlannedLayer[]) =>
  layers.reduce((sum, { file }) => sum + file.sizeBytes, 0);

function coversAllKeys({ keyStart, keyEnd }: LayerName): boolean {
  return compareKey(keyStart, FIRST_KEY) === 0 && compareKey(keyEnd, LAST_KEY) === 0;
}

/** Groups of members such that no two groups have a key in common. */
function groupsByKeys<M>(
  members: readonly M[],
  nameOf: (member: M) => LayerName,
): { range: KeyRange; members: M[] }[] {
  const groups: { range: { start: Key; end: Key }; members: M[] }[] = [];
  for (const member of members.toSorted((a, b) =>
    compareKey(nameOf(a).keyStart, nameOf(b).keyStart),
  )) {
    const { keyStart, keyEnd } = nameOf(member);
    const last = groups.at(-1);
    if (last !== undefined && compareKey(keyStart, last.range.end) <= 0) {
      last.members.push(member);
      last.range.end = compareKey(keyEnd, last.range.end) > 0 ? keyEnd : last.range.end;
    } else {
      groups.push({ range: { start: keyStart, end: keyEnd }, members: [member] });
    }
  }
  return groups;
}

/** The layers are rewritten for `retained`, up to its last one. */
function collection<L extends PlannedLayer>(
  layers: readonly L[],
  range: KeyRange,
  retained: readonly Lsn[],
  moreBelow: boolean,
): CompactionPlan<L> {
  const newest = retained.at(-1) ?? (0 as Lsn);
  return {
    goal: "collect",
    inputs: layers.filter(({ file }) => file.lsnStart <= newest),
    range,
    maxLsn: newest,
    remove: layers,
    retained,
    cutoff: newest,
    cutPoints: retained,
    keyCuts: [],
    imageLayerLsn: undefined,
    moreBelow,
  };
}

function imagesAt<L>(lsn: Lsn, inputs: readonly L[], range: KeyRange): CompactionPlan<L> {
  return {
    goal: "images",
    inputs,
    range,
    maxLsn: lsn,
    remove: [],
    retained: [],
    cutoff: lsn,
    cutPoints: [],
    keyCuts: [],
    imageLayerLsn: lsn,
    moreBelow: false,
  };
}

function sorted(lsns: readonly Lsn[]): Lsn[] {
  return [...new Set(lsns)].sort((a, b) => a - b);
}
