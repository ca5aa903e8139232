// One run of Postgres over a data directory: start, readiness, stop, and what earlier runs left.

import type { ChildProcess } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync, realpathSync, rmSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../base/clock.ts";
import type { StopMode } from "../base/daemon.ts";
import { errnoCode, StorageError } from "../base/errors.ts";
import { FileChanges } from "../base/processes/file-changes.ts";
import { type Installation, spawnPostgresTool } from "../postgres/installation.ts";
import { putAside } from "./start/discarded-directories.ts";

export interface PostgresExit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** Of the postmaster: locks its data directory, and says how it stands. */
const LOCK_FILE = "postmaster.pid";
/** It tells by its lock file when connections are possible; that it has ended is seen as often. */
const READY_POLL_MS = 20;
/**
 * A fast shutdown waits for walsenders before its checkpoint, and each for its client to confirm all that there is: for ever where one
 * confirms late, as clients of logical replication may. Its slot knows where it goes on, so it need not.
 */
const WALSENDER_PATIENCE_MS = 5000;
/** Postgres itself kills children 5 s into an immediate shutdown (SIGKILL_CHILDREN_AFTER_SECS). */
const IMMEDIATE_STOP_MS = 7000;
/** Lines of postmaster.pid are numbered from 1 in utils/pidfile.h. */
const LOCK_FILE_LINE_PM_STATUS = 8;

export class PostgresProcess {
  readonly pid: number;
  readonly exited: Promise<PostgresExit>;
  readonly #child: ChildProcess;
  readonly #dataDirectory: string;
  #exit: PostgresExit | undefined;
  #isHeld: boolean;

  /**
   * Spawns the postmaster; it writes its log to descriptor `logFd`.
   * StorageError `internal` where the binary cannot be run.
   */
  static async start(options: {
    installation: Installation;
    dataDirectory: string;
    args: readonly string[];
    /** LD_PRELOAD and what the shim reads. */
    env: Readonly<Record<string, string>>;
    logFd: number;
    /** By the shim, until it is let go. */
    isHeld?: boolean;
  }): Promise<PostgresProcess> {
    const child = spawnPostgresTool(
      options.installation,
      "postgres",
      ["-D", options.dataDirectory, ...options.args],
      { stdio: ["ignore", options.logFd, options.logFd], env: options.env, detached: true },
    );
    await new Promise<void>((resolve, reject) => {
      child.once("spawn", resolve);
      child.once("error", (cause) => {
        reject(
          new StorageError("internal", "postgres-not-runnable", `run postgres: ${cause.message}`, {
            cause,
          }),
        );
      });
    });
    return new PostgresProcess(child, options.dataDirectory, options.isHeld === true);
  }

