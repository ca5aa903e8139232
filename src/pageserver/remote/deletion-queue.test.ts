import assert from "node:assert/strict";
import { test } from "node:test";
import { GatedStore, settle } from "../../../simulation/remote-store/gated-store.ts";
import { SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { inSimulatedTime } from "../../../simulation/simulated-time.ts";
import { monotonicMs, sleep, turn } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { SeededRandom } from "../../base/random.ts";
import { LayerUploads } from "../transfers/layer-uploads.ts";
import { TransferSlots } from "../transfers/transfer-slots.ts";
import { decodeDeletionList, encodeDeletionList } from "./deletion-list.ts";
import { DeletionQueue, type GenerationClaim } from "./deletion-queue.ts";
import { indexKey, layerKey } from "./remote-paths.ts";

const TENANT = parseTenantId("11".repeat(16));
const OTHER = parseTenantId("22".repeat(16));
const TIMELINE = parseTimelineId("aa".repeat(16));
const RANGE = `${"0".repeat(36)}-${"F".repeat(36)}__0000000000000001-0000000000000002`;
const DIRECTORY = "/deletions";
const DURABLE = Promise.resolve();

const key = (number: number, tenantId: TenantId = TENANT) =>
  layerKey(tenantId, TIMELINE, `${RANGE}-00000001-${number.toString(16).padStart(8, "0")}`);

class World {
  readonly store = new GatedStore();
  disk = new SimulatedDisk(new SeededRandom(1));
  /** Of the tenants: the generations that are current. */
  readonly current = new Map([
    [TENANT, 5],
    [OTHER, 9],
  ]);
  readonly questions: (readonly GenerationClaim[])[] = [];
  readonly errors: object[] = [];
  uploads!: LayerUploads;

  open(
    attached: readonly (readonly [TenantId, number])[] = [...this.current],
  ): Promise<DeletionQueue> {
    const logger = createLogger("test", "silent");
    logger.error = (fields: object | string) => void this.errors.push(Object(fields));
    const validate = async (claims: readonly GenerationClaim[]) => {
      this.questions.push(claims);
      return claims.map(({ tenantId, generation }) => this.current.get(tenantId) === generation);
    };
    const { store, disk } = this;
    const slots = new TransferSlots(8);
    const randomInt = (limit: number) => limit - 1;
    this.uploads = new LayerUploads({ store, disk, logger, slots, randomInt });
    return DeletionQueue.open({
      directory: DIRECTORY,
      uploads: this.uploads,
      attached: new Map(attached),
      validate,
    });
  }

  fill(keys: readonly string[]): void {
    for (const one of keys) {
      this.store.call({ type: "put", key: one, bytes: Buffer.from("x"), ifAbsent: false });
    }
  }

  get lists(): string[] {
    return this.disk.list(DIRECTORY);
  }
}

const simulated = (name: string, work: () => Promise<void>) =>
  test(name, () => inSimulatedTime(work));

simulated(
  "DeletionQueue: nothing is deleted before the index is durable, and nothing if it never is",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    world.fill([key(1), key(2)]);
    const queue = await world.open();
    const index = Promise.withResolvers<void>();
    const never = Promise.withResolvers<void>();
    const pushed = queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, index.promise);
    const failed = queue.push({ tenantId: TENANT, generation: 5, keys: [key(2)] }, never.promise);
    await sleep(60_000);
    await queue.flush();
    assert.deepEqual(world.lists, []);
    never.reject(new Error("no index"));
    await assert.rejects(failed, /no index/);
    index.resolve();
    await pushed;
    assert.equal(world.lists.length, 1);
    assert.deepEqual(queue.counts, { pending: 1, deleted: 0, leaked: 0 });
    await queue.flush();
    assert.deepEqual(world.store.keys, [key(2)]);
    assert.deepEqual(queue.counts, { pending: 0, deleted: 1, leaked: 0 });
    assert.deepEqual(world.lists, []);
  },
);

simulated("DeletionQueue: what is still being uploaded is deleted afterwards", async () => {
  const world = new World();
  const queue = await world.open();
  const fd = world.disk.open("/layer", "w");
  world.disk.write(fd, Buffer.from("x"), 0);
  const { signal } = new AbortController();
  const layer = { tenantId: TENANT, key: key(1), path: "/layer", sizeBytes: 1, signal };
  const upload = world.uploads.upload(layer);
  const pushed = queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
  await sleep(20_000);
  assert.deepEqual(world.lists, []);
  world.store.isOpen = true;
  await world.store.open(world.store.waiting[0]!);
  await Promise.all([upload, pushed]);
  assert.deepEqual(world.store.keys, [key(1)]);
  await queue.flush();
  assert.deepEqual(world.store.keys, []);
});

