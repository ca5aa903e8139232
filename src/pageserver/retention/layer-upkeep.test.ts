import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { nowMs, sleep } from "../../base/clock.ts";
import { crc32c } from "../../base/crc32c.ts";
import { createLogger } from "../../base/log.ts";
import { formatLsn, type Lsn, toLsn } from "../../base/lsn.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { GLOBAL_TABLESPACE_OID } from "../../postgres/relation-path.ts";
import { type GcResult, gcRequestSchema, type StandbySnapshot } from "../api.ts";
import { hasInheritedSubscriptions } from "../compute-state.ts";
import { CommitTimes } from "../ingest/commit-times.ts";
import { StandbySnapshots } from "../ingest/standby-snapshots.ts";
import {
  relBlockPrefix,
  relmapPrefix,
  relSizePrefix,
  subscriptionsDetachedKey,
} from "../layers/key.ts";
import type { Timeline } from "../storage/timeline.ts";
import { type CollectionRequest, collectionCutoff } from "./collection.ts";
import { LayerUpkeep } from "./layer-upkeep.ts";
import { DEFAULT_UPKEEP, TENANT_CONFIG_NAME } from "./tenant-config.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const LOGGER = createLogger("test", "silent");
const SMALL = { minCompactionBytes: 0, levelAfterLayers: 3 };
/** Everything on disk is below the cutoff. */
const ALL_AT_ONCE = { ...DEFAULT_UPKEEP, pitrIntervalMs: 0, gcHorizonBytes: 0 };

const page = (fill: number) => new Uint8Array(8192).fill(fill);

async function writeLayers(timeline: Timeline, count: number): Promise<Lsn> {
  let lsn = timeline.lastRecordLsn;
  for (let i = 0; i < count; i++) {
    lsn = putRecord(timeline, REL, i % 3, page(i));
    await timeline.checkpoint();
  }
  return lsn;
}

test("LayerUpkeep: compacts in the background, and ends while it is at it", async () => {
  // Too little for images, so that layers of flushes become levels.
  const few = { ...SMALL, minCompactionBytes: 1 << 20 };
  await using fixture = await StorageFixture.create(few);
  const timeline = await fixture.createRoot();
  const lsn = await writeLayers(timeline, 12);
  const before = timeline.layers.length;
  const upkeep = new LayerUpkeep(fixture.manager, { compactionPeriodMs: 1 }, LOGGER);
  await eventually("fewer layers", () => timeline.layers.length < before - 5);
  await upkeep.close();
  for (const [index, fill] of [9, 10, 11].entries()) {
    assert.deepEqual(timeline.readPage(REL, index, lsn), page(fill));
  }
});

test("LayerUpkeep: history goes, what branches and leases read stays, files too", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const branchLsn = await writeLayers(timeline, 5);
  const branch = await fixture.createBranch(timeline);
  const leased = await writeLayers(timeline, 5);
  timeline.grantLease(leased, 60_000);
  const lsn = await writeLayers(timeline, 5);
  const upkeep = new LayerUpkeep(fixture.manager, ALL_AT_ONCE, LOGGER);
  await upkeep.collect(timeline);
  await upkeep.close();
  while (await timeline.compact()) {
    // To the end.
  }
  assert.equal(timeline.gcCutoffLsn, lsn);
  const states: [Timeline, Lsn, number[]][] = [
    [timeline, lsn, [3, 4, 2]],
    [timeline, leased, [3, 4, 2]],
    [branch, branchLsn, [3, 4, 2]],
  ];
  for (const [reader, at, fills] of states) {
    for (const [index, fill] of fills.entries()) {
      assert.deepEqual(reader.readPage(REL, index, at), page(fill));
    }
  }
  assert.throws(() => timeline.readPage(REL, 0, toLsn(lsn - 8)), { code: "lsn-too-old" });
  // The newest images, of blocks and of metadata, and below them two states of the blocks, one of the metadata.
  const directory = join(fixture.timelinesDirectory, timeline.timelineId);
  const files = () => readdirSync(directory).length;
  await eventually("files go", () => files() <= timeline.layers.length + 1);
  assert.equal(files(), timeline.layers.length + 1);
  assert.ok(timeline.layers.length <= 5, `${timeline.layers.length} layers`);
});

