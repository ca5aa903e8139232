// Data directories of earlier runs: put aside at once, deleted when nobody waits for a start, or when it needs their space.

import { existsSync, readdirSync, renameSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { diskError, isDiskFull } from "../../base/disk.ts";

/** However much is in it, that is one rename, and makes nothing: there may be no space for as much as a directory. */
export function putAside(dataDirectory: string): void {
  if (!existsSync(dataDirectory)) {
    return;
  }
  const prefix = join(dirname(dataDirectory), asidePrefix(dataDirectory));
  let number = 0;
  while (existsSync(`${prefix}${number}`)) {
    number++;
  }
  renameSync(dataDirectory, `${prefix}${number}`);
}

/** Deletes what putAside() put there: long work. `atLeast`: only where there are so many. */
export async function removeDiscarded(
  dataDirectory: string,
  { atLeast = 1 }: { readonly atLeast?: number } = {},
): Promise<void> {
  const parent = dirname(dataDirectory);
  const prefix = asidePrefix(dataDirectory);
  const aside = readdirSync(parent).filter((name) => name.startsWith(prefix));
  for (const name of aside.length < atLeast ? [] : aside) {
    // Whatever fails to go now goes before the next start.
    await rm(join(parent, name), { recursive: true, force: true }).catch(() => undefined);
  }
}

/**
 * The result of `make`, which makes the data directory or a part of it. Where the disk is full, what lies aside is deleted, with what this try has
 * made, and it is called once more, with true: a Postgres that ended for lack of space has left a directory that takes it
 * all. StorageError `unavailable` where that is not enough.
 */
export async function makeWithRoom<T>(
  dataDirectory: string,
  make: (isAgain: boolean) => T | Promise<T>,
): Promise<T> {
  try {
    return await make(false);
  } catch (error) {
    if (!isDiskFull(error)) {
      throw error;
    }
  }
  putAside(dataDirectory);
  await removeDiscarded(dataDirectory);
  try {
    return await make(true);
  } catch (error) {
    throw isDiskFull(error) ? diskError(error, `make the data directory ${dataDirectory}`) : error;
  }
}

function asidePrefix(dataDirectory: string): string {
  return `${basename(dataDirectory)}.removed-`;
}
