// Tests of CREATE DATABASE with file_copy: the copy is whole, others are served meanwhile, memory is bounded,
// and a copy that is broken off is made anew.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHECKPOINT, controlFile, logger } from "../../../testing/ingest-harness.ts";
import { FIXTURE_START_LSN, StorageFixture } from "../../../testing/storage-fixture.ts";
import { turn } from "../../base/clock.ts";
import { toLsn } from "../../base/lsn.ts";
import {
  CHECKPOINT_INDEX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  relBlockPrefix,
  relmapPrefix,
  relSizePrefix,
} from "../layers/key.ts";
import type { Timeline } from "../storage/timeline.ts";
import { encodeSize, readRelations } from "./relation-heads.ts";
import { encodeStoredCheckPoint } from "./stored-checkpoint.ts";
import { WalIngest } from "./walingest.ts";

const RELATIONS = 12;
const BLOCKS = 400;
const LAYER_BYTES = 4 << 20;
const MAX_FROZEN = 2;
const END = toLsn(FIXTURE_START_LSN + 96);

function block(relation: number, blkno: number): Uint8Array {
  const page = new Uint8Array(8192).fill(relation + 1);
  new DataView(page.buffer).setUint32(4000, blkno);
  return page;
}

/** 38 MB in the database 5: nine layers. Each relation has a block that was never written. */
function* source() {
  yield { prefix: relmapPrefix(1663, 5), index: 0, value: new Uint8Array([7, 7]) };
  for (let relation = 0; relation < RELATIONS; relation++) {
    for (let blkno = 0; blkno < BLOCKS; blkno++) {
      if (blkno !== 100) {
        const prefix = relBlockPrefix(1663, 5, 16384 + relation, 0);
        yield { prefix, index: blkno, value: block(relation, blkno) };
      }
    }
  }
  yield { prefix: CONTROL_PREFIX, index: CONTROL_FILE_INDEX, value: controlFile() };
  const checkPoint = encodeStoredCheckPoint(CHECKPOINT);
  yield { prefix: CONTROL_PREFIX, index: CHECKPOINT_INDEX, value: checkPoint };
  for (let relation = 0; relation < RELATIONS; relation++) {
    const prefix = relSizePrefix(1663, 5, 16384 + relation, 0);
    yield { prefix, index: 0, value: encodeSize(BLOCKS) };
  }
}

function openFixture(): Promise<StorageFixture> {
  return StorageFixture.create({
    checkpointDistanceBytes: LAYER_BYTES,
    maxFrozenLayers: MAX_FROZEN,
    inlineFlushBytes: 0,
  });
}

/** The record's end is still to come when it resolves. */
async function copy(timeline: Timeline, signal?: AbortSignal): Promise<WalIngest> {
  const ingest = new WalIngest(timeline, logger);
  ingest.beginRecord(toLsn(FIXTURE_START_LSN + 8), END);
  ingest.databaseCreateFileCopy(1663, 77, 1663, 5);
  await ingest.restOfRecord(signal);
  return ingest;
}

function checkCopy(timeline: Timeline): void {
  const relations = (dbOid: number) => readRelations(timeline, END, 1663, dbOid);
  assert.equal(relations(77).length, RELATIONS);
  assert.deepEqual(relations(77), relations(5));
  assert.deepEqual(readRelations(timeline, FIXTURE_START_LSN, 1663, 77), []);
  for (let relation = 0; relation < RELATIONS; relation++) {
    const prefix = relBlockPrefix(1663, 77, 16384 + relation, 0);
    for (let blkno = 0; blkno < BLOCKS; blkno++) {
      const page = timeline.readPage(prefix, blkno, END);
      assert.deepEqual(page, blkno === 100 ? undefined : block(relation, blkno));
    }
  }
  assert.deepEqual(timeline.readValue(relmapPrefix(1663, 77), 0, END), new Uint8Array([7, 7]));
}

test("copyDatabase: equal to its source; others are served meanwhile; a few layers in memory", async () => {
  await using fixture = await openFixture();
  const timeline = await fixture.createRoot(source());
  const other = await fixture.createRoot(source());
  const busyMs: number[] = [];
  let peakBytes = 0;
  let isCopied = false;
  const reads = (async () => {
    while (!isCopied) {
      // CPU time of this thread: what else the machine does is not looked at.
      const start = process.threadCpuUsage();
      await turn();
      other.readPage(relBlockPrefix(1663, 5, 16384, 0), 7, FIXTURE_START_LSN);
      const { user, system } = process.threadCpuUsage(start);
      busyMs.push((user + system) / 1000);
      peakBytes = Math.max(peakBytes, timeline.memorySizeBytes);
      assert.equal(timeline.lastRecordLsn, FIXTURE_START_LSN);
    }
  })();
  const ingest = await copy(timeline);
  isCopied = true;
  await reads;
  // A share of all, not milliseconds: how fast the machine is says nothing, and a garbage collection comes when it likes.
  const longest = Math.max(...busyMs);
  const all = busyMs.reduce((sum, ms) => sum + ms, 0);
  assert.ok(busyMs.length > 20 && longest < all / 5, `${longest} ms at most, of ${all} ms`);
  assert.ok(peakBytes < (MAX_FROZEN + 2) * LAYER_BYTES, `${peakBytes} bytes in memory`);
  assert.equal(timeline.diskConsistentLsn, FIXTURE_START_LSN);
  ingest.endRecord();
  ingest.publish();
  checkCopy(timeline);
  await timeline.checkpoint();
  assert.equal(timeline.diskConsistentLsn, END);
  const largest = Math.max(...timeline.layers.slice(0, -1).map((layer) => layer.sizeBytes));
  assert.ok(largest < 1.5 * LAYER_BYTES, `a layer of ${largest} bytes`);
  await fixture.reopen();
  checkCopy(fixture.manager.timeline(fixture.tenantId, timeline.timelineId));
});

test("copyDatabase: broken off, by a stop or the end of the process, it is made anew", async () => {
  await using fixture = await openFixture();
  const root = await fixture.createRoot(source());
  const reopened = () => fixture.manager.timeline(fixture.tenantId, root.timelineId);
  for (const isKilled of [true, false]) {
    const timeline = reopened();
    const abort = new AbortController();
    const before = timeline.layers.length;
    const message = isKilled ? /timeline is clos/ : /database 5 was broken off/;
    const broken = assert.rejects(copy(timeline, abort.signal), { kind: "unavailable", message });
    while (timeline.layers.length < before + 3) {
      await turn();
    }
    if (isKilled) {
      await fixture.reopen();
    } else {
      abort.abort();
    }
    await broken;
    assert.equal(reopened().lastRecordLsn, FIXTURE_START_LSN);
    assert.deepEqual(readRelations(reopened(), FIXTURE_START_LSN, 1663, 77), []);
  }
  const ingest = await copy(reopened());
  ingest.endRecord();
  ingest.publish();
  checkCopy(reopened());
});
