// Damage in the object store: reads name object and offset, and all else goes on; it is right again when the object is.

import assert from "node:assert/strict";
import { test } from "node:test";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { SeededRandom } from "../../base/random.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { readObject } from "../../object-store/object-store.ts";
import { relBlockPrefix } from "../layers/key.ts";
import type { Timeline } from "../storage/timeline.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const noise = new SeededRandom(1);
const randomPage = () => Uint8Array.from({ length: 8192 }, () => noise.int(256));

const read = (timeline: Timeline, index: number, lsn = timeline.lastRecordLsn) =>
  timeline.whenResident(() => timeline.readPage(REL, index, lsn));

/** Flips a bit of an object; the result puts it back. */
async function flip(
  store: MemoryObjectStore,
  key: string,
  at: number,
): Promise<() => Promise<void>> {
  const bytes = await readObject(store, key);
  const damaged = Uint8Array.from(bytes);
  damaged[at]! ^= 1;
  await store.put(key, damaged);
  return () => store.put(key, bytes);
}

/** A layer of so many random pages that only the store has, another timeline, and a home with an empty disk. */
async function storedLayer(store: MemoryObjectStore, pages: number) {
  const first = await StorageFixture.create({ store });
  const values = Array.from({ length: pages }, randomPage);
  const root = await first.createRoot(
    values.map((value, index) => ({ prefix: REL, index, value })),
  );
  const other = await first.createRoot([{ prefix: REL, index: 0, value: randomPage() }]);
  const { tenantId } = first;
  const [layer] = root.layers;
  const key = store.keys.find(
    (one) => one.includes(root.timelineId) && one.endsWith(layer!.fileName),
  )!;
  await first[Symbol.asyncDispose]();
  return { tenantId, key, values, rootId: root.timelineId, otherId: other.timelineId };
}

for (const [what, pages] of [
  ["a layer that is brought whole", 40],
  ["a large layer, of which parts are read", 1200],
] as const) {
  test(`damage in the store: ${what}: object and offset are named, others go on`, async () => {
    const store = new MemoryObjectStore();
    const { tenantId, key, values, rootId, otherId } = await storedLayer(store, pages);
    // Random pages are stored as they are.
    const middle = Math.floor(pages / 2);
    const at = Buffer.from(await readObject(store, key)).indexOf(Buffer.from(values[middle]!));
    const restore = await flip(store, key, at + 100);
    await using second = await StorageFixture.attach(tenantId, { store });
    const root = second.manager.timeline(tenantId, rootId);
    const other = second.manager.timeline(tenantId, otherId);
    await assert.rejects(read(root, middle), (error: Error & { kind?: string }) => {
      assert.equal(error.kind, "corrupt");
      const named = /layer \S*(tenants\/\S+), offset (\d+): the block's checksum is wrong/.exec(
        error.message,
      );
      assert.ok(named !== null, error.message);
      assert.equal(named[1], key);
      assert.ok(at - 100 < Number(named[2]) && Number(named[2]) < at, error.message);
      return true;
    });
    assert.deepEqual(Buffer.from((await read(root, 0))!), Buffer.from(values[0]!));
    assert.ok((await read(other, 0)) !== undefined);
    putRecord(other, REL, 0, randomPage());
    await other.checkpoint();
    await restore();
    await using third = await StorageFixture.attach(tenantId, { store });
    const mended = await read(third.manager.timeline(tenantId, rootId), middle);
    assert.deepEqual(Buffer.from(mended!), Buffer.from(values[middle]!));
  });
}

test("damage in the store: a timeline's index: its object is named, others go on", async () => {
  const store = new MemoryObjectStore();
  const { tenantId, values, rootId, otherId } = await storedLayer(store, 10);
  const key = store.keys.findLast((one) => one.includes(`${otherId}/index_part.json`))!;
  await flip(store, key, 200);
  await using second = await StorageFixture.attach(tenantId, { store });
  const { manager } = second;
  assert.throws(() => manager.timeline(tenantId, otherId), {
    kind: "corrupt",
    message: new RegExp(`index ${key}: `),
  });
  const root = manager.timeline(tenantId, rootId);
  assert.deepEqual(Buffer.from((await read(root, 3))!), Buffer.from(values[3]!));
  putRecord(root, REL, 3, randomPage());
  await root.checkpoint();
});

test("damage in the store: what a damaged index may name stays, and it counts when it is repaired", async () => {
  const store = new MemoryObjectStore();
  const { tenantId, values, rootId } = await storedLayer(store, 10);
  await using second = await StorageFixture.attach(tenantId, { store });
  const tenant = second.manager.tenant(tenantId);
  const timelineId = generateTimelineId();
  const branch = await tenant.createBranch({ timelineId, ancestorTimelineId: rootId });
  await branch.detachFromAncestor();
  await branch.makeDurable();
  await second.close();
  const key = store.keys.findLast((one) => one.includes(`${timelineId}/index_part.json`))!;
  const restore = await flip(store, key, 200);
  await using third = await StorageFixture.attach(tenantId, { store });
  const damaged = third.manager.tenant(tenantId);
  assert.throws(() => damaged.timeline(timelineId), { kind: "corrupt" });
  // It may be a branch of the root.
  await assert.rejects(damaged.deleteTimeline(rootId), { code: "timeline-broken" });
  // Nothing that would make its index count no more.
  const root = damaged.timeline(rootId);
  putRecord(root, REL, 3, randomPage());
  await root.checkpoint();
  await assert.rejects(root.advanceGcCutoff(root.lastRecordLsn), { code: "timeline-broken" });
  const { report } = await damaged.scrub({ fix: true, minAgeMs: 0 });
  assert.deepEqual([...report.damaged.keys()], [timelineId]);
  assert.deepEqual(report.deleted, []);
  await restore();
  await using fourth = await StorageFixture.attach(tenantId, { store });
  const mended = await read(fourth.manager.timeline(tenantId, timelineId), 3);
  assert.deepEqual(Buffer.from(mended!), Buffer.from(values[3]!));
});
