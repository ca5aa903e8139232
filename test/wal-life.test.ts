// The life of WAL on real daemons: into the object store, off the disks, and back from either.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { TenantId, TimelineId } from "../src/base/ids.ts";
import { type Lsn, parseLsn, segmentStart, WAL_SEGMENT_SIZE } from "../src/base/lsn.ts";
import { PageserverHttpClient } from "../src/pageserver/client.ts";
import type { SafekeeperTimelineStatus } from "../src/safekeeper/api.ts";
import { SafekeeperHttpClient } from "../src/safekeeper/client.ts";
import { RecordWalker } from "../src/wal-decoder/record-walker.ts";
import { decodeStoredSegment } from "../src/wal-decoder/stored-segment.ts";
import { TestCluster } from "../testing/cluster.ts";
import { type OwnBranch, stopBranch } from "../testing/damage.ts";
import { eventually } from "../testing/eventually.ts";
import { checkpointCommitted } from "../testing/replication/stored-wal.ts";

const NODES = [1, 2, 3];
let cluster: TestCluster;
let branch: OwnBranch;
let ids: [TenantId, TimelineId];

before(async () => {
  cluster = await TestCluster.create({
    safekeepers: 3,
    safekeeperOptions: {
      "partial-backup-timeout-ms": "500",
      "eviction-min-resident-ms": "1500",
    },
  });
  await cluster.startEndpoint("main");
  await cluster.query(
    "main",
    "create table log (id serial primary key, text text)",
    "alter table log alter text set storage external",
  );
  await cluster.ok("timeline", "branch", "--branch-name", "work");
  await cluster.startEndpoint("work", "work");
  const { tenantId, timelineId } = cluster.endpointSpec("work");
  branch = { name: "work", tenantId, timelineId };
  ids = [tenantId as TenantId, timelineId as TimelineId];
});
after(() => cluster?.[Symbol.asyncDispose]());

const httpAddr = (id: number) => cluster.config().safekeepers[id - 1]!.listenHttpAddr;
const safekeeper = (id: number) => new SafekeeperHttpClient(`http://${httpAddr(id)}`, 30_000);
const pageserver = () => new PageserverHttpClient(cluster.config().pageservers[0]!.listenHttpAddr);
const status = (id: number) => safekeeper(id).timelineStatus(...ids);
const lsn = (text: string): Lsn => parseLsn(text)!;
const store = () => join(cluster.home, "object_store");
const objects = () => join(store(), "safekeeper", branch.tenantId, branch.timelineId);
const walFiles = (id: number) =>
  readdirSync(join(cluster.home, "safekeepers", `sk${id}`, branch.tenantId, branch.timelineId))
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .sort();

/** Rows of 8 kB, not compressed: about `megabytes` of WAL. */
const write = (megabytes: number) =>
  cluster.query(
    "work",
    `insert into log (text) select repeat(i::text, 8000 / length(i::text))
       from generate_series(1, ${megabytes * 128}) i`,
  );
const count = async () => {
  const [row] = await cluster.query("work", "select count(*)::int n, sum(length(text)) l from log");
  return row;
};
const everywhere = (what: string, check: (status: SafekeeperTimelineStatus) => boolean) =>
  eventually(what, async () => (await Promise.all(NODES.map(status))).every(check));

