import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { readDataDirectory } from "../pageserver/import/data-directory-import.ts";
import { runInitdb } from "../pageserver/ingest/initdb-import.ts";
import { findInstallation, giveToPostgres } from "./installation.ts";
import { PAGE_SIZE } from "./page.ts";
import { hasRightChecksum, pageChecksum, setPageChecksum } from "./page-checksum.ts";

const MAJOR = 18;
let directory: string;
let pgdata: string;

before(async () => {
  directory = mkdtempSync(join(tmpdir(), "strata-checksum-"));
  giveToPostgres(directory);
  pgdata = join(directory, "pgdata");
  await runInitdb(pgdata, { installation: findInstallation(MAJOR), dataChecksums: true });
});
after(() => rmSync(directory, { recursive: true, force: true }));

/** Every page of every fork in the template database, with its block number. */
function* storedPages(): Generator<{ page: Buffer; blkno: number }> {
  const database = join(pgdata, "base", "1");
  for (const name of readdirSync(database).filter((file) => /^\d+(_fsm|_vm)?$/.test(file))) {
    const file = readFileSync(join(database, name));
    for (let blkno = 0; (blkno + 1) * PAGE_SIZE <= file.length; blkno++) {
      yield { page: file.subarray(blkno * PAGE_SIZE, (blkno + 1) * PAGE_SIZE), blkno };
    }
  }
}

test("pageChecksum: what Postgres wrote on each page of a new cluster", () => {
  let checked = 0;
  for (const { page, blkno } of storedPages()) {
    assert.ok(hasRightChecksum(page, blkno), `block ${blkno}`);
    const again = new Uint8Array(page);
    again[8] = 0xa5;
    setPageChecksum(again, blkno);
    assert.ok(page.equals(again));
    checked++;
  }
  assert.ok(checked > 500, `${checked} pages`);
});

test("pageChecksum: another place or another bit is another checksum; a new page has none", () => {
  const { page } = storedPages().next().value!;
  assert.ok(!hasRightChecksum(page, 1));
  for (const at of [0, 7, 10, 24, 4095, 8191]) {
    const changed = new Uint8Array(page);
    changed[at]! ^= 1;
    assert.ok(!hasRightChecksum(changed, 0), `bit of byte ${at}`);
  }
  // At any alignment, and never 0.
  const shifted = new Uint8Array(PAGE_SIZE + 3);
  shifted.set(page, 3);
  assert.equal(pageChecksum(shifted.subarray(3), 0), page.readUInt16LE(8));
  for (let blkno = 0; blkno < 70_000; blkno += 7) {
    assert.ok(pageChecksum(page, blkno) >= 1 && pageChecksum(page, blkno) <= 65_535);
  }
  const fresh = new Uint8Array(PAGE_SIZE);
  setPageChecksum(fresh, 3);
  assert.deepEqual(fresh, new Uint8Array(PAGE_SIZE));
  assert.ok(hasRightChecksum(fresh, 3));
});

test("readDataDirectory: a page with a wrong checksum is corrupt, and is named", () => {
  const values = () => [...readDataDirectory(pgdata, MAJOR).values()].length;
  assert.ok(values() > 500);
  const path = join(pgdata, "base", "1", "1249");
  const intact = readFileSync(path);
  const damaged = Buffer.from(intact);
  damaged[3 * PAGE_SIZE + 5000]! ^= 1;
  writeFileSync(path, damaged);
  try {
    assert.throws(values, {
      kind: "corrupt",
      message: new RegExp(`${path}: block 3 has a wrong checksum`),
    });
  } finally {
    writeFileSync(path, intact);
  }
});
