// Promotions round after round under load, over a primary that is stopped, killed or hangs, and killed themselves: nothing acknowledged is lost.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { after, before, test } from "node:test";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { programOf } from "../../src/base/program-files.mjs";
import { SeededRandom } from "../../src/base/random.ts";
import type { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { clusterWithReplica, lostRows, PrimaryWriter } from "../../testing/primary-writer.ts";

/** `npm run test:replica -- --rounds N --seed S`. */
const ROUNDS = Number(process.env["STRATA_REPLICA_ROUNDS"] ?? 2);
const SEED = Number(process.env["STRATA_REPLICA_SEED"] ?? 1);
const random = new SeededRandom(SEED);
let cluster: TestCluster;

before(async () => {
  cluster = await clusterWithReplica();
});

after(() => cluster?.[Symbol.asyncDispose]());

/** What happens to the primary, or to the promotion, before it is done. */
const FAULTS = {
  none: async () => {},
  "primary's Postgres killed": (primary: string) => cluster.kill9(`postgres-${primary}`),
  "primary's agent killed": (primary: string) => cluster.kill9(`agent-${primary}`),
  "primary's agent hangs": async (primary: string) => {
    process.kill(cluster.pid(`agent-${primary}`), "SIGSTOP");
  },
  "replica's agent killed": (_: string, replica: string) => cluster.kill9(`agent-${replica}`),
  "a safekeeper killed": () => cluster.kill9(`safekeeper-${1 + random.int(3)}`),
  "promotion killed": async (_: string, replica: string) => {
    const child = spawn(
      process.execPath,
      [programOf("cli/main.ts"), "endpoint", "promote", replica],
      {
        env: { ...process.env, STRATA_HOME: cluster.home },
        stdio: "ignore",
      },
    );
    await sleep(random.int(2500));
    child.kill("SIGKILL");
  },
};

test(`promotions: ${ROUNDS} rounds, seed ${SEED}`, async (t) => {
  const urls = ["main", "r1"].map((id) => cluster.url(id));
  const acknowledged: number[] = [];
  const takenMs: number[] = [];
  const faults: Record<string, number> = {};
  let [primary, replica] = ["main", "r1"];
  for (let round = 1; round <= ROUNDS; round++) {
    const first = round * 300_000;
    const writers = [0, 1, 2].map((i) => new PrimaryWriter(urls, first + i * 100_000));
    const least = 10 + random.int(40);
    await eventually("writers to write", () =>
      writers.every((one) => one.acknowledged.length > least),
    );
    const fault = random.pick(Object.keys(FAULTS) as (keyof typeof FAULTS)[]);
    faults[fault] = (faults[fault] ?? 0) + 1;
    await FAULTS[fault](primary, replica);
    const began = monotonicMs();
    await cluster.ok("endpoint", "promote", replica);
    takenMs.push(Math.round(monotonicMs() - began));
    const before = writers.map((one) => one.acknowledged.length);
    await eventually("writers to go on", () =>
      writers.every((one, i) => one.acknowledged.length > before[i]!),
    );
    for (const writer of writers) {
      acknowledged.push(...(await writer.stop()));
    }
    assert.deepEqual(
      await lostRows(cluster, replica, acknowledged),
      [],
      `round ${round}, ${fault}`,
    );
    await cluster.ok("start");
    await cluster.startEndpoint(primary);
    await eventually(`the new replica to have all in round ${round}, ${fault}`, async () => {
      return (await lostRows(cluster, primary, acknowledged)).length === 0;
    });
    [primary, replica] = [replica, primary];
  }
  takenMs.sort((a, b) => a - b);
  const at = (share: number) => takenMs[Math.floor((takenMs.length - 1) * share)];
  t.diagnostic(
    `${acknowledged.length} acknowledged rows, none lost; promotions took ${at(0.5)} ms (median), ${at(1)} ms (longest); ${JSON.stringify(faults)}`,
  );
});
