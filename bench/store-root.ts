// A page store without Postgres for the benchmarks of it: one root with an image layer.

import { join } from "node:path";
import { type Disk, REAL_DISK } from "../src/base/disk.ts";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import type { KeyPrefix } from "../src/pageserver/layers/key.ts";
import type { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { writeImageLayer } from "../testing/storage-fixture.ts";

export const START_LSN: Lsn = toLsn(0x200_0028);

/** For thousands of layers or branches, where what is measured is not the cost of their syncs. */
export const UNSYNCED_DISK: Disk = {
  ...REAL_DISK,
  background: {
    ...REAL_DISK.background,
    fsync: async () => undefined,
    fsyncDirectory: async () => undefined,
  },
};

/** Of a tenant of its own. `directory`: for the layer until the root has it. */
export async function makeRoot(
  manager: TenantManager,
  directory: string,
  values: Iterable<{ prefix: KeyPrefix; index: number; value: Uint8Array }>,
): Promise<Timeline> {
  const layer = await writeImageLayer(directory, START_LSN, values);
  const tenant = await manager.createTenant(generateTenantId());
  return tenant.createRoot({
    timelineId: generateTimelineId(),
    pgVersion: 17,
    dataChecksums: false,
    systemId: 1n,
    walSegmentSize: 1 << 24,
    startLsn: START_LSN,
    prevRecordLsn: toLsn(0),
    layerPaths: [{ path: join(directory, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
}

/** A delta of kind 4 that marks one transaction: the cheapest redo, so that storage is what is measured. */
export function clogDelta(xid: number): Uint8Array {
  const delta = new Uint8Array(8);
  const view = new DataView(delta.buffer);
  view.setUint8(0, 4);
  view.setUint8(1, 1);
  view.setUint16(2, 1, true);
  view.setUint32(4, xid, true);
  return delta;
}
