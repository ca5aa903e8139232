import assert from "node:assert/strict";
import { test } from "node:test";
import { REAL_CLOCK, replaceClock } from "../base/clock.ts";
import { createLogger } from "../base/log.ts";
import { StandbyFeedback } from "./standby-feedback.ts";

test("StandbyFeedback: the least of all safekeepers, for ten seconds after each told it last", (t) => {
  let now = 0;
  replaceClock({ ...REAL_CLOCK, nowMs: () => now, monotonicMs: () => now });
  t.after(() => replaceClock(REAL_CLOCK));
  const feedback = new StandbyFeedback(createLogger("test"));
  const told = (id: number, xmin: bigint, catalogXmin = 0n) =>
    feedback.told(id, { timestamp: now, xmin, catalogXmin });
  const least = () => [feedback.least.xmin, feedback.least.catalogXmin];
  assert.deepEqual(least(), [0n, 0n]);
  told(1, 700n);
  // A later epoch, so later whatever its lower half.
  told(2, (1n << 32n) | 5n, 900n);
  told(3, 0n);
  assert.deepEqual(least(), [700n, 900n]);
  now = 6000;
  // Its standby has gone elsewhere: what it told holds on for a while.
  told(1, 0n);
  told(2, (1n << 32n) | 6n);
  assert.deepEqual(least(), [700n, 0n]);
  now = 10_001;
  assert.deepEqual(least(), [(1n << 32n) | 6n, 0n]);
  now = 16_001;
  assert.deepEqual(least(), [0n, 0n]);
});
