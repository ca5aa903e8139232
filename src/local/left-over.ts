// Daemons of a home as the system shows them, whatever has become of its files: deleted, moved, damaged.

import type { StopMode } from "../base/daemon.ts";
import { commandWords, processIds } from "../base/proc.ts";
import { componentStartedBy } from "../base/program-files.mjs";
import { endProcess, type Print } from "./daemon.ts";
import { currentDirectory, workdirOf } from "./processes.ts";

export interface RunningDaemon {
  readonly pid: number;
  /** `pageserver`, say. */
  readonly component: string;
  readonly workdir: string;
}

/**
 * In the order in which they are to be stopped, each before those that it needs; with where in a home
 * they work. A home can lie inside of another one's folder, and is not to be stopped with that.
 */
const COMPONENTS: ReadonlyMap<string, RegExp> = new Map([
  ["control-plane", /^control_plane$/],
  ["proxy", /^proxy$/],
  // Those that are warm wait in the folder of all endpoints.
  ["compute", /^endpoints(?:\/[^/]+)?$/],
  ["pageserver", /^pageserver_\d+$/],
  ["safekeeper", /^safekeepers\/sk\d+$/],
  ["storage-broker", /^storage_broker$/],
]);
/** Daemons that work in the home at `home`, or were started there; in the order of a stop. */
export function daemonsOfHome(home: string): RunningDaemon[] {
  return daemonsWhere(
    (path, component) =>
      path.startsWith(`${home}/`) &&
      COMPONENTS.get(component)?.test(path.slice(home.length + 1)) === true,
  );
}

/** Daemons whose working directory it is, or was at their start. */
export function daemonsIn(workdir: string): RunningDaemon[] {
  return daemonsWhere((path) => path === workdir);
}

function daemonsWhere(isThere: (path: string, component: string) => boolean): RunningDaemon[] {
  const found: RunningDaemon[] = [];
  for (const pid of processIds()) {
    const workdir = workdirOf(pid);
    const component = componentOf(pid);
    if (workdir === undefined || component === undefined) {
      continue;
    }
    // The working directory follows a folder that was moved; the words stay what they were.
    if ([workdir, currentDirectory(pid) ?? workdir].some((path) => isThere(path, component))) {
      found.push({ pid, component, workdir });
    }
  }
  const order = [...COMPONENTS.keys()];
  const rank = ({ component }: RunningDaemon) => order.indexOf(component);
  return found.toSorted((a, b) => rank(a) - rank(b));
}

function componentOf(pid: number): string | undefined {
  for (const word of commandWords(pid) ?? []) {
    const component = componentStartedBy(word);
    if (component !== undefined && COMPONENTS.has(component)) {
      return component;
    }
  }
  return undefined;
}

/** Ends one that no pid file leads to. StorageError `unavailable` where it does not end. */
export async function stopLeftOver(
  daemon: RunningDaemon,
  mode: StopMode,
  print: Print,
): Promise<void> {
  await endProcess(daemon.pid, `${daemon.component} in ${daemon.workdir}`, mode, print);
}
