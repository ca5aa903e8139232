// Under TPC-B a pageserver is killed right before some step on its files, again and again: nothing committed is lost, nothing stays behind.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { SeededRandom } from "../../src/base/random.ts";
import type { ScrubReportWire } from "../../src/pageserver/api.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { startArmed, untilPageserverEnded } from "../../testing/failpoints/armed-cluster.ts";
import { checkConsistency, checkTpcb, initializeTpcb, TpcbLoad } from "../../testing/tpcb.ts";

const ROUNDS = Number(process.env["STRATA_FAILPOINT_ROUNDS"] ?? 1);
/** A start takes about sixty; then there are flushes and compactions all the time. */
const MAX_STEP = 250;
let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({
    safekeepers: 1,
    pageserverOptions: { "checkpoint-distance": `${1 << 20}`, "compaction-period-ms": "200" },
  });
  await cluster.startEndpoint("main");
  await initializeTpcb(cluster.url());
});
after(async () => {
  await cluster?.[Symbol.asyncDispose]();
});

test(`under TPC-B, ${ROUNDS} kills between two steps: what was committed is there, and nothing is left`, async (t) => {
  const random = new SeededRandom(Number(process.env["STRATA_FAILPOINT_SEED"] ?? 1));
  const load = new TpcbLoad(cluster.url(), { clients: 4 });
  try {
    await load.progress(100);
    for (let round = 0; round < ROUNDS; round++) {
      const at = 1 + random.int(MAX_STEP);
      t.diagnostic(`killed before step ${at}`);
      await cluster.kill9("pageserver");
      await startArmed(cluster, `kill ${at}`);
      await untilPageserverEnded(cluster);
      await cluster.ok("pageserver", "start");
      await load.progress(100);
    }
  } finally {
    await load.stop();
  }
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
  await checkTpcb(cluster.url(), load.acknowledged);
  await checkConsistency(cluster.url());
  await cluster.ok("scrub", "--min-age", "0s", "--fix");
  const reports = (await cluster.json("scrub", "--min-age", "0s")) as Record<
    string,
    ScrubReportWire
  >;
  for (const { missing, differing, damaged, unknown } of Object.values(reports)) {
    assert.deepEqual([missing, differing, damaged, unknown], [[], [], [], []]);
  }
});
