import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { FileChanges } from "./file-changes.ts";

/** Nobody waits so long: where a change is lost, the test has failed before. */
const FOREVER_MS = 600_000;
const options = { timeout: 30_000 };

function scratch(t: TestContext): string {
  const directory = mkdtempSync(join(tmpdir(), "strata-file-changes-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

test(
  "FileChanges.next: the file is made, and written to, and nobody waits for the time",
  options,
  async (t) => {
    const directory = scratch(t);
    const path = join(directory, "x.pid");
    const changes = new FileChanges(directory, "x.pid");
    t.after(() => changes.close());
    const made = changes.next(FOREVER_MS);
    writeFileSync(path, "1\n");
    await made;
    // What came before it is asked for is not lost.
    appendFileSync(path, "running\n");
    await changes.next(FOREVER_MS);
  },
);

test(
  "FileChanges.next: without a change the time, and other files are none",
  options,
  async (t) => {
    const directory = scratch(t);
    const changes = new FileChanges(directory, "x.pid");
    t.after(() => changes.close());
    let isOver = false;
    const waiting = changes.next(FOREVER_MS).finally(() => {
      isOver = true;
    });
    writeFileSync(join(directory, "y.pid"), "1\n");
    // Its end comes behind what the system has told of the other file.
    const after = new FileChanges(directory, "y.pid");
    appendFileSync(join(directory, "y.pid"), "2\n");
    await after.next(FOREVER_MS);
    after.close();
    assert.equal(isOver, false);
    appendFileSync(join(directory, "x.pid"), "1\n");
    await waiting;
    await changes.next(1);
  },
);

test(
  "FileChanges.next: where nothing can be watched it comes back soon, for who looks by itself",
  options,
  async () => {
    const changes = new FileChanges("/nowhere/at/all", "x.pid");
    await changes.next(FOREVER_MS);
    changes.close();
  },
);
