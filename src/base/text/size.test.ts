import assert from "node:assert/strict";
import { test } from "node:test";
import { parseSizeBytes } from "./size.ts";

test("parseSizeBytes: as Postgres writes them, MB without a unit; what is none", () => {
  assert.equal(parseSizeBytes("64MB"), 2 ** 26);
  assert.equal(parseSizeBytes(" 8 kB "), 8192);
  assert.equal(parseSizeBytes("3"), 3 * 2 ** 20);
  assert.equal(parseSizeBytes("2TB"), 2 ** 41);
  for (const wrong of ["", "-1MB", "1.5GB", "64mb", "64MiB", "1e3", "1234567890MB", "MB"]) {
    assert.equal(parseSizeBytes(wrong), undefined, wrong);
  }
});