test("LayerUpkeep: a branch's lease in its ancestor's history holds there after a restart", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const leased = await writeLayers(timeline, 5);
  await writeLayers(timeline, 5);
  const branch = await fixture.createBranch(timeline);
  await writeLayers(timeline, 5);
  // Its index is written, the ancestor's is not.
  await branch.promiseLease(leased, 60_000);
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  const branchAgain = fixture.manager.timeline(fixture.tenantId, branch.timelineId);
  await collectAll(fixture, again, { dryRun: false, force: true });
  while (await again.compact()) {
    // To the end.
  }
  for (const [index, fill] of [3, 4, 2].entries()) {
    assert.deepEqual(branchAgain.readPage(REL, index, leased), page(fill));
  }
});

test("LayerUpkeep: a lease that only the ancestor knows of holds on a branch that is detached", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const leased = await writeLayers(timeline, 5);
  await writeLayers(timeline, 5);
  const branch = await fixture.createBranch(timeline);
  const leaf = await fixture.createBranch(branch);
  // As after a loss of the disk: it was asked of the leaf, whose index had not come to the store.
  await timeline.promiseLease(leased, 60_000);
  await writeLayers(timeline, 5);
  await collectAll(fixture, timeline, { dryRun: false, force: true });
  await branch.detachFromAncestor();
  await leaf.promiseLease(leased, 60_000);
  await collectAll(fixture, branch, { dryRun: false, force: true });
  while (await branch.compact()) {
    // To the end.
  }
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, leaf.timelineId);
  for (const [index, fill] of [3, 4, 2].entries()) {
    assert.deepEqual(again.readPage(REL, index, leased), page(fill));
  }
});

test("LayerUpkeep: nothing is collected while some timeline of the tenant does not load", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const other = await fixture.createRoot();
  await writeLayers(timeline, 3);
  await fixture.close();
  writeFileSync(join(fixture.timelinesDirectory, other.timelineId, "index_part.json"), "{}");
  await fixture.open();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  const upkeep = new LayerUpkeep(fixture.manager, ALL_AT_ONCE, LOGGER);
  await upkeep.collect(again);
  await upkeep.close();
  assert.equal(again.gcCutoffLsn, again.startLsn);
});

async function collectAll(
  fixture: StorageFixture,
  timeline: Timeline,
  request: CollectionRequest = { dryRun: false, force: true },
): Promise<GcResult> {
  const upkeep = new LayerUpkeep(fixture.manager, ALL_AT_ONCE, LOGGER);
  try {
    return await upkeep.collectNow(timeline, request);
  } finally {
    await upkeep.close();
  }
}

const fatesOf = ({ layers }: GcResult) =>
  layers.map(({ layer_file_name, fate }) => `${layer_file_name} ${fate}`).toSorted();

test("collectNow: a dry run says what the collection then does, on a root and on a branch", async () => {
  await using fixture = await StorageFixture.create({ levelAfterLayers: 1000 });
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 5);
  const branch = await fixture.createBranch(timeline);
  await writeLayers(branch, 4);
  const leased = await writeLayers(timeline, 4);
  timeline.grantLease(leased, 60_000);
  const head = await writeLayers(timeline, 4);
  for (const [one, held] of [
    [timeline, ["branch", "lease"]],
    [branch, []],
  ] as const) {
    const names = () => one.layers.map(({ fileName }) => fileName);
    const before = names();
    const plan = await collectAll(fixture, one, { dryRun: true, force: true });
    assert.deepEqual([names(), one.gcCutoffLsn], [before, one.startLsn], "nothing changes");
    assert.deepEqual(
      plan.held.map(({ kind }) => kind),
      held,
    );
    const done = await collectAll(fixture, one, { dryRun: false, force: true });
    assert.deepEqual(fatesOf(done), fatesOf(plan));
    const going = plan.layers.filter(({ fate }) => fate === "removed" || fate === "rewritten");
    assert.deepEqual(
      before.filter((name) => !names().includes(name)).toSorted(),
      going.map(({ layer_file_name }) => layer_file_name).toSorted(),
    );
    assert.equal(plan.removed.layers + plan.rewritten.layers, going.length);
    assert.ok(going.length > 0);
    assert.deepEqual(done.written, {
      layers: names().filter((name) => !before.includes(name)).length,
      bytes: one.layers
        .filter(({ fileName }) => !before.includes(fileName))
        .reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    });
    assert.equal(one.gcCutoffLsn, one.lastRecordLsn);
    const again = await collectAll(fixture, one, { dryRun: false, force: true });
    assert.equal(again.removed.layers + again.rewritten.layers, 0, "nothing is left to do");
    assert.equal(again.above_cutoff.layers, 0);
  }
  assert.deepEqual(timeline.readPage(REL, 0, head), page(3));
  assert.deepEqual(timeline.readPage(REL, 0, leased), page(3));
  assert.deepEqual(branch.readPage(REL, 0, branch.lastRecordLsn), page(3));
});

