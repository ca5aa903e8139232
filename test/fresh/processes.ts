// Finds the processes of a test by a setting that they have all inherited.

import { readdirSync, readFileSync } from "node:fs";

/** "PID COMMAND" of every process with `setting` (NAME=VALUE) in its environment: npm, daemons, Postgres. */
export function processesWith(setting: string): string[] {
  return readdirSync("/proc").flatMap((pid) => {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
      return environment.includes(setting) && command !== "" ? [`${pid} ${command}`] : [];
    } catch {
      return [];
    }
  });
}
