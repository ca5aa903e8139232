// Locks between commands that run at once: one holder a name, gone with its process whatever kills it.

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errnoCode, StorageError } from "../base/errors.ts";
import { FileLock, type LockMode, lockHolder } from "../base/file-lock.ts";

const TIMEOUT_MS = 120_000;
/** Most hold a lock for less; then ever longer. */
const FIRST_POLL_MS = 5;
const MAX_POLL_MS = 50;

/** The one that some share. */
const HOME_LOCK = "home";
/** For so long whoever would share a lock lets somebody go first who wants it alone. */
const LET_PASS_MS = 2000;

/** Below the home, with a file for each name that was ever locked. They stay, as FileLock wants it. */
export const LOCKS_DIRECTORY = "locks";

export interface LockOptions {
  readonly timeoutMs?: number;
  readonly onWait?: () => void;
  /** For who makes the home; else, where there is none, there is nothing to lock. */
  readonly makesHome?: boolean;
  /** Default: exclusive. */
  readonly mode?: LockMode;
}

/**
 * Runs `body` while holding the lock `name` of the home at `path`, which no other user can take (see
 * FileLock), or only as `shared`. StorageError `unavailable` after `timeoutMs` of waiting for another holder.
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
  const lock = await (name === HOME_LOCK
    ? waitForHome(lockFile(path, name), path, options)
    : waitFor(lockFile(path, name), path, options));
  try {
    return await body();
  } finally {
    lock.release();
  }
}

/** StrataHome, which imports this file. */
interface LockedHome {
  readonly path: string;
  readonly isTakenOver: boolean;
  isInitialized(): boolean;
  takeOver(): void;
}

/** Runs `body` while nobody else changes the home. Errors as withLock. */
export function withHomeLocked<T>(
  home: Pick<LockedHome, "path">,
  body: () => Promise<T>,
  options: Omit<LockOptions, "mode"> = {},
): Promise<T> {
  return withLock(home.path, HOME_LOCK, body, options);
}

/** Runs `body`, which only makes branches, while others do no more than that. Errors as withLock. */
export async function withHomeShared<T>(
  home: LockedHome,
  body: () => Promise<T>,
  options: Omit<LockOptions, "mode"> = {},
): Promise<T> {
  if (home.isInitialized() && !home.isTakenOver) {
    await withHomeLocked(home, async () => home.takeOver(), options);
  }
  return withLock(home.path, HOME_LOCK, body, { ...options, mode: "shared" });
}

/**
 * Runs `body`, which makes an endpoint, while others make branches; one at a time, as its ports are chosen among those of all
 * endpoints. Errors as withLock.
 */
export function withEndpointMaking<T>(
  home: LockedHome,
  body: () => Promise<T>,
  options: Omit<LockOptions, "mode"> = {},
): Promise<T> {
  return withHomeShared(home, () => withLock(home.path, "new endpoint", body, options), options);
}

/** As withLock; where somebody holds it nothing is done, and the answer is undefined. */
export async function ifUnlocked<T>(
  path: string,
  name: string,
  body: () => Promise<T>,
): Promise<T | undefined> {
  const lock = FileLock.take(lockFile(path, name));
  try {
    return lock && (await body());
  } finally {
    lock?.release();
  }
}

function lockFile(path: string, name: string): string {
  const directory = join(path, LOCKS_DIRECTORY);
  try {
    mkdirSync(directory, { recursive: true, mode: 0o700 });
  } catch (error) {
    throw notWritable(path, error);
  }
  // Names of endpoints are in it, which a file's name could not hold.
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 32);
  return join(directory, `${digest}.lock`);
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

/**
 * Those who share the lock, each beginning before another has ended, would keep out for ever who wants it alone. So that one holds a
 * second lock meanwhile, and a mark says so, as to look for a file costs next to nothing.
 */
async function waitForHome(file: string, home: string, options: LockOptions): Promise<FileLock> {
  const turns = { lock: `${file}-turn`, mark: `${file}-wanted` };
  if (options.mode === "shared") {
    await letPass(turns);
    return waitFor(file, home, options);
  }
  const lock = FileLock.take(file);
  if (lock !== undefined) {
    return lock;
  }
  const began = monotonicMs();
  const { timeoutMs = TIMEOUT_MS } = options;
  const turn = await waitFor(turns.lock, home, options, file);
  try {
    writeFileSync(turns.mark, "");
    const left = timeoutMs - (monotonicMs() - began);
    return await waitFor(file, home, { ...options, timeoutMs: left });
  } finally {
    rmSync(turns.mark, { force: true });
    turn.release();
  }
}

/** Not for longer than LET_PASS_MS: who shares the lock already may be waiting for whoever calls. */
async function letPass({ lock, mark }: { lock: string; mark: string }): Promise<void> {
  const deadline = monotonicMs() + LET_PASS_MS;
  while (existsSync(mark) && monotonicMs() < deadline) {
    const turn = FileLock.take(lock, "shared");
    if (turn !== undefined) {
      // Whoever left the mark was killed.
      rmSync(mark, { force: true });
      turn.release();
      return;
    }
    await sleep(FIRST_POLL_MS);
  }
}

/** `keptBy`: the lock whose holder is named where it takes too long. */
async function waitFor(
  file: string,
  home: string,
  options: LockOptions,
  keptBy = file,
): Promise<FileLock> {
  const deadline = monotonicMs() + (options.timeoutMs ?? TIMEOUT_MS);
  const noticeAt = monotonicMs() + 1000;
  let noticed = false;
  for (let pollMs = FIRST_POLL_MS; ; pollMs = Math.min(2 * pollMs, MAX_POLL_MS)) {
    const lock = FileLock.take(file, options.mode);
    if (lock !== undefined) {
      return lock;
    }
    if (monotonicMs() > deadline) {
      const pid = lockHolder(keptBy);
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
    await sleep(pollMs);
  }
}
