import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lsn } from "../../base/lsn.ts";
import { countEndpoint, countWal } from "./counting.ts";
import { frameEnd, frameStart, splitByFrames } from "./frames.ts";

const at = (nowMs: number, isFirst = false) => ({ nowMs, isFirst });
const reading = (run: string, sinceMs: number, cpuMs?: number) => ({ run, sinceMs, cpuMs });

test("countEndpoint: a run is counted from its start, then from look to look, whoever looks", () => {
  const first = countEndpoint(undefined, reading("1", 1000, 70), at(5000));
  assert.deepEqual(first.active, { fromMs: 1000, toMs: 5000 });
  assert.equal(first.cpuMs, 70);
  // The same look again, as after a crash that came behind it.
  const again = countEndpoint(first.cursor, reading("1", 1000, 70), at(5000));
  assert.deepEqual([again.active, again.cpuMs, again.cursor], [undefined, 0, first.cursor]);
  const later = countEndpoint(first.cursor, reading("1", 1000, 100), at(90_000));
  assert.deepEqual(later.active, { fromMs: 5000, toMs: 90_000 });
  assert.equal(later.cpuMs, 30);
});

test("countEndpoint: another run begins anew, and one that ended is counted up to its last word", () => {
  const cursor = { run: "1", activeUntilMs: 5000, cpuMs: 70, hasEnded: false };
  const next = countEndpoint(cursor, reading("2", 7000, 10), at(9000));
  assert.deepEqual(next.active, { fromMs: 7000, toMs: 9000 });
  assert.equal(next.cpuMs, 10);
  const ended = countEndpoint(cursor, { lastWordMs: 6500 }, at(60_000));
  assert.deepEqual(ended, {
    cursor: { run: "1", activeUntilMs: 6500, cpuMs: 70, hasEnded: true },
    active: { fromMs: 5000, toMs: 6500 },
    cpuMs: 0,
  });
  // It slept for long, and ran between two looks: that long is not counted.
  assert.equal(countEndpoint(ended.cursor, { lastWordMs: 50_000 }, at(60_000)).active, undefined);
  // Another control plane saw it before it ended, and is late: nothing is counted twice.
  const late = countEndpoint(ended.cursor, reading("1", 1000, 65), at(6000));
  assert.deepEqual([late.active, late.cpuMs], [undefined, 0]);
  assert.equal(countEndpoint(cursor, { lastWordMs: 4000 }, at(60_000)).active, undefined);
  assert.equal(countEndpoint(cursor, {}, at(60_000)).active, undefined);
  assert.equal(countEndpoint(undefined, { lastWordMs: 4000 }, at(60_000)).active, undefined);
});

test("countEndpoint: what was before the first look is not known; what goes back is waited for", () => {
  const first = countEndpoint(undefined, reading("1", 1000, 70), at(5000, true));
  assert.deepEqual([first.active, first.cpuMs], [undefined, 0]);
  assert.deepEqual(first.cursor, { run: "1", activeUntilMs: 5000, cpuMs: 70, hasEnded: false });
  const back = countEndpoint(first.cursor, reading("1", 1000, 60), at(4000));
  assert.deepEqual([back.active, back.cpuMs, back.cursor], [undefined, 0, first.cursor]);
  // What could not be read is counted when it can.
  const unread = countEndpoint(first.cursor, reading("1", 1000), at(6000));
  assert.deepEqual([unread.cpuMs, unread.cursor?.cpuMs], [0, 70]);
});

test("countWal: a new timeline from its own start, an old one from the first look on, never twice", () => {
  const wal = (startLsn: number, lastLsn: number) => ({
    startLsn: startLsn as Lsn,
    lastLsn: lastLsn as Lsn,
  });
  assert.deepEqual(countWal(undefined, wal(100, 150), false), { counted: 150, bytes: 50 });
  assert.deepEqual(countWal(undefined, wal(100, 150), true), { counted: 150, bytes: 0 });
  assert.deepEqual(countWal(150 as Lsn, wal(100, 190), false), { counted: 190, bytes: 40 });
  assert.deepEqual(countWal(190 as Lsn, wal(100, 160), false), { counted: 190, bytes: 0 });
});

test("frames: hours, days and months of UTC, to which time is divided to the millisecond", () => {
  const time = (text: string) => Date.parse(text);
  const now = time("2028-02-29T23:30:00.500Z");
  assert.equal(frameStart("hourly", now), time("2028-02-29T23:00:00Z"));
  assert.equal(frameStart("daily", now), time("2028-02-29T00:00:00Z"));
  assert.equal(frameStart("monthly", now), time("2028-02-01T00:00:00Z"));
  assert.equal(frameEnd("monthly", time("2028-02-01T00:00:00Z")), time("2028-03-01T00:00:00Z"));
  assert.equal(frameEnd("monthly", time("2028-12-01T00:00:00Z")), time("2029-01-01T00:00:00Z"));
  const to = time("2028-03-01T01:00:00.250Z");
  assert.deepEqual(splitByFrames("hourly", now, to), [
    { startMs: time("2028-02-29T23:00:00Z"), ms: 1_799_500 },
    { startMs: time("2028-03-01T00:00:00Z"), ms: 3_600_000 },
    { startMs: time("2028-03-01T01:00:00Z"), ms: 250 },
  ]);
  assert.deepEqual(
    splitByFrames("monthly", now, to).map(({ ms }) => ms),
    [1_799_500, 3_600_250],
  );
  assert.deepEqual(splitByFrames("daily", to, to), []);
});
