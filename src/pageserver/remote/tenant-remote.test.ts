import assert from "node:assert/strict";
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { GatedStore } from "../../../simulation/remote-store/gated-store.ts";
import { eventually } from "../../../testing/eventually.ts";
import { FIXTURE_START_LSN, putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { sleep } from "../../base/clock.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import type { Lsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { readObject } from "../../object-store/object-store.ts";
import { excessBytes, LayerEviction, mayEvict } from "../layer-eviction.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { mayHaveMetadata } from "../layers/layer-format.ts";
import { ScrubLoop } from "../scrub-loop.ts";
import { DELETED_INDEX_NAME } from "../storage/tenant-layers.ts";
import type { Timeline } from "../storage/timeline.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const page = (fill: number) => new Uint8Array(8192).fill(fill);

const reaches = (timeline: Timeline, lsn: Lsn) =>
  eventually("the store has it", () => timeline.remoteConsistentLsn >= lsn);

async function flushed(timeline: Timeline, index: number, fill: number): Promise<Lsn> {
  const lsn = putRecord(timeline, REL, index, page(fill));
  await timeline.checkpoint();
  await reaches(timeline, lsn);
  return lsn;
}

const read = (timeline: Timeline, index: number, lsn: Lsn) =>
  timeline.whenResident(() => timeline.readPage(REL, index, lsn)?.[0]);

test("an empty disk: all that was told as stored is there, layers come when they are read", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const middle = await flushed(root, 1, 2);
  const branch = await first.createBranch(root);
  const last = await flushed(root, 1, 3);
  const onBranch = await flushed(branch, 2, 4);
  await first.close();

  await using second = await StorageFixture.attach(first.tenantId, { store });
  const tenant = second.manager.tenant(first.tenantId);
  assert.deepEqual(
    tenant.timelines.map(({ timelineId }) => timelineId).sort(),
    [root.timelineId, branch.timelineId].sort(),
  );
  const again = tenant.timeline(root.timelineId);
  assert.equal(again.lastRecordLsn, last);
  // Until its own index is in the store, one of a pageserver that was replaced may take that one's place.
  assert.equal(again.remoteConsistentLsn, 0);
  await again.holdInStore();
  await reaches(again, last);
  assert.ok(again.layers.every(({ isResident }) => !isResident));
  assert.throws(() => again.readPage(REL, 0, last), { message: /only in the object store/ });
  assert.equal(await read(again, 0, FIXTURE_START_LSN), 1);
  assert.equal(again.layers.filter(({ isResident }) => isResident).length, 1);
  assert.equal(await read(again, 1, middle), 2);
  assert.equal(await read(again, 1, last), 3);
  const branchAgain = tenant.timeline(branch.timelineId);
  assert.equal(branchAgain.ancestor, again);
  assert.equal(await read(branchAgain, 1, onBranch), 2);
  assert.equal(await read(branchAgain, 2, onBranch), 4);
  // It goes on from there.
  await branchAgain.prepareIngest();
  await flushed(branchAgain, 3, 5);
});

test("a restart puts nothing that is there, and what a crash kept from the store", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  const before = store.keys;
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, root.timelineId);
  await again.makeDurable().catch(() => undefined);
  const layers = (keys: readonly string[]) =>
    keys.filter((key) => !/index_part|generations|manifest/.test(key));
  assert.deepEqual(layers(store.keys), layers(before));
  // As if the process had ended before it put anything.
  const gone = layers(store.keys).filter((key) => !layers(before).includes(key));
  assert.deepEqual(gone, []);
  const lsn = putRecord(again, REL, 3, page(7));
  await again.checkpoint();
  await fixture.close();
  const newest = again.layers[0]!.fileName;
  await store.delete(store.keys.filter((key) => key.endsWith(newest)));
  await store.delete(store.keys.filter((key) => /index_part/.test(key)).slice(-1));
  await fixture.open();
  await reaches(fixture.manager.timeline(fixture.tenantId, root.timelineId), lsn);
  assert.ok(store.keys.some((key) => key.endsWith(newest)));
});

