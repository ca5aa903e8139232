// A lock on a file that ends with its process, whatever ends it: fcntl(2), which Node offers through SQLite only.

import { closeSync, openSync, readFileSync, statSync } from "node:fs";
import type { DatabaseSync } from "node:sqlite";
import { errnoCode, errorMessage, StorageError } from "./errors.ts";

/** SQLITE_BUSY: another connection, of whatever process, has it. */
const BUSY = 5;
/** PENDING_BYTE of SQLite's lock range: where its exclusive lock begins, whatever the file holds; and where a shared one does. */
const LOCK_RANGE_START = "1073741824";
const SHARED_RANGE_START = "1073741826";

/** Many may hold a lock `shared` at once, and nobody `exclusive` then. */
export type LockMode = "exclusive" | "shared";

/**
 * Held until `release` or the end of the process. The kernel keeps the lock, on the file's inode: a crash or
 * a reboot frees it, a copied directory has another, a process in another container with the same volume
 * meets it. Only who may open the file can take it, and it is made readable for its owner alone.
 *
 * POSIX drops a process's lock on a file when the process closes *any* descriptor of it: nobody but SQLite
 * may open the file. It stays empty and is never removed, as two processes could else lock two files of
 * one name. docs/decisions/0008-one-process-a-directory.md has what else was looked at.
 */
export class FileLock {
  /** A database that is garbage collected is closed, and who holds a lock may wait for ever. */
  static readonly #held = new Set<FileLock>();

  readonly path: string;
  readonly #database: DatabaseSync;

  private constructor(path: string, database: DatabaseSync) {
    this.path = path;
    this.#database = database;
  }

  /** Undefined where another holds it, in this process or another. The file is made where there is none. */
  static take(path: string, mode: LockMode = "exclusive"): FileLock | undefined {
    // Not imported: the command line loads this file and mostly has nothing to lock.
    const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
    let database: DatabaseSync | undefined;
    try {
      makePrivateFile(path);
      database = new DatabaseSync(path, { timeout: 0 });
      // No journal file; a transaction that writes nothing is the lock and nothing else. One that has read is shared.
      const begin = mode === "exclusive" ? "BEGIN EXCLUSIVE" : "BEGIN; SELECT * FROM sqlite_schema";
      database.exec(`PRAGMA journal_mode = MEMORY; ${begin}`);
      const lock = new FileLock(path, database);
      FileLock.#held.add(lock);
      return lock;
    } catch (error) {
      database?.close();
      if (isBusy(error)) {
        return undefined;
      }
      throw new StorageError("internal", "lock-failed", `lock ${path}: ${errorMessage(error)}`, {
        cause: error,
      });
    }
  }

  /** Free from here on. */
  release(): void {
    FileLock.#held.delete(this);
    this.#database.close();
  }
}

/** Never opens a file that is there: closing it would free a lock that this process has. */
function makePrivateFile(path: string): void {
  if (statSync(path, { throwIfNoEntry: false }) !== undefined) {
    return;
  }
  try {
    closeSync(openSync(path, "wx", 0o600));
  } catch (error) {
    if (errnoCode(error) !== "EEXIST") {
      throw error;
    }
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && "errcode" in error && error.errcode === BUSY;
}

/**
 * Who holds the lock on the file, by the kernel's own list (proc_locks(5)), one of those where it is shared; undefined where
 * nobody does, or a process that cannot be seen from here, in another container or on another machine.
 */
export function lockHolder(path: string): number | undefined {
  const inode = statSync(path, { throwIfNoEntry: false })?.ino;
  for (const line of inode === undefined ? [] : lockLines()) {
    const [, type, , access, pid, file, start] = line.split(/\s+/);
    if (
      type === "POSIX" &&
      start === (access === "WRITE" ? LOCK_RANGE_START : SHARED_RANGE_START) &&
      // The device is not compared: on some file systems (btrfs, overlays) stat tells another.
      file?.split(":").at(-1) === String(inode) &&
      Number(pid) > 0
    ) {
      return Number(pid);
    }
  }
  return undefined;
}

function lockLines(): string[] {
  try {
    return readFileSync("/proc/locks", "utf8").split("\n");
  } catch {
    return [];
  }
}
