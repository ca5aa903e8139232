// Directories in a data directory, as Postgres makes them.

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { turn } from "../base/clock.ts";
import { giveToPostgres } from "../postgres/installation.ts";

/** Its parent must be there, it must not. */
export function makeDirectory(path: string): void {
  mkdirSync(path, { mode: 0o700 });
  giveToPostgres(path);
}

/** What initdb makes and Postgres does not make by itself; parents first. */
const DIRECTORIES = [
  "base",
  "global",
  "pg_commit_ts",
  "pg_dynshmem",
  "pg_logical",
  "pg_logical/mappings",
  "pg_logical/snapshots",
  "pg_multixact",
  "pg_multixact/members",
  "pg_multixact/offsets",
  "pg_notify",
  "pg_replslot",
  "pg_serial",
  "pg_snapshots",
  "pg_stat",
  "pg_stat_tmp",
  "pg_subtrans",
  "pg_tblspc",
  "pg_twophase",
  "pg_wal",
  "pg_wal/archive_status",
  "pg_wal/summaries",
  "pg_xact",
];

/**
 * Makes the empty directories; `path` must not exist, its parent must. Each costs up to half a
 * millisecond, so whatever else arrives in this process is handled between them.
 */
export async function makeSkeleton(path: string): Promise<void> {
  makeDirectory(path);
  for (const directory of DIRECTORIES) {
    makeDirectory(join(path, directory));
    await turn();
  }
}