simulated("DeletionQueue: a timeline's newest index goes last", async () => {
  const world = new World();
  world.store.isOpen = true;
  const queue = await world.open();
  const keys = [3, 5, 4].map((generation) => indexKey(TENANT, TIMELINE, generation));
  void queue.push({ tenantId: TENANT, generation: 5, keys: [...keys, key(1)] }, DURABLE);
  await sleep(20_000);
  const [first, last] = world.store.calls;
  assert.match(first!, /^delete index_part.json-00000003 index_part.json-00000004 .*-00000001$/);
  assert.equal(last, "delete index_part.json-00000005");
});

simulated(
  "DeletionQueue: one question for all tenants, deletions by 1000, after some seconds or when there are many",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    const keys = Array.from({ length: 1500 }, (_, number) => key(number));
    const others = [key(1, OTHER), key(2, OTHER)];
    world.fill([...keys, ...others]);
    const queue = await world.open();
    void queue.push({ tenantId: OTHER, generation: 9, keys: others }, DURABLE);
    void queue.push({ tenantId: TENANT, generation: 5, keys: keys.slice(0, 10) }, DURABLE);
    await sleep(9000);
    assert.deepEqual(world.questions, []);
    await sleep(2000);
    assert.deepEqual(world.questions, [
      [
        { tenantId: OTHER, generation: 9 },
        { tenantId: TENANT, generation: 5 },
      ],
    ]);
    assert.deepEqual(world.store.keys, keys.slice(10));
    const started = monotonicMs();
    void queue.push({ tenantId: TENANT, generation: 5, keys: keys.slice(10) }, DURABLE);
    await sleep(100);
    assert.deepEqual(world.store.keys, []);
    assert.equal(monotonicMs() - started, 100);
    const sizes = world.store.calls.map((call) => call.split(" ").length - 1);
    assert.deepEqual(sizes, [12, 1000, 490]);
  },
);

simulated(
  "DeletionQueue: what is of a generation that is not current any more stays, the rest does not",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    world.fill([key(1), key(2), key(3, OTHER)]);
    const queue = await world.open();
    void queue.push({ tenantId: TENANT, generation: 5, keys: [key(1), key(2)] }, DURABLE);
    await queue.push({ tenantId: OTHER, generation: 9, keys: [key(3, OTHER)] }, DURABLE);
    world.current.set(TENANT, 6);
    await queue.flush();
    assert.deepEqual(world.store.keys, [key(1), key(2)]);
    assert.deepEqual(queue.counts, { pending: 0, deleted: 1, leaked: 2 });
    assert.deepEqual(world.lists, []);
  },
);

simulated("DeletionQueue: after a failure the generation is asked for again", async () => {
  const world = new World();
  world.fill([key(1)]);
  const queue = await world.open();
  await queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
  const flushed = queue.flush();
  await settle();
  world.current.set(TENANT, 6);
  const [call] = world.store.waiting;
  await world.store.fail(call!);
  await flushed;
  assert.deepEqual(world.store.keys, [key(1)]);
  assert.equal(queue.counts.leaked, 1);
  assert.equal(world.questions.length, 2);
});

simulated(
  "DeletionQueue: what was accepted survives a power cut and is done in the next generation",
  async () => {
    for (const [generation, isDeleted] of [
      [5, true],
      [6, true],
      [7, false],
      [undefined, false],
    ] as const) {
      const world = new World();
      world.store.isOpen = true;
      world.fill([key(1)]);
      world.disk.makeDirectory(DIRECTORY);
      world.disk.fsyncDirectory("/");
      const first = await world.open();
      await first.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
      world.disk = world.disk.nextLife("nothing");
      await first.stop();
      // Without: another node has it.
      world.current.set(TENANT, generation ?? 6);
      const second = await world.open(generation === undefined ? [] : [[TENANT, generation]]);
      assert.equal(second.counts.pending, 1);
      await second.flush();
      assert.deepEqual(world.store.keys, isDeleted ? [] : [key(1)], `generation ${generation}`);
    }
  },
);

