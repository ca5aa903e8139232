import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { type Lsn, toLsn, walFileName } from "../../base/lsn.ts";
import { PG_VERSIONS } from "../../postgres/versions.ts";
import { CommitTimes } from "../../walproposer/commit-times.ts";
import { LocalWal } from "./local-wal.ts";
import { WalShipper } from "./wal-shipper.ts";
import { WalWalker } from "./wal-walker.ts";

const SEGMENT = 1024 * 1024;

test("WalShipper: a flush far above what a pageserver has waits for it; every step is counted", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const stalls: boolean[] = [];
  let asked = 0;
  const directory = mkdtempSync(join(tmpdir(), "strata-shipper-"));
  try {
    const startLsn = toLsn(SEGMENT + 8192 + 40);
    const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT, systemId: 7n });
    for (let page = 3; page < 14; page++) {
      while (wal.endLsn < SEGMENT + page * 8192) {
        wal.appendFilled(400);
      }
    }
    const file = new Uint8Array(SEGMENT);
    file.set(wal.bytes, startLsn - SEGMENT);
    writeFileSync(join(directory, walFileName(1, 1, SEGMENT)), file);
    const times = new CommitTimes();
    const localWal = new LocalWal(directory, SEGMENT);
    const shipper = new WalShipper({
      walker: new WalWalker({
        start: startLsn,
        prevLsn: 0 as Lsn,
        pageMagic: PG_VERSIONS[17].pageMagic,
        segmentSize: SEGMENT,
        systemId: 7n,
      }),
      localWal,
      segmentSize: SEGMENT,
      times,
      maxWriteLagBytes: 3 * 8192,
      onAvailable: () => undefined,
      onStalled: (stalled) => stalls.push(stalled),
      onHeld: () => {
        asked++;
      },
      onFatal: (error) => assert.fail(error),
    });
    const answered: number[] = [];
    const flush = (page: number) =>
      void shipper.flushWal(1, page * 8192).then(() => answered.push(page));
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    flush(2);
    flush(5);
    flush(10);
    shipper.committed(toLsn(SEGMENT + 1.5 * 8192));
    await settled();
    assert.deepEqual([answered, shipper.waitsForPageserver], [[], false], "no quorum has it");
    // What a pageserver has at the start counts, before it tells anything.
    shipper.committed(shipper.endOfRecords);
    await settled();
    assert.deepEqual([answered, shipper.waitsForPageserver], [[2], true]);
    shipper.ingested(toLsn(SEGMENT + 4 * 8192));
    await settled();
    assert.deepEqual(answered, [2, 5]);
    flush(10);
    await settled();
    assert.deepEqual(answered, [2, 5], "durable, but too far ahead");
    assert.deepEqual(stalls, []);
    assert.equal(asked, 0);
    t.mock.timers.tick(5000);
    assert.deepEqual(stalls, [true]);
    assert.ok(asked >= 1, "the pageserver's position is asked for while flushes wait for it");
    shipper.ingested(toLsn(SEGMENT + 9 * 8192));
    await settled();
    assert.deepEqual(answered, [2, 5, 10, 10]);
    assert.deepEqual([stalls, shipper.waitsForPageserver], [[true, false], false]);
    flush(13);
    shipper.committed(shipper.endOfRecords);
    await settled();
    assert.equal(answered.length, 4);
    assert.equal(shipper.extensionPaceMicros, 20_000);
    shipper.endWriteLagLimit();
    await settled();
    assert.equal(answered.length, 5, "for its shutdown Postgres waits for no pageserver");
    assert.equal(shipper.extensionPaceMicros, 0);
    const count = 'strata_compute_commit_step_seconds_count{step="total"}';
    assert.ok(times.lines().includes(`${count} 5`));
    localWal.close();
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("WalShipper: a commit's page is read once, found records are sent from what was read", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-shipper-"));
  const localWal = new LocalWal(directory, SEGMENT);
  try {
    const startLsn = toLsn(SEGMENT + 8192 + 40);
    const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT, systemId: 7n });
    wal.appendFilled(400);
    wal.appendFilled(100);
    const file = new Uint8Array(SEGMENT);
    file.set(wal.bytes, startLsn - SEGMENT);
    writeFileSync(join(directory, walFileName(1, 1, SEGMENT)), file);
    const { pageMagic } = PG_VERSIONS[17];
    const options = { prevLsn: 0 as Lsn, pageMagic, segmentSize: SEGMENT, systemId: 7n };
    const sent: Lsn[] = [];
    const shipper = new WalShipper({
      walker: new WalWalker({ start: startLsn, ...options }),
      localWal,
      segmentSize: SEGMENT,
      onAvailable: (endLsn) => sent.push(endLsn),
      onFatal: (error) => assert.fail(error),
    });
    const { mock } = t.mock.method(localWal, "read");
    void shipper.flushWal(1, 2 * 8192);
    assert.deepEqual(sent, [wal.endLsn]);
    assert.equal(mock.callCount(), 1);
    assert.ok(Buffer.from(wal.bytes).equals(shipper.read(startLsn, wal.endLsn)));
    assert.equal(mock.callCount(), 1);
    shipper.stop();
  } finally {
    localWal.close();
    rmSync(directory, { recursive: true });
  }
});

test("WalShipper: memory of WAL is freed when it is sent everywhere and newer was read, not before", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-shipper-"));
  const localWal = new LocalWal(directory, SEGMENT);
  try {
    const startLsn = toLsn(SEGMENT + 8192 + 40);
    const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT, systemId: 7n });
    while (wal.endLsn < SEGMENT + 40 * 8192) {
      wal.appendFilled(400);
    }
    const file = new Uint8Array(SEGMENT);
    file.set(wal.bytes, startLsn - SEGMENT);
    writeFileSync(join(directory, walFileName(1, 1, SEGMENT)), file);
    const { pageMagic } = PG_VERSIONS[17];
    const options = { prevLsn: 0 as Lsn, pageMagic, segmentSize: SEGMENT, systemId: 7n };
    const shipper = new WalShipper({
      walker: new WalWalker({ start: startLsn, ...options }),
      localWal,
      segmentSize: SEGMENT,
      onAvailable: () => undefined,
      onFatal: (error) => assert.fail(error),
    });
    const ends = [startLsn];
    const readNext = (page: number) => {
      shipper.walWritten(1, 0, page * 8192);
      ends.push(shipper.endOfRecords);
      return shipper.read(ends.at(-2)!, ends.at(-1)!);
    };
    const isWhole = (bytes: Uint8Array, i: number) =>
      Buffer.from(wal.bytes.subarray(ends[i]! - startLsn, ends[i + 1]! - startLsn)).equals(bytes);
    const first = readNext(10);
    const firstOfAnother = shipper.read(startLsn, ends[1]!);
    const second = readNext(20);
    shipper.released(first);
    assert.ok(isWhole(firstOfAnother, 0), "sent to one of two");
    shipper.released(firstOfAnother);
    assert.deepEqual([first.length, firstOfAnother.length], [0, 0]);
    shipper.released(second);
    assert.ok(isWhole(second, 1), "the next read may be of it");
    const third = readNext(30);
    assert.equal(second.length, 0);
    const old = shipper.read(startLsn, ends[1]!);
    assert.ok(isWhole(old, 0) && isWhole(third, 2), "older WAL is read again");
    shipper.released(old);
    assert.equal(old.length, 0);
    shipper.stop();
  } finally {
    localWal.close();
    rmSync(directory, { recursive: true });
  }
});
