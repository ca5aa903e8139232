// kill -9 of every kind of process under a TPC-B load: nothing that a client saw committed is lost.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { TestCluster } from "../testing/cluster.ts";
import {
  checkConsistency,
  checkTpcb,
  initializeTpcb,
  TpcbLoad,
  withClient,
} from "../testing/tpcb.ts";

const ROUNDS = Number(process.env["STRATA_KILL_ROUNDS"] ?? 2);
let cluster: TestCluster;
let load: TpcbLoad | undefined;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
});
after(async () => {
  await load?.stop();
  await cluster?.[Symbol.asyncDispose]();
});

/** Runs `fault` under load, waits until commits go on, and checks everything. */
async function underLoad(fault: () => Promise<void>): Promise<void> {
  await withClient(cluster.url(), (client) => client.query("truncate pgbench_history"));
  await withClient(cluster.url(), (client) =>
    client.query(`update pgbench_accounts set abalance = 0 where abalance <> 0;
      update pgbench_tellers set tbalance = 0; update pgbench_branches set bbalance = 0`),
  );
  load = new TpcbLoad(cluster.url(), { clients: 8 });
  try {
    await load.progress(200);
    await fault();
    await load.progress(200);
  } finally {
    await load.stop();
  }
  await checkTpcb(cluster.url(), load.acknowledged);
}

for (let round = 1; round <= ROUNDS; round++) {
  test(`round ${round}: kill -9 of the postmaster`, () =>
    underLoad(() => cluster.kill9("postgres-main")));

  test(`round ${round}: kill -9 of the agent`, () =>
    underLoad(async () => {
      await cluster.kill9("agent-main");
      await cluster.ok("endpoint", "start", "main");
    }));

  test(`round ${round}: kill -9 of one safekeeper of three`, () =>
    underLoad(async () => {
      const id = 1 + ((round - 1) % 3);
      await cluster.kill9(`safekeeper-${id}`);
      await load!.progress(200);
      await cluster.ok("safekeeper", "start", String(id));
    }));

  test(`round ${round}: kill -9 of all safekeepers: commits wait, reads go on`, () =>
    underLoad(async () => {
      for (const id of [1, 2, 3]) {
        await cluster.kill9(`safekeeper-${id}`);
      }
      await load!.waits();
      const before = load!.acknowledged.length;
      const rows = await cluster.query("main", "select count(*)::int as n from pgbench_accounts");
      assert.equal(rows[0]!["n"], 100_000);
      await sleep(500);
      assert.equal(load!.acknowledged.length, before, "a commit was acknowledged without a quorum");
      for (const id of [1, 2, 3]) {
        await cluster.ok("safekeeper", "start", String(id));
      }
    }));

  test(`round ${round}: kill -9 of the pageserver`, () =>
    underLoad(async () => {
      await cluster.kill9("pageserver");
      await sleep(300);
      await cluster.ok("pageserver", "start");
    }));

  test(`round ${round}: kill -9 of the broker`, () =>
    underLoad(async () => {
      await cluster.kill9("broker");
      await load!.progress(100);
      await cluster.ok("storage-broker", "start");
    }));
}

test("after all of it: amcheck is clean, also on a compute that starts afresh", async () => {
  await checkConsistency(cluster.url());
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  await checkTpcb(cluster.url(), load!.acknowledged);
  await checkConsistency(cluster.url());
});
