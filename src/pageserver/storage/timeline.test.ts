import assert from "node:assert/strict";
import { appendFileSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mock, test } from "node:test";
import fc from "fast-check";
import { run } from "../../../testing/fuzz/timeline.fuzz.ts";
import { buildDelta } from "../../../testing/redo/delta-builder.ts";
import { FIXTURE_START_LSN, putRecord, StorageFixture } from "../../../testing/storage-fixture.ts";
import { StorageError } from "../../base/errors.ts";
import { generateTimelineId } from "../../base/ids.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { PAGE_SIZE, pageLsn } from "../../postgres/page.ts";
import { hasRelationsFrom } from "../ingest/relation-heads.ts";
import { relBlockPrefix, relSizePrefix, slruBlockPrefix } from "../layers/key.ts";
import { entryKind } from "../layers/layer-block.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { readBlock, readLayerIndex } from "../layers/layer-index.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";
import { PageCache } from "./page-cache.ts";
import type { Timeline } from "./timeline.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const SIZE = relSizePrefix(1663, 5, 16384, 0);
const CLOG = slruBlockPrefix(0, 0);

function view(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

function page(fill: number): Uint8Array {
  return new Uint8Array(8192).fill(fill);
}

/** Delta of kind 4: transaction `xid` committed (1) or aborted (2). */
function clog(xid: number, status = 1): Uint8Array {
  const delta = new Uint8Array(8);
  const view = new DataView(delta.buffer);
  view.setUint8(0, 4);
  view.setUint8(1, status);
  view.setUint16(2, 1, true);
  view.setUint32(4, xid, true);
  return delta;
}

function countImages(layer: LayerFile): number {
  const index = readLayerIndex(layer);
  let images = 0;
  for (let number = 0; number < index.blockCount; number++) {
    const block = readBlock(layer, index, number);
    for (let entry = 0; entry < block.entryCount; entry++) {
      images += entryKind(block, entry) === VALUE_IMAGE ? 1 : 0;
    }
  }
  return images;
}

test("Timeline: any history reads like its model", async () => {
  await fc.assert(fc.asyncProperty(fc.integer(), fc.integer({ min: 50, max: 400 }), run), {
    numRuns: 15,
    endOnFailure: true,
  });
});

test("readPage: the page is the caller's own", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  timeline.readPage(REL, 0, FIXTURE_START_LSN)!.fill(9);
  assert.deepEqual(timeline.readPage(REL, 0, FIXTURE_START_LSN), page(1));
  const lsn = toLsn(FIXTURE_START_LSN + 8);
  timeline.putDelta(CLOG, 0, lsn, clog(3), true);
  timeline.advance(lsn, toLsn(0));
  const first = timeline.readPage(CLOG, 0, lsn)!;
  first.fill(9);
  assert.notDeepEqual(timeline.readPage(CLOG, 0, lsn), first);
});

test("dataChecksums: kept by a branch and over a restart; then VISIBLE stamps the heap page", async () => {
  const visible = buildDelta({
    rmid: 9,
    info: 0x40,
    blockId: 1,
    references: [
      { id: 0, blkno: 0, fork: 2 },
      { id: 1, blkno: 0 },
    ],
    main: new Uint8Array([0, 0, 0, 0, 3]),
  });
  for (const dataChecksums of [false, true]) {
    // Images at each flush, so that the flush does the redo too.
    await using fixture = await StorageFixture.create({ imageAfterDeltas: 1 });
    const heap = new Uint8Array(8192);
    // pd_lower, pd_upper, pd_special, pd_pagesize_version of an empty page.
    heap.set([24, 0, 0, 0x20, 0, 0x20, 4, 0x20], 12);
    const values = [{ prefix: REL, index: 0, value: heap }];
    const root = await fixture.createRoot(values, { dataChecksums });
    const lsn = toLsn(FIXTURE_START_LSN + 8);
    root.putDelta(REL, 0, lsn, visible, false);
    root.advance(lsn, toLsn(0));
    const stamp = (timeline: Timeline) => pageLsn(view(timeline.readPage(REL, 0, lsn)!));
    assert.equal(stamp(root), dataChecksums ? lsn : 0);
    const branch = await fixture.createBranch(root);
    await root.checkpoint();
    await fixture.reopen();
    for (const { timelineId } of [root, branch]) {
      const timeline = fixture.manager.tenant(fixture.tenantId).timeline(timelineId);
      assert.equal(timeline.dataChecksums, dataChecksums);
      assert.equal(stamp(timeline), dataChecksums ? lsn : 0);
    }
  }
});

