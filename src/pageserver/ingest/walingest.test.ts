// Tests of what ingest makes of typed changes: sizes, gaps, truncation, SLRUs, counters.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHECKPOINT, IngestHarness } from "../../../testing/ingest-harness.ts";
import {
  type RelationFork,
  SLRU_CLOG,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
} from "../../wal-decoder/record-sink.ts";
import { relBlockPrefix, slruBlockPrefix } from "../layers/key.ts";
import { readPreparedTransactions } from "./prepared-transactions.ts";
import { readCheckPoint } from "./walingest.ts";

const REL: RelationFork = { spcOid: 1663, dbOid: 5, relNumber: 16384, fork: 0 };
const VM: RelationFork = { ...REL, fork: 2 };
const DELTA = new Uint8Array([1, 2, 3]);

test("a block past the end extends the relation and the blocks between read as zeros", () => {
  const h = new IngestHarness();
  const first = h.record((ingest) => ingest.blockDelta(REL, 0, DELTA, true));
  h.record((ingest) => ingest.blockDelta(REL, 4, DELTA, true));
  assert.equal(h.size(REL, first), 1);
  assert.equal(h.size(REL), 5);
  assert.deepEqual(h.kinds(REL, 3), ["tombstone"]);
  assert.deepEqual(h.kinds(REL, 4), ["init"]);
  assert.deepEqual(h.kinds(REL, 0), ["init"]);
});

test("what was truncated away does not show when the relation grows again", () => {
  const h = new IngestHarness();
  for (let blkno = 0; blkno < 10; blkno++) {
    h.record((ingest) => ingest.blockDelta(REL, blkno, DELTA, true));
  }
  const before = h.storage.lastRecordLsn;
  h.record((ingest) => ingest.relationTruncate(REL, 3, 7));
  assert.equal(h.size(REL), 3);
  assert.equal(h.size(REL, before), 10);
  h.record((ingest) => ingest.blockDelta(REL, 8, DELTA, true));
  assert.equal(h.size(REL), 9);
  assert.deepEqual(h.kinds(REL, 5), ["tombstone"]);
  assert.deepEqual(h.kinds(REL, 5, before), ["init"]);
  h.record((ingest) => ingest.relationTruncate(REL, 100, 7));
  assert.equal(h.size(REL), 9, "truncation never grows");
});

test("a gap that no extension makes is refused as corrupt", () => {
  const h = new IngestHarness();
  assert.throws(() => h.record((ingest) => ingest.blockDelta(REL, 0xffff_fffe, DELTA, true)), {
    kind: "corrupt",
    code: "relation-gap",
  });
});

test("visibility map: cleared where it exists, truncated with its heap, forgotten when dropped", () => {
  const h = new IngestHarness();
  h.record((ingest) => {
    ingest.blockDelta(REL, 0, DELTA, true);
    ingest.visibilityMapClear(REL, 0, 3);
  });
  assert.equal(h.size(VM), undefined);
  h.record((ingest) => ingest.blockDelta(VM, 2, DELTA, false));
  assert.deepEqual(h.kinds(VM, 2), ["delta"]);
  h.record((ingest) => {
    ingest.visibilityMapClear(REL, 32672, 1);
    ingest.visibilityMapClear(REL, 3 * 32672, 1);
  });
  assert.deepEqual(h.kinds(VM, 1), ["tombstone", "delta"]);
  assert.equal(h.size(VM), 3);
  h.record((ingest) => ingest.relationTruncate(REL, 32672 + 5, 7));
  assert.equal(h.size(VM), 2);
  assert.deepEqual(h.kinds(VM, 2), ["tombstone"]);
  const last = h.storage.chain(relBlockPrefix(1663, 5, 16384, 2), 1).at(-1)!;
  assert.deepEqual(
    [...last.value],
    [3, 0, 0, 0, ...new Uint8Array(new Uint32Array([32677]).buffer)],
  );
  h.record((ingest) => ingest.relationTruncate(REL, 32672, 7));
  assert.equal(h.size(VM), 1);
  h.record((ingest) => ingest.relationDrop(1663, 5, 16384));
  assert.equal(h.size(VM), undefined);
  assert.deepEqual(h.kinds(VM, 0), ["tombstone"]);
});

test("drop and create anew: sizes follow, the past stays", () => {
  const h = new IngestHarness();
  const created = h.record((ingest) => ingest.relationCreate(REL));
  assert.equal(h.size(REL), 0);
  h.record((ingest) => ingest.relationDrop(1663, 5, 16384));
  assert.equal(h.size(REL), undefined);
  assert.equal(h.size(REL, created), 0);
  h.record((ingest) => ingest.relationDrop(1663, 5, 16384));
  h.record((ingest) => ingest.relationCreate(REL));
  assert.equal(h.size(REL), 0);
});

