import assert from "node:assert/strict";
import { test } from "node:test";
import { extensionPaceMicros, holdMs, MAX_HOLD_MS } from "./back-pressure.ts";

const MB = 1e6;
const MAX = 500 * MB;

test("extensionPaceMicros: nothing below a quarter, then more and more, and smoothly", () => {
  assert.equal(extensionPaceMicros(0, MAX), 0);
  assert.equal(extensionPaceMicros(124 * MB, MAX), 0);
  let before = 20;
  for (let lag = 126 * MB; lag < MAX; lag += MB) {
    const pace = extensionPaceMicros(lag, MAX);
    assert.ok(pace >= before && pace <= before * 1.05 + 1, `${lag}: ${before} then ${pace}`);
    before = pace;
  }
  assert.equal(extensionPaceMicros(2 * MAX, MAX), 20_000);
});

test("holdMs: a commit is held by no more than a fifth of a second, but above the limit for ever", () => {
  assert.equal(holdMs(MAX / 2, MAX), 0);
  assert.ok(holdMs(0.66 * MAX, MAX) < 25);
  assert.equal(holdMs(MAX, MAX), MAX_HOLD_MS);
  assert.equal(holdMs(MAX + 1, MAX), Number.POSITIVE_INFINITY);
});
