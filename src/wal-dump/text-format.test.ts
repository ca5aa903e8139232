import assert from "node:assert/strict";
import { test } from "node:test";
import { shortFloat, timeText } from "./text-format.ts";

test("shortFloat: as C's %g", () => {
  const cases: [number, string][] = [
    [0, "0"],
    [100, "100"],
    [123456, "123456"],
    [1234567, "1.23457e+06"],
    [1e100, "1e+100"],
    [0.0001, "0.0001"],
    [0.00001234, "1.234e-05"],
    [999999.5, "1e+06"],
    [-2.5, "-2.5"],
    [Number.NaN, "nan"],
    [Number.NEGATIVE_INFINITY, "-inf"],
  ];
  for (const [value, want] of cases) {
    assert.equal(shortFloat(value), want);
  }
});

test("timeText: microseconds since 2000, in UTC, also before 1970 and out of range", () => {
  assert.equal(timeText(0n), "2000-01-01 00:00:00.000000 UTC");
  assert.equal(timeText(-946_684_800_000_001n), "1969-12-31 23:59:59.999999 UTC");
  assert.equal(timeText(843_004_800_123_456n), "2026-09-18 00:00:00.123456 UTC");
  assert.equal(timeText(2n ** 63n - 1n), "9223372036854775807 us after 2000-01-01");
});
