// What one pageserver promises when another one, which it has replaced or which replaces it, is still at work.

import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { FIXTURE_START_LSN, putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { sleep } from "../../base/clock.ts";
import { generateTimelineId, type TimelineId } from "../../base/ids.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { readObject } from "../../object-store/object-store.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { strayBranches } from "../storage/stray-branches.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const VALUES = [{ prefix: REL, index: 0, value: new Uint8Array(8192).fill(1) }];

/** One for each generation that has put one. */
const indexesOf = (store: MemoryObjectStore, timelineId: string) =>
  store.keys.filter((key) => key.includes(timelineId) && key.includes("index_part"));

test("createBranch: no replaced pageserver's index of an ancestor counts once the branch is made", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot(VALUES);
  const middle = await first.createBranch(root);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  assert.equal(indexesOf(store, root.timelineId).length, 1);
  await second.createBranch(second.manager.timeline(first.tenantId, middle.timelineId));
  for (const { timelineId } of [root, middle]) {
    assert.equal(indexesOf(store, timelineId).length, 2);
  }
});

test("createBranch: the branch's first index is put once", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot(VALUES);
  const puts: string[] = [];
  const put = store.put.bind(store);
  store.put = (key, ...rest) => {
    puts.push(key);
    return put(key, ...rest);
  };
  const { timelineId } = await fixture.createBranch(root);
  assert.equal(puts.filter((key) => key.includes(timelineId)).length, 1);
});

test("createBranch: a layer that could not be put is put by who asks again", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const put = store.put.bind(store);
  store.put = async (key, body, options) => {
    if (options?.ifAbsent === true && !store.keys.includes(key)) {
      // Somebody else's.
      await put(key, new Uint8Array(10));
      others.push(key);
    }
    return put(key, body, options);
  };
  const others: string[] = [];
  await assert.rejects(fixture.createRoot(VALUES), { kind: "conflict" });
  store.put = put;
  await store.delete(others);
  const [root] = fixture.manager.tenant(fixture.tenantId).timelines;
  await root!.makeDurable();
  assert.equal(indexesOf(store, root!.timelineId).length, 1);
});

test("grantLease: no replaced pageserver's index counts soon after", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot(VALUES);
  const lsn = putRecord(root, REL, 0, new Uint8Array(8192).fill(2));
  await root.checkpoint();
  await root.makeDurable();
  await using second = await StorageFixture.attach(first.tenantId, { store });
  assert.equal(indexesOf(store, root.timelineId).length, 1);
  second.manager.timeline(first.tenantId, root.timelineId).grantLease(lsn, 60_000);
  await eventually("its own is there", () => indexesOf(store, root.timelineId).length === 2);
});

test("deleteTimeline: a parent is deleted when the store knows that its branches read it no more", async () => {
  const gate = Promise.withResolvers<void>();
  let gated: string | undefined;
  class Store extends MemoryObjectStore {
    override async put(...call: Parameters<MemoryObjectStore["put"]>): Promise<void> {
      if (gated !== undefined && call[0].includes(gated) && call[0].includes("index_part")) {
        await gate.promise;
      }
      await super.put(...call);
    }
  }
  const store = new Store();
  await using fixture = await StorageFixture.create({ store });
  const root = await fixture.createRoot(VALUES);
  const branch = await fixture.createBranch(root);
  const [key] = indexesOf(store, root.timelineId);
  const before = await readObject(store, key!);
  gated = branch.timelineId;
  const deletion = fixture.manager.tenant(fixture.tenantId).deleteTimeline(root.timelineId);
  await eventually("the branch is detached", () => branch.ancestor === undefined);
  await sleep(50);
  assert.deepEqual(await readObject(store, key!), before);
  gate.resolve();
  await deletion;
  await using second = await StorageFixture.attach(fixture.tenantId, { store });
  const { timelines } = second.manager.tenant(fixture.tenantId);
  assert.deepEqual(
    timelines.map(({ timelineId }) => timelineId),
    [branch.timelineId],
  );
});

test("load: a branch that a replaced pageserver made of a deleted timeline does not count", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot(VALUES);
  const whole = await first.createRoot(VALUES);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  await second.manager.tenant(first.tenantId).deleteTimeline(root.timelineId);
  const stray = { timelineId: generateTimelineId(), ancestorTimelineId: root.timelineId };
  const made = first.manager.tenant(first.tenantId).createBranch(stray);
  await assert.rejects(made, { code: "stale-generation" });
  assert.equal(indexesOf(store, stray.timelineId).length, 1);
  await using third = await StorageFixture.attach(first.tenantId, { store });
  const { timelines } = third.manager.tenant(first.tenantId);
  assert.deepEqual(
    timelines.map(({ timelineId }) => timelineId),
    [whole.timelineId],
  );
  // As one that is there and damaged it would be named, too.
  assert.throws(() => third.manager.timeline(first.tenantId, stray.timelineId), {
    kind: "not-found",
  });
});

test("strayBranches: of what a later generation has deleted, and branches of these; no others", () => {
  const [deleted, stray, ofStray, told, other] = Array.from({ length: 5 }, generateTimelineId);
  const part = (timelineId: TimelineId, generation: number, parent?: TimelineId) => ({
    timelineId,
    generation,
    ancestor: parent && { timelineId: parent, lsn: FIXTURE_START_LSN },
  });
  const parts = [
    part(ofStray!, 1, stray),
    part(stray!, 1, deleted),
    // Whoever deleted it has detached this one, which is seen with the index of before.
    part(told!, 2, deleted),
    part(other!, 1),
  ];
  const strays = strayBranches(parts, new Map([[deleted!, 2]]));
  assert.deepEqual(strays.toSorted(), [stray, ofStray].toSorted());
  assert.deepEqual(strayBranches(parts, new Map()), []);
});
