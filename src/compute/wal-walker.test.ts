import assert from "node:assert/strict";
import { test } from "node:test";
import { addLsn, type Lsn, toLsn, XLOG_BLCKSZ } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { encodePageHeader, pageHeaderSize } from "../postgres/wal-page.ts";
import { encodeRecord } from "../postgres/xlog-record.ts";
import { WalWalker } from "./wal-walker.ts";

const { pageMagic } = PG_VERSIONS[17];
const SEGMENT = 64 * 1024;
const SYSTEM_ID = 77n;

/** WAL as a cluster with tiny segments would write it, from `start` on. */
class WalWriter {
  readonly start: Lsn;
  readonly bytes: Uint8Array;
  end: Lsn;
  prev: Lsn;
  /** End LSN of each record, and of a switch the segment's end. */
  readonly ends: Lsn[] = [];

  constructor(start: Lsn, prev: Lsn, capacity: number) {
    this.start = start;
    this.end = start;
    this.prev = prev;
    this.bytes = new Uint8Array(capacity);
  }

  #header(remainingLength: number): void {
    if (this.end % XLOG_BLCKSZ !== 0) {
      return;
    }
    const view = new DataView(this.bytes.buffer);
    encodePageHeader(view, this.end - this.start, {
      pageMagic,
      pageLsn: this.end,
      systemId: SYSTEM_ID,
      timeline: 1,
      segmentSize: SEGMENT,
      remainingLength,
    });
    this.end = addLsn(this.end, pageHeaderSize(this.end, SEGMENT));
  }

  add(length: number, kind: { rmid: number; info: number } = { rmid: 10, info: 0 }): void {
    const mainData = new Uint8Array(length).map((_, i) => (i * 31 + length) & 0xff);
    this.#header(0);
    const record = encodeRecord({ ...kind, xid: 3, prevLsn: this.prev, mainData });
    this.prev = this.end;
    for (let done = 0; done < record.length; ) {
      this.#header(record.length - done);
      const take = Math.min(XLOG_BLCKSZ - (this.end % XLOG_BLCKSZ), record.length - done);
      this.bytes.set(record.subarray(done, done + take), this.end - this.start);
      done += take;
      this.end = addLsn(this.end, take);
    }
    this.end = toLsn(Math.ceil(this.end / 8) * 8);
    this.ends.push(this.end);
  }

  /** XLOG_SWITCH, and the empty pages after it. */
  switchSegment(): void {
    this.add(0, { rmid: 0, info: 0x40 });
    const segmentEnd = toLsn(Math.ceil(this.end / SEGMENT) * SEGMENT);
    for (let page = Math.ceil(this.end / XLOG_BLCKSZ) * XLOG_BLCKSZ; page < segmentEnd; ) {
      this.end = toLsn(page);
      this.#header(0);
      page += XLOG_BLCKSZ;
    }
    this.end = segmentEnd;
    this.ends[this.ends.length - 1] = segmentEnd;
  }

  walker(): WalWalker {
    return new WalWalker({
      start: this.start,
      prevLsn: 0 as Lsn,
      pageMagic,
      segmentSize: SEGMENT,
      systemId: SYSTEM_ID,
    });
  }
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
    const wal = new WalWriter(begin, 0 as Lsn, 900_000);
    while (wal.end - begin < 500_000) {
      const kind = random.int(40);
      if (kind === 0) {
        wal.switchSegment();
      } else {
        wal.add(kind === 1 ? random.int(100_000) : random.int(kind < 8 ? 9000 : 200));
      }
    }
    const walker = wal.walker();
    const file = new Uint8Array(wal.bytes.length);
    let inserted = begin;
    while (inserted < wal.end) {
      // Postgres's insert position, and the page that holds it: beyond it the page is in flux.
      inserted = toLsn(
        Math.min(wal.end, addLsn(inserted, 8 * (1 + random.int(random.bool(0.2) ? 9000 : 100)))),
      );
      const written = pageEnd(inserted);
      file.set(wal.bytes.subarray(0, inserted - begin));
      for (let i = inserted - begin; i < Math.min(written - begin, wal.end - begin); i++) {
        file[i] = random.bool() ? wal.bytes[i]! : random.int(256);
      }
      feed(walker, file, begin, written);
      const certain = wal.ends.findLast((end) => end <= inserted) ?? begin;
      assert.ok(
        walker.endOfRecords >= certain,
        `seed ${seed}: ${walker.endOfRecords} < ${certain}`,
      );
      assert.ok(wal.ends.includes(walker.endOfRecords) || walker.endOfRecords === begin);
      assert.ok(walker.endOfRecords <= written, `seed ${seed}: beyond what was written`);
    }
    assert.equal(walker.endOfRecords, wal.ends.at(-1));
  }
});

