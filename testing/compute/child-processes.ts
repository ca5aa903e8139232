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

/** USER_HZ of every Linux. */
const TICKS_A_SECOND = 100;

/** Processor time that a process, its children and all that those have waited for have had. */
export function familyProcessorSeconds(pid: number): number {
  const ticks = [pid, ...childrenOf(pid)].map((member) => {
    try {
      const text = readFileSync(`/proc/${member}/stat`, "utf8");
      // utime, stime, cutime and cstime of proc(5); before them stands a name that may have anything in it.
      const fields = text.slice(text.lastIndexOf(") ") + 2).split(" ");
      return fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0);
    } catch {
      // Gone meanwhile.
      return 0;
    }
  });
  return ticks.reduce((sum, one) => sum + one, 0) / TICKS_A_SECOND;
}
