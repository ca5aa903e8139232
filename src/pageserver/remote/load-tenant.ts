// What the object store says of a tenant: its timelines, each by its newest index.

import { type StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { type ObjectInfo, readObject } from "../../object-store/object-store.ts";
import { ask, listObjects, type StoreAccess } from "../transfers/store-calls.ts";
import {
  type IndexName,
  indexPrefix,
  lastKeyOf,
  newestIndexes,
  parseRemoteKey,
  TENANTS_PREFIX,
  tenantPrefix,
} from "./remote-paths.ts";

export interface RemoteIndex<T> extends IndexName {
  readonly index: T;
}

export interface RemoteTenant<T> {
  readonly timelines: readonly RemoteIndex<T>[];
  /** Timelines that there are, but whose index cannot be read; the message names the object. */
  readonly damaged: ReadonlyMap<TimelineId, StorageError>;
}

/** At once. */
const READS = 16;
const MAX_INDEX_BYTES = 256 * 1024 * 1024;
/** Beside `corrupt`: it was listed a moment ago. */
const DAMAGE = new Set(["object-not-found", "object-too-large"]);

/**
 * Reads the tenant in one's own `generation`. `decode` throws StorageError `corrupt` for bytes that are no index; the key
 * is for its message. StorageErrors: `conflict` where a higher generation has been here, `unavailable`.
 */
export async function loadTenant<T>(
  access: StoreAccess,
  tenantId: TenantId,
  generation: number,
  decode: (bytes: Uint8Array, key: string) => T,
): Promise<RemoteTenant<T>> {
  const indexes = await listIndexes(access, tenantId);
  return readIndexes(
    access,
    newestIndexes(
      indexes.map(({ key }) => key),
      generation,
    ),
    decode,
  );
}

/** The indexes of all timelines of the tenant, its manifests and settings, of all generations, in the order of their keys. */
export async function listIndexes(
  access: StoreAccess,
  tenantId: TenantId,
): Promise<readonly ObjectInfo[]> {
  const objects = await listObjects(access, tenantPrefix(tenantId), pastLayers);
  return objects.filter(({ key }) => {
    const kind = parseRemoteKey(key)?.kind;
    return kind !== undefined && kind !== "layer";
  });
}

/** All that have an object, in ascending order. `unavailable`. */
export async function listTenants(access: StoreAccess): Promise<TenantId[]> {
  const tenants: TenantId[] = [];
  let after: string | undefined;
  for (;;) {
    const start = after;
    // One key of each is enough.
    const page = await ask(access, "list tenants", (signal) =>
      access.store.list({ prefix: TENANTS_PREFIX, after: start, limit: 1, signal }),
    );
    const key = page.objects[0]?.key;
    if (key === undefined) {
      return tenants;
    }
    const tenantId = parseRemoteKey(key)?.tenantId;
    if (tenantId !== undefined) {
      tenants.push(tenantId);
    }
    after = tenantId === undefined ? key : lastKeyOf(tenantId);
  }
}

/** Where to go on behind a page that ended among a timeline's layers: its indexes come after them. */
function pastLayers(key: string): string {
  const object = parseRemoteKey(key);
  return object?.kind === "layer" ? indexPrefix(object.tenantId, object.timelineId) : key;
}

export async function readIndexes<T>(
  access: StoreAccess,
  names: ReadonlyMap<TimelineId, IndexName>,
  decode: (bytes: Uint8Array, key: string) => T,
): Promise<RemoteTenant<T>> {
  const timelines: RemoteIndex<T>[] = [];
  const damaged = new Map<TimelineId, StorageError>();
  const left = [...names.values()].toReversed();
  const read = async () => {
    for (let name = left.pop(); name !== undefined; name = left.pop()) {
      const { key, timelineId } = name;
      try {
        const bytes = await ask(access, `read ${key}`, (signal) =>
          readObject(access.store, key, { signal, maxBytes: MAX_INDEX_BYTES }),
        );
        timelines.push({ ...name, index: decode(bytes, key) });
      } catch (error) {
        const named = withContext(error, `load ${key}`);
        if (named.kind !== "corrupt" && !DAMAGE.has(named.code)) {
          throw access.signal.aborted ? error : named;
        }
        damaged.set(timelineId, named);
      }
    }
  };
  await Promise.all(Array.from({ length: READS }, read));
  return { timelines: timelines.toSorted((a, b) => (a.key < b.key ? -1 : 1)), damaged };
}
