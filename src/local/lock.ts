// Locks between commands that run at once: one holder a name, gone with its process whatever kills it.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errnoCode, StorageError } from "../base/errors.ts";
import { FileLock, lockHolder } from "../base/file-lock.ts";

const POLL_MS = 50;

/** Below the home, with a file for each name that was ever locked. They stay, as FileLock wants it. */
export const LOCKS_DIRECTORY = "locks";

export interface LockOptions {
  readonly timeoutMs?: number;
  readonly onWait?: () => void;
  /** For who makes the home; else, where there is none, there is nothing to lock. */
  readonly makesHome?: boolean;
}

/**
 * Runs `body` while holding the lock `name` of the home at `path`, which no other user can take (see
 * FileLock). StorageError `unavailable` after `timeoutMs` of waiting for another holder.
 */
export async function withLock<T>(
  path: string,
  name: string,
  body: () => Promise<T>,
  options: LockOptions = {},
): Promise<T> {
  if (!existsSync(path) && options.makesHome !== true) {
    return body();
  }
  const directory = join(path, LOCKS_DIRECTORY);
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw notWritable(path, error);
  }
  // Names of endpoints are in it, which a file's name could not hold.
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 32);
  const lock = await waitFor(join(directory, `${digest}.lock`), path, options);
  try {
    return await body();
  } finally {
    lock.release();
  }
}

/** For instance of `npm start` in somebody else's checkout. */
export function notWritable(home: string, error: unknown): StorageError {
  return new StorageError(
    "invalid",
    "home-not-writable",
    `'${home}' cannot be written (${errnoCode(error)}): $STRATA_HOME names another place`,
    { cause: error },
  );
}

async function waitFor(file: string, home: string, options: LockOptions): Promise<FileLock> {
  const deadline = monotonicMs() + (options.timeoutMs ?? 120_000);
  const noticeAt = monotonicMs() + 1000;
  let noticed = false;
  for (;;) {
    const lock = FileLock.take(file);
    if (lock !== undefined) {
      return lock;
    }
    if (monotonicMs() > deadline) {
      const pid = lockHolder(file);
      const holder = pid === undefined ? "" : ` (pid ${pid})`;
      throw new StorageError(
        "unavailable",
        "home-locked",
        `another strata command${holder} keeps '${home}' locked`,
      );
    }
    if (!noticed && monotonicMs() > noticeAt) {
      noticed = true;
      options.onWait?.();
    }
    await sleep(POLL_MS);
  }
}
