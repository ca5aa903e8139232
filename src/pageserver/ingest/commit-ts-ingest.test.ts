// Tests of what ingest makes of commit timestamps and replication origins.

import assert from "node:assert/strict";
import { test } from "node:test";
import { IngestHarness, logger } from "../../../testing/ingest-harness.ts";
import { toLsn } from "../../base/lsn.ts";
import { SLRU_COMMIT_TS } from "../../wal-decoder/record-sink.ts";
import { slruBlockPrefix } from "../layers/key.ts";
import { readReplicationOrigins } from "./replication-origins.ts";
import { readCheckPoint, WalIngest } from "./walingest.ts";

const PARAMETERS = {
  walLevel: 1,
  maxConnections: 100,
  maxWorkerProcesses: 8,
  maxWalSenders: 10,
  maxPreparedTransactions: 0,
  maxLocksPerTransaction: 64,
  walLogHints: false,
};
test("commit timestamps: kept from the switch on, up to the switch off", () => {
  const h = new IngestHarness({ nextFullXid: 819n * 32n - 1n });
  const track = (trackCommitTimestamp: boolean) =>
    h.record((ingest) => ingest.parameterChange({ ...PARAMETERS, trackCommitTimestamp }));
  h.record((ingest) => ingest.commitTimestamps([700], 1n, 0));
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 0), undefined);

  track(true);
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 0), 32);
  const limits = () => {
    const { oldestCommitTsXid, newestCommitTsXid } = readCheckPoint(
      h.storage,
      h.storage.lastRecordLsn,
    );
    return [oldestCommitTsXid, newestCommitTsXid];
  };
  assert.deepEqual(limits(), [819 * 32 - 1, 819 * 32 - 1]);
  // Two pages of one transaction; nextXid, and with it the newest, goes ahead to 26624.
  h.record((ingest) => {
    ingest.sawXid(819 * 32);
    ingest.commitTimestamps([819 * 32 - 1, 819 * 32], 5n, 3);
  });
  assert.deepEqual(limits(), [819 * 32 - 1, 26623]);
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 1), 1);
  for (const [segno, block] of [
    [0, 31],
    [1, 0],
  ] as const) {
    const delta = h.storage.chain(slruBlockPrefix(SLRU_COMMIT_TS, segno), block).at(-1)!;
    assert.deepEqual([delta.kind, delta.value[0], delta.value.length], ["delta", 7, 20]);
  }
  h.record((ingest) => ingest.commitTsTruncate(32, 819 * 32));
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 0), undefined);
  assert.deepEqual(limits(), [819 * 32, 26623]);

  track(false);
  assert.deepEqual(limits(), [0, 0]);
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 1), undefined);
  h.record((ingest) => ingest.commitTimestamps([26624], 1n, 0));
  assert.equal(h.slruSize(SLRU_COMMIT_TS, 1), undefined);
});

test("commit timestamps: pages that nextXid jumps over exist, over a wrap too", () => {
  // The last page of all is alone in its segment.
  for (const [next, seen, before, at] of [
    [819 * 31, 819 * 32 + 5, [0, 32], [1, 1]],
    [0xffff_ff00, 2000, [163880, 1], [0, 3]],
  ] as const) {
    const h = new IngestHarness({ nextFullXid: (1n << 32n) + BigInt(next) });
    h.record((ingest) => ingest.parameterChange({ ...PARAMETERS, trackCommitTimestamp: true }));
    h.record((ingest) => ingest.sawXid(seen));
    assert.equal(h.slruSize(SLRU_COMMIT_TS, before[0]), before[1]);
    assert.equal(h.slruSize(SLRU_COMMIT_TS, at[0]), at[1]);
    h.record((ingest) => ingest.commitTimestamps([seen], 1n, 0));
    const { newestCommitTsXid, nextFullXid } = h.ingest.checkPoint;
    assert.equal(newestCommitTsXid, Number(BigInt.asUintN(32, nextFullXid)) - 1);
  }
});

test("replication origins: only forwards, unless forced; gone when dropped; past LSNs stay", () => {
  const h = new IngestHarness();
  const origins = (lsn = h.storage.lastRecordLsn) =>
    new Map(readReplicationOrigins(h.storage, lsn).map((it) => [it.originId, it.remoteLsn]));
  const advance = (originId: number, lsn: bigint, force = false) =>
    h.record((ingest) => ingest.replicationOriginAdvance(originId, lsn, force));
  advance(7, 0xffff_ffff_ffff_fff0n);
  advance(2, 50n);
  const past = advance(2, 40n);
  advance(0xffff, 1n);
  assert.deepEqual(
    origins(),
    new Map([
      [7, 0xffff_ffff_ffff_fff0n],
      [2, 50n],
    ]),
  );
  advance(2, 40n, true);
  h.record((ingest) => {
    ingest.replicationOriginDrop(7);
    ingest.replicationOriginDrop(8);
  });
  assert.deepEqual(origins(), new Map([[2, 40n]]));
  assert.equal(origins(past).size, 2);
  // Another ingester goes on from what is stored.
  const again = new WalIngest(h.storage, logger);
  again.beginRecord(toLsn(90_000), toLsn(90_100));
  again.replicationOriginAdvance(2, 30n, false);
  again.endRecord();
  again.publish();
  assert.deepEqual(origins(), new Map([[2, 40n]]));
});
