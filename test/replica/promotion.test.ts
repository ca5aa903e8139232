// Replicas as people make them: by the command line, with feedback, promoted under load, and promoted over a primary that hangs.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import type { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { clusterWithReplica, lostRows, PrimaryWriter } from "../../testing/primary-writer.ts";
import { connect } from "../../testing/tpcb.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await clusterWithReplica();
});

after(() => cluster?.[Symbol.asyncDispose]());

interface ListedEndpoint {
  readonly id: string;
  readonly kind: string;
  readonly status: string;
  readonly connection_uri: string;
}

async function endpoints(): Promise<ReadonlyMap<string, ListedEndpoint>> {
  const list = (await cluster.json("endpoint", "list")) as ListedEndpoint[];
  return new Map(list.map((one) => [one.id, one]));
}

async function count(endpoint: string, sql: string): Promise<number> {
  const [row] = await cluster.query(endpoint, sql);
  return Number(Object.values(row!)[0]);
}

test("endpoint create --replica: is listed as one, reads, and refuses what it cannot do", async () => {
  assert.equal((await endpoints()).get("r1")!.kind, "replica");
  assert.match(
    await cluster.fails("endpoint", "create", "r9", "--replica", "--at", "0/1"),
    /a replica follows the head/,
  );
  assert.match(
    await cluster.fails("endpoint", "create", "r9", "--replica", "--branch-name", "nowhere"),
    /nowhere/,
  );
  await cluster.ok("endpoint", "create", "r2", "--hot-standby", "true");
  assert.equal((await endpoints()).get("r2")!.kind, "replica");
  await cluster.query("main", "create table seen as select 1 as n");
  await eventually("the replica to see it", async () => {
    return (await count("r1", "select count(*) from pg_class where relname = 'seen'")) === 1;
  });
});

test("feedback: a long query on a replica holds back VACUUM on the primary", async () => {
  await cluster.query("main", "create table old as select generate_series(1, 1000) n");
  await eventually("the replica to see it", async () => {
    return (await count("r1", "select count(*) from pg_class where relname = 'old'")) === 1;
  });
  const reader = await connect((await endpoints()).get("r1")!.connection_uri);
  try {
    await reader.query("begin isolation level repeatable read");
    await reader.query("select count(*) from old");
    await eventually("the primary to hear of it", async () => {
      const sql =
        "select count(backend_xmin) from pg_stat_replication where application_name = 'strata_standby_feedback'";
      return (await count("main", sql)) === 1;
    });
    await cluster.query("main", "delete from old", "vacuum old");
    const [dead] = await cluster.query(
      "main",
      "select pg_relation_size('old') as bytes from pg_sleep(1)",
    );
    assert.ok(Number(dead!["bytes"]) > 0);
    const { rows } = await reader.query("select count(*) as n from old");
    assert.equal(Number(rows[0].n), 1000);
    await reader.query("commit");
  } finally {
    await reader.end();
  }
});

test("endpoint promote: under load, from one to the other and back, nothing acknowledged is lost", async () => {
  const listed = await endpoints();
  const urls = ["main", "r1"].map((id) => listed.get(id)!.connection_uri);
  const acknowledged: number[] = [];
  let [primary, replica] = ["main", "r1"];
  for (let round = 1; round <= 3; round++) {
    const writers = [0, 1, 2].map((i) => new PrimaryWriter(urls, round * 1_000_000 + i * 100_000));
    await eventually("writers to write", () =>
      writers.every((one) => one.acknowledged.length > 20),
    );
    const told = await cluster.ok("endpoint", "promote", replica);
    assert.match(told, new RegExp(`endpoint ${primary} is a replica now, and stopped`));
    const before = writers.map((one) => one.acknowledged.length);
    await eventually("writers to go on", () =>
      writers.every((one, i) => one.acknowledged.length > before[i]! + 5),
    );
    for (const writer of writers) {
      acknowledged.push(...(await writer.stop()));
    }
    assert.deepEqual(await lostRows(cluster, replica, acknowledged), []);
    await cluster.startEndpoint(primary);
    await eventually("the new replica to have all", async () => {
      return (await lostRows(cluster, primary, acknowledged)).length === 0;
    });
    const now = await endpoints();
    assert.equal(now.get(primary)!.kind, "replica");
    assert.equal(now.get(replica)!.kind, "primary");
    [primary, replica] = [replica, primary];
  }
  // The same again changes nothing.
  assert.doesNotMatch(await cluster.ok("endpoint", "promote", primary), /is a replica now/);
  assert.deepEqual(await lostRows(cluster, primary, acknowledged), []);
});
