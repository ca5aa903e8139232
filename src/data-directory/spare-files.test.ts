import assert from "node:assert/strict";
import {
  closeSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { postgresUser } from "../postgres/installation.ts";
import { SpareFiles } from "./spare-files.ts";

/** Runs `body` with the path of spares in a new directory. */
async function withPlace(body: (path: string, below: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "strata-spare-"));
  try {
    await body(join(directory, "spare"), directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

const inode = (path: string) => statSync(path).ino;

test("SpareFiles: what was made is taken over, and what is missing is made", () =>
  withPlace(async (path, below) => {
    assert.ok(await SpareFiles.make(path, { files: 2, directories: 1 }));
    const skeleton = inode(join(path, "pgdata"));
    const files = [0, 1].map((i) => inode(join(path, "files", `${i}`)));
    const directory = inode(join(path, "directories", "0"));
    const spares = SpareFiles.take(path);
    const data = join(below, "pgdata");
    await spares.skeleton(data);
    assert.equal(inode(data), skeleton);
    assert.ok(existsSync(join(data, "pg_wal", "archive_status")));
    spares.directory(join(data, "base", "1"));
    spares.directory(join(data, "base", "2"));
    assert.equal(inode(join(data, "base", "1")), directory);
    for (const name of ["a", "b", "c"]) {
      spares.write(join(data, name), name.repeat(3));
      const status = statSync(join(data, name));
      assert.equal(readFileSync(join(data, name), "utf8"), name.repeat(3));
      assert.equal(files.includes(status.ino), name !== "c");
      assert.equal(status.mode & 0o777, 0o600);
      assert.equal(status.uid, postgresUser()?.uid ?? process.getuid!());
    }
    assert.throws(() => spares.file(join(data, "c")), /EEXIST/);
    assert.deepEqual(spares.needed, { files: 4, directories: 2 });
    await spares.remove();
    assert.deepEqual(readdirSync(below), ["pgdata"]);
    await SpareFiles.none().skeleton(join(below, "other"));
    assert.deepEqual(
      readdirSync(join(below, "other")),
      readdirSync(data).filter(isDirectoryOf(data)),
    );
  }));

const isDirectoryOf = (path: string) => (name: string) => statSync(join(path, name)).isDirectory();

test("SpareFiles: one takes them, once; what it has left when it ended is nobody's", () =>
  withPlace(async (path, below) => {
    await SpareFiles.make(path, { files: 1, directories: 0 });
    const first = SpareFiles.take(path);
    const second = SpareFiles.take(path);
    closeSync(second.file(join(below, "second")));
    closeSync(first.file(join(below, "first")));
    // The first one is killed now. What is made meanwhile waits until that is gone.
    assert.ok(await SpareFiles.make(path, { files: 1, directories: 0 }));
    const spare = inode(join(path, "files", "0"));
    const third = SpareFiles.take(path);
    closeSync(third.file(join(below, "third")));
    assert.notEqual(inode(join(below, "third")), spare);
    await first.remove();
    closeSync(SpareFiles.take(path).file(join(below, "fourth")));
    assert.equal(inode(join(below, "fourth")), spare);
  }));

test("SpareFiles: they are there whole or not at all", () =>
  withPlace(async (path, below) => {
    const stop = new AbortController();
    const making = SpareFiles.make(path, { files: 50, directories: 0 }, stop.signal);
    stop.abort();
    assert.equal(await making, false);
    assert.equal(await SpareFiles.make(path, { files: 0, directories: 0 }, stop.signal), false);
    assert.equal(existsSync(path), false);
    // Of one that was killed while it made them.
    writeFileSync(join(`${path}.new`, "files", "left"), "content");
    assert.ok(await SpareFiles.make(path, { files: 1, directories: 0 }));
    assert.deepEqual(readdirSync(join(path, "files")), ["0"]);
    assert.equal(await SpareFiles.make(path, { files: 3, directories: 0 }), false);
    assert.deepEqual(readdirSync(join(path, "files")), ["0"]);
    await SpareFiles.take(path).remove();
    assert.deepEqual(
      readdirSync(below).filter((name) => name === "spare"),
      [],
    );
  }));

test("SpareFiles: who has none of its own takes those of all, once; one process makes them", () =>
  withPlace(async (path, below) => {
    const shared = join(below, "shared");
    const { signal } = new AbortController();
    const counts = { files: 1, directories: 0 };
    const made = [shared, shared].map((at) => SpareFiles.makeShared(at, counts, signal));
    assert.deepEqual(await Promise.all(made), [true, false]);
    const spare = inode(join(shared, "files", "0"));
    assert.equal(await SpareFiles.makeShared(shared, counts, signal), false);
    await SpareFiles.make(path, counts);
    const own = inode(join(path, "files", "0"));
    const taken = [1, 2, 3].map((n) => {
      const file = join(below, `taken-${n}`);
      // Each endpoint has a place of its own.
      closeSync(SpareFiles.take(n === 1 ? path : `${path}-${n}`, shared).file(file));
      return inode(file);
    });
    assert.deepEqual(taken.slice(0, 2), [own, spare]);
    assert.ok(!taken.slice(0, 2).includes(taken[2]!));
    assert.ok(await SpareFiles.makeShared(shared, counts, signal));
  }));
