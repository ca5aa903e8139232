// Tests of pg_stat as one value: there and back, and values that make no sense.

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { deflateRawSync } from "node:zlib";
import { decodeStatisticsFiles, encodeStatisticsFiles } from "./statistics-files.ts";

test("statistics files: there and back; nothing else of the directory", () => {
  const directory = mkdtempSync(join(tmpdir(), "strata-statistics-"));
  try {
    mkdirSync(join(directory, "pg_stat"));
    assert.equal(encodeStatisticsFiles(directory), undefined);
    const files = { "global.stat": Buffer.alloc(0), "db_5.stat": Buffer.alloc(100_000, "x") };
    for (const [name, bytes] of Object.entries(files)) {
      writeFileSync(join(directory, "pg_stat", name), bytes);
    }
    writeFileSync(join(directory, "pg_stat", "pgstat.tmp"), "no");
    writeFileSync(join(directory, "secret"), "secret");
    symlinkSync(join(directory, "secret"), join(directory, "pg_stat", "linked.stat"));
    const value = encodeStatisticsFiles(directory)!;
    assert.ok(value.length < 1000);
    assert.deepEqual(
      new Map(decodeStatisticsFiles(value).map(({ name, bytes }) => [name, Buffer.from(bytes)])),
      new Map(Object.entries(files)),
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("statistics files: none, of another version, and damaged ones", () => {
  assert.deepEqual(decodeStatisticsFiles(undefined), []);
  assert.deepEqual(decodeStatisticsFiles(Buffer.of(2, 1, 2, 3)), []);
  const entry = (name: string, length: number, content = "") => {
    const bytes = Buffer.alloc(2 + name.length + 4);
    bytes.writeUInt16LE(name.length, 0);
    bytes.write(name, 2);
    bytes.writeUInt32LE(length, 2 + name.length);
    return Buffer.concat([
      Buffer.of(1),
      deflateRawSync(Buffer.concat([bytes, Buffer.from(content)])),
    ]);
  };
  assert.equal(decodeStatisticsFiles(entry("a.stat", 2, "ab")).length, 1);
  for (const bad of [
    Buffer.of(1, 0xff, 0xff),
    Buffer.concat([Buffer.of(1), deflateRawSync(Buffer.of(9))]),
    entry("a.stat", 3, "ab"),
    entry("../a.stat", 2, "ab"),
    entry("postgresql.conf", 2, "ab"),
  ]) {
    assert.throws(() => decodeStatisticsFiles(bad), { kind: "corrupt", code: "bad-statistics" });
  }
});
