// Children of a process, by what /proc says at that moment.

import { readdirSync, readFileSync } from "node:fs";

export function childrenOf(parent: number): number[] {
  const isChild = new RegExp(`^PPid:\\s+${parent}$`, "m");
  return readdirSync("/proc").flatMap((name) => {
    try {
      const pid = Number(name);
      return pid > 0 && isChild.test(readFileSync(`/proc/${name}/status`, "utf8")) ? [pid] : [];
    } catch {
      // Gone meanwhile.
      return [];
    }
  });
}

/** The child of that name, if there is one. */
export function childOf(parent: number, name: string): number | undefined {
  return childrenOf(parent).find((child) => {
    try {
      return readFileSync(`/proc/${child}/comm`, "utf8").trim() === name;
    } catch {
      return false;
    }
  });
}