test("readPage: a page whose record is not yet complete is not kept", async () => {
  await using fixture = await StorageFixture.create({ cacheAfterDeltas: 1 });
  const timeline = await fixture.createRoot();
  const lsn = toLsn(FIXTURE_START_LSN + 8);
  timeline.putDelta(CLOG, 0, lsn, clog(3), true);
  // Transactions 0 to 3 are the first byte, two bits each.
  assert.equal(timeline.readPage(CLOG, 0, lsn)![0], 0b0100_0000);
  timeline.putDelta(CLOG, 0, lsn, clog(1), false);
  timeline.advance(lsn, toLsn(0));
  assert.equal(timeline.readPage(CLOG, 0, lsn)![0], 0b0100_0100);
});

test("readPage: a page of some changes is kept when it is built again, one of many at once", async () => {
  await using fixture = await StorageFixture.create({ cacheAfterDeltas: 4 });
  const timeline = await fixture.createRoot();
  const put = mock.method(PageCache.prototype, "put");
  const puts = (index: number) => {
    put.mock.resetCalls();
    timeline.readPage(CLOG, index, timeline.lastRecordLsn);
    return put.mock.callCount();
  };
  const change = (index: number, count: number) => {
    for (let xid = 0; xid < count; xid++) {
      const lsn = toLsn(timeline.lastRecordLsn + 8);
      timeline.putDelta(CLOG, index, lsn, clog(index * 32768 + xid), xid === 0);
      timeline.advance(lsn, toLsn(0));
    }
  };
  try {
    change(0, 3);
    change(1, 4);
    change(2, 16);
    assert.deepEqual([puts(0), puts(0), puts(0)], [0, 0, 0]);
    assert.deepEqual([puts(1), puts(1), puts(1)], [0, 1, 0]);
    assert.deepEqual([puts(2), puts(2)], [1, 0]);
  } finally {
    put.mock.restore();
  }
});

test("readPage: a hot page in memory, with several changes a record, reads right at every LSN", async () => {
  await using fixture = await StorageFixture.create({ stepVersions: 4, pageCachePages: 4 });
  const timeline = await fixture.createRoot();
  const expected: { lsn: Lsn; page: Uint8Array }[] = [];
  const state = page(0);
  for (let record = 0; record < 300; record++) {
    const lsn = toLsn(timeline.lastRecordLsn + 8);
    for (let change = 0; change < 3; change++) {
      const xid = record * 3 + change;
      timeline.putDelta(CLOG, 0, lsn, clog(xid), xid === 0);
      state[xid >> 2]! |= 1 << ((xid & 3) * 2);
    }
    timeline.advance(lsn, toLsn(0));
    expected.push({ lsn, page: state.slice() });
    if (record % 50 === 49) {
      for (const { lsn, page } of expected.toReversed()) {
        assert.deepEqual(timeline.readPage(CLOG, 0, lsn), page, `at ${lsn}`);
      }
    }
  }
});

