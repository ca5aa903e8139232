// Tests of what a clean shutdown has changed without WAL, on files made for it.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { parseRelationPath, storagePath } from "../../postgres/relation-path.ts";
import { changedPages } from "./changed-pages.ts";
import { ServedFiles } from "./served-files.ts";

const VERSION = "PG_17_202406281";
const START = toLsn(1_000_000);
const fileAt = (path: string) => parseRelationPath(path)!;

/** A page with an LSN; pd_upper is set, so it is not new. */
function pageOf(lsn: number, fill = 0): Buffer {
  const page = Buffer.alloc(PAGE_SIZE);
  page.fill(fill, 100);
  page.writeUInt32LE(lsn, 4);
  page.writeUInt16LE(28, 12);
  page.writeUInt16LE(8000, 14);
  page.writeUInt16LE(PAGE_SIZE, 16);
  return page;
}

function sequence(lsn: number, logCount: number): Buffer {
  const page = pageOf(lsn);
  page.writeUInt16LE(PAGE_SIZE - 8, 16);
  page.writeUInt32LE(0x1717, PAGE_SIZE - 8);
  page.writeUInt32LE(8000 | (1 << 15) | (60 << 17), 24);
  page[8000 + 22] = 24;
  page.writeBigInt64LE(BigInt(logCount), 8000 + 24 + 8);
  return page;
}

function changed(
  files: Readonly<Record<string, Uint8Array>>,
  served = new ServedFiles(),
  cut: Readonly<Record<string, number>> = {},
): string[] {
  const path = mkdtempSync(join(tmpdir(), "strata-changed-"));
  try {
    for (const folder of ["global", "base/5", `pg_tblspc/16400/${VERSION}/5`]) {
      mkdirSync(join(path, folder), { recursive: true });
    }
    for (const [name, bytes] of Object.entries(files)) {
      writeFileSync(join(path, name), bytes);
    }
    execFileSync("mkfifo", [join(path, "base/5/20100"), join(path, "base/5/20101_fsm")]);
    for (const [name, bytes] of Object.entries(cut)) {
      truncateSync(join(path, name), bytes);
    }
    return changedPages({ path, startLsn: START, versionDirectory: VERSION, served })
      .map(({ file, blkno }) => `${storagePath(file, VERSION)} ${blkno}`)
      .sort();
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

test("changedPages: sequences that were used, and are not where their WAL is", () => {
  const found = changed({
    "base/5/20000": sequence(START + 8, 31),
    [`pg_tblspc/16400/${VERSION}/5/20001`]: sequence(START + 8, 1),
    "base/5/20002": sequence(START + 8, 0),
    "base/5/20003": sequence(START, 31),
    "base/5/20004": pageOf(START + 8, 1),
    "base/5/20005": Buffer.alloc(PAGE_SIZE),
    "base/5/20006": Buffer.concat([sequence(START + 8, 31), Buffer.alloc(PAGE_SIZE)]),
    "base/5/t3_20007": sequence(START + 8, 31),
    "base/5/PG_VERSION": Buffer.from("17\n"),
  });
  assert.deepEqual(found, ["base/5/20000 0", `pg_tblspc/16400/${VERSION}/5/20001 0`]);
});

test("changedPages: of free space maps what Postgres has not been given so", () => {
  const [same, other] = [pageOf(0, 1), pageOf(0, 2)];
  const served = new ServedFiles();
  served.given(fileAt("base/5/20000_fsm"), 0, [{ bytes: Buffer.concat([same, same]) }]);
  served.placed(fileAt("base/5/20001_fsm"), { bytes: PAGE_SIZE, runs: [[0, 1]], pages: [same] });
  const map = Buffer.concat([same, other, Buffer.alloc(PAGE_SIZE)]);
  const found = changed(
    {
      "base/5/20000_fsm": map,
      "base/5/20001_fsm": same,
      "base/5/20002_fsm": same,
      "base/5/20003_fsm": same,
      "base/5/20003_init": "" as never,
    },
    served,
  );
  assert.deepEqual(found, ["base/5/20000_fsm 1", "base/5/20002_fsm 0"]);
});

test("changedPages: a map's table has the blocks that it names, also those in no WAL", () => {
  const rows = pageOf(START + 8, 1);
  const map = pageOf(0, 1);
  const made = { "base/5/20000": rows, "base/5/20000_fsm": map };
  const grown = { "base/5/20000": 3 * PAGE_SIZE };
  // It has made the table, or made it longer than storage has it.
  assert.deepEqual(changed(made, new ServedFiles(), grown), [
    "base/5/20000 2",
    "base/5/20000_fsm 0",
  ]);
  const stored = (blocks: number) => {
    const served = new ServedFiles();
    served.told(fileAt("base/5/20000"), blocks * PAGE_SIZE);
    return served;
  };
  assert.deepEqual(changed(made, stored(2), grown), ["base/5/20000 2", "base/5/20000_fsm 0"]);
  // Zeros of a block that storage has and nobody has read must never be written over it.
  assert.deepEqual(changed(made, stored(3), grown), ["base/5/20000_fsm 0"]);
  // Nor of one that was given back.
  const holed = stored(2);
  holed.gaveBack(fileAt("base/5/20000"));
  assert.deepEqual(changed(made, holed, grown), []);
  // Cut, and longer again: whether storage has that block is not known.
  assert.deepEqual(changed(made, stored(4), grown), []);
  assert.deepEqual(changed(made, stored(9)), ["base/5/20000_fsm 0"]);
});
