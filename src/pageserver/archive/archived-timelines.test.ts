import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { REAL_DISK } from "../../base/disk.ts";
import { generateTimelineId, type TimelineId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { indexKey, manifestKey } from "../remote/remote-paths.ts";
import { exclusiveBytes } from "../sizes/timeline-sizes.ts";
import { INDEX_PART_NAME } from "../storage/index-part.ts";
import type { Tenant } from "../storage/tenant.ts";
import type { Timeline } from "../storage/timeline.ts";
import { OFFLOADED_LIST_NAME } from "./offloaded-list.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const page = (fill: number) => new Uint8Array(8192).fill(fill);

const read = (timeline: Timeline, index: number, lsn: Lsn) =>
  timeline.whenResident(() => timeline.readPage(REL, index, lsn)?.[0]);

/** Notes what is read, holds up what is put under one key, and does not answer what is put under another. */
class NotingStore extends MemoryObjectStore {
  readonly gotten: string[] = [];
  gatedKey = "";
  unansweredKey = "";
  gate = Promise.withResolvers<void>();

  override async put(...args: Parameters<MemoryObjectStore["put"]>): Promise<void> {
    if (args[0] === this.gatedKey) {
      await this.gate.promise;
    }
    await super.put(...args);
    if (args[0] === this.unansweredKey) {
      throw new Error("the connection ended");
    }
  }

  override get(...args: Parameters<MemoryObjectStore["get"]>) {
    this.gotten.push(args[0]);
    return super.get(...args);
  }
}

/** A root whose page 0 is 1, and then 2; a branch in between whose page 1 is 3. */
async function family(fixture: StorageFixture) {
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const branch = await branchOf(tenant, root.timelineId);
  putRecord(root, REL, 0, page(2));
  await root.checkpoint();
  const last = putRecord(branch, REL, 1, page(3));
  return { tenant, root: root.timelineId, branch: branch.timelineId, last };
}

function branchOf(tenant: Tenant, ancestorTimelineId: TimelineId): Promise<Timeline> {
  return tenant.createBranch({ timelineId: generateTimelineId(), ancestorTimelineId });
}

async function offloaded(fixture: StorageFixture, timelineId: TimelineId): Promise<void> {
  const { archived } = fixture.manager.tenant(fixture.tenantId);
  await eventually("it is offloaded", async () => {
    const isOnDisk = existsSync(join(fixture.timelinesDirectory, timelineId, INDEX_PART_NAME));
    return archived.has(timelineId) && !archived.opened(timelineId) && !isOnDisk;
  });
  // Its other files go with it.
  await archived.exclusive(async () => undefined);
}

const hasFile = (tenant: Tenant, path: string) =>
  [...tenant.layerFiles].some((file) => file.path === path);

const listPath = (fixture: StorageFixture) =>
  join(fixture.directory, "tenants", fixture.tenantId, OFFLOADED_LIST_NAME);

const listed = (fixture: StorageFixture, timelineId: TimelineId) =>
  eventually("its line is written", async () => {
    const path = listPath(fixture);
    return existsSync(path) && readFileSync(path, "utf8").includes(timelineId);
  });

test("archive: nobody gets it, its files go, and unarchive brings it back as it was", async () => {
  await using fixture = await StorageFixture.create({ store: new MemoryObjectStore() });
  const { tenant, branch, last } = await family(fixture);
  await tenant.archived.archive(branch);
  assert.throws(() => tenant.timeline(branch), {
    kind: "conflict",
    code: "timeline-archived",
    message: `timeline ${branch} is archived: 'strata branch unarchive NAME' brings it back`,
  });
  await assert.rejects(branchOf(tenant, branch), { code: "timeline-archived" });
  await offloaded(fixture, branch);
  assert.ok(!existsSync(join(fixture.timelinesDirectory, branch)));
  assert.ok(!tenant.timelines.some(({ timelineId }) => timelineId === branch));
  // To ask again is fine.
  await tenant.archived.archive(branch);
  const again = await tenant.archived.unarchive(branch);
  assert.equal(again, tenant.timeline(branch));
  assert.equal(again.lastRecordLsn, last);
  assert.ok(again.layers.every(({ isResident }) => !isResident));
  assert.equal(await read(again, 0, last), 1);
  assert.equal(await read(again, 1, last), 3);
  await again.prepareIngest();
  const next = putRecord(again, REL, 1, page(4));
  await again.checkpoint();
  assert.equal(await read(again, 1, next), 4);
  assert.equal(await tenant.archived.unarchive(branch), again);
});

test("archive: branches of it first, and they come back after it", async () => {
  await using fixture = await StorageFixture.create({ store: new MemoryObjectStore() });
  const { tenant, root, branch } = await family(fixture);
  await assert.rejects(tenant.archived.archive(root), {
    code: "has-unarchived-children",
    message: `Cannot archive timeline which has non-archived child timelines: [${branch}]`,
  });
  await tenant.archived.archive(branch);
  await tenant.archived.archive(root);
  await offloaded(fixture, root);
  assert.deepEqual(tenant.timelines, []);
  assert.deepEqual(readdirSync(fixture.timelinesDirectory), []);
  await assert.rejects(tenant.archived.unarchive(branch), {
    code: "ancestor-archived",
    message: `ancestor is archived: ${root}`,
  });
  await tenant.archived.unarchive(root);
  const again = await tenant.archived.unarchive(branch);
  assert.equal(again.ancestor, tenant.timeline(root));
  assert.equal(await read(again, 0, again.lastRecordLsn), 1);
  assert.equal(await read(tenant.timeline(root), 0, tenant.timeline(root).lastRecordLsn), 2);
  await assert.rejects(tenant.archived.archive(generateTimelineId()), { kind: "not-found" });
  await assert.rejects(tenant.archived.unarchive(generateTimelineId()), { kind: "not-found" });
});

test("archived timelines cost a start their lines: no index of them is read, on an empty disk each once", async () => {
  const store = new NotingStore();
  await using first = await StorageFixture.create({ store });
  const { branch, tenant, last } = await family(first);
  const leaves = await Promise.all([1, 2, 3].map(() => branchOf(tenant, branch)));
  const ids = [...leaves.map(({ timelineId }) => timelineId), branch];
  for (const timelineId of ids) {
    await tenant.archived.archive(timelineId);
  }
  const indexReads = () => {
    const keys = store.gotten.splice(0).filter((key) => key.includes(INDEX_PART_NAME));
    return keys.filter((key) => ids.some((timelineId) => key.includes(timelineId))).length;
  };
  await offloaded(first, branch);
  await listed(first, branch);
  indexReads();
  await first.reopen();
  assert.equal(indexReads(), 0);
  assert.equal(first.manager.tenant(first.tenantId).archived.all.length, 4);
  // Damaged, as its checksum says: all is read from the store.
  await first.close();
  writeFileSync(listPath(first), readFileSync(listPath(first), "utf8").replace("1/", "2/"));
  await first.open();
  assert.equal(indexReads(), 4);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const { archived } = second.manager.tenant(first.tenantId);
  assert.equal(archived.all.length, 4);
  const again = await archived.unarchive(branch);
  assert.equal(await read(again, 0, last), 1);
  assert.equal(await read(again, 1, last), 3);
  // The lines say nothing of it any more: it stays in use.
  await second.reopen();
  assert.equal(second.manager.timeline(first.tenantId, branch).lastRecordLsn, last);
});

test("archive: a process that ends before the files go leaves that to the next", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, branch, last } = await family(fixture);
  await tenant.archived.archive(branch);
  await fixture.reopen();
  await offloaded(fixture, branch);
  const { archived } = fixture.manager.tenant(fixture.tenantId);
  assert.equal(await read(await archived.unarchive(branch), 0, last), 1);
});