test("readPage: what any of many ancestors has is found, by each branch", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const timelines: Timeline[] = [root];
  for (let depth = 1; depth <= 20; depth++) {
    const timelineId = generateTimelineId();
    const ancestorTimelineId = timelines.at(-1)!.timelineId;
    timelines.push(await tenant.createBranch({ timelineId, ancestorTimelineId }));
    putRecord(timelines.at(-1)!, REL, depth, page(depth));
    if (depth % 2 === 0) {
      await timelines.at(-1)!.checkpoint();
    }
  }
  const check = (timeline: Timeline, depth: number) => {
    for (let index = 0; index <= 20; index++) {
      const found = timeline.readPage(REL, index, timeline.lastRecordLsn);
      assert.deepEqual(
        found,
        index <= depth ? page(index || 1) : undefined,
        `${index} at ${depth}`,
      );
    }
  };
  for (let round = 0; round < 3; round++) {
    for (const [depth, timeline] of timelines.entries()) {
      check(timeline, depth);
    }
    await fixture.manager.resources.spanBuilder.settled();
  }
  // What it has of its ancestors now, the root's too, is below each span that passed it.
  await timelines[10]!.detachFromAncestor();
  for (const [depth, timeline] of timelines.entries()) {
    check(timeline, depth);
  }
});

test("putImage: the value is copied", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  const value = page(1);
  const lsn = putRecord(timeline, REL, 0, value);
  value.fill(2);
  assert.deepEqual(timeline.readPage(REL, 0, lsn), page(1));
});

test("put: values larger than a chunk, empty ones, and many chunks", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  const sizes = [0, 5_000_000, 0, 1, 4_194_304, 4_194_303, 16_384, 0, 70_000, 8192];
  const lsns = sizes.map((size, i) => putRecord(timeline, SIZE, i, new Uint8Array(size).fill(i)));
  const check = () => {
    for (const [i, size] of sizes.entries()) {
      const value = timeline.readValue(SIZE, i, lsns[i]!)!;
      assert.equal(value.length, size);
      assert.ok(value.every((byte) => byte === i));
    }
  };
  check();
  await timeline.checkpoint();
  check();
});

test("readPage: below the first LSN is invalid, unknown keys are undefined", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  assert.equal(timeline.readPage(REL, 0, FIXTURE_START_LSN), undefined);
  assert.throws(() => timeline.readPage(REL, 0, toLsn(FIXTURE_START_LSN - 1)), {
    kind: "invalid",
    code: "lsn-too-old",
  });
});

test("readPage: a delta that redo refuses is corrupt and names key and LSN; other pages read", async () => {
  await using fixture = await StorageFixture.create({ imageAfterDeltas: 1 });
  const timeline = await fixture.createRoot();
  const lsn = toLsn(FIXTURE_START_LSN + 8);
  timeline.putDelta(CLOG, 0, lsn, Uint8Array.of(4, 1, 9, 9), false);
  timeline.putDelta(CLOG, 1, lsn, clog(32768), false);
  timeline.advance(lsn, toLsn(0));
  const check = () => {
    assert.throws(
      () => timeline.readPage(CLOG, 0, lsn),
      (error) =>
        error instanceof StorageError &&
        error.kind === "corrupt" &&
        error.message.includes("010000000000000001000000000000000000") &&
        error.message.includes("1/1008"),
    );
    assert.equal(timeline.readPage(CLOG, 1, lsn)![0], 1);
  };
  check();
  await timeline.checkpoint();
  assert.equal(timeline.diskConsistentLsn, lsn);
  check();
});

test("waitForLsn: resolves on advance, times out as unavailable, ends on close", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  await timeline.waitForLsn(FIXTURE_START_LSN, 0);
  const waiting = timeline.waitForLsn(toLsn(FIXTURE_START_LSN + 10), 5000);
  putRecord(timeline, SIZE, 0, page(1));
  putRecord(timeline, SIZE, 0, page(1));
  await waiting;
  await assert.rejects(timeline.waitForLsn(toLsn(FIXTURE_START_LSN + 99), 5), {
    kind: "unavailable",
    code: "lsn-timeout",
  });
  const ended = assert.rejects(timeline.waitForLsn(toLsn(FIXTURE_START_LSN + 99), 60_000), {
    code: "shutting-down",
  });
  await fixture.close();
  await ended;
});

