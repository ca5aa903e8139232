// WAL of a branch that is in layers, or that only the object store has.

import type { TenantId, TimelineId } from "../../src/base/ids.ts";
import { type Lsn, parseLsn, segmentStart } from "../../src/base/lsn.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { SafekeeperHttpClient } from "../../src/safekeeper/client.ts";
import type { TestCluster } from "../cluster.ts";
import { eventually } from "../eventually.ts";

/** Resolves when all WAL of `main` below `lsn`, a segment's start, has left the safekeepers' disks. */
export async function walLeavesDisks(cluster: TestCluster, lsn: Lsn): Promise<void> {
  const { tenantId, timelineId } = cluster.endpointSpec();
  const { pageservers, safekeepers } = cluster.config();
  const pageserver = new PageserverHttpClient(pageservers[0]!.listenHttpAddr);
  await eventually("WAL to leave the disks", async () => {
    await pageserver.checkpoint(tenantId, timelineId);
    const all = await Promise.all(
      safekeepers.map(({ listenHttpAddr }) =>
        new SafekeeperHttpClient(`http://${listenHttpAddr}`).timelineStatus(
          tenantId as TenantId,
          timelineId as TimelineId,
        ),
      ),
    );
    return all.every((one) => parseLsn(one.local_wal_start_lsn)! >= lsn);
  });
}

/** Resolves when the pageserver has taken in all that is committed on the timeline now. */
export async function committedIsTakenIn(
  cluster: TestCluster,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  const { pageservers, safekeepers } = cluster.config();
  const pageserver = new PageserverHttpClient(pageservers[0]!.listenHttpAddr);
  const all = await Promise.all(
    safekeepers.map(({ listenHttpAddr }) =>
      new SafekeeperHttpClient(`http://${listenHttpAddr}`).timelineStatus(tenantId, timelineId),
    ),
  );
  const committed = all.map(({ commit_lsn }) => parseLsn(commit_lsn)!);
  await eventually("the pageserver to have what is committed", async () => {
    const { last_record_lsn } = await pageserver.getTimeline(tenantId, timelineId);
    return committed.every((lsn) => parseLsn(last_record_lsn)! >= lsn);
  });
}

/** Resolves when all that is committed on the timeline is in layer files of the pageserver. */
export async function checkpointCommitted(
  cluster: TestCluster,
  tenantId: TenantId,
  timelineId: TimelineId,
): Promise<void> {
  await committedIsTakenIn(cluster, tenantId, timelineId);
  const { listenHttpAddr } = cluster.config().pageservers[0]!;
  await new PageserverHttpClient(listenHttpAddr).checkpoint(tenantId, timelineId);
}

/** Start of the segment that `main` writes. */
export async function segmentOfMain(cluster: TestCluster): Promise<Lsn> {
  const [row] = await cluster.query("main", "select pg_current_wal_lsn()::text lsn");
  return segmentStart(parseLsn(String(row!["lsn"]))!);
}
