// What processes cost, as the kernel tells it: processor time and memory.

import { readFileSync } from "node:fs";
import { processIds } from "../../src/base/proc.ts";

/** Of /proc/PID/stat. */
const TICK_US = 10_000;

/** Processor time of all of a process's threads. */
export function processorUs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

export interface Memory {
  /** All that it has in memory. */
  readonly rssMb: number;
  /** The same, what it shares with others counted in parts. */
  readonly pssMb: number;
  /** What nobody else has. */
  readonly privateMb: number;
}

/** Of some processes, in sum. */
export function memoryOf(pids: readonly number[]): Memory {
  const texts = pids.map((pid) => readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
  const sum = (...names: string[]) =>
    texts
      .flatMap((text) =>
        names.map((name) => Number(new RegExp(`^${name}:\\s+(\\d+) kB`, "m").exec(text)![1])),
      )
      .reduce((all, kb) => all + kb / 1024, 0);
  return {
    rssMb: sum("Rss"),
    pssMb: sum("Pss"),
    privateMb: sum("Private_Clean", "Private_Dirty"),
  };
}

/** All that descend from a process, without itself. */
export function descendants(pid: number): number[] {
  const children = processIds().filter((each) => parentOf(each) === pid);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

function parentOf(pid: number): number | undefined {
  try {
    return Number(/^PPid:\t(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
  } catch {
    return undefined;
  }
}