test("CREATE DATABASE by file copy copies sizes, pages and the map as of the record before", async () => {
  const h = new IngestHarness();
  const page = new Uint8Array(8192).fill(9);
  h.record((ingest) => {
    ingest.databaseCreateWalLog(1663, 5);
    ingest.relationMapUpdate(1663, 5, new Uint8Array([7, 7]));
  });
  h.record((ingest) => ingest.blockImage(REL, 1, page));
  h.record((ingest) => ingest.relationCreate({ ...REL, fork: 3 }));
  await h.longRecord((ingest) => ingest.databaseCreateFileCopy(1663, 77, 1663, 5));
  const copy = { ...REL, dbOid: 77 };
  assert.equal(h.size(copy), 2);
  assert.deepEqual(h.kinds(copy, 0), ["tombstone"]);
  assert.deepEqual(h.kinds(copy, 1), ["image"]);
  assert.equal(h.size({ ...copy, fork: 3 }), 0);
  h.record((ingest) => ingest.databaseDrop(77, [1663]));
  assert.equal(h.size(copy), undefined);
  assert.equal(h.size(REL), 2);
  h.record((ingest) => ingest.relationCreate(copy));
  assert.equal(h.size(copy), 0);
});

test("nextXid is rounded up, keeps its epoch and crosses into the next one", () => {
  const h = new IngestHarness({ nextFullXid: (2n << 32n) - 5n });
  h.record((ingest) => ingest.sawXid(0xffff_fffc));
  assert.equal(h.ingest.checkPoint.nextFullXid, (2n << 32n) + 3n, "special xids are skipped");
  h.record((ingest) => ingest.sawXid(0xffff_fff0));
  assert.equal(h.ingest.checkPoint.nextFullXid, (2n << 32n) + 3n, "an older xid changes nothing");
  h.record((ingest) => ingest.sawXid(1030));
  assert.equal(h.ingest.checkPoint.nextFullXid, (2n << 32n) + 2048n);
  assert.equal(readCheckPoint(h.storage, h.storage.lastRecordLsn).nextFullXid, (2n << 32n) + 2048n);
  h.record((ingest) => ingest.sawXid(2));
  assert.equal(h.ingest.checkPoint.nextFullXid, (2n << 32n) + 2048n);
});

test("checkpoints: exact at shutdown, a lower bound when online", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.nextOid(24576));
  h.record((ingest) => ingest.sawXid(5000));
  const record = {
    ...CHECKPOINT,
    nextFullXid: (1n << 32n) + 4000n,
    nextOid: 20000,
    oldestXid: 3000,
  };
  h.record((ingest) => ingest.checkpoint(record, false));
  assert.equal(h.ingest.checkPoint.nextFullXid, (1n << 32n) + 5120n);
  assert.equal(h.ingest.checkPoint.nextOid, 24576);
  assert.equal(h.ingest.checkPoint.oldestXid, 3000);
  const shutdown = { ...record, nextFullXid: (1n << 32n) + 5001n, nextOid: 24580 };
  h.record((ingest) => ingest.checkpoint(shutdown, true));
  assert.deepEqual({ ...h.ingest.checkPoint }, shutdown);
  h.record((ingest) => ingest.sawXid(5001));
  assert.equal(h.ingest.checkPoint.nextFullXid, (1n << 32n) + 5120n);
});

test("prepared transactions are kept under their 64-bit xid, over an epoch's end", () => {
  const h = new IngestHarness({ nextFullXid: (3n << 32n) + 10n });
  h.record((ingest) => ingest.twoPhasePrepare(0xffff_fff0n, new Uint8Array([1])));
  const open = () => readPreparedTransactions(h.storage, h.storage.lastRecordLsn);
  const fullXid = (2n << 32n) + 0xffff_fff0n;
  assert.deepEqual(open(), [{ fullXid, payload: new Uint8Array([1]) }]);
  h.record((ingest) => ingest.twoPhaseForget(0xffff_fff0));
  assert.deepEqual(open(), []);
});

test("transaction status is grouped by page and extends the segment", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.slruZeroPage(SLRU_CLOG, 0));
  h.record((ingest) => ingest.transactionStatus([32767, 32768, 5], true));
  const [, onFirst] = h.storage.chain(slruBlockPrefix(SLRU_CLOG, 0), 0);
  assert.deepEqual([...onFirst!.value.subarray(0, 4)], [4, 1, 2, 0]);
  const [onSecond] = h.storage.chain(slruBlockPrefix(SLRU_CLOG, 0), 1);
  assert.deepEqual([...onSecond!.value], [4, 1, 1, 0, 0, 128, 0, 0]);
  assert.equal(h.slruSize(SLRU_CLOG, 0), 2);
});