test("collectNow: a dry run by another interval than the tenant's, and no other", async () => {
  await using fixture = await StorageFixture.create({ levelAfterLayers: 1000 });
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 5);
  const plan = { dryRun: true, force: true };
  assert.ok((await collectAll(fixture, timeline, plan)).removed.layers > 0);
  // Nobody knows when anything was, so all may be younger.
  const longer = await collectAll(fixture, timeline, { ...plan, pitrIntervalMs: 86_400_000 });
  assert.equal(longer.removed.layers, 0);
  const check = (request: object) => gcRequestSchema.safeParse(request).success;
  assert.equal(check({ pitr_interval: "1 h", dry_run: true }), true);
  assert.equal(check({ pitr_interval: "1 h" }), false);
});

test("collectNow: what another timeline reads by name is removed here, and frees nothing", async () => {
  await using fixture = await StorageFixture.create({ levelAfterLayers: 1000 });
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 5);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const branch = await fixture.createBranch(timeline);
  await branch.detachFromAncestor();
  const own = timeline.layers.length;
  await writeLayers(timeline, 5);
  const plan = () => collectAll(fixture, timeline, { dryRun: true, force: true });
  const shared = await plan();
  assert.ok(shared.removed.layers > own - 1, JSON.stringify(shared));
  assert.ok(shared.freed.layers > 0 && shared.freed.bytes > 0);
  assert.ok(shared.freed.layers < shared.removed.layers, JSON.stringify(shared));
  await tenant.deleteTimeline(branch.timelineId);
  const { freed, removed } = await plan();
  assert.deepEqual(freed, removed);
});

test("promiseLease: what it holds outlives the process, above its cutoff too, and nothing has to wait for it", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 3);
  const leased = timeline.lastRecordLsn;
  await timeline.promiseLease(leased, 60_000);
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  await writeLayers(again, 3);
  assert.ok(again.gcCutoffLsn < leased);
  await collectAll(fixture, again, { dryRun: false, force: false });
  assert.ok(again.gcCutoffLsn > leased);
  assert.ok(again.retainedLsns.includes(leased));
  assert.deepEqual(again.index.leases, [leased]);
});

test("collectNow: where a replica would begin stays readable, in the next life too; where it would not any more goes", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  let timeline = await fixture.createRoot();
  const { timelineId } = timeline;
  const ends: Lsn[] = [];
  const note = (kind: StandbySnapshot["kind"]) => {
    const startLsn = timeline.lastRecordLsn;
    const endLsn = toLsn(startLsn + 56);
    const snapshots = new StandbySnapshots(timeline);
    snapshots.note({ startLsn, endLsn, kind, oldestRunningXid: 700, nextXid: 710 }, endLsn);
    timeline.advance(endLsn, startLsn);
    ends.push(endLsn);
  };
  const kept = () => ends.map((lsn) => timeline.isKept(lsn));
  const collect = async () => {
    await writeLayers(timeline, 3);
    await collectAll(fixture, timeline, { dryRun: false, force: true });
    assert.ok(timeline.gcCutoffLsn > ends.at(-1)!);
  };
  note("running");
  await writeLayers(timeline, 3);
  note("running");
  await collect();
  assert.deepEqual(kept(), [true, true]);
  assert.deepEqual(timeline.retainedLsns, ends);
  await fixture.reopen();
  timeline = fixture.manager.timeline(fixture.tenantId, timelineId);
  await collect();
  assert.deepEqual(kept(), [true, true]);
  note("shutdown");
  await collect();
  assert.deepEqual(kept(), [false, true, true]);
  // An ancestor's say nothing of a branch.
  const branch = await fixture.createBranch(timeline, timeline.lastRecordLsn);
  new StandbySnapshots(branch);
  assert.deepEqual(branch.leases.replicaStarts, []);
});

