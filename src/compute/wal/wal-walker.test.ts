import assert from "node:assert/strict";
import { test } from "node:test";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { addLsn, type Lsn, toLsn, XLOG_BLCKSZ } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { PG_VERSIONS } from "../../postgres/versions.ts";
import { RECORD_HEADER_SIZE } from "../../postgres/xlog-record.ts";
import { WalWalker } from "./wal-walker.ts";

const SEGMENT = 64 * 1024;
const SYSTEM_ID = 77n;

/** WAL as a cluster with tiny segments would write it, from `startLsn` on. */
function builder(startLsn: Lsn): WalBuilder {
  return new WalBuilder({ startLsn, segmentSize: SEGMENT, systemId: SYSTEM_ID });
}

function walkerOf(wal: WalBuilder, systemId = SYSTEM_ID): WalWalker {
  const { pageMagic } = PG_VERSIONS[17];
  const [start, prevLsn] = [wal.startLsn, toLsn(0)];
  return new WalWalker({ start, prevLsn, pageMagic, segmentSize: SEGMENT, systemId });
}

/** What the files hold up to the end of the last page. */
function fileOf(wal: WalBuilder): Uint8Array {
  const file = new Uint8Array(pageEnd(wal.endLsn) - wal.startLsn);
  file.set(wal.bytes);
  return file;
}

function feed(walker: WalWalker, file: Uint8Array, start: Lsn, written: Lsn): void {
  walker.noteWritten(written);
  while (walker.position < written) {
    const at = walker.position;
    walker.walk(file.subarray(at - start, written - start));
    walker.noteWritten(written);
    if (walker.position === at) {
      return;
    }
  }
}

function pageEnd(lsn: Lsn): Lsn {
  return toLsn(Math.ceil(lsn / XLOG_BLCKSZ) * XLOG_BLCKSZ);
}

test("WalWalker: finds every record end, whatever the order of writes and half-copied tails", () => {
  for (let seed = 1; seed <= 40; seed++) {
    const random = new SeededRandom(seed);
    const start = toLsn(SEGMENT * 3 + random.int(2000) * 8 + (seed % 3 === 0 ? 0 : 48));
    const begin = start % XLOG_BLCKSZ < 40 && start % XLOG_BLCKSZ !== 0 ? addLsn(start, 40) : start;
    const wal = builder(begin);
    while (wal.endLsn - begin < 500_000) {
      const kind = random.int(40);
      if (kind === 0) {
        wal.appendSwitch();
      } else {
        const data = random.int(kind === 1 ? 100_000 : kind < 8 ? 9000 : 200);
        wal.appendFilled(RECORD_HEADER_SIZE + data);
      }
    }
    const walker = walkerOf(wal);
    const whole = fileOf(wal);
    const file = new Uint8Array(whole.length);
    let inserted = begin;
    while (inserted < wal.endLsn) {
      // Postgres's insert position, and the page that holds it: beyond it the page is in flux.
      inserted = toLsn(
        Math.min(wal.endLsn, addLsn(inserted, 8 * (1 + random.int(random.bool(0.2) ? 9000 : 100)))),
      );
      const written = pageEnd(inserted);
      file.set(whole.subarray(0, inserted - begin));
      for (let i = inserted - begin; i < Math.min(written - begin, wal.endLsn - begin); i++) {
        file[i] = random.bool() ? whole[i]! : random.int(256);
      }
      feed(walker, file, begin, written);
      const certain = wal.recordEnds.findLast((end) => end <= inserted) ?? begin;
      assert.ok(
        walker.endOfRecords >= certain,
        `seed ${seed}: ${walker.endOfRecords} < ${certain}`,
      );
      assert.ok(wal.recordEnds.includes(walker.endOfRecords) || walker.endOfRecords === begin);
      assert.ok(walker.endOfRecords <= written, `seed ${seed}: beyond what was written`);
    }
    assert.equal(walker.endOfRecords, wal.recordEnds.at(-1));
  }
});

test("WalWalker: a record of many pages is summed once", () => {
  const wal = builder(toLsn(SEGMENT));
  wal.appendFilled(30_000_000);
  const file = fileOf(wal);
  const walker = walkerOf(wal);
  const started = process.cpuUsage();
  for (let written = toLsn(SEGMENT + XLOG_BLCKSZ); written <= pageEnd(wal.endLsn); ) {
    walker.walk(file.subarray(walker.position - wal.startLsn, written - wal.startLsn));
    written = addLsn(written, XLOG_BLCKSZ);
  }
  assert.equal(walker.endOfRecords, wal.endLsn);
  // Summing it anew for each of its 3,700 pages would take a minute of the processor.
  assert.ok(process.cpuUsage(started).user < 5_000_000);
});

