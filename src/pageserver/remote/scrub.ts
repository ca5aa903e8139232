// Compares a tenant's objects with what its indexes name: what is missing, what nobody names, what differs.

import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { MAX_PAGE, type ObjectInfo } from "../../object-store/object-store.ts";
import {
  ask,
  listObjects,
  retrying,
  SMALL_CALL_MS,
  type StoreAccess,
  withDeadline,
} from "../transfers/store-calls.ts";
import { listIndexes, readIndexes } from "./load-tenant.ts";
import {
  type IndexName,
  manifestKey,
  newestIndexes,
  parseRemoteKey,
  tenantPrefix,
} from "./remote-paths.ts";

/*
 * An orphan is a layer of a lower generation than one's own that no newest index names, or an index or manifest that two
 * newer ones have made needless or that came too late, older than `minAgeMs`. Layers of one's own generation may still wait for
 * their index. The indexes are listed before and after they are read, so what they say is from one moment.
 */

export interface ScrubOptions extends StoreAccess {
  readonly tenantId: TenantId;
  /** One's own. */
  readonly generation: number;
  /** The layers that an index names. Throws StorageError `corrupt` for what is no index. */
  readonly layersOf: (bytes: Uint8Array, key: string) => Iterable<NamedLayer>;
  /** Younger objects are no orphans: someone may be about to name them. */
  readonly minAgeMs: number;
  /** Absent: nothing is changed. */
  readonly fix?: ScrubFix;
}

export interface ScrubFix {
  /** Whether one's generation is still the current one. */
  readonly validate: () => Promise<boolean>;
  /** Whether a timeline that is open in this process names the layer, or will when its index is put. */
  readonly isInUse: (key: string) => boolean;
}

export interface NamedLayer {
  readonly key: string;
  readonly sizeBytes: number;
}

export interface ScrubReport {
  readonly timelines: number;
  readonly objects: number;
  readonly bytes: number;
  readonly orphans: readonly NamedLayer[];
  /** Named, but not there. */
  readonly missing: readonly (NamedLayer & { readonly indexKey: string })[];
  /** There, but not of the size that the index says. */
  readonly differing: readonly (NamedLayer & {
    readonly indexKey: string;
    readonly storedBytes: number;
  })[];
  /** Timelines whose index cannot be read: then there are no orphans, for it may name them. */
  readonly damaged: ReadonlyMap<TimelineId, StorageError>;
  /** Keys that are none of ours; they are left alone. */
  readonly unknown: readonly string[];
  /** Keys that were deleted. */
  readonly deleted: readonly string[];
}

const SNAPSHOT_ATTEMPTS = 5;
/** Of indexes and manifests. */
const KEPT_GENERATIONS = 2;
const GENERATION_DIGITS = 8;

/**
 * StorageErrors: `conflict` where a higher generation has been here, or where there is something to delete and the generation
 * was not settled (settle-generation.ts); `fenced` where the generation is not
 * valid any more when it comes to deleting, `unavailable` also where the tenant changes all the time.
 */
export async function scrubTenant(options: ScrubOptions): Promise<ScrubReport> {
  const { tenantId, fix } = options;
  // First, so that each of these layers was there before the indexes that might name it were read.
  const listed = await listObjects(options, tenantPrefix(tenantId));
  const objects = new Map(listed.map((info) => [info.key, info]));
  const { newest, timelines, damaged } = await snapshot(options);
  const named = new Map<string, NamedLayer & { indexKey: string }>();
  for (const { index, key: indexKey } of timelines) {
    for (const layer of index) {
      named.set(layer.key, { ...layer, indexKey });
    }
  }
  const { lost, differing } = await compare(options, named, objects);
  const missing = lost.length === 0 ? [] : await stillNamed(options, lost);
  const orphans = damaged.size > 0 ? [] : findOrphans(options, named, newest, listed);
  return {
    timelines: newest.size,
    objects: objects.size,
    bytes: [...objects.values()].reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    orphans,
    missing,
    differing,
    damaged,
    unknown: [...objects.keys()].filter((key) => parseRemoteKey(key) === undefined),
    deleted: fix === undefined ? [] : await deleteOrphans(options, fix, orphans, objects),
  };
}