test("hasRelationsFrom: what there is at an LSN, in memory, in files and in the ancestor", async () => {
  await using fixture = await StorageFixture.create();
  const size = (relNumber: number, fork: number) => relSizePrefix(1663, 5, relNumber, fork);
  const five = new Uint8Array([5, 0, 0, 0]);
  const timeline = await fixture.createRoot([
    { prefix: size(16_384, 0), index: 0, value: five },
    { prefix: relSizePrefix(1663, 6, 20_000, 0), index: 0, value: five },
    { prefix: relBlockPrefix(1663, 5, 30_000, 0), index: 0, value: page(1) },
  ]);
  const has = (at: Timeline, relNumber: number, lsn = at.lastRecordLsn, dbOid = 5) =>
    hasRelationsFrom(at, lsn, 1663, dbOid, relNumber);
  const isAsMade = (at: Timeline, lsn = at.lastRecordLsn) => {
    assert.ok(has(at, 16_384, lsn) && has(at, 16_385, lsn) && has(at, 16_400, lsn));
    assert.ok(!has(at, 16_401, lsn) && has(at, 20_000, lsn, 6) && !has(at, 20_001, lsn, 6));
    assert.ok(!has(at, 1, lsn, 4));
  };
  assert.ok(has(timeline, 16_384) && !has(timeline, 16_385));
  const made = putRecord(timeline, size(16_400, 3), 0, five);
  isAsMade(timeline);
  await timeline.checkpoint();
  isAsMade(timeline);
  const branch = await fixture.createBranch(timeline);
  isAsMade(branch);
  const dropped = toLsn(made + 50);
  timeline.putTombstone(size(16_400, 3), 0, dropped);
  timeline.advance(dropped, made);
  assert.ok(!has(timeline, 16_385));
  isAsMade(timeline, made);
  isAsMade(branch);
});

test("close: later reads and puts are refused, no file is opened again", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  await fixture.close();
  const refused = { code: "shutting-down" };
  assert.throws(() => timeline.readPage(REL, 0, FIXTURE_START_LSN), refused);
  assert.throws(() => timeline.readValue(REL, 0, FIXTURE_START_LSN), refused);
  assert.throws(() => [...timeline.scan([0], FIXTURE_START_LSN)], refused);
  assert.throws(() => putRecord(timeline, REL, 0, page(2)), refused);
  assert.equal(timeline.layers[0]!.descriptor, -1);
});

test("close: what is asked for meanwhile is refused, as nothing would wait for it or end it", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = putRecord(timeline, REL, 0, page(2));
  const closed = timeline.close();
  const refused = { kind: "unavailable", code: "shutting-down" };
  await assert.rejects(timeline.compact("collect"), refused);
  await assert.rejects(timeline.checkpoint(), refused);
  await assert.rejects(timeline.waitForLsn(toLsn(lsn + 1), 60_000), refused);
  await closed;
});

test("flush: readers of a branch see the ancestor's versions move from memory to a file", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = putRecord(timeline, REL, 0, page(2));
  const branch = await fixture.createBranch(timeline);
  putRecord(timeline, REL, 0, page(3));
  const later = toLsn(lsn + 100);
  assert.deepEqual(branch.readPage(REL, 0, later), page(2));
  const flushed = timeline.checkpoint();
  assert.deepEqual(branch.readPage(REL, 0, later), page(2));
  await flushed;
  assert.equal(timeline.layers.length, 2);
  assert.deepEqual(branch.readPage(REL, 0, later), page(2));
  assert.deepEqual(branch.readPage(REL, 0, FIXTURE_START_LSN), page(1));
});