test("a multixact at a page's end starts the next page, which its own record must not wipe", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.slruZeroPage(SLRU_MULTIXACT_OFFSETS, 0));
  const members = Array.from({ length: 3 }, (_, i) => ({ xid: 800 + i, status: i }));
  h.record((ingest) => ingest.multixactCreate(2047, 1635, members));
  const next = h.storage.chain(slruBlockPrefix(SLRU_MULTIXACT_OFFSETS, 0), 1);
  assert.deepEqual([...new Uint32Array(next[0]!.value.buffer, 4, 2)], [2048, 1638]);
  h.record((ingest) => ingest.slruZeroPage(SLRU_MULTIXACT_OFFSETS, 1));
  assert.equal(h.storage.chain(slruBlockPrefix(SLRU_MULTIXACT_OFFSETS, 0), 1).length, 1);
  h.record((ingest) => ingest.slruZeroPage(SLRU_MULTIXACT_OFFSETS, 1));
  assert.equal(h.storage.chain(slruBlockPrefix(SLRU_MULTIXACT_OFFSETS, 0), 1)[0]!.kind, "image");
  // Members: one on page 0, two on page 1.
  const memberPages = [0, 1].map(
    (block) => h.storage.chain(slruBlockPrefix(SLRU_MULTIXACT_MEMBERS, 0), block)[0]!.value,
  );
  assert.deepEqual(
    memberPages.map((value) => value[2]),
    [1, 2],
  );
  assert.equal(h.ingest.checkPoint.nextMulti, 2048);
  assert.equal(h.ingest.checkPoint.nextMultiOffset, 1638);
});

test("multixact offsets wrap: offset 0 is skipped, the number 0 too", () => {
  const h = new IngestHarness({ nextMulti: 0xffff_ffff, nextMultiOffset: 0xffff_fffe });
  h.record((ingest) =>
    ingest.multixactCreate(0xffff_ffff, 0xffff_fffe, [
      { xid: 800, status: 0 },
      { xid: 801, status: 1 },
    ]),
  );
  const offsets = h.storage.chain(slruBlockPrefix(SLRU_MULTIXACT_OFFSETS, 0), 0)[0]!.value;
  assert.deepEqual([...new Uint32Array(offsets.buffer, 4, 2)], [1, 1]);
  assert.equal(h.ingest.checkPoint.nextMulti, 1);
});

test("CLOG truncation drops whole segments before the cutoff, also over the wrap", () => {
  const h = new IngestHarness();
  const lastSegment = Math.floor(0xffff_ffff / 32768 / 32);
  for (const segno of [lastSegment - 1, lastSegment, 0, 1]) {
    h.record((ingest) => ingest.slruZeroPage(SLRU_CLOG, segno * 32));
  }
  h.record((ingest) => ingest.clogTruncate(33, 33 * 32768, 5));
  assert.equal(h.slruSize(SLRU_CLOG, lastSegment - 1), undefined);
  assert.equal(h.slruSize(SLRU_CLOG, lastSegment), undefined);
  assert.equal(h.slruSize(SLRU_CLOG, 0), undefined);
  assert.equal(h.slruSize(SLRU_CLOG, 1), 1);
  assert.equal(h.storage.chain(slruBlockPrefix(SLRU_CLOG, 0), 0)[0]!.kind, "tombstone");
  assert.equal(h.ingest.checkPoint.oldestXid, 33 * 32768);
});

test("multixact truncation drops member segments in [start, end) and offsets before the oldest", () => {
  const h = new IngestHarness();
  const perSegment = 1636 * 32;
  for (const segno of [0, 1, 2]) {
    h.record((ingest) => ingest.slruZeroPage(SLRU_MULTIXACT_MEMBERS, segno * 32));
    h.record((ingest) => ingest.slruZeroPage(SLRU_MULTIXACT_OFFSETS, segno * 32));
  }
  h.record((ingest) => ingest.multixactTruncate(5, 1, 2 * 65536 + 1, 0, 2 * perSegment + 7));
  assert.deepEqual(
    [0, 1, 2].map((segno) => h.slruSize(SLRU_MULTIXACT_MEMBERS, segno)),
    [undefined, undefined, 1],
  );
  assert.deepEqual(
    [0, 1, 2].map((segno) => h.slruSize(SLRU_MULTIXACT_OFFSETS, segno)),
    [undefined, undefined, 1],
  );
  assert.equal(h.ingest.checkPoint.oldestMulti, 2 * 65536 + 1);
  assert.equal(h.ingest.checkPoint.oldestMultiDb, 5);
});
