import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { formatTimestamp, parseTimestamp } from "./timestamp.ts";

test("parseTimestamp: what ISO 8601 and Postgres write", () => {
  const second = 1_000_000;
  const day = 86_400 * second;
  for (const [text, timeUs] of [
    ["2000-01-01T00:00:00Z", 0],
    ["2000-01-02 00:00:00.25+00", day + 250_000],
    ["2000-01-01 00:00:00.000001+00:00", 1],
    ["1999-12-31 23:59:59.999999Z", -1],
    ["2000-01-01 01:30:00+01:30", 0],
    ["1999-12-31T19:00-05", 0],
    ["2000-01-02 05:45:00 +0545", day],
    ["2000-01-01 00:00:00.123456789 UTC", 123_456],
    ["2000-02-29z", 59 * day],
  ] as const) {
    assert.deepEqual(parseTimestamp(text), { timeUs, hasZone: true }, text);
  }
});

test("parseTimestamp: without a zone it is local", () => {
  const local = parseTimestamp("2026-07-01 12:00:00.5");
  const unixMs = new Date(2026, 6, 1, 12).getTime();
  const wanted = parseTimestamp(new Date(unixMs).toISOString())!.timeUs + 500_000;
  assert.deepEqual(local, { timeUs: wanted, hasZone: false });
});

test("parseTimestamp: undefined where it is none", () => {
  for (const text of [
    "",
    "0/16F9A00",
    "yesterday",
    "2026-02-30",
    "2026-13-01",
    "2026-01-01 24:01:00Z",
    "2026-01-01 10:61Z",
    "2026-01-01T10:00:00.Z",
    "2026-01-01 10:00:00 CET",
    "26-01-01",
  ]) {
    assert.equal(parseTimestamp(text), undefined, text);
  }
});

test("formatTimestamp: is read back as it was", () => {
  const years = { min: -(2 ** 49), max: 2 ** 52 };
  fc.assert(
    fc.property(fc.integer(years), (timeUs) => {
      assert.deepEqual(parseTimestamp(formatTimestamp(timeUs)), { timeUs, hasZone: true });
    }),
  );
});
