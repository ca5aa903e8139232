import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatLsn,
  type Lsn,
  lsnFromParts,
  parseLsn,
  parseWalFileName,
  toLsn,
  walFileName,
} from "./lsn.ts";

test("parseLsn and formatLsn: round trip as Postgres writes it", () => {
  for (const text of ["0/0", "0/16F9A00", "1/0", "FFFF/FFFFFFFF"]) {
    assert.equal(formatLsn(parseLsn(text) as Lsn), text);
  }
});

test("parseLsn: refuses what is not an LSN", () => {
  for (const text of ["", "0", "0/", "/0", "g/0", "0/123456789", "0/0 ", "FFFFFFFF/FFFFFFFF"]) {
    assert.equal(parseLsn(text), undefined, text);
  }
});

test("lsnFromParts: refuses what a double cannot hold", () => {
  assert.throws(() => lsnFromParts(0x200000, 0), RangeError);
});

test("walFileName: as Postgres names segments", () => {
  assert.equal(walFileName(1), "000000010000000000000001");
  assert.equal(walFileName(256), "000000010000000100000000");
  assert.equal(parseWalFileName("000000010000000100000000"), 256);
  assert.equal(parseWalFileName("000000010000000100000100"), undefined);
  assert.equal(toLsn(256 * 16 * 1024 * 1024), parseLsn("1/0"));
});
