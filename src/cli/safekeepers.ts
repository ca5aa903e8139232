// What the command line asks of the safekeepers: to hold a timeline, to drop it, how far its WAL goes.

import type { TenantId, TimelineId } from "../base/ids.ts";
import { type Lsn, maxLsn, parseLsn, toLsn } from "../base/lsn.ts";
import { splitAddress } from "../compute/api.ts";
import type { TimelineInfo } from "../pageserver/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { StorageNode, StrataConfig } from "./config.ts";

function clientOf(node: StorageNode): SafekeeperHttpClient {
  return new SafekeeperHttpClient(`http://${node.listenHttpAddr}`);
}

/** Makes every safekeeper hold the timeline's WAL from its start on. Idempotent. */
export async function createOnSafekeepers(
  config: StrataConfig,
  info: TimelineInfo,
  pgVersionNumber: number,
): Promise<void> {
  const members = config.safekeepers.map((node) => {
    const { host, port } = splitAddress(node.listenPgAddr);
    return { id: node.id, host, pg_port: port };
  });
  const request = {
    tenant_id: info.tenant_id,
    timeline_id: info.timeline_id,
    pg_version: pgVersionNumber,
    system_id: info.system_id,
    wal_seg_size: info.wal_seg_size,
    start_lsn: info.start_lsn,
    mconf: { generation: 1, members, new_members: null },
  };
  await Promise.all(config.safekeepers.map((node) => clientOf(node).createTimeline(request)));
}

export async function deleteFromSafekeepers(
  config: StrataConfig,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  await Promise.all(
    config.safekeepers.map((node) => clientOf(node).deleteTimeline(tenantId, timelineId)),
  );
}

/** The highest commit LSN that a safekeeper tells; 0 where none answers or none has any WAL. */
export async function newestCommitLsn(
  config: StrataConfig,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<Lsn> {
  const answers = await Promise.allSettled(
    config.safekeepers.map((node) => clientOf(node).timelineStatus(tenantId, timelineId)),
  );
  let newest = toLsn(0);
  for (const answer of answers) {
    if (answer.status === "fulfilled") {
      newest = maxLsn(newest, parseLsn(answer.value.commit_lsn) ?? newest);
    }
  }
  return newest;
}
