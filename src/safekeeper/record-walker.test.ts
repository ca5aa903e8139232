import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../base/errors.ts";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { SyntheticWal } from "../testing/synthetic-wal.ts";
import { RecordWalker } from "./record-walker.ts";

const SEGMENT = 1024 * 1024;

function someWal(start: number, random: SeededRandom, count: number, switches = 0.01) {
  const wal = new SyntheticWal(toLsn(start), SEGMENT);
  for (let i = 0; i < count; i++) {
    const length = random.pick([24, 25, 32, 100, 500, 8000, 8192, 30_000, 24 + random.int(300)]);
    if (random.bool(switches)) {
      wal.appendSwitch();
    } else {
      wal.append({ length });
    }
  }
  return wal;
}

test("RecordWalker: finds the record ends whatever the chunking and the start", () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = new SeededRandom(seed);
    const start = random.pick([
      SEGMENT,
      SEGMENT + 8192,
      SEGMENT + 40,
      2 * SEGMENT - 8,
      3 * SEGMENT,
    ]);
    const wal = someWal(start, random, 300);
    const ends = new Set<number>([start, ...wal.recordEnds]);
    const walker = new RecordWalker(wal.startLsn, SEGMENT);
    let at = wal.startLsn;
    while (at < wal.endLsn) {
      const take = random.pick([1, 7, 8, 24, 100, 8192, 100_000]);
      const end = Math.min(at + take, wal.endLsn) as Lsn;
      walker.feed(wal.read(at, end));
      at = end;
      const expected = wal.recordEnds.findLast((lsn) => lsn <= at) ?? wal.startLsn;
      assert.equal(walker.position, at);
      assert.ok(ends.has(walker.recordLsn));
      assert.equal(walker.recordLsn, expected, `seed ${seed} at ${at}`);
    }
  }
});

test("RecordWalker: any changed byte of a record is noticed, with an LSN", () => {
  const random = new SeededRandom(7);
  const wal = someWal(SEGMENT + 40, random, 60, 0);
  const bytes = wal.read(wal.startLsn, wal.endLsn);
  let unnoticed = 0;
  for (let i = 0; i < 400; i++) {
    const at = random.int(bytes.length);
    const damaged = bytes.slice();
    damaged[at]! ^= 1 << random.int(8);
    const walker = new RecordWalker(wal.startLsn, SEGMENT);
    try {
      walker.feed(damaged);
      unnoticed += 1;
    } catch (error) {
      assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
      assert.match(error.message, /WAL at [0-9A-F]+\/[0-9A-F]+/);
      assert.ok(walker.recordLsn <= wal.startLsn + at, "took a damaged record for whole");
    }
  }
  // Padding, and fields of page headers that mean nothing here.
  assert.ok(unnoticed < 40, `${unnoticed} of 400 changes went unnoticed`);
});

test("RecordWalker: zeros are the end of WAL, noise never is", () => {
  const wal = someWal(SEGMENT + 40, new SeededRandom(1), 5);
  for (const tail of [new Uint8Array(100), new Uint8Array(20_000)]) {
    const walker = new RecordWalker(wal.startLsn, SEGMENT);
    walker.feed(wal.read(wal.startLsn, wal.endLsn));
    assert.throws(() => walker.feed(tail), { code: "wal-end" });
    assert.equal(walker.recordLsn, wal.endLsn);
  }
  const random = new SeededRandom(3);
  for (let i = 0; i < 200; i++) {
    const walker = new RecordWalker(toLsn(SEGMENT), SEGMENT);
    const noise = Uint8Array.from({ length: 300 }, () => 1 + random.int(255));
    assert.throws(() => walker.feed(noise), StorageError);
  }
});

test("RecordWalker: a record given up by a crashed primary is skipped", () => {
  const wal = new SyntheticWal(toLsn(SEGMENT + 40), SEGMENT);
  const firstEnd = wal.append({ length: 100 });
  wal.append({ length: 20_000 });
  const pageLsn = toLsn(SEGMENT + 8192);
  const walker = new RecordWalker(wal.startLsn, SEGMENT);
  walker.feed(wal.read(wal.startLsn, pageLsn));
  assert.equal(walker.recordLsn, firstEnd);
  const next = new SyntheticWal(pageLsn, SEGMENT);
  const end = next.append({ length: 64 });
  const bytes = next.read(pageLsn, end);
  bytes[2]! |= 8;
  walker.feed(bytes);
  assert.equal(walker.recordLsn, end);
});