test("collectNow: not while leases may be missing, which another machine may have given", async () => {
  const store = new MemoryObjectStore();
  await using before = await StorageFixture.create({ ...SMALL, store });
  const { timelineId } = await before.createRoot();
  await writeLayers(before.manager.timeline(before.tenantId, timelineId), 3);
  await before.close();
  // On another disk.
  await using fixture = await StorageFixture.attach(before.tenantId, { ...SMALL, store });
  const timeline = fixture.manager.timeline(before.tenantId, timelineId);
  const upkeep = new LayerUpkeep(fixture.manager, ALL_AT_ONCE, LOGGER);
  // Also where it does not refuse.
  await using _ = { [Symbol.asyncDispose]: () => upkeep.close() };
  const request = { dryRun: false, force: false };
  await assert.rejects(upkeep.collectNow(timeline, request), {
    code: "leases-not-renewed",
    message: /for \d+ s more/,
  });
  await upkeep.close();
  assert.equal(timeline.gcCutoffLsn, timeline.startLsn);
  assert.equal(fixture.manager.tenant(fixture.tenantId).mayLackLeases, true);
  await fixture.reopen();
  // All indexes are on this disk since, and say what was leased.
  assert.equal(fixture.manager.tenant(fixture.tenantId).mayLackLeases, false);
});

test("LayerUpkeep: collects soon after a start, but not where leases may be missing", async () => {
  const store = new MemoryObjectStore();
  await using fixture = await StorageFixture.create({ ...SMALL, store });
  const { timelineId } = await fixture.createRoot();
  await writeLayers(fixture.manager.timeline(fixture.tenantId, timelineId), 3);
  await fixture.close();
  await using other = await StorageFixture.attach(fixture.tenantId, { ...SMALL, store });
  const collected = async ({ manager, tenantId }: StorageFixture, forMs: number) => {
    const upkeep = new LayerUpkeep(manager, { ...ALL_AT_ONCE, gcPeriodMs: 1 }, LOGGER);
    const timeline = manager.timeline(tenantId, timelineId);
    for (
      let waited = 0;
      waited < forMs && timeline.gcCutoffLsn === timeline.startLsn;
      waited += 5
    ) {
      await sleep(5);
    }
    await upkeep.close();
    return timeline.gcCutoffLsn > timeline.startLsn;
  };
  assert.equal(await collected(other, 50), false);
  // All indexes are on this disk since, and say what was leased.
  await other.reopen();
  assert.equal(await collected(other, 60_000), true);
});

test("collectNow: not with a timeline that does not load", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const other = await fixture.createRoot();
  await fixture.close();
  writeFileSync(join(fixture.timelinesDirectory, other.timelineId, "index_part.json"), "{}");
  await fixture.open();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  const request = { dryRun: true, force: true };
  await assert.rejects(collectAll(fixture, again, request), { code: "timeline-broken" });
});

test("LayerUpkeep: each tenant by its own settings, from when they are set on", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 12);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  await tenant.settings.replace({ compaction_period: "0s" });
  const upkeep = new LayerUpkeep(fixture.manager, { compactionPeriodMs: 1 }, LOGGER);
  await using _ = { [Symbol.asyncDispose]: () => upkeep.close() };
  const before = timeline.layers.length;
  await sleep(50);
  assert.equal(timeline.layers.length, before, "0s: never");
  const periods = { compaction_period: "2ms", gc_period: "2ms" };
  await tenant.settings.patch({ ...periods, pitr_interval: "0s", gc_horizon: 0 });
  assert.equal(upkeep.settingsOf(tenant).pitrIntervalMs, 0);
  for (let i = 0; i < 2000 && timeline.layers.length >= before; i++) {
    await sleep(10);
  }
  await upkeep.close();
  assert.ok(timeline.layers.length < before);
  assert.equal(timeline.gcCutoffLsn, timeline.lastRecordLsn);
});

test("LayerUpkeep: damaged settings stop collection, and nothing else", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  await writeLayers(timeline, 2);
  await fixture.close();
  const path = join(fixture.timelinesDirectory, "..", TENANT_CONFIG_NAME);
  writeFileSync(path, "{}");
  await fixture.open();
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const upkeep = new LayerUpkeep(fixture.manager, ALL_AT_ONCE, LOGGER);
  const settings = upkeep.settingsOf(tenant);
  await upkeep.close();
  assert.deepEqual(settings, { ...ALL_AT_ONCE, gcPeriodMs: 0 });
  const again = tenant.timeline(timeline.timelineId);
  await assert.rejects(collectAll(fixture, again, { dryRun: false, force: true }), {
    kind: "corrupt",
  });
});

test("an LSN below the cutoff: the error names the oldest one and its time", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const times = new CommitTimes(timeline);
  let lsn = timeline.startLsn;
  for (let n = 1; n <= 3; n++) {
    lsn = toLsn(timeline.lastRecordLsn + 8);
    times.ended(BigInt(n) * 1_000_000n, true, timeline.lastRecordLsn, lsn);
    timeline.advance(lsn, timeline.lastRecordLsn);
  }
  await timeline.checkpoint();
  await timeline.advanceGcCutoff(lsn);
  const old = toLsn(lsn - 8);
  const message = /is below 1\/[0-9A-F]+, the oldest LSN kept, of 2000-01-01T00:00:03.000000Z$/;
  assert.throws(() => timeline.readPage(REL, 0, old), { code: "lsn-too-old", message });
  assert.throws(() => timeline.grantLease(old, 1000), { code: "lsn-too-old", message });
  const branch = fixture.createBranch(timeline, old);
  await assert.rejects(branch, { code: "branch-lsn-too-old", message });
});

