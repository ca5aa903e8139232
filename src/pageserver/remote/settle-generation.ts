// Makes the indexes of lower generations of a tenant count no more, so that layers may be deleted.

import type { TenantId } from "../../base/ids.ts";
import {
  retrying,
  SMALL_CALL_MS,
  type StoreAccess,
  withDeadline,
} from "../transfers/store-calls.ts";
import { manifestKey } from "./remote-paths.ts";

/*
 * A layer may be named by any timeline's index. A pageserver that was replaced may still put an index of its lower
 * generation, of a timeline that has none of ours yet, or that we know nothing of: whoever attaches the tenant next would
 * read it, and miss what we have deleted meanwhile. So before a generation deletes its first layer of a lower one, each timeline
 * has an index of this generation, and a manifest says so. Layers of one's own generation no lower index names.
 */

/**
 * `indexes`: puts of an index in this generation, one for each timeline of the tenant, also for those that nobody
 * uses. Tried for ever until the signal ends it; rejects as an index does. `bytes` are the manifest's.
 */
export async function settleGeneration(
  access: StoreAccess,
  tenantId: TenantId,
  generation: number,
  indexes: readonly Promise<void>[],
  bytes: Uint8Array,
): Promise<void> {
  await Promise.all(indexes);
  const key = manifestKey(tenantId, generation);
  const doing = `upload ${key}`;
  await retrying({ ...access, doing }, () =>
    withDeadline(doing, SMALL_CALL_MS, access.signal, (signal) =>
      access.store.put(key, bytes, { signal }),
    ),
  );
}
