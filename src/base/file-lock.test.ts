import assert from "node:assert/strict";
import { type ChildProcessByStdio, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { type TestContext, test } from "node:test";
import { FileLock, lockHolder } from "./file-lock.ts";

function directory(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "strata lock-"));
  t.after(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** A process that has the lock when this resolves. */
async function holderOf(
  t: TestContext,
  path: string,
): Promise<ChildProcessByStdio<null, Readable, null>> {
  const program = `
    const { FileLock } = await import(${JSON.stringify(join(import.meta.dirname, "file-lock.ts"))});
    const isHeld = FileLock.take(${JSON.stringify(path)}) !== undefined;
    // Nothing but the process keeps the lock.
    globalThis.gc();
    console.log(isHeld ? "held" : "refused");
    setInterval(() => {}, 1000);`;
  const flags = ["--disable-warning=ExperimentalWarning", "--expose-gc", "--input-type=module"];
  const child = spawn(process.execPath, [...flags, "-e", program], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.after(() => child.kill("SIGKILL"));
  const [said] = (await once(child.stdout, "data")) as [Buffer];
  assert.equal(String(said), "held\n");
  return child;
}

test("FileLock: one holder, in this process too; free again after release", (t) => {
  const path = join(directory(t), "lock");
  const lock = FileLock.take(path);
  assert.ok(lock !== undefined);
  assert.equal(FileLock.take(path), undefined);
  // The refused one has closed the file: that must not have freed the lock.
  assert.equal(FileLock.take(path), undefined);
  assert.equal(lockHolder(path), process.pid);
  lock.release();
  assert.equal(lockHolder(path), undefined);
  const next = FileLock.take(path);
  assert.ok(next !== undefined);
  next.release();
});

test("FileLock: many share one, and then nobody has it alone", (t) => {
  const path = join(directory(t), "lock");
  const [first, second] = [FileLock.take(path, "shared"), FileLock.take(path, "shared")];
  assert.ok(first !== undefined && second !== undefined);
  assert.equal(lockHolder(path), process.pid);
  assert.equal(FileLock.take(path), undefined);
  first.release();
  assert.equal(FileLock.take(path), undefined);
  second.release();
  const alone = FileLock.take(path);
  assert.ok(alone !== undefined);
  assert.equal(FileLock.take(path, "shared"), undefined);
  alone.release();
  assert.equal(lockHolder(path), undefined);
});

test("FileLock: another process is kept out and told the holder's pid, until kill -9 of that one", async (t) => {
  const root = directory(t);
  const path = join(root, "lock");
  const holder = await holderOf(t, path);
  assert.equal(FileLock.take(path), undefined);
  assert.equal(lockHolder(path), holder.pid);
  const ended = once(holder, "exit");
  holder.kill("SIGKILL");
  await ended;
  assert.equal(lockHolder(path), undefined);
  FileLock.take(path)!.release();
});

test("FileLock: a copied directory has a lock of its own, and only the owner may open the file", (t) => {
  const root = directory(t);
  const path = join(root, "a", "lock");
  assert.throws(() => FileLock.take(path), { code: "lock-failed" });
  mkdirSync(join(root, "a"));
  const lock = FileLock.take(path)!;
  assert.equal(statSync(path).mode & 0o777, 0o600);
  assert.equal(statSync(path).size, 0);
  // By another process: one that opens and closes the file itself frees its own lock.
  execFileSync("cp", ["-r", join(root, "a"), join(root, "b")]);
  const copy = FileLock.take(join(root, "b", "lock"));
  assert.ok(copy !== undefined);
  assert.equal(FileLock.take(path), undefined);
  copy.release();
  assert.equal(lockHolder(path), process.pid);
  lock.release();
});
