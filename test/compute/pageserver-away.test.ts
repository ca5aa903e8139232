// A pageserver that is frozen or dead: who waits for its pages can be stopped, a fast stop is fast, and then all goes on.

import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { monotonicMs } from "../../src/base/clock.ts";
import { errnoCode } from "../../src/base/errors.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { connect } from "../../testing/tpcb.ts";

const ROWS = 20_000;

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query(
    "main",
    "create table big (i int primary key, pad text)",
    `insert into big select i, repeat('x', 500) from generate_series(1, ${ROWS}) i`,
    "vacuum freeze big",
  );
});
after(async () => {
  await cluster[Symbol.asyncDispose]();
});

const OUTAGES = {
  frozen: {
    begin: async () => {
      process.kill(cluster.pid("pageserver"), "SIGSTOP");
    },
    end: async () => {
      process.kill(cluster.pid("pageserver"), "SIGCONT");
    },
  },
  dead: {
    begin: () => cluster.kill9("pageserver"),
    end: async () => {
      await cluster.ok("pageserver", "start");
    },
  },
} as const;

for (const [how, { begin, end }] of Object.entries(OUTAGES)) {
  test(`a pageserver that is ${how}: statement_timeout ends a cold read, and a fast stop its session`, async () => {
    // A new data directory, with no page of the table: what the last start read is not fetched again.
    await cluster.ok("endpoint", "stop", "main");
    rmSync(join(cluster.home, "endpoints", "main", "start-reads.json"), { force: true });
    await cluster.ok("endpoint", "start", "main");
    const [client, waiting] = [await connect(cluster.url()), await connect(cluster.url())];
    waiting.on("error", () => undefined);
    for (const one of [client, waiting]) {
      await one.query("explain select sum(i) from big");
    }
    await client.query("set statement_timeout = 2000");
    await begin();
    try {
      const asked = monotonicMs();
      await assert.rejects(client.query("select sum(i) from big"), (error) => {
        assert.equal(errnoCode(error), "57014");
        assert.match(String(error), /canceling statement due to statement timeout/);
        return true;
      });
      assert.ok(monotonicMs() - asked < 20_000, `after ${monotonicMs() - asked} ms`);
      assert.deepEqual((await client.query("select 1 as one")).rows, [{ one: 1 }]);

      const left = waiting.query("select sum(i) from big");
      left.catch(() => undefined);
      const stopping = monotonicMs();
      await cluster.ok("endpoint", "stop", "main");
      const tookMs = monotonicMs() - stopping;
      // It was 44 s: 30 for the fast stop that did not come to an end, and then an immediate one.
      assert.ok(tookMs < 28_000, `endpoint stop took ${tookMs} ms`);
      assert.doesNotMatch(cluster.log("endpoints/main/compute.log"), /ended without/);
      await assert.rejects(left, (error) => errnoCode(error) === "57P01");
    } finally {
      await end();
      await client.end().catch(() => undefined);
      await waiting.end().catch(() => undefined);
    }
    await cluster.ok("endpoint", "start", "main");
    const rows = await cluster.query(
      "main",
      "select count(*)::int as n, sum(i)::int as s from big",
    );
    assert.deepEqual(rows, [{ n: ROWS, s: (ROWS * (ROWS + 1)) / 2 }]);
  });
}