test("an ancestor keeps what an archived branch reads, over collection, compaction and a restart", async () => {
  const store = new MemoryObjectStore();
  const config = { store, minCompactionBytes: 0, imageLayerBytes: 1, levelAfterLayers: 2 };
  await using fixture = await StorageFixture.create(config);
  const { tenant, root, branch } = await family(fixture);
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  const collect = async () => {
    const timeline = fixture.manager.timeline(fixture.tenantId, root);
    await timeline.prepareIngest();
    for (let fill = 10; fill < 16; fill++) {
      putRecord(timeline, REL, 0, page(fill));
      await timeline.checkpoint();
    }
    await timeline.advanceGcCutoff(timeline.lastRecordLsn);
    while (await timeline.compact("collect")) {
      // To the end.
    }
    assert.ok(timeline.layers.length < 6);
    await fixture.manager.resources.remote!.deletions.flush();
  };
  await collect();
  await fixture.reopen();
  await collect();
  const { archived } = fixture.manager.tenant(fixture.tenantId);
  const again = await archived.unarchive(branch);
  assert.equal(await read(again, 0, again.lastRecordLsn), 1);
  assert.equal(await read(again, 1, again.lastRecordLsn), 3);
});

test("an archived timeline keeps its layers in the store: those that others made, and its own that others read", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, root, branch } = await family(fixture);
  const leaf = await branchOf(tenant, branch);
  await leaf.detachFromAncestor();
  await leaf.makeDurable();
  await tenant.timeline(branch).detachFromAncestor();
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  await fixture.reopen();
  const next = fixture.manager.tenant(fixture.tenantId);
  // The last that has the root's layers and is loaded, and then the last that has the branch's.
  await next.deleteTimeline(root);
  await eventually("each timeline has an index of this generation", async () => {
    await fixture.manager.resources.remote!.deletions.flush();
    const { number } = fixture.manager.resources.generation;
    return store.keys.includes(manifestKey(fixture.tenantId, number));
  });
  await next.deleteTimeline(leaf.timelineId);
  await fixture.reopen();
  await eventually("deletions", async () => {
    await fixture.manager.resources.remote!.deletions.flush();
    return store.keys.every((key) => !key.includes(leaf.timelineId));
  });
  const again = fixture.manager.tenant(fixture.tenantId);
  await again.scrub({ fix: true, minAgeMs: 0 });
  const timeline = await again.archived.unarchive(branch);
  assert.equal(await read(timeline, 0, timeline.lastRecordLsn), 1);
  assert.equal(await read(timeline, 1, timeline.lastRecordLsn), 3);
});