  private constructor(child: ChildProcess, dataDirectory: string, isHeld: boolean) {
    this.#child = child;
    this.#dataDirectory = dataDirectory;
    this.#isHeld = isHeld;
    this.pid = child.pid!;
    this.exited = new Promise((resolve) => {
      child.once("exit", (code, signal) => {
        this.#exit = { code, signal };
        resolve(this.#exit);
      });
    });
  }

  get running(): boolean {
    return this.#exit === undefined;
  }

  /**
   * It is not held any more. Until then it has no children, has written nothing but its lock files, and looks at no
   * signal: it can be killed, and has to be.
   */
  letGo(): void {
    this.#isHeld = false;
  }

  /**
   * Resolves when connections are accepted (read-only ones, on a standby). StorageError `internal`
   * where Postgres ended instead, `unavailable` after `timeoutMs`.
   */
  async waitReady(timeoutMs: number): Promise<void> {
    const deadline = monotonicMs() + timeoutMs;
    const changes = new FileChanges(this.#dataDirectory, LOCK_FILE);
    try {
      while (postmasterStatus(this.#dataDirectory, this.pid) !== "ready") {
        if (this.#exit !== undefined) {
          throw new StorageError(
            "internal",
            "postgres-start-failed",
            `Postgres ended while starting: ${describeExit(this.#exit)}`,
          );
        }
        if (monotonicMs() > deadline) {
          throw new StorageError(
            "unavailable",
            "postgres-start-timeout",
            `Postgres accepts no connections after ${timeoutMs} ms`,
          );
        }
        await changes.next(READY_POLL_MS);
      }
    } finally {
      changes.close();
    }
  }

  /**
   * `fast` waits for the shutdown checkpoint, which needs a quorum; after `fastTimeoutMs` it becomes
   * `immediate`. Nothing is lost by that: the data directory is a cache. Returns how it ended.
   */
  async stop(mode: StopMode, fastTimeoutMs = 30_000): Promise<StopMode> {
    if (this.#isHeld) {
      this.#signal("SIGKILL");
      await this.exited;
      return "immediate";
    }
    if (mode === "fast") {
      this.#signal("SIGINT");
      const patienceMs = Math.min(WALSENDER_PATIENCE_MS, fastTimeoutMs);
      if (await this.#exitsWithin(patienceMs)) {
        return "fast";
      }
      endWalsenders(this.#dataDirectory);
      if (await this.#exitsWithin(fastTimeoutMs - patienceMs)) {
        return "fast";
      }
    }
    this.#signal("SIGQUIT");
    if (!(await this.#exitsWithin(IMMEDIATE_STOP_MS))) {
      this.#signal("SIGKILL");
      await this.exited;
    }
    return "immediate";
  }

  /** At once and without waiting: this compute has been fenced. */
  quit(): void {
    this.#signal(this.#isHeld ? "SIGKILL" : "SIGQUIT");
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) {
      this.#child.kill(signal);
    }
  }

  async #exitsWithin(timeoutMs: number): Promise<boolean> {
    if (this.#exit !== undefined) {
      return true;
    }
    const timer = new AbortController();
    const timeout = sleep(timeoutMs, timer.signal).catch(() => undefined);
    await Promise.race([this.exited, timeout]);
    timer.abort();
    return this.#exit !== undefined;
  }
}

function describeExit(exit: PostgresExit): string {
  return exit.signal === null ? `exit code ${exit.code}` : `signal ${exit.signal}`;
}

/** What the postmaster `pid` wrote last into its lock file: starting, standby, ready, stopping. */
function postmasterStatus(dataDirectory: string, pid: number): string | undefined {
  try {
    const lines = readFileSync(join(dataDirectory, LOCK_FILE), "latin1").split("\n");
    return Number(lines[0]) === pid ? lines[LOCK_FILE_LINE_PM_STATUS - 1]?.trim() : undefined;
  } catch (error) {
    if (errnoCode(error) === "ENOENT") {
      return undefined;
    }
    throw error;
  }
}

/**
 * Ends every process that still works in `dataDirectory`: what an agent that was killed may have
 * left. The postmaster and all its children have it as their working directory, which, unlike a pid
 * in a file, cannot name a stranger. StorageError `conflict` where one does not end.
 */
export async function endProcessesIn(dataDirectory: string): Promise<void> {
  for (const [signal, patienceMs] of [
    ["SIGQUIT", IMMEDIATE_STOP_MS],
    ["SIGKILL", 2000],
  ] as const) {
    const deadline = monotonicMs() + patienceMs;
    let pids = processesIn(dataDirectory);
    for (const pid of pids) {
      kill(pid, signal);
    }
    while (pids.length > 0 && monotonicMs() < deadline) {
      await sleep(20);
      pids = processesIn(dataDirectory);
    }
    if (pids.length === 0) {
      return;
    }
  }
  const left = processesIn(dataDirectory);
  if (left.length > 0) {
    throw new StorageError(
      "conflict",
      "stale-postgres",
      `processes ${left.join(", ")} of an earlier Postgres in ${dataDirectory} do not end`,
    );
  }
}

/** Their clients hear `57P01`, as those of other sessions did. */
function endWalsenders(dataDirectory: string): void {
  for (const pid of processesIn(dataDirectory)) {
    try {
      // The title that Postgres gives itself: "postgres: walsender USER ...".
      if (/^postgres: walsender /.test(readFileSync(`/proc/${pid}/cmdline`, "latin1"))) {
        kill(pid, "SIGTERM");
      }
    } catch (error) {
      if (!/^(ENOENT|ESRCH)$/.test(String(errnoCode(error)))) {
        throw error;
      }
    }
  }
}

/** What Postgres names its sockets, and the lock files beside them (pqcomm.h, miscinit.c). */
const SOCKET_PREFIX = ".s.PGSQL.";

/**
 * Puts the data directory of an earlier run out of the way, once nobody works in it, and its sockets'
 * lock files: the pid in one may be a zombie that nobody waits for, or, after a reboot, a stranger's,
 * and either keeps a new postmaster from its start.
 */
export async function discardDataDirectory(
  dataDirectory: string,
  socketDirectory: string,
): Promise<void> {
  await endProcessesIn(dataDirectory);
  for (const name of readdirSync(socketDirectory)) {
    if (name.startsWith(SOCKET_PREFIX)) {
      rmSync(join(socketDirectory, name), { force: true });
    }
  }
  putAside(dataDirectory);
}

function processesIn(directory: string): number[] {
  let real: string;
  try {
    real = realpathSync(directory);
  } catch {
    return [];
  }
  const pids: number[] = [];
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid) || pid === process.pid) {
      continue;
    }
    try {
      const cwd = readlinkSync(`/proc/${name}/cwd`);
      if (cwd === real && !readFileSync(`/proc/${name}/stat`, "latin1").includes(") Z ")) {
        pids.push(pid);
      }
    } catch {
      // It has ended, or belongs to somebody else.
    }
  }
  return pids;
}

function kill(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if (errnoCode(error) !== "ESRCH") {
      throw error;
    }
  }
}