/** What all indexes say at one moment. */
async function snapshot(options: ScrubOptions) {
  const { tenantId, generation, layersOf } = options;
  const decode = (bytes: Uint8Array, key: string) => [...layersOf(bytes, key)];
  let before = await listIndexes(options, tenantId);
  for (let attempt = 0; attempt < SNAPSHOT_ATTEMPTS; attempt++) {
    const newest = newestIndexes(
      before.map(({ key }) => key),
      generation,
    );
    const tenant = await readIndexes(options, newest, decode);
    const after = await listIndexes(options, tenantId);
    if (identity(before) === identity(after)) {
      return { newest, ...tenant };
    }
    before = after;
  }
  const message = `tenant ${tenantId} changes while it is looked at; try again`;
  throw new StorageError("unavailable", "tenant-changes", message);
}

const identity = (objects: readonly ObjectInfo[]) =>
  objects.map(({ key, etag }) => `${key} ${etag}`).join("\n");

function findOrphans(
  { generation, minAgeMs }: ScrubOptions,
  named: ReadonlyMap<string, NamedLayer>,
  newest: ReadonlyMap<TimelineId, IndexName>,
  listed: readonly ObjectInfo[],
): ObjectInfo[] {
  const bornBeforeMs = nowMs() - minAgeMs;
  /** Indexes and manifests seen so far, by what comes before their generation. */
  const newer = new Map<string, number>();
  const orphans: ObjectInfo[] = [];
  for (const info of listed.toReversed()) {
    const object = parseRemoteKey(info.key);
    let isNeeded = named.has(info.key);
    if (object !== undefined && object.kind !== "layer") {
      const family = info.key.slice(0, -GENERATION_DIGITS);
      const count = newer.get(family) ?? 0;
      newer.set(family, count + 1);
      const isKnown = object.kind !== "index" || newest.has(object.timelineId);
      isNeeded = isKnown && count < KEPT_GENERATIONS;
    }
    const isForeign = object === undefined || object.generation >= generation;
    if (!isForeign && !isNeeded && info.lastModifiedMs <= bornBeforeMs) {
      orphans.push(info);
    }
  }
  return orphans.toReversed();
}

/** Layers that are named and were not listed are asked for: they may be younger than the listing. */
async function compare(
  options: ScrubOptions,
  named: ReadonlyMap<string, NamedLayer & { readonly indexKey: string }>,
  objects: ReadonlyMap<string, ObjectInfo>,
) {
  const lost = [];
  const differing = [];
  for (const layer of named.values()) {
    const storedBytes = objects.get(layer.key)?.sizeBytes ?? (await sizeOf(options, layer.key));
    if (storedBytes === undefined) {
      lost.push(layer);
    } else if (storedBytes !== layer.sizeBytes) {
      differing.push({ ...layer, storedBytes });
    }
  }
  return { lost, differing };
}

/** Of layers that were not there: those that an index names even now. The others have gone with the index that named them. */
async function stillNamed<L extends NamedLayer>(options: ScrubOptions, layers: L[]): Promise<L[]> {
  const { timelines } = await snapshot(options);
  const named = new Set(timelines.flatMap(({ index }) => index.map(({ key }) => key)));
  return layers.filter(({ key }) => named.has(key));
}

async function sizeOf(options: ScrubOptions, key: string): Promise<number | undefined> {
  try {
    const info = await ask(options, `head ${key}`, (signal) => options.store.head(key, { signal }));
    return info.sizeBytes;
  } catch (error) {
    if (error instanceof StorageError && error.code === "object-not-found") {
      return undefined;
    }
    throw error;
  }
}

async function deleteOrphans(
  { store, logger, signal, randomInt, tenantId, generation }: ScrubOptions,
  fix: ScrubFix,
  orphans: readonly ObjectInfo[],
  objects: ReadonlyMap<string, ObjectInfo>,
): Promise<string[]> {
  const deleted: string[] = [];
  if (orphans.length > 0 && !objects.has(manifestKey(tenantId, generation))) {
    const message = `indexes of lower generations of tenant ${tenantId} may still come, and name what is an orphan now: settle generation ${generation} first`;
    throw new StorageError("conflict", "generation-not-settled", message);
  }
  for (let at = 0; at < orphans.length; at += MAX_PAGE) {
    const doing = `delete orphans of tenant ${tenantId}`;
    await retrying({ doing, logger, signal, randomInt }, async () => {
      if (!(await fix.validate())) {
        const message = `generation ${generation} of tenant ${tenantId} is not the current one: nothing more is deleted`;
        throw new StorageError("fenced", "stale-generation", message);
      }
      const page = orphans.slice(at, at + MAX_PAGE).map(({ key }) => key);
      const keys = page.filter((key) => !fix.isInUse(key));
      await withDeadline(doing, SMALL_CALL_MS, signal, (callSignal) =>
        store.delete(keys, { signal: callSignal }),
      );
      deleted.push(...keys);
    });
  }
  return deleted;
}
