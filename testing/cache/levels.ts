// What a compute takes of the disk and of memory: blocks of files, not their sizes, and pages that only one process has.

import { readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";

/** Bytes on the disk; WAL, which no limit of the cache is about, by itself. */
export interface StoredBytes {
  readonly data: number;
  readonly wal: number;
}

/** Of an endpoint's data directory. */
export function storedBytes(pgdata: string): StoredBytes {
  const stored = { data: 0, wal: 0 };
  for (const entry of readdirSync(pgdata, { recursive: true, withFileTypes: true })) {
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name);
      // Files come and go meanwhile.
      const bytes = (statSync(path, { throwIfNoEntry: false })?.blocks ?? 0) * 512;
      stored[entry.parentPath.startsWith(join(pgdata, "pg_wal")) ? "wal" : "data"] += bytes;
    }
  }
  return stored;
}

/** Memory of a process that no other one shares, in MB. */
export function privateMb(pid: number): number {
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  const kib = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(rollup)?.[1] ?? 0);
  return (kib("Private_Clean") + kib("Private_Dirty")) / 1024;
}