test("a deleted timeline stays deleted on an empty disk, and its objects go", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const tenant = first.manager.tenant(first.tenantId);
  const branch = await first.createBranch(root);
  await flushed(root, 1, 2);
  await tenant.deleteTimeline(root.timelineId);
  assert.throws(() => tenant.timeline(root.timelineId), { kind: "not-found" });
  // What the branch took over stays.
  assert.equal(await read(branch, 0, branch.lastRecordLsn), 1);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const again = second.manager.tenant(first.tenantId);
  assert.deepEqual(
    again.timelines.map(({ timelineId }) => timelineId),
    [branch.timelineId],
  );
  assert.equal(await read(again.timeline(branch.timelineId), 0, branch.lastRecordLsn), 1);
  await eventually("objects of the root are gone", async () => {
    await second.manager.resources.remote!.deletions.flush();
    const left = store.keys.filter((key) => key.includes(root.timelineId));
    return left.length === 1;
  });
  await assert.rejects(
    again.createBranch({ timelineId: root.timelineId, ancestorTimelineId: branch.timelineId }),
    { code: "timeline-deleted" },
  );
});

/** Puts of indexes wait while there is a gate, and an index that is `vanishing` goes right before it is read. */
class SlowIndexStore extends MemoryObjectStore {
  gate: PromiseWithResolvers<void> | undefined;
  vanishing = false;

  override async put(...[key, body, options]: Parameters<MemoryObjectStore["put"]>): Promise<void> {
    if (key.includes("index_part")) {
      await this.gate?.promise;
    }
    await super.put(key, body, options);
  }

  override async get(
    ...[key, options]: Parameters<MemoryObjectStore["get"]>
  ): Promise<Awaited<ReturnType<MemoryObjectStore["get"]>>> {
    if (this.vanishing && key.includes("index_part")) {
      await this.delete([key]);
    }
    return super.get(key, options);
  }
}

test("deleteTimeline: what asks for an index in this generation meanwhile does not bring it back", async () => {
  const store = new SlowIndexStore();
  await using first = await StorageFixture.create({ store });
  const { timelineId } = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const tenant = second.manager.tenant(first.tenantId);
  store.gate = Promise.withResolvers();
  const held = tenant.timeline(timelineId).holdInStore();
  const deleted = tenant.deleteTimeline(timelineId);
  // It is behind the other index now.
  await sleep(100);
  const settled = tenant.makeDurable();
  store.gate.resolve();
  await Promise.all([held, deleted, settled]);
  await using third = await StorageFixture.attach(first.tenantId, { store });
  assert.deepEqual(third.manager.tenant(first.tenantId).timelines, []);
});

test("deleteTimeline: an index that a replaced pageserver puts after all of it has gone counts no more", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const ids = { timelineId: generateTimelineId(), ancestorTimelineId: root.timelineId };
  const before = await first.manager.tenant(first.tenantId).createBranch(ids);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const tenant = second.manager.tenant(first.tenantId);
  // As if the replaced one had not put it yet.
  await tenant.timeline(ids.timelineId).holdInStore();
  const indexes = () => store.keys.filter((key) => key.includes(ids.timelineId));
  await store.delete(indexes().slice(0, 1));
  await tenant.deleteTimeline(ids.timelineId);
  await eventually("its index is gone", async () => {
    await second.manager.resources.remote!.deletions.flush();
    return indexes().length === 0;
  });
  putRecord(before, REL, 1, page(2));
  await before.checkpoint();
  await eventually("the late one is there", () => indexes().length > 0);
  await first.close();
  await using third = await StorageFixture.attach(first.tenantId, { store });
  const { timelines } = third.manager.tenant(first.tenantId);
  assert.deepEqual(
    timelines.map(({ timelineId }) => timelineId),
    [root.timelineId],
  );
});

