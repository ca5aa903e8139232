// Pid files and signals: is this pid alive, is it ours, has it ended.

import { readFileSync, readlinkSync, statSync } from "node:fs";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errnoCode } from "../base/errors.ts";
import { commandWords } from "../base/proc.ts";

/** The pid in a pid file; undefined where there is none, or no number in it. */
export function readPidFile(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, "utf8").trim().split("\n")[0]);
    return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Whether `pid` lives and is the daemon of that working directory, not a later process of that number.
 * Paths can hold anything and lead there through links, so directories are compared, not only names.
 */
export function isDaemonOf(pid: number, workdir: string): boolean {
  const named = workdirOf(pid);
  return (
    named !== undefined &&
    (named === workdir ||
      isSameDirectory(named, workdir) ||
      isSameDirectory(`/proc/${pid}/cwd`, workdir))
  );
}

/** The `--workdir` of a living process's command line; of an agent that was warm, where it works now. */
export function workdirOf(pid: number): string | undefined {
  const words = commandWords(pid) ?? [];
  const at = words.indexOf("--workdir");
  if (at === -1) {
    return words.includes("--warm") ? currentDirectory(pid) : undefined;
  }
  return words[at + 1];
}

/** Follows a folder that was moved, and one that is gone. */
export function currentDirectory(pid: number): string | undefined {
  try {
    // The kernel's mark of a folder that is gone.
    return readlinkSync(`/proc/${pid}/cwd`).replace(/ \(deleted\)$/, "");
  } catch {
    return undefined;
  }
}

function isSameDirectory(a: string, b: string): boolean {
  try {
    const [one, other] = [statSync(a), statSync(b)];
    return one.dev === other.dev && one.ino === other.ino;
  } catch {
    return false;
  }
}

/** Sends a signal; false where the process is gone already. */
export function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (errnoCode(error) === "ESRCH") {
      return false;
    }
    throw error;
  }
}

/** Waits until the process has ended; false after `timeoutMs`. */
export async function waitForExit(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = monotonicMs() + timeoutMs;
  while (commandWords(pid) !== undefined) {
    if (monotonicMs() > deadline) {
      return false;
    }
    await sleep(20);
  }
  return true;
}
