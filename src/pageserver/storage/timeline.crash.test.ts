// Ends of the process at any moment: what was told as done and as on disk must be there. Lives on a simulated
// disk that loses and tears what was not synced, and one process that is really killed.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { Failpoints } from "../../../simulation/page-store/failpoints.ts";
import { runPages } from "../../../simulation/page-store/lives.ts";
import { kindOfFile, PageStore } from "../../../simulation/page-store/page-store.ts";
import type { SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { FIXTURE_START_LSN, StorageFixture } from "../../../testing/storage-fixture.ts";
import { sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { relSizePrefix } from "../layers/key.ts";
import { INDEX_PART_NAME } from "./index-part.ts";
import { TenantManager } from "./tenant-manager.ts";

const SIZE = relSizePrefix(1663, 5, 16384, 0);
const KEYS = 50;

/** Record number n writes its number at key n % KEYS. */
function recordValue(record: number): Uint8Array {
  const value = Buffer.alloc(100 + (record % 900), record & 0xff);
  value.writeUInt32LE(record);
  return value;
}

async function child(workdir: string, tenant: string, timelineId: string): Promise<void> {
  const manager = await TenantManager.open({
    workdir,
    logger: createLogger("test", "silent"),
    config: { checkpointDistanceBytes: 100_000 },
  });
  const timeline = manager.timeline(parseTenantId(tenant), parseTimelineId(timelineId));
  for (let record = (timeline.lastRecordLsn - FIXTURE_START_LSN) / 8 + 1; ; record++) {
    const lsn = toLsn(FIXTURE_START_LSN + record * 8);
    timeline.putImage(SIZE, record % KEYS, lsn, recordValue(record));
    timeline.advance(lsn, toLsn(lsn - 8));
    if (record % 40 === 0) {
      process.stdout.write(`${timeline.diskConsistentLsn}\n`);
      await timeline.ingestReady();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
}

async function runAndKill(args: string[], afterMs: number): Promise<number> {
  const process_ = spawn(process.execPath, [import.meta.filename, "child", ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  process_.stdout.setEncoding("utf8").on("data", (text: string) => {
    if (output === "") {
      setTimeout(() => process_.kill("SIGKILL"), afterMs);
    }
    output += text;
  });
  await once(process_, "close");
  return Number(output.slice(0, output.lastIndexOf("\n")).split("\n").at(-1));
}

/** Every kind of step once, each until it has worked. */
async function everyStep(
  store: PageStore,
  until: (step: () => Promise<unknown>) => Promise<void>,
): Promise<void> {
  await until(() => store.open());
  await until(() => store.createTenant());
  const [tenantId] = store.tenants;
  const root = store.newRoot(tenantId!);
  await until(() => store.createRoot(root));
  await store.write(root, 100);
  await until(() => store.checkpoint(root));
  await until(() => store.collect(root));
  await until(() => store.compact(root));
  const branch = store.newBranch(root);
  await until(() => store.createBranch(branch));
  await store.write(branch, 30);
  await until(() => store.checkpoint(branch));
  await store.write(root, 10);
  const other = store.newBranch(branch);
  await until(() => store.createBranch(other));
  await until(() => store.detach(other));
  await until(() => store.deleteOne(branch));
  await store.write(other, 10);
}

async function passedPoints(): Promise<string[]> {
  await using store = new PageStore(new SeededRandom(7));
  const points = new Failpoints(store.disk, kindOfFile);
  await everyStep(store, async (step) => void (await step()));
  store.checkAll();
  return [...points.passed.keys()];
}

async function fullDiskAt(name: string, skip: number): Promise<void> {
  await using store = new PageStore(new SeededRandom(7));
  const points = new Failpoints(store.disk, kindOfFile);
  points.arm(name, "ENOSPC", { skip, times: 2 });
  await everyStep(store, async (step) => {
    for (let tries = 0; ; tries++) {
      try {
        await step();
        return;
      } catch (error) {
        assert.ok(tries < 3, "it does not go on");
        assert.ok(error instanceof StorageError, String(error));
        assert.deepEqual([error.kind, error.code], ["unavailable", "disk-full"], error.message);
      }
    }
  });
  assert.ok(skip > 0 || points.isSpent(name), "it was not passed");
  store.look();
  store.checkAll();
  await store.crash("nothing");
  await store.live(0);
}

/** Each step that ends with the sync of a directory: what it does, up to `point`, passed `skip` times before. */
const UNSYNCED: readonly {
  readonly what: string;
  readonly point: string;
  readonly skip?: number;
  readonly step: (store: PageStore) => Promise<unknown>;
}[] = [
  {
    what: "a flush",
    point: "fsyncDirectory timeline",
    // The layer's comes first.
    skip: 1,
    step: (store) => store.checkpoint(store.timelines[0]!),
  },
  {
    what: "a branch",
    point: "fsyncDirectory timelines",
    step: (store) => store.createBranch(store.newBranch(store.timelines[0]!)),
  },
  {
    what: "a deletion",
    point: "fsyncDirectory timeline",
    step: (store) => store.deleteOne(store.timelines[0]!),
  },
];

/** Whether the operation that ends a process is done all the same is up to the seed. */
const KILL_SEEDS = [1, 2, 3, 4];

/** A process is killed before the sync; the next one sees what was done, and the power goes. */
async function powerCutAfterKill(
  { point, skip, step }: (typeof UNSYNCED)[number],
  seed: number,
): Promise<void> {
  await using store = new PageStore(new SeededRandom(seed));
  await store.open();
  const root = store.newRoot(await store.createTenant());
  await store.createRoot(root);
  await store.write(root, 10);
  await killedAt(store, point, () => step(store), skip);
  await store.open();
  await store.check();
  store.look();
  await store.crash("nothing");
  await store.live(0);
}

async function tenantAfterKill(seed: number): Promise<void> {
  await using store = new PageStore(new SeededRandom(seed));
  const tenantId = parseTenantId("ab".repeat(16));
  await store.open();
  await killedAt(store, "fsyncDirectory tenants", () => store.createTenant(tenantId));
  await store.open();
  await store.createTenant(tenantId);
  await store.createRoot(store.newRoot(tenantId));
  await store.crash("nothing");
  await store.live(0);
}

/**
 * The simulated disk keeps the order in which a directory's entries changed, as journals do; nothing says
 * that each file system does. So this is looked at, not tried out.
 */
async function orderOfAFlush(): Promise<string[]> {
  await using store = new PageStore(new SeededRandom(3));
  await store.open();
  const root = store.newRoot(await store.createTenant());
  await store.createRoot(root);
  await store.write(root, 10);
  const seen: string[] = [];
  store.disk.onOperation = ({ name, path }) => {
    if (name === "rename" || name === "fsyncDirectory") {
      seen.push(`${name} ${kindOfFile(path)}`);
    }
  };
  await store.checkpoint(root);
  return seen;
}

/** A branch that is neither there nor gone keeps its parent. */
async function halfDeletedChild(): Promise<void> {
  await using store = new PageStore(new SeededRandom(3));
  await store.open();
  const root = store.newRoot(await store.createTenant());
  await store.createRoot(root);
  const branch = store.newBranch(root);
  await store.createBranch(branch);
  new Failpoints(store.disk, kindOfFile).arm("fsyncDirectory timeline", "ENOSPC", { times: 1 });
  await assert.rejects(store.deleteOne(branch), { code: "disk-full" });
  await assert.rejects(store.deleteOne(root), { code: "timeline-has-children" });
  await store.deleteOne(branch);
  await store.deleteOne(root);
}

/** A timeline whose index is written last takes nothing that one which has closed already will read after the start. */
async function compactionAtAStop(): Promise<void> {
  await using store = new PageStore(new SeededRandom(5));
  await store.open();
  const root = store.newRoot(await store.createTenant());
  await store.createRoot(root);
  for (let layers = 0; layers < 3; layers++) {
    await store.write(root, 10);
    await store.checkpoint(root);
  }
  const branch = store.newBranch(root);
  await store.createBranch(branch);
  await store.detach(branch);
  const held = holdRename(store.disk, `/${root.timelineId}/${INDEX_PART_NAME}`);
  store.compact(root).catch(() => undefined);
  await held.isReached;
  const stopped = store.stop();
  await sleep(1000);
  held.goOn();
  await stopped;
  await store.live(0);
}

/** The next one to such a path waits. */
function holdRename({ background }: SimulatedDisk, end: string) {
  const { rename } = background;
  const reached = Promise.withResolvers<void>();
  const held = Promise.withResolvers<void>();
  background.rename = async (from, to) => {
    if (to.endsWith(end)) {
      reached.resolve();
      await held.promise;
    }
    await rename(from, to);
  };
  return { isReached: reached.promise, goOn: held.resolve };
}

async function killedAt(
  store: PageStore,
  point: string,
  step: () => Promise<unknown>,
  skip = 0,
): Promise<void> {
  new Failpoints(store.disk, kindOfFile).arm(point, "crash", { skip });
  await assert.rejects(step);
  await store.crash();
}

if (process.argv[2] === "child") {
  const [workdir, tenant, timeline] = process.argv.slice(3);
  await child(workdir!, tenant!, timeline!);
} else {
  test("storage keeps what it owes through power cuts and kills at any operation", async () => {
    for (let seed = 1; seed <= 60; seed++) {
      await runPages(seed);
    }
  });

  for (const unsynced of UNSYNCED) {
    test(`${unsynced.what} that a killed process did not sync is durable before anybody is told`, async () => {
      for (const seed of KILL_SEEDS) {
        await inSimulatedTime(() => powerCutAfterKill(unsynced, seed));
      }
    });
  }

  test("a tenant that a killed process did not sync is durable before anybody is told", async () => {
    for (const seed of KILL_SEEDS) {
      await inSimulatedTime(() => tenantAfterKill(seed));
    }
  });

  test("a layer's name is durable before an index names it, and the index's before anybody is told", async () => {
    const order = await inSimulatedTime(orderOfAFlush);
    const steps = ["rename layer", "fsyncDirectory timeline", "rename index"];
    assert.deepEqual(order, [...steps, "fsyncDirectory timeline"]);
  });

  test("a timeline whose child is deleted by half is not deleted", async () => {
    await inSimulatedTime(halfDeletedChild);
  });

  test("a stop during a compaction takes nothing that another timeline has", async () => {
    await inSimulatedTime(compactionAtAStop);
  });

  test("storage goes on after a full disk at each of its steps, and nothing readable is lost", async () => {
    const names = await inSimulatedTime(passedPoints);
    // All kinds of files, and all that is done to them.
    for (const name of ["fsync layer", "rename index", "link layer", "fsyncDirectory timelines"]) {
      assert.ok(names.includes(name), names.join());
    }
    for (const name of names) {
      for (const skip of [0, 1]) {
        await inSimulatedTime(() => fullDiskAt(name, skip)).catch((cause: unknown) => {
          throw new Error(`${name}, passed ${skip} times before`, { cause });
        });
      }
    }
  });

  test("a killed pageserver keeps every version at or below the flushed LSN", async () => {
    await using fixture = await StorageFixture.create();
    const { timelineId } = await fixture.createRoot();
    const random = new SeededRandom(1);
    for (let round = 0; round < 5; round++) {
      await fixture.close();
      const args = [fixture.directory, fixture.tenantId, timelineId];
      const reported = await runAndKill(args, random.int(60));
      await fixture.open();
      const timeline = fixture.manager.timeline(fixture.tenantId, timelineId);
      assert.ok(timeline.diskConsistentLsn >= reported);
      const records = (timeline.diskConsistentLsn - FIXTURE_START_LSN) / 8;
      if (records > 0) {
        assert.equal(timeline.prevRecordLsn, timeline.lastRecordLsn - 8);
      }
      for (let i = 0; i < 300 && records > 0; i++) {
        const record = 1 + random.int(records);
        const lsn = toLsn(FIXTURE_START_LSN + record * 8);
        const value = timeline.readValue(SIZE, record % KEYS, lsn);
        assert.deepEqual(Buffer.from(value!), recordValue(record));
      }
    }
  });
}