simulated(
  "DeletionQueue: a list that one life has adopted is of the generation before for the next",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    world.fill([key(1)]);
    const first = await world.open();
    await first.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
    await first.stop();
    world.current.set(TENANT, 6);
    await (await world.open()).stop();
    world.current.set(TENANT, 7);
    const third = await world.open();
    await third.flush();
    assert.deepEqual(world.store.keys, []);
  },
);

simulated(
  "DeletionQueue: a full disk is waited for, and nothing is lost that comes meanwhile",
  async () => {
    const world = new World();
    world.store.isOpen = true;
    const keys = [key(1), key(2), key(3)];
    world.fill(keys);
    const queue = await world.open();
    world.disk.full = true;
    const pushed = keys.map((one) =>
      queue.push({ tenantId: TENANT, generation: 5, keys: [one] }, sleep(Number(one.at(-1)))),
    );
    await sleep(1000);
    assert.equal(queue.counts.pending, 3);
    world.disk.full = false;
    await Promise.all(pushed);
    await queue.flush();
    assert.deepEqual(world.store.keys, []);
    assert.equal(queue.counts.deleted, 3);
  },
);

simulated(
  "DeletionQueue: what comes while a list is written is told to be on one when it is",
  async () => {
    for (let turns = 0; turns < 8; turns++) {
      const world = new World();
      world.disk.makeDirectory(DIRECTORY);
      world.disk.fsyncDirectory("/");
      const queue = await world.open();
      const first = queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
      for (let i = 0; i < turns; i++) {
        await turn();
      }
      const second = queue.push({ tenantId: TENANT, generation: 5, keys: [key(2)] }, DURABLE);
      await Promise.all([first, second]);
      world.disk = world.disk.nextLife("nothing");
      await queue.stop();
      assert.equal((await world.open()).counts.pending, 2, `${turns} turns`);
    }
  },
);

simulated("DeletionQueue: a damaged list is told once, and does not harm the others", async () => {
  const world = new World();
  world.store.isOpen = true;
  world.fill([key(1), key(2)]);
  const first = await world.open();
  await first.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
  await first.push({ tenantId: TENANT, generation: 5, keys: [key(2)] }, DURABLE);
  await first.stop();
  const [name] = world.lists.toSorted();
  world.disk.rot(`${DIRECTORY}/${name}`, 200, 3);
  const second = await world.open();
  assert.equal(world.errors.length, 1);
  await second.flush();
  assert.deepEqual(world.store.keys, [key(1)]);
  await world.open();
  assert.equal(world.errors.length, 1);
});

simulated("DeletionQueue: nothing is written any more once it has stopped", async () => {
  for (let turns = 0; turns < 8; turns++) {
    const world = new World();
    world.store.isOpen = true;
    world.fill([key(1)]);
    const queue = await world.open();
    queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE).catch(() => undefined);
    for (let i = 0; i < turns; i++) {
      await turn();
    }
    await queue.stop();
    const { lists } = world;
    await sleep(60_000);
    assert.deepEqual(world.lists, lists, `${turns} turns`);
  }
});

simulated("DeletionQueue: stop ends everything, the list stays for the next life", async () => {
  const world = new World();
  world.fill([key(1)]);
  const queue = await world.open();
  await queue.push({ tenantId: TENANT, generation: 5, keys: [key(1)] }, DURABLE);
  const flushed = queue.flush();
  await settle();
  await queue.stop();
  await assert.rejects(flushed, /deletions have stopped/);
  await assert.rejects(
    queue.push({ tenantId: TENANT, generation: 5, keys: [key(2)] }, DURABLE),
    /deletions have stopped/,
  );
  assert.equal(world.lists.length, 1);
  assert.deepEqual(world.store.waiting, []);
});

test("decodeDeletionList: reads what was written, and refuses all else", () => {
  const lists = [
    { tenantId: TENANT, generation: 5, keys: [key(1), key(2)] },
    { tenantId: OTHER, generation: 0xffff_ffff, keys: [] },
  ];
  const text = encodeDeletionList(lists);
  assert.deepEqual(decodeDeletionList(text, "list"), lists);
  const stray = encodeDeletionList([{ tenantId: TENANT, generation: 5, keys: [key(1, OTHER)] }]);
  const version = text.replace('"format_version":1', '"format_version":2');
  for (const bad of ["", "{}", "null", text.slice(0, -5), text.replace("5", "6"), stray, version]) {
    assert.throws(
      () => decodeDeletionList(bad, "list"),
      (error) => error instanceof StorageError && error.kind === "corrupt",
    );
  }
});
