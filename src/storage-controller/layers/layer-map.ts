// Which layers a branch reads: its own, and those of its ancestors up to where it left them.

import type { TenantId, TimelineId } from "../../base/ids.ts";
import { addLsn, formatLsn, type Lsn, MAX_LSN, minLsn, parseLsn, toLsn } from "../../base/lsn.ts";
import type { LayerMapInfo, TimelineInfo } from "../../pageserver/api.ts";

export interface BranchLayer {
  readonly kind: "Delta" | "Image";
  /** 36 hex digits each, inclusive. */
  readonly keyStart: string;
  readonly keyEnd: string;
  readonly lsnStart: Lsn;
  /** Exclusive, and no further than the branch can see. */
  readonly lsnEnd: Lsn;
  readonly sizeBytes: number;
  readonly fileName: string;
  /** Of which timeline's map. */
  readonly timelineId: string;
  readonly isOwn: boolean;
  readonly isRemote: boolean;
}

export interface BranchLayers {
  readonly layers: readonly BranchLayer[];
  /** Where branches of it begin. */
  readonly branchPoints: readonly { readonly timelineId: string; readonly lsn: Lsn }[];
  /** Where it left its ancestor; undefined for a root. */
  readonly beginLsn: Lsn | undefined;
  readonly minReadableLsn: Lsn;
  readonly headLsn: Lsn;
  /** From here on it is in memory only; undefined: all is in files. */
  readonly memoryFrom: Lsn | undefined;
}

/** What is asked of storage. */
export interface LayerMapSource {
  timelines(tenantId: TenantId): Promise<TimelineInfo[]>;
  layers(tenantId: TenantId, timelineId: TimelineId): Promise<LayerMapInfo>;
}