test("deleteTimeline: its archived branches are detached and stay archived; of an archived one the objects go", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, root, branch } = await family(fixture);
  const leaf = (await branchOf(tenant, branch)).timelineId;
  for (const timelineId of [leaf, branch, root]) {
    await tenant.archived.archive(timelineId);
  }
  await offloaded(fixture, root);
  await tenant.deleteTimeline(root);
  await tenant.deleteTimeline(branch);
  await offloaded(fixture, leaf);
  assert.deepEqual(
    tenant.archived.all.map(({ timelineId, ancestor }) => [timelineId, ancestor]),
    [[leaf, undefined]],
  );
  await fixture.reopen();
  const again = fixture.manager.tenant(fixture.tenantId);
  const timeline = await again.archived.unarchive(leaf);
  assert.equal(await read(timeline, 0, timeline.lastRecordLsn), 1);
  assert.equal(await read(timeline, 1, timeline.lastRecordLsn), 3);
  await again.archived.archive(leaf);
  await offloaded(fixture, leaf);
  await listed(fixture, leaf);
  await again.deleteTimeline(leaf);
  assert.ok(!again.archived.has(leaf));
  // Its index is still there, of the generation that the line has.
  await fixture.reopen();
  assert.deepEqual(fixture.manager.tenant(fixture.tenantId).archived.all, []);
  await eventually("objects are gone", async () => {
    await fixture.manager.resources.remote!.deletions.flush();
    return !store.keys.some((key) => key.includes("__"));
  });
  await fixture.reopen();
  assert.deepEqual(fixture.manager.tenant(fixture.tenantId).archived.all, []);
});

test("archive: a pageserver that was replaced cannot bring it back, nor archive what is in use", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const { tenant, root, branch } = await family(first);
  await tenant.archived.archive(branch);
  await offloaded(first, branch);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  await second.manager.tenant(first.tenantId).archived.archive(branch);
  await assert.rejects(tenant.archived.unarchive(branch), { kind: "fenced" });
  await using third = await StorageFixture.attach(first.tenantId, { store });
  const { archived } = third.manager.tenant(first.tenantId);
  assert.ok(archived.has(branch));
  const again = await archived.unarchive(branch);
  const old = second.manager.tenant(first.tenantId).archived;
  await assert.rejects(old.archive(branch), { kind: "fenced" });
  await assert.rejects(old.archive(root), { kind: "fenced" });
  await using fourth = await StorageFixture.attach(first.tenantId, { store });
  const timeline = fourth.manager.timeline(first.tenantId, branch);
  assert.equal(timeline.ancestor?.timelineId, root);
  assert.equal(await read(timeline, 1, again.lastRecordLsn), 3);
  await assert.rejects(archived.archive(branch), { kind: "fenced" });
});

test("archive: a branch that a replaced pageserver makes of it counts no more", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const root = await first.createRoot();
  const { tenantId } = first;
  await using second = await StorageFixture.attach(tenantId, { store });
  await second.manager.tenant(tenantId).archived.archive(root.timelineId);
  await assert.rejects(branchOf(first.manager.tenant(tenantId), root.timelineId));
  await using third = await StorageFixture.attach(tenantId, { store });
  const tenant = third.manager.tenant(tenantId);
  assert.ok(tenant.archived.has(root.timelineId));
  assert.deepEqual([...tenant.timelines, ...tenant.brokenTimelines.keys()], []);
});