test("deleteTimeline: what the timeline names stays while it may come back, whoever else lets go of it", async () => {
  const gate = Promise.withResolvers<void>();
  let isClosed = false;
  const rename = async (from: string, to: string) => {
    if (to.endsWith(DELETED_INDEX_NAME) && !isClosed) {
      isClosed = true;
      await gate.promise;
    }
    await REAL_DISK.background.rename(from, to);
  };
  const disk = { ...REAL_DISK, background: { ...REAL_DISK.background, rename } };
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store, disk });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const ids = { timelineId: generateTimelineId(), ancestorTimelineId: root.timelineId };
  await (await tenant.createBranch(ids)).detachFromAncestor();
  const deletion = tenant.deleteTimeline(root.timelineId);
  await eventually("it is closed", () => isClosed);
  await tenant.deleteTimeline(ids.timelineId);
  await sleep(50);
  await fixture.manager.resources.remote!.deletions.flush();
  const layers = () => store.keys.filter((key) => key.includes(`${root.timelineId}/0`));
  assert.equal(layers().length, 1);
  gate.resolve();
  await deletion;
  await eventually("its layers are gone", async () => {
    await fixture.manager.resources.remote!.deletions.flush();
    return layers().length === 0;
  });
});

test("deleteTimeline: where the process ends before it hears that the store has it, it is deleted all the same", async () => {
  let isAnswered = true;
  class Store extends MemoryObjectStore {
    override async put(...call: Parameters<MemoryObjectStore["put"]>): Promise<void> {
      await super.put(...call);
      if (!isAnswered && call[0].includes("index_part")) {
        throw new StorageError("unavailable", "reset", "the answer is lost");
      }
    }
  }
  const store = new Store();
  await using fixture = await StorageFixture.create({ store });
  const { timelineId } = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  isAnswered = false;
  const key = store.keys.find((one) => one.includes("index_part"))!;
  const before = await readObject(store, key);
  fixture.manager
    .tenant(fixture.tenantId)
    .deleteTimeline(timelineId)
    .catch(() => undefined);
  await eventually(
    "the store has it",
    async () => (await readObject(store, key)).length !== before.length,
  );
  await fixture.close();
  isAnswered = true;
  await fixture.open();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  assert.throws(() => tenant.timeline(timelineId), { kind: "not-found" });
  await eventually("its objects are gone", async () => {
    await fixture.manager.resources.remote!.deletions.flush();
    return !store.keys.some((one) => one.includes(timelineId));
  });
});

test("close: a deletion that the store has not answered puts nothing afterwards", async () => {
  let isAway = false;
  let tries = 0;
  class Store extends MemoryObjectStore {
    override async put(...call: Parameters<MemoryObjectStore["put"]>): Promise<void> {
      if (isAway) {
        tries++;
        throw new StorageError("unavailable", "reset", "nobody answers");
      }
      await super.put(...call);
    }
  }
  await using fixture = await StorageFixture.create({ store: new Store() });
  const { timelineId } = await fixture.createRoot();
  isAway = true;
  const deletion = fixture.manager.tenant(fixture.tenantId).deleteTimeline(timelineId);
  const rejected = assert.rejects(deletion, { kind: "unavailable" });
  await eventually("it is put", () => tries > 0);
  try {
    await fixture.close();
    const before = tries;
    // The first of its waits are up to 100, 200 and 400 ms.
    await sleep(750);
    assert.equal(tries, before);
    await rejected;
  } finally {
    isAway = false;
  }
});

test("detachFromAncestor: the ancestor keeps the branch point until the store knows", async () => {
  const store = new SlowIndexStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const branch = await first.createBranch(root);
  store.gate = Promise.withResolvers();
  await branch.detachFromAncestor();
  assert.equal(branch.ancestor, undefined);
  // Whoever took over now would read on there.
  assert.deepEqual([...root.branchPoints.lsns], [branch.startLsn]);
  store.gate.resolve();
  await branch.makeDurable();
  assert.deepEqual([...root.branchPoints.lsns], []);
});

