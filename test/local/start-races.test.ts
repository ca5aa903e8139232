// A stop, or a deletion, while an endpoint starts: at whichever moment it comes, nothing is left over.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { daemonsIn, daemonsOfHome } from "../../src/local/left-over.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";

/** Milliseconds after the start's command; a start takes about half a second, more on a busy machine. */
const MOMENTS = [0, 300, 450, 600, 750, 900, 1200, 1500];

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main");
});
after(() => cluster?.[Symbol.asyncDispose]());

for (const moment of MOMENTS) {
  test(`branch delete --force ${moment} ms into a start leaves no process and no file`, async () => {
    await cluster.ok("branch", "create", "dev");
    await cluster.ok("endpoint", "create", "dev", "--branch-name", "dev");
    const start = cluster.cli("endpoint", "start", "dev");
    await sleep(moment);
    await cluster.ok("branch", "delete", "dev", "--force");
    await start;
    const directory = join(cluster.home, "endpoints", "dev");
    assert.deepEqual(daemonsIn(directory), []);
    assert.equal(existsSync(directory), false);
  });

  test(`stop ${moment} ms into a start leaves no process`, async () => {
    const start = cluster.cli("endpoint", "start", "main");
    await sleep(moment);
    await cluster.ok("stop");
    assert.deepEqual(daemonsOfHome(cluster.home), []);
    await start;
    assert.deepEqual(daemonsOfHome(cluster.home), []);
    await cluster.ok("start");
  });
}

test("a start that waits for a safekeeper is ended by a stop at once", async () => {
  const safekeeper = cluster.pid("safekeeper-1");
  process.kill(safekeeper, "SIGSTOP");
  const start = cluster.cli("endpoint", "start", "main");
  const endpoint = join(cluster.home, "endpoints", "main");
  try {
    await eventually("the agent to run", () => daemonsIn(endpoint).length === 1);
    await sleep(500);
    const began = performance.now();
    const stopped = cluster.cli("stop", "--mode", "immediate");
    await eventually("the agent to end", () => daemonsIn(endpoint).length === 0);
    process.kill(safekeeper, "SIGCONT");
    assert.equal((await stopped).code, 0);
    assert.ok(performance.now() - began < 30_000);
  } finally {
    try {
      process.kill(safekeeper, "SIGCONT");
    } catch {
      // It has ended.
    }
  }
  assert.notEqual((await start).code, 0);
  assert.deepEqual(daemonsOfHome(cluster.home), []);
});
