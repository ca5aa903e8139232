// Faults of a running Strata: paused processes, lost directories, a full disk; each can be undone.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  closeSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { errnoCode } from "../src/base/errors.ts";
import type { TestCluster } from "./cluster.ts";

/** The process and all that it started. */
function processTree(pid: number): number[] {
  const children = new Map<number, number[]>();
  for (const name of readdirSync("/proc").filter((entry) => /^\d+$/.test(entry))) {
    try {
      const parent = Number(
        /^PPid:\s+(\d+)/m.exec(readFileSync(`/proc/${name}/status`, "utf8"))?.[1],
      );
      children.set(parent, [...(children.get(parent) ?? []), Number(name)]);
    } catch {
      // Gone meanwhile.
    }
  }
  const tree = [pid];
  for (const one of tree) {
    tree.push(...(children.get(one) ?? []));
  }
  return tree;
}

/** SIGSTOP; the result lets them go on. */
export function pause(...pids: number[]): () => void {
  signalAll(pids, "SIGSTOP");
  return () => signalAll(pids, "SIGCONT");
}

/** SIGSTOP of a process and all that it started, or starts meanwhile. */
export function pauseTree(pid: number): () => void {
  let paused: number[] = [];
  for (let before = -1; before !== paused.length; ) {
    before = paused.length;
    paused = processTree(pid);
    signalAll(paused, "SIGSTOP");
  }
  return () => signalAll(paused.toReversed(), "SIGCONT");
}

function signalAll(pids: readonly number[], signal: "SIGSTOP" | "SIGCONT"): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // Gone meanwhile.
    }
  }
}

const directoryOf = (cluster: TestCluster, id: number) =>
  join(cluster.home, "safekeepers", `sk${id}`);

/** Kills the safekeeper, removes everything that it has, and starts it empty. */
export async function loseDirectory(cluster: TestCluster, id: number): Promise<void> {
  await cluster.kill9(`safekeeper-${id}`);
  const directory = directoryOf(cluster, id);
  for (const name of readdirSync(directory)) {
    rmSync(join(directory, name), { recursive: true });
  }
  await cluster.ok("safekeeper", "start", `${id}`);
}

/** Puts the safekeeper's directory on a disk of its own; why not, where that is not allowed. */
export function mountSmallDisk(
  cluster: TestCluster,
  id: number,
  bytes: number,
): string | undefined {
  const directory = directoryOf(cluster, id);
  mkdirSync(directory, { recursive: true });
  const options = ["-t", "tmpfs", "-o", `size=${bytes}`, "strata-test", directory];
  const mounted = spawnSync("mount", options, { encoding: "utf8" });
  return mounted.status === 0
    ? undefined
    : `a small disk needs the right to mount: ${mounted.error?.message ?? mounted.stderr}`;
}

export function unmountSmallDisk(cluster: TestCluster, id: number): void {
  spawnSync("umount", [directoryOf(cluster, id)]);
}

/** Takes all space that is left on the safekeeper's disk; the result gives it back. */
export function fillDisk(cluster: TestCluster, id: number): () => void {
  const path = join(directoryOf(cluster, id), "filler");
  const block = Buffer.alloc(64 * 1024);
  const fd = openSync(path, "w");
  try {
    // The safekeeper writes meanwhile: only a refused write tells that nothing is left.
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