/** StorageErrors of the source. */
export async function readBranchLayers(
  source: LayerMapSource,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<BranchLayers> {
  const timelines = new Map(
    (await source.timelines(tenantId)).map((info) => [info.timeline_id, info]),
  );
  const own = timelines.get(timelineId);
  const layers: BranchLayer[] = [];
  let memoryFrom: Lsn | undefined;
  let cap: Lsn = MAX_LSN;
  for (let info = own; info !== undefined; info = timelines.get(info.ancestor_timeline_id ?? "")) {
    const isOwn = info === own;
    const map = await source.layers(tenantId, info.timeline_id as TimelineId);
    if (isOwn) {
      memoryFrom = map.in_memory_layers.map(({ lsn_start }) => lsnOf(lsn_start))[0];
    }
    layers.push(...seenLayers(map, info.timeline_id, isOwn, cap));
    cap = minLsn(cap, lsnOf(info.ancestor_lsn ?? ""));
  }
  return {
    layers,
    branchPoints: [...timelines.values()]
      .filter((info) => info.ancestor_timeline_id === timelineId)
      .map((info) => ({ timelineId: info.timeline_id, lsn: lsnOf(info.ancestor_lsn ?? "") })),
    beginLsn: own?.ancestor_timeline_id == null ? undefined : lsnOf(own.start_lsn),
    minReadableLsn: lsnOf(own?.min_readable_lsn ?? ""),
    headLsn: lsnOf(own?.last_record_lsn ?? ""),
    memoryFrom,
  };
}

function* seenLayers(
  map: LayerMapInfo,
  timelineId: string,
  isOwn: boolean,
  cap: Lsn,
): Generator<BranchLayer> {
  for (const layer of map.historic_layers) {
    const lsnStart = lsnOf(layer.lsn_start);
    const ownCap = layer.cap_lsn === null ? cap : minLsn(cap, lsnOf(layer.cap_lsn));
    if (lsnStart <= ownCap) {
      yield {
        kind: layer.kind,
        keyStart: layer.key_start,
        keyEnd: layer.key_end,
        lsnStart,
        lsnEnd:
          ownCap === MAX_LSN
            ? lsnOf(layer.lsn_end)
            : minLsn(lsnOf(layer.lsn_end), addLsn(ownCap, 1)),
        sizeBytes: layer.layer_file_size,
        fileName: layer.layer_file_name,
        timelineId,
        isOwn,
        isRemote: layer.remote,
      };
    }
  }
}

function lsnOf(text: string): Lsn {
  return parseLsn(text) ?? toLsn(0);
}

/** Layers of one kind over the same LSNs of one timeline: a line of the listing. */
export interface LayerGroup {
  readonly first: BranchLayer;
  keyStart: string;
  keyEnd: string;
  count: number;
  sizeBytes: number;
  remote: number;
}

/** Newest first; `each`: every layer by itself. */
export function groupLayers(layers: readonly BranchLayer[], each: boolean): LayerGroup[] {
  const groups = new Map<string, LayerGroup>();
  const sorted = layers.toSorted(
    (a, b) =>
      b.lsnEnd - a.lsnEnd ||
      b.lsnStart - a.lsnStart ||
      (a.keyStart < b.keyStart ? -1 : a.keyStart > b.keyStart ? 1 : 0),
  );
  for (const layer of sorted) {
    const { kind, lsnStart, lsnEnd, timelineId, fileName } = layer;
    const key = each ? `${timelineId} ${fileName}` : `${kind} ${lsnStart} ${lsnEnd} ${timelineId}`;
    const group = groups.get(key);
    const remote = layer.isRemote ? 1 : 0;
    if (group === undefined) {
      const { keyStart, keyEnd, sizeBytes } = layer;
      groups.set(key, { first: layer, keyStart, keyEnd, count: 1, sizeBytes, remote });
    } else {
      if (layer.keyStart < group.keyStart) {
        group.keyStart = layer.keyStart;
      }
      if (layer.keyEnd > group.keyEnd) {
        group.keyEnd = layer.keyEnd;
      }
      group.count++;
      group.sizeBytes += layer.sizeBytes;
      group.remote += remote;
    }
  }
  return [...groups.values()];
}

/** `A to B`, B the last LSN of it; one LSN for an image. */
export function lsnRange({ kind, lsnStart, lsnEnd }: BranchLayer): string {
  return kind === "Image"
    ? formatLsn(lsnStart)
    : `${formatLsn(lsnStart)} to ${formatLsn(addLsn(lsnEnd, -1))}`;
}

/** Behind all keys, in the order of texts as well. */
export const END_KEY = "G".repeat(36);

export interface KeyAxis {
  /** Where layers begin, and where the next key after one is, ascending; each once. */
  readonly bounds: readonly string[];
  /** Place of a layer among them, `[from, to)`. */
  placeOf(layer: KeyRange): { readonly from: number; readonly to: number };
}

interface KeyRange {
  readonly keyStart: string;
  readonly keyEnd: string;
}

/** Keys in the distances of the layers' bounds, not of their numbers: nearly all of the key space is empty. */
export function keyAxis(layers: readonly KeyRange[]): KeyAxis {
  const bounds = [
    ...new Set(layers.flatMap(({ keyStart, keyEnd }) => [keyStart, keyAfter(keyEnd)])),
  ].sort();
  const rank = new Map(bounds.map((key, i) => [key, i]));
  return {
    bounds,
    placeOf: ({ keyStart, keyEnd }) => ({
      from: rank.get(keyStart)!,
      to: rank.get(keyAfter(keyEnd))!,
    }),
  };
}

/** Where a layer ends the next one begins. */
function keyAfter(key: string): string {
  const next = (BigInt(`0x${key}`) + 1n).toString(16).toUpperCase();
  return next.length > key.length ? END_KEY : next.padStart(key.length, "0");
}

/** A delta that was written as WAL came in, of all keys, and not yet sorted by them. */
export function isLevel0({ kind, keyStart, keyEnd }: BranchLayer): boolean {
  return kind === "Delta" && /^0+$/.test(keyStart) && /^F+$/.test(keyEnd);
}