test("unarchive: what a replaced pageserver puts of its ancestor counts no more", async () => {
  const store = new NotingStore();
  await using first = await StorageFixture.create({ store });
  const { tenant, root, branch } = await family(first);
  await tenant.archived.archive(branch);
  await tenant.timeline(root).makeDurable();
  const { generation } = first.manager.resources;
  store.gatedKey = indexKey(first.tenantId, root, generation.number);
  const late = tenant.archived.archive(root);
  await eventually("it is on its way", () => tenant.archived.has(root));
  await using second = await StorageFixture.attach(first.tenantId, { store });
  await second.manager.tenant(first.tenantId).archived.unarchive(branch);
  store.gate.resolve();
  await assert.rejects(late, { kind: "fenced" });
  await using third = await StorageFixture.attach(first.tenantId, { store });
  assert.deepEqual(third.manager.tenant(first.tenantId).archived.all, []);
});

test("archived timelines outlive the end of lower generations, altered by a replaced pageserver or not", async () => {
  const store = new MemoryObjectStore();
  await using first = await StorageFixture.create({ store });
  const { tenant, root, branch, last } = await family(first);
  await tenant.archived.archive(branch);
  await offloaded(first, branch);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  await assert.rejects(tenant.archived.unarchive(branch), { kind: "fenced" });
  const timeline = second.manager.timeline(first.tenantId, root);
  putRecord(timeline, REL, 0, page(5));
  await timeline.checkpoint();
  await timeline.advanceGcCutoff(timeline.lastRecordLsn);
  await second.reopen();
  const { archived } = second.manager.tenant(first.tenantId);
  assert.ok(archived.has(branch));
  assert.equal(await read(await archived.unarchive(branch), 1, last), 3);
});

test("an archived timeline whose index was put without an answer is there, whatever a replaced pageserver puts", async () => {
  const store = new NotingStore();
  await using first = await StorageFixture.create({ store });
  const { tenant, root, branch, last } = await family(first);
  await tenant.archived.archive(branch);
  await offloaded(first, branch);
  await using second = await StorageFixture.attach(first.tenantId, { store });
  const { generation } = second.manager.resources;
  const { archived } = second.manager.tenant(first.tenantId);
  store.unansweredKey = indexKey(first.tenantId, branch, generation.number);
  await assert.rejects(archived.archive(branch), { message: "the connection ended" });
  await assert.rejects(tenant.deleteTimeline(branch), { kind: "fenced" });
  await assert.rejects(archived.archive(branch), { message: "the connection ended" });
  store.unansweredKey = "";
  await archived.archive(branch);
  assert.ok(archived.has(branch));
  // What it reads in its ancestor is there for whoever takes over.
  const timeline = second.manager.timeline(first.tenantId, root);
  putRecord(timeline, REL, 0, page(5));
  await timeline.checkpoint();
  await timeline.advanceGcCutoff(timeline.lastRecordLsn);
  await timeline.compact();
  await timeline.makeDurable();
  await using third = await StorageFixture.attach(first.tenantId, { store });
  const again = await third.manager.tenant(first.tenantId).archived.unarchive(branch);
  assert.equal(await read(again, 0, last), 1);
  assert.equal(await read(again, 1, last), 3);
});

/** A deletion of the family's root that waits until the store knows that its branch is detached. */
async function slowDeletion(fixture: StorageFixture, store: NotingStore) {
  const { tenant, root, branch } = await family(fixture);
  const generation = Number.parseInt(store.keys.at(-1)!.slice(-8), 16);
  store.gatedKey = indexKey(fixture.tenantId, branch, generation);
  const deletion = tenant.deleteTimeline(root);
  // Whether it is refused is looked at later.
  deletion.catch(() => undefined);
  await eventually("it is detached", () => !tenant.timeline(branch).ancestor);
  return { tenant, root, generation, deletion };
}

test("deleteTimeline: one that is archived and offloaded meanwhile is refused, and goes when asked again", async () => {
  const store = new NotingStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, root, deletion } = await slowDeletion(fixture, store);
  await tenant.archived.archive(root);
  await offloaded(fixture, root);
  store.gate.resolve();
  await assert.rejects(deletion, { kind: "conflict", code: "timeline-busy" });
  assert.ok(tenant.archived.has(root));
  await tenant.deleteTimeline(root);
  assert.ok(!tenant.archived.has(root) && !tenant.hasTimeline(root));
});

