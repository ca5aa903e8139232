import assert from "node:assert/strict";
import { test } from "node:test";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { StorageError } from "../base/errors.ts";
import { addLsn, type Lsn, minLsn, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { RecordWalker, type RecordWalkerOptions } from "./record-walker.ts";

const SEGMENT = 1024 * 1024;

function someWal(start: number, random: SeededRandom, count: number, switches = 0.01) {
  const wal = new WalBuilder({ startLsn: toLsn(start), segmentSize: SEGMENT });
  for (let i = 0; i < count; i++) {
    const length = random.pick([24, 25, 32, 100, 500, 8000, 8192, 30_000, 24 + random.int(300)]);
    if (random.bool(switches)) {
      wal.appendSwitch();
    } else {
      wal.appendFilled(length);
    }
  }
  return wal;
}

function feedInChunks(walker: RecordWalker, bytes: Uint8Array, chunk: number): void {
  for (let at = 0; at < bytes.length; at += chunk) {
    walker.feed(bytes.subarray(at, at + chunk));
  }
}

/** Where in the rest of the WAL to stop next. */
function someLsn(walker: RecordWalker, wal: WalBuilder, random: SeededRandom): Lsn {
  return minLsn(wal.endLsn, addLsn(walker.position, random.int(random.pick([30, 9000, 100_000]))));
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
    const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
    let at = wal.startLsn;
    while (at < wal.endLsn) {
      const take = random.pick([1, 7, 8, 24, 100, 8192, 100_000]);
      const end = Math.min(at + take, wal.endLsn) as Lsn;
      walker.feed(wal.read(at, end));
      at = end;
      const expected = wal.recordEnds.findLast((lsn) => lsn <= at) ?? wal.startLsn;
      assert.equal(walker.position, at);
      assert.ok(ends.has(walker.recordEndLsn));
      assert.equal(walker.recordEndLsn, expected, `seed ${seed} at ${at}`);
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
    const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
    try {
      walker.feed(damaged);
      unnoticed += 1;
    } catch (error) {
      assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
      assert.match(error.message, /WAL at [0-9A-F]+\/[0-9A-F]+/);
      assert.ok(walker.recordEndLsn <= wal.startLsn + at, "took a damaged record for whole");
    }
  }
  // Padding, and fields of page headers that mean nothing here.
  assert.ok(unnoticed < 40, `${unnoticed} of 400 changes went unnoticed`);
});

test("RecordWalker: each changed byte of records that lie whole in a page is noticed, where its record begins", () => {
  const wal = new WalBuilder({ startLsn: toLsn(SEGMENT + 40), segmentSize: SEGMENT });
  for (const length of [24, 60, 93, 24, 300, 25]) {
    const { startLsn } = wal;
    const begin = wal.endLsn;
    wal.appendFilled(length);
    const bytes = wal.read(startLsn, wal.endLsn);
    for (let at = begin - startLsn; at < begin - startLsn + length; at++) {
      const damaged = bytes.slice();
      damaged[at]! ^= 0x10;
      const walker = new RecordWalker({ startLsn, segmentSize: SEGMENT });
      // One that is said to be longer, in a byte of its length, is not whole yet.
      assert.ok(!walker.tryFeed(damaged) || walker.isInsideRecord, `byte ${at}`);
      assert.equal(walker.recordEndLsn, begin);
    }
  }
});

test("RecordWalker: zeros are the end of WAL, noise never is", () => {
  const wal = someWal(SEGMENT + 40, new SeededRandom(1), 5);
  for (const tail of [new Uint8Array(100), new Uint8Array(20_000)]) {
    const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
    walker.feed(wal.read(wal.startLsn, wal.endLsn));
    assert.throws(() => walker.feed(tail), { code: "wal-end" });
    assert.equal(walker.recordEndLsn, wal.endLsn);
  }
  const random = new SeededRandom(3);
  for (let i = 0; i < 200; i++) {
    const walker = new RecordWalker({ startLsn: toLsn(SEGMENT), segmentSize: SEGMENT });
    const noise = Uint8Array.from({ length: 300 }, () => 1 + random.int(255));
    assert.throws(() => walker.feed(noise), StorageError);
  }
});

test("RecordWalker: a record given up by a crashed primary is skipped", () => {
  // Aborted at once, and within its header.
  for (const lastPageRoom of [100, 16]) {
    const wal = new WalBuilder({ startLsn: toLsn(SEGMENT + 40), segmentSize: SEGMENT });
    const firstEnd = wal.appendFilled(8192 - 40 - lastPageRoom);
    const filled = new WalBuilder({ startLsn: wal.startLsn });
    filled.appendFilled(20_000);
    wal.appendAborted(filled.records[0]!.bytes);
    const pageEnd = wal.endLsn;
    const end = wal.appendFilled(64);
    for (const chunk of [1, 7, 8192, 100_000]) {
      const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
      feedInChunks(walker, wal.read(wal.startLsn, pageEnd), chunk);
      assert.equal(walker.recordEndLsn, firstEnd);
      feedInChunks(walker, wal.read(pageEnd, end), chunk);
      assert.equal(walker.recordEndLsn, end);
    }
  }
});