test("flush: many timelines that each hold little go to disk, the largest first, above the budget of all", async () => {
  const maxOpenLayerBytes = 10 * PAGE_SIZE;
  await using fixture = await StorageFixture.create({ maxOpenLayerBytes });
  const root = await fixture.createRoot();
  const timelines: Timeline[] = [];
  for (let i = 0; i < 8; i++) {
    timelines.push(await fixture.createBranch(root));
  }
  for (let round = 0; round < 12; round++) {
    for (const [at, timeline] of timelines.entries()) {
      putRecord(timeline, REL, at, page(round));
      await timeline.ingestReady();
    }
    assert.ok(fixture.manager.resources.layerMemory.heldBytes < 3 * maxOpenLayerBytes);
  }
  for (const [at, timeline] of timelines.entries()) {
    assert.ok(timeline.layers.length > 0, `timeline ${at} was never flushed`);
    assert.deepEqual(timeline.readPage(REL, at, timeline.lastRecordLsn), page(11));
  }
});

test("flush: a failing disk is tried again, ingest waits, nothing is lost", async () => {
  await using fixture = await StorageFixture.create({
    checkpointDistanceBytes: 10_000,
    maxFrozenLayers: 1,
  });
  const timeline = await fixture.createRoot();
  const directory = join(fixture.timelinesDirectory, timeline.timelineId);
  renameSync(directory, `${directory}-away`);
  const first = putRecord(timeline, REL, 0, page(1));
  const second = putRecord(timeline, REL, 0, page(2));
  const ready = timeline.ingestReady();
  assert.ok(ready !== undefined);
  await assert.rejects(timeline.checkpoint());
  assert.equal(timeline.diskConsistentLsn, FIXTURE_START_LSN);
  assert.deepEqual(timeline.readPage(REL, 0, first), page(1));
  renameSync(`${directory}-away`, directory);
  await ready;
  await timeline.checkpoint();
  assert.equal(timeline.diskConsistentLsn, second);
  assert.equal(timeline.ingestReady(), undefined);
  assert.deepEqual(timeline.readPage(REL, 0, first), page(1));
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  assert.deepEqual(again.readPage(REL, 0, first), page(1));
  assert.deepEqual(again.readPage(REL, 0, second), page(2));
});

test("checkpoint: with no pages in the WAL, only the index moves on", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  const lsn = toLsn(FIXTURE_START_LSN + 800);
  timeline.advance(lsn, toLsn(lsn - 40));
  await timeline.checkpoint();
  assert.equal(timeline.layers.length, 1);
  await fixture.reopen();
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  assert.equal(again.lastRecordLsn, lsn);
  assert.equal(again.prevRecordLsn, lsn - 40);
});

