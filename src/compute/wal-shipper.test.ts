import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Lsn, toLsn, walFileName } from "../base/lsn.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { WalBuilder } from "../testing/wal-builder.ts";
import { CommitTimes } from "./commit-times.ts";
import { LocalWal } from "./local-wal.ts";
import { WalShipper } from "./wal-shipper.ts";
import { WalWalker } from "./wal-walker.ts";
import { MAX_WRITE_LAG, maxWriteLagBytes } from "./write-lag.ts";

const SEGMENT = 1024 * 1024;

test("WalShipper: a flush far above what a pageserver has waits for it; every step is counted", async () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-shipper-"));
  try {
    const startLsn = toLsn(SEGMENT + 8192 + 40);
    const wal = new WalBuilder({ startLsn, segmentSize: SEGMENT, systemId: 7n });
    for (let page = 3; page < 12; page++) {
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
      onFatal: (error) => assert.fail(error),
    });
    const answered: number[] = [];
    const flush = (page: number) =>
      void shipper.flushWal(1, page * 8192).then(() => answered.push(page));
    const settled = () => new Promise((resolve) => setImmediate(resolve));
    flush(4);
    flush(5);
    flush(10);
    shipper.committed(toLsn(SEGMENT + 4.5 * 8192));
    await settled();
    assert.deepEqual(answered, [4], "no pageserver has told anything: the quorum is enough");
    shipper.ingested(toLsn(SEGMENT + 2 * 8192));
    shipper.committed(shipper.endOfRecords);
    await settled();
    assert.deepEqual(answered, [4, 5]);
    flush(10);
    await settled();
    assert.deepEqual(answered, [4, 5], "durable, but too far ahead");
    shipper.ingested(toLsn(SEGMENT + 8 * 8192));
    await settled();
    assert.deepEqual(answered, [4, 5, 10, 10]);
    const count = 'strata_compute_commit_step_seconds_count{step="total"}';
    assert.ok(times.lines().includes(`${count} 4`));
    localWal.close();
  } finally {
    rmSync(directory, { recursive: true });
  }
});

test("maxWriteLagBytes: sizes as Postgres writes them", () => {
  const parse = (text: string) => maxWriteLagBytes({ [MAX_WRITE_LAG]: text });
  assert.equal(maxWriteLagBytes({}), undefined);
  assert.deepEqual(["0", "500MB", "1 GB", "64kB", "3"].map(parse), [
    undefined,
    500 * 2 ** 20,
    2 ** 30,
    2 ** 16,
    3 * 2 ** 20,
  ]);
  assert.throws(() => parse("-1"), { kind: "invalid" });
  assert.throws(() => parse("lots"), { kind: "invalid" });
});
