// `strata.max_replication_write_lag`: commits wait for a pageserver that is too far behind, and go on with it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { monotonicMs, sleep } from "../src/base/clock.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { withClient } from "../testing/tpcb.ts";

const LIMIT = "strata.max_replication_write_lag";

test("a pageserver that stands still stops commits above the limit, but no shutdown", async () => {
  await using cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main", "--branch-name", "main");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", `show ${LIMIT}`), [{ [LIMIT]: "500MB" }]);
  await cluster.ok("endpoint", "stop", "main");
  cluster.setPostgres("main", { [LIMIT]: "1MB" });
  await cluster.ok("endpoint", "start", "main");
  const pageserver = cluster.pid("pageserver");
  const until = (what: string, holds: () => boolean | Promise<boolean>) =>
    eventually(what, holds, { logs: () => cluster.logTails() });
  const waiting = async () => {
    const url = `http://127.0.0.1:${cluster.endpointSpec().internalHttpPort}/metrics`;
    const text = await (await fetch(url)).text();
    return /^strata_compute_waits_for_pageserver 1$/m.test(text);
  };
  await withClient(cluster.url(), async (client) => {
    let committed = 0;
    const commit = async (count: number) => {
      for (let i = 0; i < count; i++) {
        await client.query("select pg_logical_emit_message(true, '', repeat('x', 300000))");
        committed++;
      }
    };
    // So that it needs no more pages.
    await client.query("create table kept (n int)");
    await commit(1);
    try {
      process.kill(pageserver, "SIGSTOP");
      committed = 0;
      const all = commit(8);
      await until("commits to wait", async () => committed >= 1 && (await waiting()));
      await until("the log to say so", () =>
        /commits wait for the pageserver: strata.max_replication_write_lag/.test(
          cluster.log("endpoints/main/compute.log"),
        ),
      );
      await sleep(1000);
      assert.ok(committed <= 4, `${committed} commits of 300 kB within 1 MB`);
      assert.ok(await waiting());
      process.kill(pageserver, "SIGCONT");
      await all;
      await until("nothing to wait any more", async () => !(await waiting()));
      process.kill(pageserver, "SIGSTOP");
      const before = committed;
      const cutOff = commit(8).catch(() => undefined);
      await until("commits to wait again", waiting);
      assert.ok(committed < before + 8);
      const startedMs = monotonicMs();
      await cluster.ok("endpoint", "stop", "main");
      const tookMs = monotonicMs() - startedMs;
      // One that waited for the pageserver would be ended after 30 s.
      assert.ok(tookMs < 25_000, `stopping took ${tookMs} ms`);
      assert.doesNotMatch(cluster.log("endpoints/main/postgres.log"), /immediate shutdown request/);
      await cutOff;
    } finally {
      process.kill(pageserver, "SIGCONT");
    }
  });
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", "select * from kept"), []);
});