test("RecordWalker: a record must name the one before it", () => {
  const wal = new WalBuilder({ startLsn: toLsn(SEGMENT + 40), segmentSize: SEGMENT });
  const firstEnd = wal.appendFilled(100);
  const stranger = new WalBuilder({ startLsn: firstEnd, segmentSize: SEGMENT });
  stranger.appendFilled(100);
  const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
  walker.feed(wal.bytes);
  assert.throws(() => walker.feed(stranger.bytes), { code: "corrupt-wal", message: /previous/ });
  assert.equal(walker.recordEndLsn, firstEnd);
  const known = { startLsn: wal.startLsn, segmentSize: SEGMENT, prevLsn: toLsn(SEGMENT - 8) };
  assert.throws(() => new RecordWalker(known).feed(wal.bytes), /previous/);
  const future = new WalBuilder({ ...known, prevLsn: wal.startLsn });
  future.appendFilled(24);
  assert.throws(
    () => new RecordWalker({ ...known, prevLsn: toLsn(0) }).feed(future.bytes),
    /not before it/,
  );
});

test("RecordWalker: WAL of another system, major or segment size is refused", () => {
  const wal = new WalBuilder({ startLsn: toLsn(SEGMENT), segmentSize: SEGMENT, systemId: 7n });
  wal.appendFilled(100);
  const fed = (options: Partial<RecordWalkerOptions>) => {
    const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT, ...options });
    walker.feed(wal.bytes);
    return walker.recordEndLsn;
  };
  const { pageMagic } = PG_VERSIONS[17];
  assert.equal(fed({ systemId: 7n, pageMagic }), wal.endLsn);
  assert.throws(() => fed({ systemId: 8n }), /system 7/);
  assert.throws(() => fed({ pageMagic: PG_VERSIONS[16].pageMagic }), /page magic is d116/);
  assert.throws(() => fed({ segmentSize: 2 * SEGMENT, startLsn: toLsn(SEGMENT) }), /long page/);
  const unknown = wal.bytes;
  unknown[0]! ^= 0x80;
  assert.throws(
    () => new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT }).feed(unknown),
    { code: "corrupt-wal" },
  );
});

test("RecordWalker: rewind forgets all but whole records, wherever the mark and whatever was fed", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = new SeededRandom(seed);
    const wal = someWal(random.pick([SEGMENT, SEGMENT + 40, 2 * SEGMENT - 8192]), random, 60, 0.02);
    const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
    while (walker.recordEndLsn < wal.endLsn) {
      feedInChunks(walker, wal.read(walker.position, someLsn(walker, wal, random)), 5000);
      const before = { position: walker.position, recordEndLsn: walker.recordEndLsn };
      walker.mark();
      // True WAL for a while, then something else.
      const from = walker.position;
      walker.tryFeed(wal.read(from, someLsn(walker, wal, random)));
      walker.tryFeed(Uint8Array.from({ length: random.int(9000) }, () => random.int(256)));
      walker.rewind();
      if (walker.recordEndLsn === before.recordEndLsn) {
        // In padding it may have moved, but not beyond.
        assert.ok(walker.position === before.position || walker.position < walker.neededLsn);
      } else {
        assert.ok(wal.recordEnds.includes(walker.recordEndLsn), `seed ${seed}`);
        assert.ok(walker.position === walker.recordEndLsn || walker.position < walker.neededLsn);
      }
      const record = wal.records.find(({ endLsn }) => endLsn === walker.recordEndLsn);
      assert.equal(walker.prevRecordLsn, record?.startLsn ?? 0);
    }
    assert.equal(walker.recordEndLsn, wal.endLsn, `seed ${seed}`);
  }
});

test("RecordWalker: the padding behind a switch can be skipped, and ends the record", () => {
  const wal = new WalBuilder({ startLsn: toLsn(SEGMENT), segmentSize: SEGMENT });
  const firstEnd = wal.appendFilled(100);
  const switchEnd = wal.appendSwitch();
  const end = wal.appendFilled(500);
  const walker = new RecordWalker({ startLsn: wal.startLsn, segmentSize: SEGMENT });
  walker.skipPadding();
  assert.equal(walker.position, wal.startLsn);
  const cut = toLsn(firstEnd + 24);
  walker.feed(wal.read(wal.startLsn, cut));
  assert.deepEqual([walker.position, walker.neededLsn], [cut, switchEnd]);
  assert.equal(walker.recordEndLsn, firstEnd);
  walker.skipPadding();
  assert.deepEqual([walker.position, walker.recordEndLsn], [switchEnd, switchEnd]);
  walker.feed(wal.read(switchEnd, end));
  assert.equal(walker.recordEndLsn, end);
});
