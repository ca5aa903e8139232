// Uploads and deletions through crashes between any two operations, takeovers and a store that fails.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Life, lives, RemoteWorld } from "../../../simulation/remote-store/remote-world.ts";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { sleep } from "../../base/clock.ts";
import { SeededRandom } from "../../base/random.ts";

const SEEDS = 60;
const LIVES = 6;
const STEPS = 25;

/** Lives on two machines; some that were replaced go on for a while, knowing nothing of it. */
async function run(seed: number, seen: Set<string>): Promise<void> {
  const random = new SeededRandom(seed);
  const world = new RemoteWorld(random);
  let machine = 0;
  const stale: Life[] = [];
  for (let number = 1; number <= LIVES; number++) {
    const life = new Life(world, machine, random.bool() ? random.int(200) : 1e9);
    const survived = await lives(life, async () => {
      await life.open();
      await world.check();
      await life.run(STEPS);
      await world.check();
    });
    seen.add(survived ? "survived" : "crashed");
    const goesOn = survived && random.bool();
    if (goesOn) {
      // Another machine takes over, and this one does not know it.
      stale.push(life);
      void lives(life, () => life.run(STEPS)).catch(() => undefined);
      seen.add("stale");
    }
    if (goesOn || random.bool(0.3)) {
      machine = 1 - machine;
    }
    if (!goesOn || stale.length > 1) {
      life.kill();
      stale.splice(0).forEach((one) => void one.kill());
    }
  }
  stale.forEach((one) => void one.kill());
  const last = new Life(world, machine, 1e9);
  await last.open();
  await world.check();
  await last.run(STEPS);
  await last.shutdown();
  await world.check();
  const report = await world.scrub();
  seen.add(report.deleted.length > 0 ? "scrubbed" : "clean");
  for (const what of world.seen) {
    seen.add(what);
  }
}

test("remote storage: whatever ends or takes over when, what an index names is there, and what was told is kept", async () => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    try {
      await inSimulatedTime(() => run(seed, seen));
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
  // The runs are worth something only if they get everywhere.
  for (const what of [
    ..."survived crashed stale scrubbed compacted".split(" "),
    "branch with layers",
    "flushed deletions",
    "waited for durability",
  ]) {
    assert.ok(seen.has(what), `no run: ${what}`);
  }
});

test("remote storage: a crash at any operation of one life", async () => {
  let crashes = 0;
  for (let operations = 0, survived = false; !survived; operations++) {
    await inSimulatedTime(async () => {
      const world = new RemoteWorld(new SeededRandom(7));
      const life = new Life(world, 0, operations);
      survived = await lives(life, async () => {
        await life.open();
        await life.run(40);
        await life.shutdown();
      });
      life.kill();
      crashes += survived ? 0 : 1;
      await world.check();
      const next = new Life(world, 0, 1e9);
      await next.open();
      await next.run(3);
      await next.shutdown();
      await sleep(1000);
      await world.check();
      await world.scrub();
    }).catch((error: unknown) => {
      throw new Error(`after ${operations} operations`, { cause: error });
    });
  }
  assert.ok(crashes > 60, `${crashes}`);
});
