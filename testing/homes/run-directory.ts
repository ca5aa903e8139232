// The temporary directory of a run of tests, in which making files stays cheap.
//
// Before it makes a file ext4 looks at each inode of the block group that was freed within the last minutes
// (recently_deleted in fs/ext4/ialloc.c), and puts directories beside their parent. Tests make and remove a thousand files
// with each Postgres, all in the groups of /tmp: one copy of a data directory took 120 to 900 ms of a processor, and 55 where
// directories begin in groups of their own.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { errorMessage } from "../../src/base/errors.ts";

/**
 * Directories that are made in it from now on begin in block groups of their own, where the file system has such: which
 * one comes of a hash of the name, so that each should have a name that was not used before.
 */
export function spreadDirectories(directory: string): void {
  spawnSync("chattr", ["+T", directory], { stdio: "ignore" });
}

/** For $TMPDIR. */
export function makeRunDirectory(): string {
  // Names of sockets are below it, and have 107 bytes.
  const directory = mkdtempSync(join(tmpdir(), "strata-"));
  // As /tmp: Postgres runs as another user.
  chmodSync(directory, 0o1777);
  spreadDirectories(directory);
  return directory;
}

/** With all that tests have left in it. */
export function removeRunDirectory(directory: string): void {
  try {
    rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  } catch (error) {
    console.error(`${directory} stays: ${errorMessage(error)}`);
  }
}
