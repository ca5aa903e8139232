// How long the parts of an endpoint's last start took, as its agent wrote it into its log: it tells that also when it has ended.

import type { StartMetrics } from "../../compute/api.ts";
import { newestLine } from "./log-file.ts";

/** What the agent says when Postgres takes connections (compute/supervisor.ts). */
const RUNNING = "compute is running";
const PARTS = [
  "process_ms",
  "sync_safekeepers_ms",
  "basebackup_ms",
  "data_directory_ms",
  "start_postgres_ms",
  "total_startup_ms",
] as const satisfies readonly (keyof StartMetrics)[];

export interface LoggedStart {
  /** When Postgres took connections; ISO, in UTC. */
  readonly at: string;
  readonly metrics: StartMetrics;
}

/** `path`: of an agent's log. Undefined where its last 16 MB tell of no start. Rejects with what the file system says. */
export function readLastStart(path: string): Promise<LoggedStart | undefined> {
  return newestLine(path, startOf);
}

/** Undefined where the line is about something else, or is not as an agent writes it. */
function startOf(line: string): LoggedStart | undefined {
  if (!line.includes(RUNNING)) {
    return undefined;
  }
  let said: Record<string, unknown>;
  try {
    said = JSON.parse(line);
  } catch {
    return undefined;
  }
  const { msg, time } = said;
  if (msg !== RUNNING || typeof time !== "string" || Number.isNaN(Date.parse(time))) {
    return undefined;
  }
  const metrics = Object.fromEntries(PARTS.map((name) => [name, said[name]]));
  const areTimes = Object.values(metrics).every((ms) => typeof ms === "number" && ms >= 0);
  return areTimes ? { at: time, metrics: metrics as unknown as StartMetrics } : undefined;
}