test("WalWalker: a record of many pages is summed once", () => {
  const wal = new WalWriter(toLsn(SEGMENT), 0 as Lsn, 40_000_000);
  wal.add(30_000_000);
  const walker = wal.walker();
  const started = performance.now();
  for (let written = toLsn(SEGMENT + XLOG_BLCKSZ); written <= pageEnd(wal.end); ) {
    walker.walk(wal.bytes.subarray(walker.position - wal.start, written - wal.start));
    written = addLsn(written, XLOG_BLCKSZ);
  }
  assert.equal(walker.endOfRecords, wal.end);
  // Summing it anew for each of its 3,700 pages would take a minute.
  assert.ok(performance.now() - started < 5000);
});

test("WalWalker: a switch counts only when its segment is written to the end", () => {
  const wal = new WalWriter(toLsn(SEGMENT), 0 as Lsn, 300_000);
  wal.add(100);
  const first = wal.end;
  wal.switchSegment();
  const segmentEnd = wal.end;
  wal.add(50);
  const walker = wal.walker();
  const written = toLsn(SEGMENT + XLOG_BLCKSZ);
  walker.walk(wal.bytes.subarray(0, XLOG_BLCKSZ));
  assert.equal(walker.noteWritten(written), false);
  assert.equal(walker.endOfRecords, first);
  assert.equal(walker.position, segmentEnd);
  assert.equal(walker.noteWritten(segmentEnd), true);
  assert.equal(walker.endOfRecords, segmentEnd);
  walker.walk(wal.bytes.subarray(segmentEnd - wal.start, segmentEnd - wal.start + XLOG_BLCKSZ));
  assert.equal(walker.endOfRecords, wal.end);
});

test("WalWalker: what cannot change any more must be right", () => {
  const wal = new WalWriter(toLsn(SEGMENT), 0 as Lsn, 300_000);
  for (let i = 0; i < 300; i++) {
    wal.add(150);
  }
  const end = pageEnd(wal.end) - wal.start;
  for (const at of [50, 70, 8192, 8200, 20_000, 30_001]) {
    const file = wal.bytes.slice();
    file[at] = file[at]! ^ 0x41;
    assert.throws(() => wal.walker().walk(file.subarray(0, end)), {
      kind: "corrupt",
      code: "bad-local-wal",
    });
  }
  const foreign = new WalWalker({
    start: wal.start,
    prevLsn: 0 as Lsn,
    pageMagic,
    segmentSize: SEGMENT,
    systemId: 78n,
  });
  assert.throws(() => foreign.walk(wal.bytes.subarray(0, end)), /system/);
});

test("WalWalker: random bytes never make it throw anything but corrupt", () => {
  const random = new SeededRandom(9);
  for (let i = 0; i < 400; i++) {
    const wal = new WalWriter(toLsn(SEGMENT), 0 as Lsn, 100_000);
    for (let j = 0; j < 40; j++) {
      wal.add(random.int(2000));
    }
    for (let j = 0; j < 1 + random.int(20); j++) {
      wal.bytes[random.int(wal.bytes.length)] = random.int(256);
    }
    try {
      feed(wal.walker(), wal.bytes, wal.start, pageEnd(wal.end));
    } catch (error) {
      assert.equal((error as { kind?: string }).kind, "corrupt");
    }
  }
});
