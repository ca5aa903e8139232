import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { lockDirectory } from "./daemon.ts";

test("lockDirectory: one process a directory, by whatever path; free as soon as that one is killed", async (t) => {
  const root = mkdtempSync(join(tmpdir(), "strata-lock-"));
  t.after(() => rmSync(root, { recursive: true, force: true }));
  const link = `${root}.link`;
  symlinkSync(root, link);
  t.after(() => rmSync(link));
  const program = `
    import { lockDirectory } from "${join(import.meta.dirname, "daemon.ts")}";
    await lockDirectory(${JSON.stringify(root)});
    console.log("locked");
    setInterval(() => {}, 1000);`;
  const holder = spawn(process.execPath, ["--input-type=module", "-e", program]);
  t.after(() => holder.kill("SIGKILL"));
  await new Promise((resolve) => holder.stdout.once("data", resolve));
  for (const path of [root, link]) {
    await assert.rejects(lockDirectory(path), { kind: "conflict", code: "directory-locked" });
  }
  const ended = new Promise((resolve) => holder.once("exit", resolve));
  holder.kill("SIGKILL");
  await ended;
  await lockDirectory(link);
});
