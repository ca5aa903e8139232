// Decides which of a timeline's layers are compacted next, and to what end.

import { addLsn, type Lsn } from "../../base/lsn.ts";
import type { LayerFate } from "../api.ts";
import { comparePrefixes, keyAfter, samePrefix } from "../layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE, type LayerName } from "../layers/layer-format.ts";

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

export interface PlanSettings {
  /** So many layers over all keys on top of each other are merged. */
  readonly levelAfterLayers: number;
  /** Less than this is not worth a rewrite, whatever the shares below say. */
  readonly minCompactionBytes: number;
  /** Image layers are made when the deltas above the last ones have so many times their bytes. */
  readonly imageRatio: number;
  /** What is kept below the cutoff is rewritten when so many times as much has come to it. */
  readonly collectRatio: number;
}

/** What the last collection wrote, and for which retained LSNs: another one would only write it again. */
export interface Collected<L> {
  readonly layers: ReadonlySet<L>;
  readonly retained: readonly Lsn[];
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
  readonly collected: Collected<L> | undefined;
}

/**
 * - `level`: layers of flushes become one level of files side by side, nothing is dropped
 * - `images`: image layers at the newest LSN that is on disk; nothing is removed
 * - `collect`: what no retained LSN reads goes; `inputs` may be empty, then nothing is written
 */
export interface CompactionPlan<L> {
  readonly goal: "level" | "images" | "collect";
  readonly inputs: readonly L[];
  /** Versions of the inputs above it are not read. */
  readonly maxLsn: Lsn;
  /** Layers whose place the outputs take. */
  readonly remove: readonly L[];
  readonly retained: readonly Lsn[];
  readonly cutoff: Lsn;
  readonly cutPoints: readonly Lsn[];
  readonly imageLayerLsn: Lsn | undefined;
  readonly moreBelow: boolean;
}

/** Undefined where nothing is to be done. */
export function planCompaction<L extends PlannedLayer>(
  situation: PlanSituation<L>,
  settings: PlanSettings,
): CompactionPlan<L> | undefined {
  // A record that is larger than a layer is still being taken in: more is to come at its LSN.
  if (situation.layers.some((layer) => endOf(layer) > situation.consistentLsn)) {
    return undefined;
  }
  return situation.hasAncestor
    ? (planLevel(situation, settings) ?? planBranchCollection(situation, settings))
    : (planCollection(situation, settings) ??
        planLevel(situation, settings) ??
        planImages(situation, settings));
}

/**
 * What collects all that may go, however little that is. Image layers are only made where all there is lies below the
 * cutoff: elsewhere they would free nothing yet.
 */
export function planCollectionNow<L extends PlannedLayer>(
  situation: PlanSituation<L>,
): CompactionPlan<L> | undefined {
  const { layers, consistentLsn, cutoff } = situation;
  const [newest] = layers;
  if (newest === undefined || endOf(newest) > consistentLsn) {
    return undefined;
  }
  if (situation.hasAncestor) {
    return planBranchCollection(situation, HOWEVER_LITTLE);
  }
  const images = endOf(newest) <= cutoff ? planImages(situation, HOWEVER_LITTLE) : undefined;
  return planCollection(situation, HOWEVER_LITTLE) ?? images;
}

const HOWEVER_LITTLE: PlanSettings = {
  levelAfterLayers: 2,
  minCompactionBytes: 0,
  imageRatio: 0,
  collectRatio: 0,
};

/** What `planCollectionNow`, again and again, makes of the layers there are. */
export function collectionFates<L extends PlannedLayer>(
  situation: PlanSituation<L>,
): Map<L, LayerFate> {
  const { layers, cutoff, collected } = situation;
  const first = planCollectionNow(situation);
  const plan =
    first?.goal === "images" ? planCollectionNow(withImages(situation, first.maxLsn)) : first;
  const [removed, inputs] = [new Set(plan?.remove), new Set(plan?.inputs)];
  const fateOf = (layer: L): LayerFate => {
    if (removed.has(layer)) {
      return inputs.has(layer) ? "rewritten" : "removed";
    }
    if (endOf(layer) > cutoff) {
      return "above_cutoff";
    }
    return collected?.layers.has(layer) === true ? "needed_below_cutoff" : "needed_at_cutoff";
  };
  return new Map(layers.map((layer) => [layer, fateOf(layer)]));
}

/** As if image layers at `lsn` were there already. */
function withImages<L extends PlannedLayer>(
  situation: PlanSituation<L>,
  lsn: Lsn,
): PlanSituation<L> {
  const images: PlannedLayer = {
    file: {
      name: {
        kind: LAYER_KIND_IMAGE,
        keyStart: FIRST_KEY,
        keyEnd: LAST_KEY,
        lsnStart: lsn,
        lsnEnd: addLsn(lsn, 1),
      },
      sizeBytes: 0,
      isImage: true,
      lsnStart: lsn,
      lsnEnd: addLsn(lsn, 1),
    },
    capLsn: lsn,
  };
  return { ...situation, layers: [images as L, ...situation.layers] };
}

const endOf = ({ file, capLsn }: PlannedLayer) => Math.min(file.lsnEnd - 1, capLsn) as Lsn;

const bytesOf = (layers: readonly PlannedLayer[]) =>
  layers.reduce((sum, { file }) => sum + file.sizeBytes, 0);

function coversAllKeys({ keyStart, keyEnd }: LayerName): boolean {
  return isKey(keyStart, FIRST_KEY) && isKey(keyEnd, LAST_KEY);
}

function isKey(a: LayerName["keyStart"], b: LayerName["keyStart"]): boolean {
  return samePrefix(a.prefix, b.prefix) && a.index === b.index;
}

