// A replication slot whose WAL has left the safekeepers' disks: it comes from the object store, and where it is gone there too the slot is lost.

import assert from "node:assert/strict";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { TestCluster } from "../../testing/cluster.ts";
import { segmentOfMain, walLeavesDisks } from "../../testing/replication/stored-wal.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.ok("endpoint", "create", "main", "-c", "wal_level=logical");
  await cluster.ok("endpoint", "start", "main");
  await cluster.query(
    "main",
    "create table t (n int, v text)",
    "alter table t alter v set storage external",
    "select pg_create_logical_replication_slot('s', 'test_decoding')",
    "select pg_create_logical_replication_slot('ahead', 'test_decoding')",
  );
});
after(() => cluster?.[Symbol.asyncDispose]());

/** Two segments of rows, numbered on. */
async function write(): Promise<void> {
  await cluster.query(
    "main",
    `insert into t select m + i, repeat('x', 8000)
       from (select coalesce(max(n), 0) m from t) t, generate_series(1, 4096) i`,
  );
}

const inserts = (slot: string) =>
  cluster.query(
    "main",
    `select count(*) filter (where data like 'table public.t: INSERT%')::int n
       from pg_logical_slot_get_changes('${slot}', null, null)`,
  );

test("a slot reads WAL that is in the object store only, from the safekeepers that there are", async () => {
  await write();
  const segment = await segmentOfMain(cluster);
  await write();
  await walLeavesDisks(cluster, segment);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.kill9("safekeeper-1");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await inserts("ahead"), [{ n: 8192 }]);
  await cluster.ok("safekeeper", "start", "1");
});

test("a slot whose WAL is gone is lost, and says so; another one goes on", async () => {
  await cluster.query("main", "checkpoint", "insert into t values (0)");
  // Its restart_lsn moves on with what it has received behind that checkpoint.
  await inserts("ahead");
  const segment = await segmentOfMain(cluster);
  await write();
  await cluster.query("main", "checkpoint");
  await inserts("ahead");
  await walLeavesDisks(cluster, segment);
  await cluster.ok("endpoint", "stop", "main");
  const { tenantId, timelineId } = cluster.endpointSpec();
  const objects = join(cluster.home, "object_store", "safekeeper", tenantId, timelineId);
  for (const name of readdirSync(objects).sort().slice(0, 2)) {
    rmSync(join(objects, name));
  }
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(
    await cluster.query(
      "main",
      "select slot_name::text name, wal_status status from pg_replication_slots order by 1",
    ),
    [
      { name: "ahead", status: "reserved" },
      { name: "s", status: "lost" },
    ],
  );
  assert.match(cluster.log("endpoints/main/compute.log"), /"slots":\["s"\].*they are lost/);
  await cluster.query("main", "insert into t values (0)");
  const [row] = await inserts("ahead");
  assert.ok((row!["n"] as number) >= 1);
  await cluster.query("main", "select pg_drop_replication_slot('s')");
});
