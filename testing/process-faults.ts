// Faults of a running Strata: paused processes, lost directories; each can be undone.

import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { TestCluster } from "./cluster.ts";
import { eventually } from "./eventually.ts";

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

/** SIGKILL to a process and all that it has started; they are gone when it resolves. */
export async function killTree(pid: number): Promise<void> {
  pauseTree(pid);
  const tree = processTree(pid);
  signalAll(tree, "SIGKILL");
  await eventually("killed processes to be gone", () => tree.every((one) => !isAlive(one)));
}

/** A zombie has no memory and no descriptors any more. */
function isAlive(pid: number): boolean {
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

function signalAll(pids: readonly number[], signal: "SIGSTOP" | "SIGCONT" | "SIGKILL"): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch {
      // Gone meanwhile.
    }
  }
}

/** Of a safekeeper. */
export const directoryOf = (cluster: TestCluster, id: number) =>
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
