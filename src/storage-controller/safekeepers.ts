// What is asked of the safekeepers of a timeline: to hold a timeline, to drop it, how far its WAL goes.

import { errorKind, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { type Lsn, maxLsn, parseLsn, toLsn } from "../base/lsn.ts";
import { splitAddress } from "../compute/api.ts";
import type { TimelineInfo } from "../pageserver/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
import type { StorageNode } from "./controller-state.ts";

/** The membership that a timeline is created in. */
export const FIRST_GENERATION = 1;

function clientOf(node: StorageNode): SafekeeperHttpClient {
  return new SafekeeperHttpClient(node.listenHttpAddr);
}

/** What they are told of it. */
export type SafekeeperTimeline = Pick<
  TimelineInfo,
  "tenant_id" | "timeline_id" | "pg_version" | "system_id" | "wal_seg_size" | "start_lsn"
>;

/** Makes these safekeepers hold the timeline's WAL from its start on. Idempotent. */
export async function createOnSafekeepers(
  nodes: readonly StorageNode[],
  info: SafekeeperTimeline,
  pgVersionNumber: number,
): Promise<void> {
  const members = nodes.map((node) => {
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
    mconf: { generation: FIRST_GENERATION, members, new_members: null },
  };
  await Promise.all(
    nodes.map(async (node) => {
      try {
        await clientOf(node).createTimeline(request);
      } catch (error) {
        throw withContext(error, `create it on safekeeper ${node.id} (--sk-set can leave it out)`);
      }
    }),
  );
}

export function deleteFromSafekeepers(
  nodes: readonly StorageNode[],
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  return askAll(nodes, (client) => ignoreMissing(client.deleteTimeline(tenantId, timelineId)));
}

/** All timelines that each of them has. */
export function deleteTenantFromSafekeepers(
  nodes: readonly StorageNode[],
  tenantId: TenantId,
): Promise<void> {
  return askAll(nodes, (client) => client.deleteTenant(tenantId));
}

/** All are asked, whatever one says: "no such timeline" of one is no word on the others. */
async function askAll(
  nodes: readonly StorageNode[],
  ask: (client: SafekeeperHttpClient) => Promise<unknown>,
): Promise<void> {
  const answers = await Promise.allSettled(nodes.map((node) => ask(clientOf(node))));
  const failed = answers.find((answer) => answer.status === "rejected");
  if (failed !== undefined) {
    throw failed.reason;
  }
}

export async function ignoreMissing(work: Promise<unknown>): Promise<void> {
  try {
    await work;
  } catch (error) {
    if (errorKind(error) !== "not-found") {
      throw error;
    }
  }
}

/** The highest commit LSN that a safekeeper tells; 0 where none answers or none has any WAL. */
export async function newestCommitLsn(
  nodes: readonly StorageNode[],
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<Lsn> {
  const answers = await Promise.allSettled(
    nodes.map((node) => clientOf(node).timelineStatus(tenantId, timelineId)),
  );
  let newest = toLsn(0);
  for (const answer of answers) {
    if (answer.status === "fulfilled") {
      newest = maxLsn(newest, parseLsn(answer.value.commit_lsn) ?? newest);
    }
  }
  return newest;
}
