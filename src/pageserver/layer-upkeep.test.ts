import assert from "node:assert/strict";
import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { putRecord, StorageFixture } from "../../testing/storage-fixture.ts";
import { nowMs, sleep } from "../base/clock.ts";
import { generateTimelineId } from "../base/ids.ts";
import { createLogger } from "../base/log.ts";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { CommitTimes } from "./ingest/commit-times.ts";
import { collectionCutoff, DEFAULT_UPKEEP, LayerUpkeep } from "./layer-upkeep.ts";
import { relBlockPrefix } from "./layers/key.ts";
import type { Timeline } from "./storage/timeline.ts";

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
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const lsn = await writeLayers(timeline, 12);
  const before = timeline.layers.length;
  const upkeep = new LayerUpkeep(fixture.manager, { compactionPeriodMs: 1 }, LOGGER);
  for (let i = 0; i < 500 && timeline.layers.length >= before - 5; i++) {
    await sleep(10);
  }
  await upkeep.close();
  assert.ok(timeline.layers.length < before - 5, `${timeline.layers.length} of ${before} layers`);
  for (const [index, fill] of [9, 10, 11].entries()) {
    assert.deepEqual(timeline.readPage(REL, index, lsn), page(fill));
  }
});

test("LayerUpkeep: history goes, what branches and leases read stays, files too", async () => {
  await using fixture = await StorageFixture.create(SMALL);
  const timeline = await fixture.createRoot();
  const branchLsn = await writeLayers(timeline, 5);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const branch = await tenant.createBranch({
    timelineId: generateTimelineId(),
    ancestorTimelineId: timeline.timelineId,
  });
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
  // The newest images, and the two states below them.
  await sleep(50);
  const files = readdirSync(join(fixture.timelinesDirectory, timeline.timelineId));
  assert.equal(files.length, timeline.layers.length + 1, files.join("\n"));
  assert.ok(timeline.layers.length <= 4, `${timeline.layers.length} layers`);
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
  const day = { ...DEFAULT_UPKEEP, pitrIntervalMs: 86_400_000 };
  assert.equal(await collectionCutoff(timeline, day), lsns[1]);
  assert.equal(await collectionCutoff(timeline, { ...day, pitrIntervalMs: 1 }), lsns[2]);
  assert.equal(await collectionCutoff(timeline, DEFAULT_UPKEEP), start, "all is younger");
  const bytes = { ...DEFAULT_UPKEEP, pitrIntervalMs: 0, gcHorizonBytes: 8 };
  assert.equal(await collectionCutoff(timeline, bytes), lsns[1]);
});
