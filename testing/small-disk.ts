// A directory on a small disk of its own, which a test can fill.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { errnoCode } from "../src/base/errors.ts";

/** Why not, where mounting is not allowed. */
export function mountSmallDisk(directory: string, bytes: number): string | undefined {
  mkdirSync(directory, { recursive: true });
  const options = ["-t", "tmpfs", "-o", `size=${bytes}`, "strata-test", directory];
  const mounted = spawnSync("mount", options, { encoding: "utf8" });
  return mounted.status === 0
    ? undefined
    : `a small disk needs the right to mount: ${mounted.error?.message ?? mounted.stderr}`;
}

export function unmountSmallDisk(directory: string): void {
  spawnSync("umount", [directory]);
}

/** Takes all space that is left on the directory's disk, also what came free since; the result gives it back. */
export function fillDisk(directory: string): () => void {
  const path = join(directory, "filler");
  const block = Buffer.alloc(64 * 1024);
  const fd = openSync(path, "a");
  try {
    // Others write meanwhile: only a refused write tells that nothing is left.
    for (;;) {
      writeSync(fd, block);
    }
  } catch (error) {
    assert.equal(errnoCode(error), "ENOSPC");
  } finally {
    closeSync(fd);
  }
  return () => rmSync(path, { force: true });
}