test("WAL reaches the object store, whole and readable, and leaves the disks", async () => {
  await write(36);
  await everywhere("backup", ({ wal_backup }) => wal_backup!.lag_bytes < WAL_SEGMENT_SIZE);
  await checkpointCommitted(cluster, ...ids);
  await everywhere(
    "removal",
    ({ local_wal_start_lsn, backup_lsn }) => local_wal_start_lsn === backup_lsn,
  );
  const { timeline_start_lsn, backup_lsn, commit_lsn, pg_info } = await status(1);
  const [start, end] = [lsn(timeline_start_lsn), lsn(backup_lsn)];
  const names = readdirSync(objects()).filter((name) => /^[0-9A-F]{24}$/.test(name));
  const first = segmentStart(start);
  assert.equal(names.length, (end - first) / WAL_SEGMENT_SIZE);
  // Every record of the segments in the store is whole, and each safekeeper sends the same bytes.
  const walker = new RecordWalker({
    startLsn: start,
    segmentSize: WAL_SEGMENT_SIZE,
    systemId: BigInt(pg_info.system_id),
  });
  const wal = Buffer.concat(
    names.sort().map((name) => decodeStoredSegment(readFileSync(join(objects(), name)), name)),
  );
  walker.feed(wal.subarray(start - first));
  assert.ok(end - walker.recordEndLsn < 100_000);
  const sha256 = createHash("sha256")
    .update(wal.subarray(start - first))
    .digest("hex");
  for (const id of NODES) {
    assert.equal(await safekeeper(id).digest(...ids, start, end), sha256);
    assert.ok(walFiles(id).length <= 2);
  }
  await eventually("partial segment", () =>
    readdirSync(objects()).some((name) => name.endsWith(".partial")),
  );
  assert.ok(lsn(commit_lsn) >= end);
});

test("a safekeeper whose whole directory is gone pulls everything and is a full member again", async () => {
  await cluster.kill9("safekeeper-3");
  rmSync(join(cluster.home, "safekeepers", "sk3"), { recursive: true });
  await cluster.ok("safekeeper", "start", "3");
  const before = await count();
  await write(5);
  for (const name of ["main", branch.name]) {
    const fill = ["safekeeper-migrate", "--branch-name", name, "--new-sk-set", "1,2,3"];
    await cluster.ok("timeline", ...fill);
  }
  // Now it makes the majority.
  await cluster.kill9("safekeeper-1");
  await write(5);
  assert.ok(Number((await count())!["n"]) > Number(before!["n"]));
  await cluster.ok("safekeeper", "start", "1");
  await everywhere("catch-up", ({ flush_lsn, commit_lsn }) => flush_lsn === commit_lsn);
  const { timeline_start_lsn, commit_lsn } = await status(1);
  const range = [lsn(timeline_start_lsn), lsn(commit_lsn)] as const;
  const digests = await Promise.all(NODES.map((id) => safekeeper(id).digest(...ids, ...range)));
  assert.equal(new Set(digests).size, 1);
});

test("while the object store is away commits go on; afterwards it catches up", async () => {
  renameSync(store(), `${store()}.away`);
  await write(20);
  await eventually("a failure in the status", async () => {
    const states = await Promise.all(NODES.map(status));
    return states.some(({ wal_backup }) => wal_backup!.state === "failing");
  });
  const rows = await count();
  await write(1);
  assert.ok(Number((await count())!["n"]) > Number(rows!["n"]));
  renameSync(`${store()}.away`, store());
  await everywhere("catch-up", ({ wal_backup }) => wal_backup!.lag_bytes < WAL_SEGMENT_SIZE);
});

test("a pageserver without the branch's layers rebuilds it from WAL alone, which no safekeeper has", async () => {
  const expected = await count();
  const { tenantId, timelineId } = branch;
  const before = await pageserver().getTimeline(tenantId, timelineId);
  await stopBranch(cluster, branch);
  await checkpointCommitted(cluster, ...ids);
  await everywhere("eviction", ({ eviction_state }) => eviction_state === "offloaded");
  for (const id of NODES) {
    assert.deepEqual(walFiles(id), []);
  }
  await pageserver().deleteTimeline(tenantId, timelineId);
  // The id is free when the objects under it are gone.
  await eventually("the timeline is made anew", async () => {
    const made = pageserver().createTimeline(tenantId, {
      new_timeline_id: timelineId,
      ancestor_timeline_id: before.ancestor_timeline_id!,
      ancestor_start_lsn: before.ancestor_lsn!,
    });
    return made.catch(() => undefined);
  });
  await cluster.startEndpoint("work", "work");
  assert.deepEqual(await count(), expected);
});