test("an index of a branch is put after its ancestor's, or a late manifest could leave it without", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenantId } = fixture;
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const timelineId = generateTimelineId();
  const ids = { timelineId, ancestorTimelineId: root.timelineId };
  await fixture.manager.tenant(tenantId).createBranch(ids);
  await fixture.reopen();
  const puts: string[] = [];
  const put = store.put.bind(store);
  store.put = async (...call) => {
    await put(...call);
    puts.push(call[0]);
  };
  const branch = fixture.manager.timeline(tenantId, timelineId);
  await flushed(branch, 0, 2);
  const indexes = puts.filter((key) => key.includes("index_part"));
  assert.ok(indexes[0]!.includes(root.timelineId), indexes.join(" "));
  assert.ok(indexes.some((key) => key.includes(timelineId)));
});

test("promiseLease: of what only a detachment keeps readable, when the store knows of that", async () => {
  const store = new SlowIndexStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenantId } = fixture;
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const early = await flushed(root, 0, 2);
  await flushed(root, 0, 3);
  const timelineId = generateTimelineId();
  const branch = await fixture.manager
    .tenant(tenantId)
    .createBranch({ timelineId, ancestorTimelineId: root.timelineId });
  store.gate = Promise.withResolvers();
  await branch.detachFromAncestor();
  let isPromised = false;
  const promise = branch.promiseLease(early, 60_000).then(() => {
    isPromised = true;
  });
  await sleep(20);
  assert.equal(isPromised, false);
  store.gate.resolve();
  await promise;
  await using second = await StorageFixture.attach(tenantId, { store });
  const again = second.manager.timeline(tenantId, timelineId);
  again.grantLease(early, 60_000);
  assert.equal(await read(again, 0, early), 2);
});

test("detachFromAncestor: a pageserver that was replaced does not let go of what its successor reads", async () => {
  const store = new SlowIndexStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const branch = await first.createBranch(root);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  assert.notEqual(second.manager.timeline(first.tenantId, branch.timelineId).ancestor, undefined);
  await branch.detachFromAncestor();
  await assert.rejects(branch.makeDurable(), { code: "stale-generation" });
  assert.deepEqual([...root.branchPoints.lsns], [branch.startLsn]);
});

test("advanceGcCutoff: a branch that a replaced pageserver made below it counts no more", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const again = second.manager.timeline(first.tenantId, root.timelineId);
  const branch = { timelineId: generateTimelineId(), ancestorTimelineId: root.timelineId };
  const lsn = root.startLsn;
  const made = first.manager.tenant(first.tenantId).createBranch({ ...branch, ancestorLsn: lsn });
  await assert.rejects(made, { code: "stale-generation" });
  assert.ok(store.keys.some((key) => key.includes(branch.timelineId)));
  await again.advanceGcCutoff(again.lastRecordLsn);
  await again.makeDurable();
  await using third = await StorageFixture.attach(first.tenantId, { store });
  const { timelines } = third.manager.tenant(first.tenantId);
  assert.deepEqual(
    timelines.map(({ timelineId }) => timelineId),
    [root.timelineId],
  );
});

test("detachFromAncestor: after a restart the ancestor still keeps the branch point until the store knows", async () => {
  const store = new SlowIndexStore();
  await using fixture = await StorageFixture.create({ store });
  const { timelineId } = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const branch = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
  const tenant = () => fixture.manager.tenant(fixture.tenantId);
  const { startLsn } = await tenant().createBranch(branch);
  const held = () => [...tenant().timeline(timelineId).branchPoints.lsns];
  store.gate = Promise.withResolvers();
  await tenant().timeline(branch.timelineId).detachFromAncestor();
  await fixture.reopen();
  assert.deepEqual(held(), [startLsn]);
  store.gate.resolve();
  await tenant().timeline(branch.timelineId).makeDurable();
  assert.deepEqual(held(), []);
  // The index still says so; but the store has it.
  await fixture.reopen();
  await eventually("it is seen", () => held().length === 0);
});