test("deleteTimeline: an unarchiving that is under way does not bring it back", async () => {
  const store = new NotingStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, root, generation, deletion } = await slowDeletion(fixture, store);
  await tenant.archived.archive(root);
  const branchIsKnown = store.gate;
  store.gate = Promise.withResolvers();
  store.gatedKey = indexKey(fixture.tenantId, root, generation);
  const unarchiving = tenant.archived.unarchive(root);
  const refused = assert.rejects(unarchiving, { kind: "conflict", code: "timeline-busy" });
  branchIsKnown.resolve();
  await eventually("it is being deleted", () => !tenant.archived.has(root));
  store.gate.resolve();
  await refused;
  await deletion;
  assert.ok(!tenant.hasTimeline(root));
});

test("unarchive: a layer whose file is just leaving the disk comes from the store", async () => {
  let gatedName: string | undefined;
  const gate = Promise.withResolvers<void>();
  const removeTree = async (path: string) => {
    if (gatedName !== undefined && path.endsWith(gatedName)) {
      await gate.promise;
    }
    await REAL_DISK.background.removeTree(path);
  };
  const disk = { ...REAL_DISK, background: { ...REAL_DISK.background, removeTree } };
  await using fixture = await StorageFixture.create({ store: new MemoryObjectStore(), disk });
  const { tenant, root, branch, last } = await family(fixture);
  await tenant.timeline(branch).checkpoint();
  await tenant.timeline(branch).detachFromAncestor();
  const layer = tenant.timeline(branch).ownedLayers.find(({ maker }) => maker === root)!.file.path;
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  gatedName = basename(layer);
  const deletion = tenant.deleteTimeline(root);
  await eventually("nobody uses it", () => !hasFile(tenant, layer));
  const again = await tenant.archived.unarchive(branch);
  assert.ok(existsSync(layer));
  const reading = read(again, 0, last);
  gate.resolve();
  await deletion;
  assert.equal(await reading, 1);
  assert.ok(existsSync(layer), "it is on the disk again");
});

test("archive without an object store: it stays on the disk, and out of use over a restart", async () => {
  await using fixture = await StorageFixture.create();
  const { tenant, branch, last } = await family(fixture);
  await tenant.archived.archive(branch);
  await fixture.reopen();
  const again = fixture.manager.tenant(fixture.tenantId);
  assert.throws(() => again.timeline(branch), { code: "timeline-archived" });
  assert.ok(existsSync(join(fixture.timelinesDirectory, branch, INDEX_PART_NAME)));
  assert.equal(await read(await again.archived.unarchive(branch), 1, last), 3);
});

test("deleteTenant: archived timelines go with the others", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ store });
  const { tenant, branch } = await family(fixture);
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  await fixture.manager.deleteTenant(fixture.tenantId);
  assert.deepEqual(
    store.keys.filter((key) => key.startsWith("tenants/")),
    [],
  );
  await fixture.reopen();
  assert.throws(() => fixture.manager.tenant(fixture.tenantId), { kind: "not-found" });
});

test("deleteTenant: an unarchiving that is under way ends as one of a closed tenant", async () => {
  const gate = Promise.withResolvers<void>();
  let isSlow = false;
  let isAsked = false;
  class Store extends MemoryObjectStore {
    override async get(...args: Parameters<MemoryObjectStore["get"]>) {
      if (isSlow) {
        isAsked = true;
        await gate.promise;
      }
      return super.get(...args);
    }
  }
  await using fixture = await StorageFixture.create({ store: new Store() });
  const { tenant, branch } = await family(fixture);
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  isSlow = true;
  const unarchived = tenant.archived.unarchive(branch);
  await eventually("its index is read", () => isAsked);
  const deletion = fixture.manager.deleteTenant(fixture.tenantId);
  await eventually("the tenant is closed", () => tenant.timelines.length === 0);
  gate.resolve();
  await assert.rejects(unarchived, { kind: "unavailable" });
  await deletion;
});

test("exclusiveBytes: what an archived branch reads is not its parent's alone", async () => {
  await using fixture = await StorageFixture.create({ store: new MemoryObjectStore() });
  const { tenant, root, branch } = await family(fixture);
  const timeline = tenant.timeline(root);
  const before = exclusiveBytes(tenant).get(timeline)!;
  await tenant.archived.archive(branch);
  await offloaded(fixture, branch);
  assert.equal(exclusiveBytes(tenant).get(timeline), before);
  await tenant.deleteTimeline(branch);
  assert.ok(exclusiveBytes(tenant).get(timeline)! > before);
});