test("advanceGcCutoff: at a place where no record ends a branch can be made all the same", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const inHeader = toLsn(0x1_0000_2010);
  while (timeline.lastRecordLsn < inHeader + 8) {
    putRecord(timeline, REL, 0, page(1));
  }
  await timeline.checkpoint();
  await timeline.advanceGcCutoff(inHeader);
  assert.equal(timeline.gcCutoffLsn, toLsn(0x1_0000_2000));
  await fixture.createBranch(timeline, inHeader);
});

test("collectionCutoff: by age, by bytes where there is no PITR interval, never back", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  const start = timeline.startLsn;
  assert.equal(await collectionCutoff(timeline, DEFAULT_UPKEEP), start, "no time is known");
  const times = new CommitTimes(timeline);
  const lsns: Lsn[] = [];
  for (const agoMs of [3 * 86_400_000, 2 * 86_400_000, 60_000]) {
    const lsn = toLsn(timeline.lastRecordLsn + 8);
    const us = BigInt((nowMs() - agoMs - Date.UTC(2000, 0, 1)) * 1000);
    times.ended(us, true, timeline.lastRecordLsn, lsn);
    timeline.advance(lsn, timeline.lastRecordLsn);
    lsns.push(lsn);
  }
  await timeline.checkpoint();
  const day = { ...DEFAULT_UPKEEP, pitrIntervalMs: 86_400_000 };
  assert.equal(await collectionCutoff(timeline, day), lsns[1]);
  assert.equal(await collectionCutoff(timeline, { ...day, pitrIntervalMs: 1 }), lsns[2]);
  assert.equal(await collectionCutoff(timeline, DEFAULT_UPKEEP), start, "all is younger");
  const bytes = { ...DEFAULT_UPKEEP, pitrIntervalMs: 0, gcHorizonBytes: 8 };
  assert.equal(await collectionCutoff(timeline, bytes), lsns[1]);
});

/** pg_filenode.map of what all databases share, with pg_subscription (OID 6100) in `file`. */
function sharedMap(file: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(524));
  view.setUint32(0, 0x592717, true);
  view.setInt32(4, 1, true);
  view.setUint32(8, 6100, true);
  view.setUint32(12, file, true);
  const bytes = new Uint8Array(view.buffer);
  view.setUint32(520, crc32c(bytes, 0, 520), true);
  return bytes;
}

test("collectNow: where an imported cluster with subscriptions begins stays readable until a compute has detached them", async () => {
  const FILE = 6110;
  const blocks = (count: number) => new Uint8Array(new Uint32Array([count]).buffer);
  for (const had of [1, 0]) {
    await using fixture = await StorageFixture.create(SMALL);
    const timeline = await fixture.createRoot([
      { prefix: relmapPrefix(GLOBAL_TABLESPACE_OID, 0), index: 0, value: sharedMap(FILE) },
      {
        prefix: relSizePrefix(GLOBAL_TABLESPACE_OID, 0, FILE, 0),
        index: 0,
        value: blocks(had),
      },
    ]);
    const isToDetach = () => hasInheritedSubscriptions(timeline, timeline.lastRecordLsn);
    const collect = async () => {
      await writeLayers(timeline, 3);
      const { held } = await collectAll(fixture, timeline, { dryRun: false, force: true });
      const begin = formatLsn(timeline.startLsn);
      const isNamed = held.some(({ kind, lsn }) => kind === "subscriptions" && lsn === begin);
      return [timeline.isKept(timeline.startLsn), isNamed, isToDetach()];
    };
    assert.deepEqual(await collect(), Array(3).fill(had === 1));
    assert.deepEqual(await collect(), Array(3).fill(had === 1));
    const { prefix, index } = subscriptionsDetachedKey(timeline.timelineId);
    const lsn = toLsn(timeline.lastRecordLsn + 8);
    timeline.putImage(prefix, index, lsn, new Uint8Array(1));
    timeline.advance(lsn, timeline.lastRecordLsn);
    assert.deepEqual(await collect(), [false, false, false]);
  }
});