test("load: a deletion that ends between the listing and the reading leaves nothing damaged", async () => {
  const store = new SlowIndexStore();
  await using first = await StorageFixture.create({ store });
  const { timelineId } = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await first.manager.tenant(first.tenantId).deleteTimeline(timelineId);
  store.vanishing = true;
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const tenant = second.manager.tenant(first.tenantId);
  assert.ok(!store.keys.some((key) => key.includes("index_part")));
  assert.deepEqual([...tenant.brokenTimelines], []);
  assert.deepEqual(tenant.timelines, []);
});

test("a pageserver that was replaced: nothing it says counts, and what it wrote is not taken for newer", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const shared = await flushed(root, 1, 2);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const there = second.manager.timeline(first.tenantId, root.timelineId);
  // Both go on from the same state.
  putRecord(root, REL, 1, page(66));
  await root.checkpoint();
  await assert.rejects(root.makeDurable(), { kind: "fenced" });
  assert.equal(root.remoteConsistentLsn, shared);
  await assert.rejects(first.createBranch(root), { kind: "fenced" });
  await there.prepareIngest();
  const real = await flushed(there, 1, 3);
  await first.close();
  await second.close();
  // The first machine comes back: its disk is older than the store.
  await first.open();
  const back = first.manager.timeline(first.tenantId, root.timelineId);
  assert.equal(back.lastRecordLsn, real);
  assert.equal(await read(back, 1, real), 3);
});

test("a home from before there was a store: all of it is put there", async () => {
  await using before = await StorageFixture.create();
  const root = await before.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = putRecord(root, REL, 1, page(2));
  await root.checkpoint();
  const store = new MemoryObjectStore();
  await before.reopen({ store });
  await reaches(before.manager.timeline(before.tenantId, root.timelineId), lsn);
  await using after = await StorageFixture.attach(before.tenantId, { store });
  const again = after.manager.timeline(before.tenantId, root.timelineId);
  assert.equal(await read(again, 0, lsn), 1);
  assert.equal(await read(again, 1, lsn), 2);
});

test("a layer that the store has lost: the read names it, the rest goes on", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = await flushed(root, 1, 2);
  const lost = root.layers[0]!.fileName;
  await store.delete(store.keys.filter((key) => key.endsWith(lost)));
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const again = second.manager.timeline(first.tenantId, root.timelineId);
  await assert.rejects(read(again, 1, lsn), { kind: "corrupt", message: new RegExp(lost) });
  assert.equal(await read(again, 0, FIXTURE_START_LSN), 1);
});

test("a local index that is damaged gives way to the store's", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = await flushed(root, 1, 2);
  await fixture.close();
  const directory = join(fixture.timelinesDirectory, root.timelineId);
  for (const name of readdirSync(directory)) {
    rmSync(join(directory, name));
  }
  await fixture.open();
  const again = fixture.manager.timeline(fixture.tenantId, root.timelineId);
  assert.equal(await read(again, 1, lsn), 2);
});

test("a layer goes from the store only when no index there names it", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({
    store,
    levelAfterLayers: 2,
    // Too little for images, so that they become a level.
    minCompactionBytes: 1 << 20,
  });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  await flushed(root, 1, 3);
  const { deletions } = fixture.manager.resources.remote!;
  const before = root.layers.map(({ fileName }) => fileName);
  // The store takes no index for now: everything else goes on.
  const put = store.put.bind(store);
  let allow = () => {};
  const allowed = new Promise<void>((resolve) => {
    allow = resolve;
  });
  store.put = async (key, body, options) => {
    if (key.includes("index_part")) {
      await allowed;
    }
    return put(key, body, options);
  };
  while (await root.compact()) {
    // Until nothing is to be done.
  }
  const after = root.layers.map(({ fileName }) => fileName);
  const removed = before.filter((name) => !after.includes(name));
  assert.ok(removed.length >= 2, `${before} -> ${after}`);
  await sleep(50);
  await deletions.flush();
  const inStore = () => removed.filter((name) => store.keys.some((key) => key.endsWith(name)));
  assert.deepEqual(inStore(), removed);
  allow();
  await eventually("they are gone", async () => {
    await deletions.flush();
    return inStore().length === 0;
  });
});