for (const [where, inlineFlushBytes] of [
  ["inline", 1 << 20],
  ["on its thread", 0],
] as const) {
  test(`flush ${where}: a hot page reads from few deltas at any LSN`, async () => {
    await using fixture = await StorageFixture.create({ inlineFlushBytes });
    const timeline = await fixture.createRoot();
    const start = timeline.lastRecordLsn;
    for (let i = 0; i < 3000; i++) {
      const lsn = toLsn(timeline.lastRecordLsn + 8);
      timeline.putDelta(CLOG, 0, lsn, clog(i, 1 + (i % 2)), i === 0);
      timeline.advance(lsn, toLsn(0));
    }
    const before = [0, 1, 255, 256, 257, 1000, 2999].map((i) =>
      timeline.readPage(CLOG, 0, toLsn(start + 8 * (i + 1))),
    );
    await timeline.checkpoint();
    const after = [0, 1, 255, 256, 257, 1000, 2999].map((i) =>
      timeline.readPage(CLOG, 0, toLsn(start + 8 * (i + 1))),
    );
    assert.deepEqual(after, before);
    // 3000 deltas and an image every 256, one at the end: 12 in all.
    const images = countImages(timeline.layers[0]!);
    assert.ok(images >= 12 && images < 14, `${images} images`);
  });

  test(`flush ${where}: a page with a few deltas in every layer gets an image in turn`, async () => {
    await using fixture = await StorageFixture.create({ inlineFlushBytes });
    const timeline = await fixture.createRoot();
    for (let layer = 0; layer < 40; layer++) {
      for (let block = 0; block < 32; block++) {
        const lsn = toLsn(timeline.lastRecordLsn + 8);
        timeline.putDelta(CLOG, block, lsn, clog(block * 32768 + layer), false);
        timeline.putDelta(CLOG, block, lsn, clog(block * 32768 + layer + 100), false);
        timeline.advance(lsn, toLsn(0));
      }
      await timeline.checkpoint();
    }
    // 80 deltas a page: a first image between the 32nd and the 64th, perhaps a second 32 later.
    const images = timeline.layers
      .filter((layer) => !layer.isImage)
      .map(countImages)
      .reduce((sum, count) => sum + count);
    assert.ok(images >= 32 && images <= 64, `${images} images`);
    for (let block = 0; block < 32; block++) {
      const bytes = timeline.readPage(CLOG, block, timeline.lastRecordLsn)!;
      assert.deepEqual([...bytes.subarray(0, 11)], [...Array<number>(10).fill(0x55), 0]);
    }
  });
}

test("flush: a page that each delta makes anew, as a GIN metapage, gets no images", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot();
  for (let i = 0; i < 1000; i++) {
    const lsn = toLsn(timeline.lastRecordLsn + 8);
    timeline.putDelta(CLOG, 0, lsn, clog(i), true);
    timeline.advance(lsn, toLsn(0));
  }
  const before = timeline.readPage(CLOG, 0, timeline.lastRecordLsn);
  await timeline.checkpoint();
  assert.deepEqual(timeline.readPage(CLOG, 0, timeline.lastRecordLsn), before);
  assert.equal(countImages(timeline.layers[0]!), 0);
});

for (const [name, damage, code] of [
  ["cut short", (bytes: Buffer) => bytes.subarray(0, bytes.length - 100), "corrupt-layer"],
  ["empty", () => Buffer.alloc(0), "corrupt-layer"],
  ["foreign", (bytes: Buffer) => Buffer.alloc(bytes.length, "x"), "corrupt-layer"],
] as const) {
  test(`load: a layer file that is ${name} fails its reads and nothing else`, async () => {
    await using fixture = await StorageFixture.create();
    const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
    const other = await fixture.createRoot([{ prefix: REL, index: 0, value: page(7) }]);
    const first = putRecord(timeline, REL, 1, page(2));
    await timeline.checkpoint();
    const last = putRecord(timeline, REL, 2, page(3));
    await timeline.checkpoint();
    await fixture.close();
    const path = timeline.layers[1]!.path;
    writeFileSync(path, damage(readFileSync(path)));
    await fixture.open();
    const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
    assert.deepEqual(again.readPage(REL, 2, last), page(3));
    assert.deepEqual(again.readPage(REL, 0, FIXTURE_START_LSN), page(1));
    assert.throws(
      () => again.readPage(REL, 1, first),
      (error) =>
        error instanceof StorageError && error.code === code && error.message.includes(path),
    );
    const unharmed = fixture.manager.timeline(fixture.tenantId, other.timelineId);
    assert.deepEqual(unharmed.readPage(REL, 0, FIXTURE_START_LSN), page(7));
  });
}

