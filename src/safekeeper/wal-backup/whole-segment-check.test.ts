import assert from "node:assert/strict";
import { test } from "node:test";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { addLsn, type Lsn, segmentStart, toLsn } from "../../base/lsn.ts";
import { WholeSegmentCheck } from "./whole-segment-check.ts";

const SEGMENT = 1024 * 1024;
const START = toLsn(5 * SEGMENT + 8192 + 40);
const CHECKED = { segmentSize: SEGMENT, pageMagic: undefined, systemId: 42n };

/** Records over one and over three segments. */
function someWal(): WalBuilder {
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  for (const length of [700_000, 500_000, 24, 3_300_000, 100, 300_000, 700_000, 60]) {
    wal.appendFilled(length);
  }
  return wal;
}

/** The segment at `start` of a disk with one `wrong` byte, and how much was read for it. */
function check(
  checks: WholeSegmentCheck,
  wal: WalBuilder,
  start: Lsn,
  { wrong = -1, commitLsn = wal.endLsn } = {},
): { bytes: Uint8Array; read: number } {
  const walk = checks.segment(start, commitLsn);
  let read = 0;
  let step = walk.next();
  while (step.done !== true) {
    const { lsn, length } = step.value;
    assert.equal(segmentStart(lsn, SEGMENT), segmentStart(addLsn(lsn, length - 1), SEGMENT));
    assert.ok(lsn + length <= commitLsn && lsn >= START);
    const bytes = wal.read(lsn, addLsn(lsn, length));
    if (wrong >= lsn && wrong < lsn + length) {
      bytes[wrong - lsn]! ^= 1;
    }
    read += length;
    step = walk.next(bytes);
  }
  return { bytes: step.value, read };
}

test("WholeSegmentCheck: hands out each segment; in their order only records over several are read twice", () => {
  const wal = someWal();
  const checks = new WholeSegmentCheck(CHECKED, START);
  let read = 0;
  let end = START;
  for (let start = segmentStart(START, SEGMENT); start + SEGMENT <= wal.endLsn; ) {
    const checked = check(checks, wal, start);
    end = addLsn(start, SEGMENT);
    const from = Math.max(start, START) as Lsn;
    const expected = Buffer.concat([Buffer.alloc(from - start), wal.read(from, end)]);
    assert.ok(expected.equals(checked.bytes));
    read += checked.read;
    start = end;
  }
  const spanning = wal.records.filter(
    ({ startLsn, endLsn }) => Math.floor(startLsn / SEGMENT) < Math.floor((endLsn - 1) / SEGMENT),
  );
  const twice = spanning.reduce((sum, { startLsn, endLsn }) => sum + endLsn - startLsn, 0);
  assert.ok(read <= end - START + 4 * twice, `${read}`);
});

test("WholeSegmentCheck: a segment whose upload failed is checked again, from what is known of it", () => {
  const wal = someWal();
  const checks = new WholeSegmentCheck(CHECKED, START);
  const second = toLsn(6 * SEGMENT);
  check(checks, wal, segmentStart(START, SEGMENT));
  const first = check(checks, wal, second);
  const again = check(checks, wal, second);
  assert.deepEqual(again.bytes, first.bytes);
  assert.equal(again.read, first.read);
  const wrong = wal.records.find(({ startLsn }) => startLsn > second)!.startLsn + 30;
  assert.throws(() => check(checks, wal, second, { wrong }), { kind: "corrupt" });
  assert.deepEqual(check(checks, wal, second).bytes, first.bytes);
});

test("WholeSegmentCheck: a wrong byte anywhere in a segment is noticed, whichever is checked first", () => {
  const wal = someWal();
  for (
    let start = segmentStart(START, SEGMENT);
    start + SEGMENT <= wal.endLsn;
    start = addLsn(start, SEGMENT)
  ) {
    const first = wal.records.find(({ endLsn }) => endLsn > Math.max(start, START))!;
    const last = wal.records.findLast(({ startLsn }) => startLsn < start + SEGMENT)!;
    const places = [
      // The first and the last record that it has a part of: in this segment, so far as they are in it.
      Math.max(start + 100, first.startLsn + 40),
      Math.min(start + SEGMENT, last.endLsn) - 20,
      Math.max(start, last.startLsn) + 60,
    ];
    for (const wrong of places) {
      const fresh = () => check(new WholeSegmentCheck(CHECKED, START), wal, start, { wrong });
      assert.throws(fresh, { kind: "corrupt" }, `${wrong}`);
      const inOrder = new WholeSegmentCheck(CHECKED, START);
      assert.throws(
        () => {
          for (let at = segmentStart(START, SEGMENT); at <= start; at = addLsn(at, SEGMENT)) {
            check(inOrder, wal, at, { wrong });
          }
        },
        { kind: "corrupt" },
        `${wrong}, in order`,
      );
    }
  }
});

test("WholeSegmentCheck: what rots between the uploads of two segments is noticed", () => {
  const wal = someWal();
  const large = wal.records.find(({ bytes }) => bytes.length > 2 * SEGMENT)!;
  const first = segmentStart(large.startLsn, SEGMENT);
  const wrong = segmentStart(large.startLsn, SEGMENT) + SEGMENT + 5000;
  const checks = new WholeSegmentCheck(CHECKED, START);
  for (let at = segmentStart(START, SEGMENT); at <= first; at = addLsn(at, SEGMENT)) {
    check(checks, wal, at);
  }
  const next = addLsn(first, SEGMENT);
  assert.throws(() => check(checks, wal, next, { wrong }), { kind: "corrupt" });
  check(checks, wal, next);
});

test("WholeSegmentCheck: waits for the whole record where a commit LSN is inside one", () => {
  const wal = someWal();
  const start = segmentStart(START, SEGMENT);
  const commitLsn = addLsn(start, SEGMENT + 100);
  const checks = new WholeSegmentCheck(CHECKED, START);
  assert.throws(() => check(checks, wal, start, { commitLsn }), { kind: "unavailable" });
});

test("WholeSegmentCheck: the log's last segment, with the record that goes on in it", () => {
  const wal = someWal();
  const ends = wal.records.map(({ endLsn }) => endLsn);
  for (const end of ends) {
    const start = segmentStart(addLsn(end, -1), SEGMENT);
    const from = Math.max(start, START) as Lsn;
    const read = (wrong = -1) => {
      const walk = new WholeSegmentCheck(CHECKED, START).lastSegment(end);
      let step = walk.next();
      while (step.done !== true) {
        const { lsn, length } = step.value;
        assert.ok(lsn + length <= end && lsn >= START);
        const bytes = wal.read(lsn, addLsn(lsn, length));
        if (wrong >= lsn && wrong < lsn + length) {
          bytes[wrong - lsn]! ^= 0x80;
        }
        step = walk.next(bytes);
      }
      return step.value;
    };
    assert.ok(Buffer.concat([Buffer.alloc(from - start), wal.read(from, end)]).equals(read()));
    const last = wal.records.findLast(({ endLsn }) => endLsn === end)!;
    // Inside the first record that it has a part of, in the last one, and that one's length.
    const lengthField = last.startLsn >= from ? [last.startLsn] : [];
    for (const wrong of [from + 60, end - 12, ...lengthField]) {
      assert.throws(() => read(wrong), { kind: "corrupt" }, `${wrong} of ${end}`);
    }
  }
});