/** LSNs at which image layers cover all keys, with those layers; the newest first. */
function imageSets<L extends PlannedLayer>(layers: readonly L[]): { lsn: Lsn; images: L[] }[] {
  const byLsn = Map.groupBy(
    layers.filter(({ file, capLsn }) => file.isImage && file.lsnStart <= capLsn),
    ({ file }) => file.lsnStart,
  );
  return [...byLsn]
    .filter(([, images]) => coverAllKeys(images))
    .map(([lsn, images]) => ({ lsn, images }))
    .sort((a, b) => b.lsn - a.lsn);
}

function coverAllKeys(images: readonly PlannedLayer[]): boolean {
  const names = images
    .map(({ file }) => file.name)
    .sort(
      (a, b) =>
        comparePrefixes(a.keyStart.prefix, b.keyStart.prefix) ||
        a.keyStart.index - b.keyStart.index,
    );
  let wanted: LayerName["keyStart"] | undefined = FIRST_KEY;
  for (const { keyStart, keyEnd } of names) {
    if (wanted === undefined || !isKey(keyStart, wanted)) {
      return false;
    }
    wanted = keyAfter(keyEnd.prefix, keyEnd.index);
  }
  return wanted === undefined;
}

/** Layers of flushes above all others: a read may have to look at each of them. */
function planLevel<L extends PlannedLayer>(
  { layers, branchPoints }: PlanSituation<L>,
  { levelAfterLayers }: PlanSettings,
): CompactionPlan<L> | undefined {
  const floor = layers.find(({ file }) => file.isImage || !coversAllKeys(file.name));
  const inputs = floor === undefined ? [...layers] : layers.slice(0, layers.indexOf(floor));
  if (inputs.length < levelAfterLayers || inputs.length < 2) {
    return undefined;
  }
  return {
    goal: "level",
    inputs,
    maxLsn: endOf(inputs[0]!),
    remove: inputs,
    retained: [],
    cutoff: 0 as Lsn,
    cutPoints: sorted(branchPoints),
    imageLayerLsn: undefined,
    moreBelow: true,
  };
}

function planImages<L extends PlannedLayer>(
  { layers }: PlanSituation<L>,
  { imageRatio, minCompactionBytes }: PlanSettings,
): CompactionPlan<L> | undefined {
  const [newest] = imageSets(layers);
  const base = newest?.images ?? [];
  const above = layers.filter((layer) => newest === undefined || endOf(layer) > newest.lsn);
  const due = Math.max(minCompactionBytes, bytesOf(base) * imageRatio);
  if (above.length === 0 || bytesOf(above) < due) {
    return undefined;
  }
  const lsn = endOf(above[0]!);
  return {
    goal: "images",
    inputs: [...above, ...base],
    maxLsn: lsn,
    remove: [],
    retained: [],
    cutoff: lsn,
    cutPoints: [],
    imageLayerLsn: lsn,
    moreBelow: false,
  };
}

/** Below image layers that are at or below the cutoff only what is retained is needed. */
function planCollection<L extends PlannedLayer>(
  situation: PlanSituation<L>,
  settings: PlanSettings,
): CompactionPlan<L> | undefined {
  const { layers, cutoff } = situation;
  const base = imageSets(layers).find(({ lsn }) => lsn <= cutoff);
  if (base === undefined) {
    return undefined;
  }
  const below = layers.filter((layer) => endOf(layer) <= base.lsn && !base.images.includes(layer));
  const retained = situation.retained.filter((lsn) => lsn < base.lsn);
  return planRewrite(below, retained, false, situation, settings);
}

/** A branch's own layers stay deltas: what they lack is in its ancestors. */
function planBranchCollection<L extends PlannedLayer>(
  situation: PlanSituation<L>,
  settings: PlanSettings,
): CompactionPlan<L> | undefined {
  const { layers, cutoff } = situation;
  const below = layers.filter((layer) => endOf(layer) <= cutoff);
  if (below.length === 0) {
    return undefined;
  }
  const newest = endOf(below[0]!);
  const retained = [...situation.retained.filter((lsn) => lsn < newest), newest];
  return planRewrite(below, retained, true, situation, settings);
}

function planRewrite<L extends PlannedLayer>(
  below: readonly L[],
  retained: readonly Lsn[],
  moreBelow: boolean,
  situation: PlanSituation<L>,
  { collectRatio, minCompactionBytes }: PlanSettings,
): CompactionPlan<L> | undefined {
  if (below.length === 0) {
    return undefined;
  }
  const { collected } = situation;
  const newest = retained.at(-1);
  const inputs = newest === undefined ? [] : below.filter(({ file }) => file.lsnStart <= newest);
  const kept = below.filter((layer) => collected?.layers.has(layer) === true);
  const fresh = bytesOf(below) - bytesOf(kept);
  const isLess = collected?.retained.some((lsn) => !situation.retained.includes(lsn)) === true;
  const isDue = isLess
    ? bytesOf(below) >= minCompactionBytes
    : fresh > 0 && fresh >= Math.max(minCompactionBytes, bytesOf(kept) * collectRatio);
  const isFree = inputs.length === 0;
  if (!isFree && !isDue) {
    return undefined;
  }
  return {
    goal: "collect",
    inputs,
    maxLsn: newest ?? (0 as Lsn),
    remove: below,
    retained,
    cutoff: newest ?? (0 as Lsn),
    cutPoints: retained,
    imageLayerLsn: undefined,
    moreBelow,
  };
}

function sorted(lsns: readonly Lsn[]): Lsn[] {
  return [...new Set(lsns)].sort((a, b) => a - b);
}
