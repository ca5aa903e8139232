// Runs of endpoints: since when each goes on, and how much processor time all of its processes have used.

import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { processIds } from "../../base/proc.ts";
import { type DamagedEndpoint, type Endpoint, endpointState } from "../endpoints.ts";

/** USER_HZ, in which proc(5) tells times: 100 on every Linux that Node knows. */
const MS_PER_TICK = 10;

export interface EndpointRun {
  /** The agent's process, told apart from another one with its number. */
  readonly run: string;
  /** When its agent had Postgres running; milliseconds since 1970. */
  readonly sinceMs: number;
  /** Of the agent, its Postgres and all of that's processes, those that have ended too. */
  readonly cpuMs: number;
}

interface ProcessTimes {
  readonly parent: number;
  readonly startTicks: number;
  /** Its own, and that of its children that have ended. */
  readonly ticks: number;
}

/** All processes at one moment, nearly: one that ends meanwhile can be in its own line and in its parent's. */
export class ProcessTable {
  readonly #processes = new Map<number, ProcessTimes>();
  readonly #children = new Map<number, number[]>();

  constructor() {
    for (const pid of processIds()) {
      const times = timesOf(pid);
      if (times !== undefined) {
        this.#processes.set(pid, times);
        this.#children.set(times.parent, [...(this.#children.get(times.parent) ?? []), pid]);
      }
    }
  }

  /** Undefined where it does not run, or has just ended. */
  runOf(endpoint: Endpoint | DamagedEndpoint): EndpointRun | undefined {
    const state = endpointState(endpoint);
    const pidFile = join(endpoint.directory, "compute.pid");
    const started = statSync(pidFile, { throwIfNoEntry: false });
    const agent = state.state === "running" ? this.#processes.get(state.pid) : undefined;
    if (state.state !== "running" || agent === undefined || started === undefined) {
      return undefined;
    }
    return {
      run: `${state.pid} ${agent.startTicks}`,
      sinceMs: started.mtimeMs,
      cpuMs: this.cpuMsOf(state.pid),
    };
  }

  /** With all that descend from it. */
  cpuMsOf(pid: number): number {
    let ticks = 0;
    const seen = new Set<number>();
    const left = [pid];
    for (let next = left.pop(); next !== undefined; next = left.pop()) {
      if (!seen.has(next)) {
        seen.add(next);
        ticks += this.#processes.get(next)?.ticks ?? 0;
        left.push(...(this.#children.get(next) ?? []));
      }
    }
    return ticks * MS_PER_TICK;
  }
}

/** Of /proc/PID/stat, behind the name, which can hold anything: state, ppid, ..., utime, stime, cutime, cstime, ..., starttime. */
function timesOf(pid: number): ProcessTimes | undefined {
  let text: string;
  try {
    text = readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return undefined;
  }
  const fields = text
    .slice(text.lastIndexOf(")") + 2)
    .split(" ")
    .map(Number);
  const ticks = fields.slice(11, 15).reduce((sum, each) => sum + each, 0);
  const times = { parent: fields[1]!, startTicks: fields[19]!, ticks };
  return Object.values(times).every(Number.isFinite) ? times : undefined;
}