test("eviction: the longest unread first, down to the limit; what compactions and ingest read stays", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({
    store,
    levelAfterLayers: 2,
    minCompactionBytes: 1,
  });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  const lsn = await flushed(root, 1, 3);
  while (await root.compact()) {
    // Until nothing is to be done: compaction parts pages from metadata.
  }
  await root.makeDurable();
  const { manager, directory } = fixture;
  const evictAll = {
    maxUsagePercent: 100,
    minAvailableBytes: 0,
    maxResidentBytes: 0,
    periodMs: 1e6,
  };
  const eviction = new LayerEviction(manager, directory, evictAll, createLogger("test", "silent"));
  try {
    const pinned = root.layers.find(({ name }) => !mayHaveMetadata(name))!;
    pinned.pins++;
    await eviction.evict();
    assert.equal(pinned.isResident, true);
    pinned.pins--;
    await eviction.evict();
    const metadata = root.layers.filter(({ name }) => mayHaveMetadata(name));
    assert.ok(metadata.length > 0 && metadata.every(({ isResident }) => isResident));
    assert.equal(pinned.isResident, false);
    for (const { path, isResident } of root.layers) {
      assert.equal(existsSync(path), isResident);
    }
    assert.equal(await read(root, 1, lsn), 3);
  } finally {
    await eviction.close();
  }
  const limits = { ...evictAll, maxUsagePercent: 80, minAvailableBytes: 100, maxResidentBytes: 50 };
  assert.equal(excessBytes(limits, { usedBytes: 700, availableBytes: 300 }, 50), 0);
  assert.equal(excessBytes(limits, { usedBytes: 900, availableBytes: 100 }, 50), 100);
  assert.equal(excessBytes(limits, { usedBytes: 0, availableBytes: 40 }, 50), 60);
  assert.equal(excessBytes(limits, { usedBytes: 0, availableBytes: 400 }, 80), 30);
});

test("eviction: a layer that is being put stays, also once another index says that the store has it", async () => {
  const store = new GatedStore();
  store.isOpen = true;
  await using fixture = await StorageFixture.create({
    store,
    levelAfterLayers: 2,
    minCompactionBytes: 1,
  });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  await flushed(root, 1, 3);
  store.isOpen = false;
  while (await root.compact()) {
    // As above.
  }
  const underWay = root.layers.filter(({ name }) => !mayHaveMetadata(name));
  assert.ok(underWay.length > 0);
  for (const file of underWay) {
    file.isStored = true;
    assert.equal(mayEvict(file), false);
  }
  await eventually("all is in the store", async () => {
    store.openAll();
    return underWay.every(mayEvict);
  });
  store.isOpen = true;
  store.openAll();
});

test("scrub: what a crash left goes, what the store lost comes back, the rest stays", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = await flushed(root, 1, 2);
  const tenant = () => fixture.manager.tenant(fixture.tenantId);
  const clean = await tenant().scrub({ fix: true, minAgeMs: 0 });
  assert.deepEqual(clean.report.orphans, []);
  assert.deepEqual(clean.report.missing, []);
  const layer = store.keys.find((key) => key.endsWith(root.layers[0]!.fileName))!;
  const orphan = layer.replace(/__[0-9A-F]{16}/, "__0000000000000008");
  await store.put(orphan, Buffer.from("x"));
  await store.delete([layer]);
  await fixture.reopen();
  const looked = await tenant().scrub({ fix: false, minAgeMs: 0 });
  assert.deepEqual(
    looked.report.orphans.map(({ key }) => key),
    [orphan],
  );
  assert.deepEqual(
    looked.report.missing.map(({ key }) => key),
    [layer],
  );
  assert.deepEqual([looked.putAgain, looked.report.deleted], [[], []]);
  assert.ok(store.keys.includes(orphan) && !store.keys.includes(layer));
  const fixed = await tenant().scrub({ fix: true, minAgeMs: 0 });
  assert.deepEqual([fixed.putAgain, fixed.report.deleted], [[layer], [orphan]]);
  await eventually("the layer is there again", () => store.keys.includes(layer));
  await using second = await StorageFixture.attach(fixture.tenantId, { store });
  assert.equal(await read(second.manager.timeline(fixture.tenantId, root.timelineId), 1, lsn), 2);
});

