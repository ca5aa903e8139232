// Logs that have grown too long: put away, with whoever writes them going on, and never more than some of them.

import assert from "node:assert/strict";
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { turn } from "../clock.ts";
import { createLogger } from "../log.ts";
import { boundLog, olderLog } from "./log-rotation.ts";

const logger = createLogger("test", "silent");
const MAX = 1000;

function scratch(t: TestContext): { directory: string; path: string } {
  const directory = mkdtempSync(join(tmpdir(), "strata-rotation-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return { directory, path: join(directory, "x.log") };
}

const text = (path: string) => readFileSync(path, "utf8");

test("olderLog: so many are kept", () => {
  assert.equal(olderLog("a/x.log"), "a/x.log.1");
  assert.equal(olderLog("a/x.log.1"), "a/x.log.2");
  assert.equal(olderLog("a/x.log.2"), undefined);
});

test("boundLog: one that is too long begins anew, the two before it are kept, and nothing else", async (t) => {
  const { directory, path } = scratch(t);
  await boundLog(path, logger, MAX);
  assert.equal(existsSync(path), false);
  // As Postgres has it: open, whatever happens to the file.
  const fd = openSync(path, "a");
  t.after(() => closeSync(fd));
  const line = (n: number) => `line ${n}\n`.padStart(MAX / 4, "x");
  for (let n = 0; n < 20; n++) {
    writeSync(fd, line(n));
    await boundLog(path, logger, MAX);
  }
  // Put away when it had five lines: after 4, 9, 14 and 19.
  assert.equal(text(path), "");
  assert.equal(text(`${path}.1`), [15, 16, 17, 18, 19].map(line).join(""));
  assert.equal(text(`${path}.2`), [10, 11, 12, 13, 14].map(line).join(""));
  assert.deepEqual(readdirSync(directory).toSorted(), ["x.log", "x.log.1", "x.log.2"]);
  assert.equal(statSync(`${path}.1`).mode & 0o777, 0o600);
  writeSync(fd, line(20));
  await boundLog(path, logger, MAX);
  assert.equal(text(path), line(20));
});

test("boundLog: of one that grows faster than it is looked at, the end is kept", async (t) => {
  const { path } = scratch(t);
  writeFileSync(path, `${"a".repeat(5 * MAX)}${"z".repeat(MAX)}`);
  await boundLog(path, logger, MAX);
  assert.equal(text(`${path}.1`), "z".repeat(MAX));
  assert.equal(text(path), "");
});

test("boundLog: what comes while it is being put away is in one of both, once and in order", async (t) => {
  const { path } = scratch(t);
  const MEBIBYTE = 1024 * 1024;
  writeFileSync(path, `${"x".repeat(8 * MEBIBYTE)}\n`);
  let isOver = false;
  const bounding = boundLog(path, logger, 5 * MEBIBYTE).then(() => {
    isOver = true;
  });
  let count = 0;
  while (!isOver) {
    appendFileSync(path, `late ${count++}\n`);
    await turn();
  }
  await bounding;
  const [old, now] = [text(`${path}.1`), text(path)];
  assert.ok(old.length > 8 * MEBIBYTE && now.length < MEBIBYTE, `${old.length} ${now.length}`);
  const lines = (old + now).split("\n").slice(1, -1);
  assert.deepEqual(
    lines,
    Array.from({ length: count }, (_, i) => `late ${i}`),
  );
  assert.ok(count > 8, `${count}`);
});

test("boundLog: only files are cut, and no links to elsewhere", async (t) => {
  const { directory, path } = scratch(t);
  const other = join(directory, "other");
  appendFileSync(other, "y".repeat(2 * MAX));
  symlinkSync(other, path);
  await boundLog(path, logger, MAX);
  assert.equal(statSync(other).size, 2 * MAX);
  // Nor is anything written through one.
  rmSync(path);
  appendFileSync(path, "z".repeat(2 * MAX));
  symlinkSync(other, `${path}.1`);
  await boundLog(path, logger, MAX);
  assert.equal(statSync(other).size, 2 * MAX);
});