test("WalWalker: it knows how far a record goes that is not whole, and nothing of what is in flux", () => {
  const wal = builder(toLsn(SEGMENT));
  const first = wal.appendFilled(100);
  wal.appendFilled(20_000);
  wal.appendFilled(60);
  const file = fileOf(wal);
  const walker = walkerOf(wal);
  assert.equal(walker.insideLsn, wal.startLsn);
  const page = (n: number) => toLsn(SEGMENT + n * XLOG_BLCKSZ);
  const walk = (upTo: Lsn) =>
    walker.walk(file.subarray(walker.position - wal.startLsn, upTo - wal.startLsn));
  // The record behind the first one has not been copied in; then its beginning has.
  const early = file.slice(0, XLOG_BLCKSZ).fill(0, first - wal.startLsn);
  walker.walk(early);
  assert.deepEqual([walker.endOfRecords, walker.insideLsn], [first, first]);
  walk(page(1));
  assert.deepEqual([walker.endOfRecords, walker.insideLsn], [first, page(1)]);
  walk(page(2));
  assert.deepEqual([walker.endOfRecords, walker.insideLsn], [first, page(2)]);
  // Whole, and of the last one only the header is there.
  const late = file.slice();
  late.fill(0, wal.recordEnds[1]! + RECORD_HEADER_SIZE - wal.startLsn);
  walker.walk(late.subarray(walker.position - wal.startLsn));
  const [, second] = wal.recordEnds;
  assert.deepEqual([walker.endOfRecords, walker.insideLsn], [second, second]);
  walk(pageEnd(wal.endLsn));
  assert.deepEqual([walker.endOfRecords, walker.insideLsn], [wal.endLsn, wal.endLsn]);
});

test("WalWalker: a switch counts only when its segment is written to the end", () => {
  const wal = builder(toLsn(SEGMENT));
  const first = wal.appendFilled(100);
  const segmentEnd = wal.appendSwitch();
  wal.appendFilled(50);
  const file = fileOf(wal);
  const walker = walkerOf(wal);
  const written = toLsn(SEGMENT + XLOG_BLCKSZ);
  assert.equal(walker.walk(file.subarray(0, XLOG_BLCKSZ)), true);
  assert.equal(walker.noteWritten(written), false);
  assert.equal(walker.endOfRecords, first);
  assert.equal(walker.position, segmentEnd);
  assert.equal(walker.noteWritten(segmentEnd), true);
  assert.equal(walker.endOfRecords, segmentEnd);
  walker.walk(file.subarray(segmentEnd - wal.startLsn));
  assert.equal(walker.endOfRecords, wal.endLsn);
});

test("WalWalker: what cannot change any more must be right", () => {
  const wal = builder(toLsn(SEGMENT));
  for (let i = 0; i < 300; i++) {
    wal.appendFilled(150);
  }
  for (const at of [50, 70, 8192, 8200, 20_000, 30_001]) {
    const file = fileOf(wal);
    file[at] = file[at]! ^ 0x41;
    assert.throws(() => walkerOf(wal).walk(file), { kind: "corrupt", code: "bad-local-wal" });
  }
  assert.throws(() => walkerOf(wal, 78n).walk(fileOf(wal)), /system/);
  const foreign = fileOf(wal);
  new DataView(foreign.buffer, foreign.byteOffset).setUint16(8192, PG_VERSIONS[18].pageMagic, true);
  assert.throws(
    () => walkerOf(wal).walk(foreign),
    /page magic is d118 \(PostgreSQL 18\), expected d116 \(PostgreSQL 17\)/,
  );
});

test("WalWalker: random bytes never make it throw anything but corrupt", () => {
  const random = new SeededRandom(9);
  for (let i = 0; i < 400; i++) {
    const wal = builder(toLsn(SEGMENT));
    for (let j = 0; j < 40; j++) {
      wal.appendFilled(RECORD_HEADER_SIZE + random.int(2000));
    }
    const file = fileOf(wal);
    for (let j = 0; j < 1 + random.int(20); j++) {
      file[random.int(file.length)] = random.int(256);
    }
    try {
      feed(walkerOf(wal), file, wal.startLsn, pageEnd(wal.endLsn));
    } catch (error) {
      assert.equal((error as { kind?: string }).kind, "corrupt");
    }
  }
});