test("load: what a crash leaves beside the index is removed, a stranger's file is not", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const lsn = putRecord(timeline, REL, 0, page(2));
  await timeline.checkpoint();
  await fixture.close();
  const directory = join(fixture.timelinesDirectory, timeline.timelineId);
  const [newest] = timeline.layers;
  // A layer that was finished and not yet named by the index, and unfinished files.
  const unindexed = newest!.fileName.replace(
    /__[0-9A-F]{16}-[0-9A-F]{16}/,
    "__00000001FFFF0000-00000001FFFF1000",
  );
  writeFileSync(join(directory, unindexed), readFileSync(newest!.path));
  writeFileSync(join(directory, "layer-0011223344556677.___temp"), "half");
  writeFileSync(join(directory, "index_part.json.___temp"), "{");
  writeFileSync(join(directory, "notes.txt"), "mine");
  appendFileSync(join(directory, "notes.txt"), "!");
  await fixture.open();
  assert.deepEqual(
    readdirSync(directory).sort(),
    [...timeline.layers.map((layer) => layer.fileName), "index_part.json", "notes.txt"].sort(),
  );
  const again = fixture.manager.timeline(fixture.tenantId, timeline.timelineId);
  assert.equal(again.lastRecordLsn, lsn);
  assert.deepEqual(again.readPage(REL, 0, lsn), page(2));
});

test("load: where no layers are, what a crash leaves is removed behind the start", async () => {
  await using fixture = await StorageFixture.create();
  const { timelineId } = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const branch = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
  const { lastRecordLsn } = await tenant.createBranch(branch);
  const [{ path, fileName }] = tenant.timeline(timelineId).layers as [LayerFile];
  await fixture.close();
  const directory = join(fixture.timelinesDirectory, branch.timelineId);
  writeFileSync(join(directory, fileName), readFileSync(path));
  writeFileSync(join(directory, "layer-0011223344556677.___temp"), "half");
  await fixture.open();
  const again = fixture.manager.tenant(fixture.tenantId);
  await again.swept;
  assert.deepEqual(readdirSync(directory), ["index_part.json"]);
  // Safekeepers are told of it when its index is sure to stay.
  const loaded = again.timeline(branch.timelineId);
  assert.deepEqual([loaded.remoteConsistentLsn, loaded.lastRecordLsn], [0, lastRecordLsn]);
  await loaded.prepareIngest();
  assert.equal(loaded.remoteConsistentLsn, lastRecordLsn);
});

test("load: what a crash leaves is removed, too, where all layers are the former ancestor's", async () => {
  await using fixture = await StorageFixture.create();
  const { timelineId } = await fixture.createRoot([{ prefix: REL, index: 0, value: page(1) }]);
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const branch = { timelineId: generateTimelineId(), ancestorTimelineId: timelineId };
  await (await tenant.createBranch(branch)).detachFromAncestor();
  const [{ path, fileName }] = tenant.timeline(timelineId).layers as [LayerFile];
  await fixture.close();
  const directory = join(fixture.timelinesDirectory, branch.timelineId);
  writeFileSync(join(directory, fileName), readFileSync(path));
  await fixture.open();
  await fixture.manager.tenant(fixture.tenantId).swept;
  assert.deepEqual(readdirSync(directory), ["index_part.json"]);
});

test("isKept: where a branch begins stays readable below its own cutoff, as its ancestor keeps it", async () => {
  await using fixture = await StorageFixture.create();
  const root = await fixture.createRoot();
  const first = putRecord(root, REL, 0, page(1));
  const tenant = fixture.manager.tenant(fixture.tenantId);
  const ancestorTimelineId = root.timelineId;
  const branch = await tenant.createBranch({
    timelineId: generateTimelineId(),
    ancestorTimelineId,
  });
  for (const timeline of [root, branch]) {
    putRecord(timeline, REL, 0, page(2));
    putRecord(timeline, REL, 0, page(3));
    await timeline.checkpoint();
    await timeline.advanceGcCutoff(timeline.lastRecordLsn);
    while (await timeline.compact("collect")) {
      // To the end.
    }
  }
  assert.deepEqual(branch.readPage(REL, 0, first), page(1));
  assert.equal(branch.isKept(first), true);
  assert.equal(branch.isKept(toLsn(first + 8)), false);
  assert.equal(root.isKept(first), false);
});
