// `strata.max_replication_write_lag`: commits wait for a pageserver that is too far behind, and go on with it.

import assert from "node:assert/strict";
import { test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { TestCluster } from "./cluster.ts";
import { withClient } from "./tpcb.ts";

test("a pageserver that is away stops commits above the limit, and only those", async () => {
  await using cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main", "--branch-name", "main");
  cluster.setPostgres("main", { "strata.max_replication_write_lag": "1MB" });
  await cluster.ok("endpoint", "start", "main");
  await withClient(cluster.url(), async (client) => {
    const commit = () =>
      client.query("select pg_logical_emit_message(true, '', repeat('x', 300000))");
    // So that it needs no more pages, and the agent knows how far the pageserver is.
    await commit();
    await sleep(1500);
    await cluster.kill9("pageserver");
    let committed = 0;
    const all = (async () => {
      for (let i = 0; i < 8; i++) {
        await commit();
        committed++;
      }
    })();
    await sleep(3000);
    assert.ok(committed >= 1 && committed <= 4, `${committed} commits of 300 kB within 1 MB`);
    await cluster.ok("pageserver", "start");
    await all;
  });
});
