// What tests of a fresh machine need: a person's PATH, and the processes of a test by a setting that they inherited.

import { readdirSync, readFileSync } from "node:fs";
import { delimiter } from "node:path";

/** $PATH without what `npm test` puts in front: its Node is the pinned one, with npm settings of its own. */
export function pathOfShell(): string {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.filter((folder) => !/\/node_modules\//.test(folder)).join(delimiter);
}

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
