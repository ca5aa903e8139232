import assert from "node:assert/strict";
import { test } from "node:test";
import { GatedStore, settle } from "../../../simulation/remote-store/gated-store.ts";
import { SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { monotonicMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { INVALID_LSN, type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { LayerUploads } from "./layer-uploads.ts";
import { TransferSlots } from "./transfer-slots.ts";
import { UploadQueue } from "./upload-queue.ts";

const TENANT = parseTenantId("11".repeat(16));
const OTHER_TENANT = parseTenantId("22".repeat(16));
const A = parseTimelineId("aa".repeat(16));
const B = parseTimelineId("bb".repeat(16));
const INDEX = "put index_part.json-00000005";

class World {
  readonly store = new GatedStore();
  readonly disk = new SimulatedDisk(new SeededRandom(1));
  readonly errors: object[] = [];
  readonly uploads: LayerUploads;

  constructor(limit = 8) {
    const logger = createLogger("test", "silent");
    logger.error = (fields: object | string) => void this.errors.push(Object(fields));
    const { store, disk } = this;
    const slots = new TransferSlots(limit);
    this.uploads = new LayerUploads({ store, disk, logger, slots, randomInt: () => 0 });
    disk.makeDirectory("/layers");
  }

  queue(
    timelineId = A,
    tenantId: TenantId = TENANT,
    remoteConsistentLsn = INVALID_LSN,
  ): UploadQueue {
    const { uploads } = this;
    return new UploadQueue({ tenantId, timelineId, generation: 5, remoteConsistentLsn, uploads });
  }

  write(name: string, content = name): void {
    const fd = this.disk.open(`/layers/${name}`, "w");
    this.disk.write(fd, Buffer.from(content), 0);
    this.disk.close(fd);
  }

  upload(queue: UploadQueue, name: string, size = name.length): Promise<void> {
    this.write(name);
    return queue.uploadLayer(`/layers/${name}`, name, size);
  }

  stored(key: string): string {
    return Buffer.from(this.store.call({ type: "get", key }) as Uint8Array).toString();
  }

  get index(): string {
    return this.stored(`tenants/${TENANT}/timelines/${A}/index_part.json-00000005`);
  }
}

function index(
  queue: UploadQueue,
  text: string,
  lsn: number,
  layers: string[] = [],
): Promise<void> {
  return queue.uploadIndex(Buffer.from(text), toLsn(lsn), layers);
}

/** What has come of it by now. */
function outcome(promise: Promise<void>): { state: string } {
  const outcome = { state: "pending" };
  promise.then(
    () => {
      outcome.state = "done";
    },
    (error: unknown) => {
      outcome.state = error instanceof StorageError ? error.code : String(error);
    },
  );
  return outcome;
}

const simulated = (name: string, work: () => Promise<void>) =>
  test(name, () => inSimulatedTime(work));

simulated(
  "UploadQueue: an index waits for every layer that it names, and only then the LSN moves",
  async () => {
    const world = new World();
    const queue = world.queue();
    void world.upload(queue, "l1");
    void world.upload(queue, "l2");
    const done = outcome(index(queue, "index 1", 100, ["l1", "l2", "durable before"]));
    const reached = outcome(queue.waitFor(toLsn(90)));
    await settle();
    assert.deepEqual(world.store.waiting, ["put l1", "put l2"]);
    assert.deepEqual(queue.pending, { layers: 2, layerBytes: 4, indexes: 1 });
    await world.store.open("put l2");
    assert.deepEqual(world.store.waiting, ["put l1"]);
    await world.store.open("put l1");
    assert.deepEqual(world.store.waiting, [INDEX]);
    assert.equal(queue.remoteConsistentLsn, 0);
    assert.deepEqual([done.state, reached.state], ["pending", "pending"]);
    await world.store.open(INDEX);
    assert.equal(queue.remoteConsistentLsn, 100);
    assert.deepEqual([done.state, reached.state], ["done", "done"]);
    assert.equal(world.index, "index 1");
    assert.equal(world.stored("l1"), "l1");
    assert.deepEqual(queue.pending, { layers: 0, layerBytes: 0, indexes: 0 });
  },
);

simulated("UploadQueue: an index waits for a layer that another timeline uploads", async () => {
  const world = new World();
  const parent = world.queue(B);
  const child = world.queue(A);
  void world.upload(parent, "parents");
  void index(child, "index", 100, ["parents"]);
  await settle();
  assert.deepEqual(world.store.waiting, ["put parents"]);
  await world.store.open("put parents");
  assert.deepEqual(world.store.waiting, [INDEX]);
});

simulated("UploadQueue: an upload ends with the last of those who asked for it", async () => {
  const world = new World();
  const [one, other, late] = [world.queue(A), world.queue(B), world.queue(A)];
  const upload = outcome(world.upload(one, "l1"));
  void other.uploadLayer("/layers/l1", "l1", 2);
  const naming = outcome(index(other, "index", 100, ["l1"]));
  await settle();
  one.stop();
  await settle();
  assert.deepEqual(world.store.waiting, ["put l1"]);
  other.stop();
  // Before the one that ends has ended, and after.
  const again = outcome(late.uploadLayer("/layers/l1", "l1", 2));
  await settle();
  assert.deepEqual([upload.state, naming.state], ["upload-stopped", "upload-stopped"]);
  await world.store.open("put l1");
  assert.equal(again.state, "done");
  assert.deepEqual(world.store.waiting, []);
});

simulated(
  "UploadQueue: of the indexes that could go the newest does, and tells for all",
  async () => {
    const world = new World();
    const queue = world.queue();
    const put = (number: number) => outcome(index(queue, `index ${number}`, number));
    const outcomes = [put(1)];
    await settle();
    outcomes.push(put(2), put(3));
    assert.deepEqual(world.store.waiting, [INDEX]);
    await world.store.open(INDEX);
    assert.equal(world.index, "index 1");
    assert.deepEqual(
      outcomes.map(({ state }) => state),
      ["done", "pending", "pending"],
    );
    await world.store.open(INDEX);
    assert.equal(world.index, "index 3");
    assert.deepEqual(
      outcomes.map(({ state }) => state),
      ["done", "done", "done"],
    );
    assert.equal(queue.remoteConsistentLsn, 3);
    assert.deepEqual(world.store.waiting, []);
  },
);

simulated(
  "UploadQueue: an index that waits for its layers does not hold up the one before it",
  async () => {
    const world = new World();
    const queue = world.queue();
    void world.upload(queue, "l1");
    const first = outcome(index(queue, "index 1", 1, ["l1"]));
    void world.upload(queue, "l2");
    const second = outcome(index(queue, "index 2", 2, ["l1", "l2"]));
    await settle();
    await world.store.open("put l1");
    await world.store.open(INDEX);
    assert.equal(world.index, "index 1");
    assert.deepEqual([first.state, second.state], ["done", "pending"]);
    assert.equal(queue.remoteConsistentLsn, 1);
    await world.store.open("put l2");
    await world.store.open(INDEX);
    assert.equal(world.index, "index 2");
  },
);

simulated(
  "UploadQueue: an older index does not overtake a newer one that waits for less",
  async () => {
    const world = new World();
    const queue = world.queue();
    void world.upload(queue, "slow");
    void world.upload(queue, "quick");
    const older = outcome(index(queue, "index 1", 1, ["slow", "quick"]));
    void index(queue, "index 2", 2, ["quick"]);
    await settle();
    assert.equal(queue.pending.indexes, 1);
    await world.store.open("put quick");
    await world.store.open(INDEX);
    assert.equal(world.index, "index 2");
    assert.equal(older.state, "done");
    await world.store.open("put slow");
    assert.deepEqual(world.store.waiting, []);
    assert.equal(world.index, "index 2");
  },
);

simulated(
  "UploadQueue: an index that became ready while another was tried again takes its place",
  async () => {
    const world = new World();
    const queue = world.queue();
    void index(queue, "index 1", 1);
    await settle();
    void index(queue, "index 2", 2);
    await world.store.fail(INDEX);
    assert.equal(queue.remoteConsistentLsn, 0);
    await world.store.open(INDEX);
    assert.equal(world.index, "index 2");
    assert.equal(queue.remoteConsistentLsn, 2);
    assert.deepEqual(world.store.waiting, []);
  },
);

simulated(
  "UploadQueue: an upload is tried again for ever, and one that hangs is ended after its deadline",
  async () => {
    const world = new World();
    const queue = world.queue();
    const done = outcome(world.upload(queue, "l1"));
    await settle();
    for (let i = 0; i < 30; i++) {
      await world.store.fail("put l1");
    }
    assert.equal(done.state, "pending");
    const started = monotonicMs();
    const calls = world.store.calls.length;
    while (world.store.calls.length === calls) {
      await sleep(1000);
    }
    assert.ok(monotonicMs() - started >= 119_000 && monotonicMs() - started < 122_000);
    await world.store.open("put l1");
    assert.equal(done.state, "done");
    void index(queue, "index", 1);
    await settle();
    const indexCalls = world.store.calls.length;
    await sleep(31_000);
    assert.equal(world.store.calls.length, indexCalls + 1);
    await world.store.open(INDEX);
  },
);

simulated("UploadQueue: an upload whose reply was lost finds its own object", async () => {
  const world = new World();
  world.store.call({ type: "put", key: "l1", bytes: Buffer.from("l1"), ifAbsent: false });
  world.store.isOpen = true;
  await world.upload(world.queue(), "l1");
  assert.deepEqual(world.store.calls, ["put l1", "get l1"]);
});

simulated("UploadQueue: an object of other content is never written over, nor named", async () => {
  for (const content of ["xx", "l", "l1 and more"]) {
    const world = new World();
    world.store.isOpen = true;
    world.store.call({ type: "put", key: "l1", bytes: Buffer.from(content), ifAbsent: false });
    const queue = world.queue();
    const upload = world.upload(queue, "l1");
    const naming = outcome(index(queue, "index", 100, ["l1"]));
    await assert.rejects(upload, (error) => {
      assert.ok(error instanceof StorageError && error.kind === "conflict");
      assert.match(error.message, /l1 in memory has other content than \/layers\/l1/);
      return true;
    });
    await settle();
    const later = outcome(index(queue, "index", 200, ["l1"]));
    await settle();
    assert.deepEqual([naming.state, later.state], ["object-differs", "object-differs"]);
    assert.equal(world.stored("l1"), content);
    assert.deepEqual(world.store.keys, ["l1"]);
    assert.equal(queue.remoteConsistentLsn, 0);
    assert.equal(world.errors.length, 1);
    assert.equal(await queue.shutdown(1000), false);
  }
});

simulated(
  "UploadQueue: a file that is damaged on the local disk does not reach the store",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    const queue = world.queue();
    await assert.rejects(
      world.upload(queue, "l1", 5),
      /l1 cannot be uploaded: it has 2 bytes instead of 5/,
    );
    await assert.rejects(queue.uploadLayer("/layers/gone", "gone", 5), /the file is missing/);
    assert.deepEqual(world.store.keys, []);
    // It may be tried again with a file that is whole.
    await world.upload(queue, "l1");
    assert.deepEqual(world.store.keys, ["l1"]);
  },
);

simulated("UploadQueue: layers go at most so many at a time, fairly between tenants", async () => {
  const world = new World(2);
  const big = world.queue(A);
  const small = world.queue(B, OTHER_TENANT);
  for (let i = 0; i < 5; i++) {
    void world.upload(big, `big${i}`);
  }
  void world.upload(small, "small");
  await settle();
  assert.deepEqual(world.store.waiting, ["put big0", "put big1"]);
  await world.store.open("put big0");
  assert.deepEqual(world.store.waiting, ["put big1", "put small"]);
});

simulated(
  "UploadQueue: one that waits for its next attempt leaves its place to others",
  async () => {
    const world = new World(1);
    const queue = world.queue();
    void world.upload(queue, "l1");
    void world.upload(queue, "l2");
    await settle();
    await world.store.fail("put l1");
    assert.deepEqual(world.store.waiting, ["put l2"]);
  },
);

simulated("UploadQueue: shutdown waits for what is queued, until its time is over", async () => {
  const world = new World();
  const queue = world.queue();
  void world.upload(queue, "l1");
  void index(queue, "index", 100, ["l1"]);
  const shutdown = queue.shutdown(5000);
  await assert.rejects(queue.uploadLayer("/layers/l2", "l2", 2), /uploads have stopped/);
  await assert.rejects(index(queue, "index", 200), /uploads have stopped/);
  await settle();
  await world.store.open("put l1");
  await world.store.open(INDEX);
  assert.equal(await shutdown, true);
  assert.equal(queue.remoteConsistentLsn, 100);

  const late = world.queue(B);
  const upload = outcome(world.upload(late, "l2"));
  const naming = outcome(index(late, "index", 100, ["l2"]));
  const waiter = outcome(late.waitFor(toLsn(100)));
  const started = monotonicMs();
  assert.equal(await late.shutdown(5000), false);
  assert.equal(monotonicMs() - started, 5000);
  await settle();
  assert.deepEqual([upload.state, naming.state, waiter.state], Array(3).fill("upload-stopped"));
  assert.deepEqual(world.store.waiting, []);
  await assert.rejects(late.waitFor(toLsn(100)), /uploads have stopped/);
  assert.deepEqual(world.errors, []);
});

simulated("UploadQueue: a queue that has nothing to do shuts down at once", async () => {
  const world = new World();
  const queue = world.queue(A, TENANT, 50 as Lsn);
  assert.equal(queue.remoteConsistentLsn, 50);
  await queue.waitFor(toLsn(50));
  assert.equal(await queue.shutdown(5000), true);
  assert.equal(monotonicMs(), 0);
});
