// Keys of a tenant's objects in the object store: what they look like, and what a listing says.
//
//   tenants/<tenant>/timelines/<timeline that made it>/<layer file name>
//   tenants/<tenant>/timelines/<timeline>/index_part.json-<generation>
//   tenants/<tenant>/tenant-manifest.json-<generation>
//   tenants/<tenant>/tenant_config.json-<generation>
//   deleted-tenants/<tenant>-<generation>
//
// Neon's tree. Generations are 8 hexadecimal digits; a layer's file name ends in the generation and the
// sequence number of its making, so no two lives of a pageserver write the same key. The index of a
// timeline may name layers that another timeline of the tenant made. That there is an index says that
// there is a timeline.

import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";

export type RemoteObject =
  | {
      readonly kind: "layer";
      readonly tenantId: TenantId;
      /** Who made it. */
      readonly timelineId: TimelineId;
      readonly fileName: string;
      readonly generation: number;
    }
  | {
      readonly kind: "index";
      readonly tenantId: TenantId;
      readonly timelineId: TimelineId;
      readonly generation: number;
    }
  | {
      readonly kind: "manifest" | "config";
      readonly tenantId: TenantId;
      readonly generation: number;
    };

const INDEX_NAME = "index_part.json";
const MANIFEST_NAME = "tenant-manifest.json";
const CONFIG_NAME = "tenant_config.json";
const KEY = /^tenants\/([0-9a-f]{32})\/(?:timelines\/([0-9a-f]{32})\/)?([^/]+)$/;
const DELETED_TENANT = /^deleted-tenants\/([0-9a-f]{32})-([0-9a-f]{8})$/;
const WITH_GENERATION = /^(.+)-([0-9a-f]{8})$/;
/** What comes before it is layer-format.ts's business. Homes of format version 1 have `-v1-<generation>`. */
const LAYER = /__[0-9A-F-]+-(?:v1-([0-9a-f]{8})|([0-9a-f]{8})-[0-9a-f]{8})$/;

function hex8(generation: number): string {
  return generation.toString(16).padStart(8, "0");
}

export const TENANTS_PREFIX = "tenants/";

/** All that a tenant has. */
export function tenantPrefix(tenantId: TenantId): string {
  return `${TENANTS_PREFIX}${tenantId}/`;
}

/** Above every key of the tenant, below every key of the next: a place to go on behind. */
export function lastKeyOf(tenantId: TenantId): string {
  return `${tenantPrefix(tenantId)}~`;
}

export function timelinesPrefix(tenantId: TenantId): string {
  return `${tenantPrefix(tenantId)}timelines/`;
}

