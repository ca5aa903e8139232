// `strata wal verify` as people run it: its report, its exit code, one line for what it cannot use.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { formatLsn } from "../src/base/lsn.ts";
import { RecordedHistory } from "../testing/redo/recorded-history.ts";
import { copyTree } from "../testing/stock-cluster.ts";

const MAIN = join(import.meta.dirname, "..", "src", "cli", "main.ts");
const PG_MAJOR = 16;

let history: RecordedHistory;
let relationPath = "";

before(async () => {
  history = await RecordedHistory.record({
    pgMajor: PG_MAJOR,
    initdbArgs: ["--data-checksums"],
    settings: { wal_consistency_checking: "'all'", autovacuum: "off" },
    prepare: async (client) => {
      await client.query("CREATE TABLE t (id int PRIMARY KEY, word text)");
      await client.query("CREATE INDEX ON t USING gist (int4range(id, id + 5))");
    },
    run: async (cluster) => {
      const client = await cluster.connect();
      await client.query("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 500) i");
      await client.query("DELETE FROM t WHERE id % 3 = 0");
      await client.query("VACUUM t");
      const answer = await client.query("SELECT pg_relation_filepath('t') AS path");
      relationPath = answer.rows[0].path;
    },
  });
});
after(() => history?.destroy());

function verify(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const child = execFile(
      process.execPath,
      [MAIN, "wal", "verify", ...args],
      (_error, stdout, stderr) => resolve({ code: child.exitCode ?? -1, stdout, stderr }),
    );
  });
}

const given = () => ["--base", history.baseDir, "--wal", history.walDir];

test("a sound history: a line for each opcode, no mismatch, exit code 0", async () => {
  const { code, stdout, stderr } = await verify(...given(), "--against", history.cluster.dataDir);
  assert.equal(code, 0, stdout + stderr);
  assert.equal(stderr, "");
  assert.match(
    stdout,
    /^Postgres 16, WAL 0\/\w+ to 0\/\w+: \d+ records replayed \(zeros follow\)$/m,
  );
  assert.match(stdout, /^ Heap +DELETE +166 +166 +0 +\d+ +0$/m);
  assert.match(stdout, /^ Gist +PAGE_UPDATE +\d+ +\d+ +0 +\d+ +0$/m);
  assert.match(stdout, /^after-images: \d{4,} compared$/m);
  assert.match(
    stdout,
    /^\/.*: \d+ pages of \d+ forks, [3-9] SLRU pages and \d+ other files compared$/m,
  );
  assert.match(stdout, /^mismatches: 0$/m);
});

test("a flipped byte: where it is and what changed the page last, exit code 1", async () => {
  const spoiled = join(history.cluster.workdir, "spoiled");
  copyTree(history.cluster.dataDir, spoiled);
  const fd = openSync(join(spoiled, relationPath), "r+");
  const byte = new Uint8Array(1);
  readSync(fd, byte, 0, 1, 2 * 8192 + 8000);
  byte[0]! ^= 0x20;
  writeSync(fd, byte, 0, 1, 2 * 8192 + 8000);
  closeSync(fd);
  const text = await verify(...given(), "--against", spoiled);
  assert.equal(text.code, 1);
  assert.match(text.stdout, /^mismatches: 1$/m);
  assert.match(
    text.stdout,
    /^ {2}page 1663\/\d+\/\d+ block 2: byte 8000: .* \(last record: Heap2? [A-Z_]+, which ends at 0\/\w+\)$/m,
  );
  const json = await verify(...given(), "--against", spoiled, "--json");
  assert.equal(json.code, 1);
  const report = JSON.parse(json.stdout);
  assert.equal(report.pg_version, 16);
  assert.equal(report.mismatches, 1);
  const [first] = report.first_mismatches;
  assert.deepEqual([first.kind, first.block, first.offset], ["page", 2, 8000]);
  assert.match(first.lsn, /^0\/\w+$/);
  const deletes = report.opcodes.find(
    (one: { rmgr: string; record: string }) => one.rmgr === "Heap" && one.record === "DELETE",
  );
  assert.deepEqual([deletes.records, deletes.images, deletes.image_mismatches], [166, 166, 0]);
});

test("--until stops before the rest; without anything to compare with it says so", async () => {
  const whole = JSON.parse((await verify(...given(), "--json")).stdout);
  const lsn = formatLsn(history.endLsn);
  const part = JSON.parse((await verify(...given(), "--until", lsn, "--json")).stdout);
  assert.equal(part.end, "until");
  assert.ok(part.records > 500 && part.records < whole.records);
  assert.equal(part.against, null);
  const start = formatLsn(history.startLsn);
  const none = await verify(...given(), "--until", start);
  assert.equal(none.code, 0);
  assert.match(none.stderr, /^warning: nothing was compared: give --against, or .*\n$/);
});

test("what cannot be verified is one line on stderr, exit code 1", async () => {
  const refused = async (message: RegExp, ...args: string[]) => {
    const { code, stdout, stderr } = await verify(...args);
    assert.equal(code, 1);
    assert.equal(stdout, "");
    assert.match(stderr, message);
    assert.match(stderr, /^command failed: [^\n]+\n$/);
  };
  const { baseDir, walDir } = history;
  await refused(/required option '--base <dir>'/, "--wal", walDir);
  await refused(/there is no '\/nowhere'/, "--base", "/nowhere", "--wal", walDir);
  await refused(/is not a data directory/, "--base", walDir, "--wal", walDir);
  await refused(/there are no WAL segments/, "--base", baseDir, "--wal", baseDir);
  await refused(/an LSN is wanted/, ...given(), "--until", "x");
  await refused(/is not a data directory/, ...given(), "--against", walDir);
});
