import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { makeWithRoom, putAside, removeDiscarded } from "./discarded-directories.ts";

function dataDirectory(t: TestContext): { parent: string; path: string } {
  const parent = mkdtempSync(join(tmpdir(), "strata-discarded-"));
  t.after(() => rmSync(parent, { recursive: true, force: true }));
  return { parent, path: join(parent, "pgdata") };
}

function makeFull(path: string): void {
  mkdirSync(join(path, "pg_wal"), { recursive: true });
  writeFileSync(join(path, "pg_wal", "000000010000000000000001"), "full");
}

const noSpace = (code: string) => Object.assign(new Error(`${code}: no space`), { code });

test("putAside: each in a directory of its own, until they are removed", async (t) => {
  const { parent, path } = dataDirectory(t);
  putAside(path);
  assert.deepEqual(readdirSync(parent), []);
  for (let i = 1; i <= 3; i++) {
    makeFull(path);
    putAside(path);
    assert.ok(!existsSync(path));
    assert.equal(readdirSync(parent).length, i);
  }
  makeFull(path);
  writeFileSync(join(parent, "other"), "");
  await removeDiscarded(path, { atLeast: 4 });
  assert.equal(readdirSync(parent).length, 5);
  await removeDiscarded(path, { atLeast: 3 });
  assert.deepEqual(readdirSync(parent).sort(), ["other", "pgdata"]);
});

for (const code of ["ENOSPC", "EDQUOT"]) {
  test(`makeWithRoom: ${code} while something lies aside: that goes, and it begins anew`, async (t) => {
    const { parent, path } = dataDirectory(t);
    makeFull(path);
    putAside(path);
    const tries: boolean[] = [];
    const result = await makeWithRoom(path, (isAgain) => {
      tries.push(isAgain);
      // As of an earlier try nothing may be there.
      mkdirSync(path);
      if (readdirSync(parent).length > 1) {
        writeFileSync(join(path, "half"), "");
        throw noSpace(code);
      }
      writeFileSync(join(path, "PG_VERSION"), "17");
      return "made";
    });
    assert.equal(result, "made");
    assert.deepEqual(tries, [false, true]);
    assert.deepEqual(readdirSync(parent), ["pgdata"]);
    assert.deepEqual(readdirSync(path), ["PG_VERSION"]);
    assert.equal(readFileSync(join(path, "PG_VERSION"), "utf8"), "17");
  });
}

test("makeWithRoom: a disk that stays full: what is told names the directory", async (t) => {
  const { path } = dataDirectory(t);
  let tries = 0;
  const failing = makeWithRoom(path, () => {
    tries++;
    throw noSpace("ENOSPC");
  });
  await assert.rejects(failing, {
    kind: "unavailable",
    code: "disk-full",
    message: `make the data directory ${path}: no space left on device`,
  });
  assert.equal(tries, 2);
});

test("makeWithRoom: whatever else fails, fails, and what lies aside stays", async (t) => {
  const { parent, path } = dataDirectory(t);
  makeFull(path);
  putAside(path);
  let tries = 0;
  const failing = makeWithRoom(path, () => {
    tries++;
    throw noSpace("EIO");
  });
  await assert.rejects(failing, { code: "EIO" });
  assert.equal(tries, 1);
  assert.equal(readdirSync(parent).length, 1);
});
