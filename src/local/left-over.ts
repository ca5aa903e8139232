// Daemons of a home as the system shows them, whatever has become of its files: deleted, moved, damaged.

import { readlinkSync } from "node:fs";
import { sep } from "node:path";
import { commandWords, processIds } from "../base/proc.ts";
import { endProcess, type Print, type StopMode } from "./daemon.ts";
import { workdirOf } from "./processes.ts";

export interface RunningDaemon {
  readonly pid: number;
  /** `pageserver`, say. */
  readonly component: string;
  readonly workdir: string;
}

/** In the order in which they are to be stopped: each before those that it needs. */
const COMPONENTS = ["compute", "pageserver", "safekeeper", "storage-broker"];
/** Ours are started as `node .../pageserver/main.ts --workdir DIR ...`. */
const ENTRY = /(?:^|\/)([a-z-]+)\/main\.[a-z]+$/;

/** Daemons that work at or below `directory`, or were started there; in the order of a stop. */
export function daemonsBelow(directory: string): RunningDaemon[] {
  const isBelow = (path: string) => path === directory || path.startsWith(directory + sep);
  const found: RunningDaemon[] = [];
  for (const pid of processIds()) {
    const workdir = workdirOf(pid);
    const component = componentOf(pid);
    if (workdir === undefined || component === undefined) {
      continue;
    }
    // The working directory follows a folder that was moved; the words stay what they were.
    const now = currentDirectory(pid);
    if (isBelow(workdir) || (now !== undefined && isBelow(now))) {
      found.push({ pid, component, workdir });
    }
  }
  const rank = ({ component }: RunningDaemon) => COMPONENTS.indexOf(component);
  return found.toSorted((a, b) => rank(a) - rank(b));
}

function componentOf(pid: number): string | undefined {
  for (const word of commandWords(pid) ?? []) {
    const component = ENTRY.exec(word)?.[1];
    if (component !== undefined && COMPONENTS.includes(component)) {
      return component;
    }
  }
  return undefined;
}

function currentDirectory(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return undefined;
  }
}

/** Ends one that no pid file leads to. StorageError `unavailable` where it does not end. */
export async function stopLeftOver(
  daemon: RunningDaemon,
  mode: StopMode,
  print: Print,
): Promise<void> {
  await endProcess(daemon.pid, `${daemon.component} in ${daemon.workdir}`, mode, print);
}