test("scrub: a pageserver that ends while a layer is put again ends as any", async () => {
  const store = new GatedStore();
  store.isOpen = true;
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await flushed(root, 1, 2);
  const layer = store.keys.find((key) => key.endsWith(root.layers[0]!.fileName))!;
  await store.delete([layer]);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const { putAgain } = await tenant.scrub({ fix: true, minAgeMs: 0 });
  store.isOpen = false;
  assert.deepEqual(putAgain, [layer]);
  // A rejection that nobody hears fails the test, and would end a daemon's process.
  await fixture.close();
});

test("settings outlive the disk, and of two the later generation's count", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const settings = (fixture: StorageFixture) => fixture.manager.tenant(first.tenantId).settings;
  await settings(first).replace({ pitr_interval: "30days" });
  await using second = await StorageFixture.attach(first.tenantId, { store });
  assert.deepEqual(settings(second).config, { pitr_interval: "30days" });
  await settings(second).patch({ gc_period: "1h" });
  await assert.rejects(settings(first).patch({ pitr_interval: "1s" }), { kind: "fenced" });
  await first.reopen();
  assert.deepEqual(settings(first).config, { pitr_interval: "30days", gc_period: "1h" });
  const { report } = await first.manager.tenant(first.tenantId).scrub({ fix: true, minAgeMs: 0 });
  assert.deepEqual([report.unknown, report.deleted.filter((key) => /config/.test(key))], [[], []]);
});

test("a page of a large layer costs a part of it, much reading brings the layer", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const noise = new SeededRandom(1);
  const random = () => Uint8Array.from({ length: 8192 }, () => noise.int(256));
  // Of less, the first part with index and filter is already much of it.
  const values = Array.from({ length: 1400 }, (_, index) => ({
    prefix: REL,
    index,
    value: random(),
  }));
  const root = await first.createRoot(values);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const again = second.manager.timeline(first.tenantId, root.timelineId);
  let bytes = 0;
  const get = store.get.bind(store);
  store.get = async (key, options) => {
    const body = await get(key, options);
    bytes += body.lengthBytes;
    return body;
  };
  const page = (index: number) =>
    again.whenResident(() => again.readPage(REL, index, FIXTURE_START_LSN));
  assert.deepEqual(await page(700), values[700]!.value);
  const [layer] = again.layers;
  assert.ok(layer!.sizeBytes > 9e6 && bytes < 1e6, `${bytes} of ${layer!.sizeBytes}`);
  assert.equal(layer!.isResident, false);
  // Its neighbours come with it, and are in memory.
  assert.deepEqual(again.readPage(REL, 701, FIXTURE_START_LSN), values[701]!.value);
  const some = await Promise.all([3, 1100, 400, 5, 900].map(page));
  assert.deepEqual(
    some,
    [3, 1100, 400, 5, 900].map((index) => values[index]!.value),
  );
  await eventually("the layer is here", () => layer!.isResident);
  assert.deepEqual(again.readPage(REL, 100, FIXTURE_START_LSN), values[100]!.value);
});

test("ScrubLoop: orphans go by themselves, and are counted in the log", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const layer = store.keys.find((key) => key.endsWith(root.layers[0]!.fileName))!;
  const orphan = layer
    .replace(/__[0-9A-F]{16}/, "__0000000000000008")
    .replace(/-[0-9a-f]{8}-/, "-00000001-");
  await store.put(orphan, Buffer.from("x"));
  const loop = new ScrubLoop(
    fixture.manager,
    { periodMs: 5, minAgeMs: 0 },
    createLogger("test", "silent"),
  );
  await eventually("the orphan is gone", () => !store.keys.includes(orphan));
  assert.ok(store.keys.includes(layer));
  await loop.close();
});
