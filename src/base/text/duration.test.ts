import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatDurationMs, parseDurationMs } from "./duration.ts";

test("parseDurationMs: as humantime reads them", () => {
  const cases: [string, number][] = [
    ["7 days", 604_800_000],
    ["7days", 604_800_000],
    ["1.5h", 5_400_000],
    ["1day", 86_400_000],
    ["2w", 1_209_600_000],
    ["1h 30m", 5_400_000],
    ["1h30m", 5_400_000],
    [" 10 s ", 10_000],
    ["250ms", 250],
    ["0s", 0],
    ["0", 0],
  ];
  for (const [text, ms] of cases) {
    assert.equal(parseDurationMs(text), ms, text);
  }
});

test("parseDurationMs: what is no duration", () => {
  const wrong = [
    "",
    "7",
    "-1s",
    "1.5",
    "7 fortnights",
    "days",
    "1h30",
    "1H",
    "99999999999999 days",
  ];
  for (const text of wrong) {
    assert.equal(parseDurationMs(text), undefined, text);
  }
});

test("formatDurationMs: what is read is what was written", () => {
  assert.equal(formatDurationMs(604_800_000), "7days");
  assert.equal(formatDurationMs(86_400_000), "1day");
  assert.equal(formatDurationMs(5_400_000), "1h 30m");
  assert.equal(formatDurationMs(0), "0s");
  fc.assert(
    fc.property(fc.nat(2 ** 31), fc.nat(1000), (a, b) => {
      assert.equal(parseDurationMs(formatDurationMs(a * b)), a * b);
    }),
  );
});
