// CPU priority: a process that commits wait for gets the CPU before sessions that compute, where we may ask for that.

import { readFileSync, writeFileSync } from "node:fs";
import { getPriority, setPriority } from "node:os";

/*
 * A commit wakes its agent, safekeepers, these again when their disk is done, and the agent once more. Each of them
 * works for a moment only, but where every core has a session that builds an index or loads a table, each wake-up
 * waits for its turn among them, milliseconds at a time. (In stock Postgres the backend itself syncs its WAL.)
 *
 * Linux weighs processes in two ways: by their nice values, and before that, where sched_autogroup_enabled is set,
 * as one group for each session of the terminal kind (sched(7)). Daemons and Postgres's processes lead a session
 * each, so nice values alone would change nothing among them.
 */

/** Steps of the nice value; each is a quarter more CPU where it is short, ten are nine times as much. */
const STEPS = 10;

/** What this process had before it was raised. */
let ordinary: number | undefined;

/**
 * Raises this process above the others. False, and nothing changed, where the system does not let us (it lets root,
 * and whoever has CAP_SYS_NICE or an RLIMIT_NICE), and where somebody has raised it already.
 */
export function raisePriority(): boolean {
  const before = getPriority();
  if (before < 0 || ordinary !== undefined) {
    return false;
  }
  try {
    setPriority(before - STEPS);
  } catch {
    return false;
  }
  ordinary = before;
  try {
    // Not a shell's, from which somebody runs us in the foreground.
    if (leadsItsSession()) {
      writeFileSync("/proc/self/autogroup", String(before - STEPS));
    }
  } catch {
    // No such groups here.
  }
  return true;
}

/** A child that was just started is none of those that commits wait for: it gets what this process had. */
export function giveOrdinaryPriority(pid: number | undefined): void {
  if (ordinary !== undefined && pid !== undefined) {
    try {
      setPriority(pid, ordinary);
    } catch {
      // It has ended.
    }
  }
}

/** proc_pid_stat(5): field 6, behind the name, which may hold anything. */
function leadsItsSession(): boolean {
  const stat = readFileSync("/proc/self/stat", "utf8");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[3]) === process.pid;
}
