// Tests of prepared transactions: slots are used again, timelines of before are read and moved, and a
// start costs what is open.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHECKPOINT, controlFile, IngestHarness, logger } from "../../../testing/ingest-harness.ts";
import { StorageFixture } from "../../../testing/storage-fixture.ts";
import type { Lsn } from "../../base/lsn.ts";
import { toLsn } from "../../base/lsn.ts";
import { readComputeState } from "../compute-state.ts";
import {
  CHECKPOINT_INDEX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  KEYSPACE_TWO_PHASE,
  keyPrefix,
  PREPARED_SLOT_PREFIX,
} from "../layers/key.ts";
import { PreparedTransactions, readPreparedTransactions } from "./prepared-transactions.ts";
import { encodeStoredCheckPoint } from "./stored-checkpoint.ts";
import { WalIngest } from "./walingest.ts";

const PAYLOAD = new Uint8Array([7, 8, 9]);
const EPOCH = 1n << 32n;

function open(h: IngestHarness, lsn: Lsn = h.storage.lastRecordLsn): number[] {
  return readPreparedTransactions(h.storage, lsn).map(({ fullXid, payload }) => {
    assert.deepEqual(payload, PAYLOAD);
    return Number(fullXid - EPOCH);
  });
}

const prepare = (h: IngestHarness, xid: number) =>
  h.record((ingest) => ingest.twoPhasePrepare(BigInt(xid), PAYLOAD));
const forget = (h: IngestHarness, xid: number) => h.record((ingest) => ingest.twoPhaseForget(xid));

test("PreparedTransactions: as many keys as were open at once, and the past stays", () => {
  const h = new IngestHarness();
  prepare(h, 700);
  const both = prepare(h, 699);
  assert.deepEqual(open(h), [699, 700]);
  forget(h, 700);
  prepare(h, 701);
  forget(h, 500);
  assert.deepEqual(open(h), [699, 701]);
  assert.deepEqual(open(h, both), [699, 700]);
  const slots = () => [...h.storage.versions.get(PREPARED_SLOT_PREFIX)!.keys()];
  assert.deepEqual(slots(), [0, 1, 2]);
  // Another ingester goes on from what is stored: the free slot first, then a new one.
  prepare(h, 702);
  forget(h, 699);
  const again = new PreparedTransactions(h.storage);
  const lsn = toLsn(h.storage.lastRecordLsn + 8);
  again.prepare(EPOCH + 703n, PAYLOAD, lsn);
  assert.deepEqual(slots(), [0, 1, 2, 3]);
  again.prepare(EPOCH + 704n, PAYLOAD, lsn);
  h.storage.advance(lsn, h.storage.lastRecordLsn);
  assert.deepEqual(slots(), [0, 1, 2, 3, 4]);
  assert.deepEqual(open(h), [701, 702, 703, 704]);
});

test("PreparedTransactions: those of a timeline of before are read, and moved at the first record", () => {
  const h = new IngestHarness();
  const old = (xid: number) => keyPrefix(KEYSPACE_TWO_PHASE, 1, xid, 0, 0);
  const { lastRecordLsn } = h.storage;
  for (const xid of [600, 601, 602]) {
    h.storage.putImage(old(xid), 0, lastRecordLsn, PAYLOAD);
  }
  h.storage.putTombstone(old(601), 0, lastRecordLsn);
  assert.deepEqual(open(h), [600, 602]);
  const moved = forget(h, 602);
  assert.deepEqual(open(h), [600]);
  assert.deepEqual(open(h, toLsn(moved - 1)), [600, 602]);
  prepare(h, 603);
  assert.deepEqual(open(h), [600, 603]);
});

test("readPreparedTransactions: a value too short is corrupt", () => {
  const h = new IngestHarness();
  const lsn = prepare(h, 700);
  h.storage.putImage(PREPARED_SLOT_PREFIX, 1, lsn, new Uint8Array(7));
  assert.throws(() => open(h), { kind: "corrupt", code: "bad-prepared-transaction" });
});

test("compute_state: 36,000 two-phase transactions that are over cost nothing", async () => {
  await using fixture = await StorageFixture.create();
  const timeline = await fixture.createRoot([
    { prefix: CONTROL_PREFIX, index: CONTROL_FILE_INDEX, value: controlFile() },
    { prefix: CONTROL_PREFIX, index: CHECKPOINT_INDEX, value: encodeStoredCheckPoint(CHECKPOINT) },
  ]);
  const ingest = new WalIngest(timeline, logger);
  const payload = new Uint8Array(300);
  const record = (change: () => void) => {
    const end = toLsn(timeline.lastRecordLsn + 8);
    ingest.beginRecord(timeline.lastRecordLsn, end);
    change();
    ingest.endRecord();
    ingest.publish();
  };
  const transactions = (first: number, count: number) => {
    // Three are always open.
    for (let xid = first; xid < first + count; xid++) {
      record(() => ingest.twoPhasePrepare(BigInt(xid), payload));
      if (xid >= first + 3) {
        record(() => ingest.twoPhaseForget(xid - 3));
      }
    }
  };
  // Of the processor, and not of the clock: others have it, too.
  const fastestMs = () => {
    let fastest = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5; i++) {
      const start = process.cpuUsage();
      assert.equal(readComputeState(timeline, timeline.lastRecordLsn).twoPhase.length, 3);
      fastest = Math.min(fastest, process.cpuUsage(start).user / 1000);
    }
    return fastest;
  };
  transactions(1000, 36_000);
  const inMemory = fastestMs();
  await timeline.checkpoint();
  const inFiles = fastestMs();
  assert.ok(inMemory < 5 && inFiles < 5, `took ${inMemory} ms in memory, ${inFiles} ms in files`);
});