export function timelinePrefix(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinesPrefix(tenantId)}${timelineId}/`;
}

/** `maker`: the timeline that made it, whoever names it. */
export function layerKey(tenantId: TenantId, maker: TimelineId, fileName: string): string {
  return timelinePrefix(tenantId, maker) + fileName;
}

export function indexKey(tenantId: TenantId, timelineId: TimelineId, generation: number): string {
  return `${indexPrefix(tenantId, timelineId)}${hex8(generation)}`;
}

/** Of a timeline's indexes; they sort after its layers, whose names begin with digits or capitals. */
export function indexPrefix(tenantId: TenantId, timelineId: TimelineId): string {
  return `${timelinePrefix(tenantId, timelineId)}${INDEX_NAME}-`;
}

export function manifestKey(tenantId: TenantId, generation: number): string {
  return `${tenantPrefix(tenantId)}${MANIFEST_NAME}-${hex8(generation)}`;
}

export function configKey(tenantId: TenantId, generation: number): string {
  return `${tenantPrefix(tenantId)}${CONFIG_NAME}-${hex8(generation)}`;
}

export const DELETED_TENANTS_PREFIX = "deleted-tenants/";

/** That there is such an object says that the tenant is gone (deleted-tenants.ts). */
export function deletedTenantKey(tenantId: TenantId, generation: number): string {
  return `${DELETED_TENANTS_PREFIX}${tenantId}-${hex8(generation)}`;
}

/** Undefined for a key that `deletedTenantKey` does not give. */
export function parseDeletedTenantKey(
  key: string,
): { readonly tenantId: TenantId; readonly generation: number } | undefined {
  const [, tenant, digits] = DELETED_TENANT.exec(key) ?? [];
  return tenant === undefined
    ? undefined
    : { tenantId: parseTenantId(tenant), generation: Number.parseInt(digits!, 16) };
}

/** Undefined for a key that is none of a tenant's. */
export function parseRemoteKey(key: string): RemoteObject | undefined {
  const [, tenant, timeline, name] = KEY.exec(key) ?? [];
  if (tenant === undefined || name === undefined) {
    return undefined;
  }
  const tenantId = parseTenantId(tenant);
  const [, base, digits] = WITH_GENERATION.exec(name) ?? [];
  const generation = Number.parseInt(digits ?? "", 16);
  if (timeline === undefined) {
    const kind = base === MANIFEST_NAME ? "manifest" : base === CONFIG_NAME ? "config" : undefined;
    return kind && { kind, tenantId, generation };
  }
  const timelineId = parseTimelineId(timeline);
  if (base === INDEX_NAME) {
    return { kind: "index", tenantId, timelineId, generation };
  }
  const layer = LAYER.exec(name);
  return layer === null
    ? undefined
    : {
        kind: "layer",
        tenantId,
        timelineId,
        fileName: name,
        generation: Number.parseInt(layer[1] ?? layer[2]!, 16),
      };
}

export interface IndexName {
  readonly timelineId: TimelineId;
  readonly generation: number;
  readonly key: string;
}

/** The newest generation that a manifest in the listing has; 0 without one. */
export function settledGeneration(keys: Iterable<string>): number {
  let settled = 0;
  for (const key of keys) {
    const object = parseRemoteKey(key);
    settled = object?.kind === "manifest" ? Math.max(settled, object.generation) : settled;
  }
  return settled;
}

/** The key of the newest settings that the listing has. */
export function newestConfig(
  keys: Iterable<string>,
): { readonly key: string; readonly generation: number } | undefined {
  let newest: { key: string; generation: number } | undefined;
  for (const key of keys) {
    const object = parseRemoteKey(key);
    if (object?.kind === "config" && object.generation >= (newest?.generation ?? 0)) {
      newest = { key, generation: object.generation };
    }
  }
  return newest;
}

/**
 * The timelines that a listing has, each by the newest of its indexes. A manifest says that every timeline there was has an
 * index of the manifest's generation or a later one: an older index came too late, from a pageserver that was
 * replaced, and nobody was told of that timeline. `generation` is one's own: StorageError `conflict`
 * (`newer-generation`) where an object has a higher one, for then another pageserver has the tenant.
 */
export function newestIndexes(
  keys: Iterable<string>,
  generation: number,
): ReadonlyMap<TimelineId, IndexName> {
  const newest = new Map<TimelineId, IndexName>();
  let settled = 0;
  for (const key of keys) {
    const object = parseRemoteKey(key);
    if (object === undefined || object.kind === "layer") {
      continue;
    }
    if (object.generation > generation) {
      throw new StorageError(
        "conflict",
        "newer-generation",
        `${key} is of generation ${object.generation}, this pageserver has tenant ${object.tenantId} in generation ${generation} only: another one has taken it over`,
        { fields: { key, generation } },
      );
    }
    if (object.kind === "manifest") {
      settled = Math.max(settled, object.generation);
    } else if (
      object.kind === "index" &&
      object.generation >= (newest.get(object.timelineId)?.generation ?? 0)
    ) {
      const { timelineId } = object;
      newest.set(timelineId, { timelineId, generation: object.generation, key });
    }
  }
  return new Map([...newest].filter(([, index]) => index.generation >= settled));
}
