// Starts and stops one daemon: detached, with a pid file and a log in its working directory.

import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, existsSync, mkdirSync, openSync, readSync, rmSync, statSync } from "node:fs";
import { basename, dirname } from "node:path";
import { monotonicMs } from "../base/clock.ts";
import { directoryHolder, type StopMode } from "../base/daemon.ts";
import { StorageError } from "../base/errors.ts";
import { withFrugalMalloc } from "../base/memory/malloc.ts";
import { requireFree } from "../base/network/ports.ts";
import { FileChanges } from "../base/processes/file-changes.ts";
import { programOf } from "../base/program-files.mjs";
import { splitAddress } from "../compute/api.ts";
import { isDaemonOf, readPidFile, sendSignal, waitForExit } from "./processes.ts";

/** Of every process of ours. */
export const NODE_FLAGS: readonly string[] = ["--disable-warning=ExperimentalWarning"];

export type Print = (line: string) => void;

/** One daemon as the command line sees it. */
export interface Daemon {
  /** There may be many of it: it forgets the setting by itself (base/memory/malloc.ts). */
  readonly isFrugal?: boolean;
  /** For people: `pageserver 1`. */
  readonly name: string;
  readonly workdir: string;
  /** Written by the daemon itself once it listens. */
  readonly pidFile: string;
  readonly logFile: string;
  /** Its program, as programOf() takes it. */
  readonly entry: string;
  /** After `--workdir DIR`. */
  readonly args: readonly string[];
  /** Every `host:port` it will listen on: first for its protocol, then for HTTP. */
  readonly addresses: readonly string[];
  /** For whoever finds one of them taken: how to get another. */
  readonly otherPorts: string;
  /** Whether it answers; may throw a StorageError to give up at once. */
  readonly probe: () => Promise<boolean>;
}

export type DaemonState =
  | { readonly state: "running"; readonly pid: number }
  | { readonly state: "stopped" | "crashed" };

/** A process that becomes a daemon, or has. */
export interface DaemonChild {
  readonly pid: number;
  /** How it ended; undefined while it lives. */
  ended(): string | undefined;
  /** It has started: it outlives this process. */
  release(): void;
}

/** How a daemon's process is made. Its output goes to the daemon's log. */
export type Spawn = (daemon: Daemon) => DaemonChild | Promise<DaemonChild>;

/** `crashed`: a pid file is there but not its process. */
export function daemonState(daemon: Daemon): DaemonState {
  // Who holds the directory's lock works there, also where its pid file is lost or damaged.
  for (const find of [() => readPidFile(daemon.pidFile), () => directoryHolder(daemon.workdir)]) {
    const pid = find();
    if (pid !== undefined && isDaemonOf(pid, daemon.workdir)) {
      return { state: "running", pid };
    }
  }
  return { state: existsSync(daemon.pidFile) ? "crashed" : "stopped" };
}

export interface StartOptions {
  readonly timeoutMs: number;
  readonly print: Print;
  readonly spawn?: Spawn | undefined;
}

/**
 * Of one that runs already the pid, once it answers; undefined where none runs, or what did has ended, as one does that was
 * just being stopped. StorageError `unavailable` where it does neither in time.
 */
export async function joinRunning(
  daemon: Daemon,
  { timeoutMs, print }: Pick<StartOptions, "timeoutMs" | "print">,
): Promise<number | undefined> {
  const now = daemonState(daemon);
  if (now.state !== "running") {
    return undefined;
  }
  const { pid } = now;
  const logEnd = existsSync(daemon.logFile) ? statSync(daemon.logFile).size : 0;
  // It is no child of ours: nothing else tells of its end.
  const ended = () => (isDaemonOf(pid, daemon.workdir) ? undefined : "it has ended");
  if (!(await waitUntilAnswering(daemon, { pid, ended }, timeoutMs, logEnd))) {
    return undefined;
  }
  print(`${daemon.name} is already running, pid: ${pid}`);
  return pid;
}

/**
 * Starts the daemon and waits until it answers; its pid. One that runs already is left alone.
 * StorageError `conflict` where a port is taken, `unavailable` with the daemon's own last words
 * where it ends or does not answer in time.
 */
export async function startDaemon(daemon: Daemon, options: StartOptions): Promise<number> {
  const running = await joinRunning(daemon, options);
  if (running !== undefined) {
    return running;
  }
  for (const address of daemon.addresses) {
    const { host, port } = splitAddress(address);
    await requireFree(host, port, `start ${daemon.name}`, daemon.otherPorts);
  }
  mkdirSync(daemon.workdir, { recursive: true });
  rmSync(daemon.pidFile, { force: true });
  const logStart = existsSync(daemon.logFile) ? statSync(daemon.logFile).size : 0;
  const child = await (options.spawn ?? spawnDaemon)(daemon);
  await launch(daemon, child, options.timeoutMs, logStart);
  const { pid } = child;
  options.print(`${daemon.name} started and passed status check, pid: ${pid}`);
  return pid;
}

/** A new process of the daemon's program. */
export function spawnDaemon(daemon: Daemon): DaemonChild {
  const log = openSync(daemon.logFile, "a", 0o600);
  const args = ["--workdir", daemon.workdir, ...daemon.args];
  const child = spawn(process.execPath, [...NODE_FLAGS, programOf(daemon.entry), ...args], {
    detached: true,
    cwd: daemon.workdir,
    env: daemon.isFrugal === true ? withFrugalMalloc(process.env) : process.env,
    stdio: ["ignore", log, log],
  });
  closeSync(log);
  return watched(child);
}

export function watched(child: ChildProcess): DaemonChild {
  let ended: string | undefined;
  child.once("exit", (code, signal) => {
    ended = signal === null ? `exit code ${code}` : `signal ${signal}`;
  });
  child.once("error", (error) => {
    ended = error.message;
  });
  return { pid: child.pid ?? 0, ended: () => ended, release: () => child.unref() };
}

async function launch(
  daemon: Daemon,
  child: DaemonChild,
  timeoutMs: number,
  logStart: number,
): Promise<void> {
  const { pid } = child;
  try {
    if (!(await waitUntilAnswering(daemon, child, timeoutMs, logStart))) {
      const why = lastWords(daemon.logFile, logStart) ?? child.ended();
      throw new StorageError("unavailable", "start-failed", `start ${daemon.name}: ${why}`);
    }
  } catch (error) {
    if (child.ended() === undefined && pid > 0) {
      sendSignal(pid, "SIGQUIT");
      if (!(await waitForExit(pid, STOP_PATIENCE_MS.immediate))) {
        sendSignal(pid, "SIGKILL");
      }
      rmSync(daemon.pidFile, { force: true });
    }
    throw error;
  }
  child.release();
}

/** What its pid file does not tell is looked for so often: that it has ended, or that it answers by now. */
const PROBE_INTERVAL_MS = 20;

/** True once it answers, false when it has ended; StorageError `unavailable` after the time. */
async function waitUntilAnswering(
  daemon: Daemon,
  { pid, ended }: Pick<DaemonChild, "pid" | "ended">,
  timeoutMs: number,
  logStart: number,
): Promise<boolean> {
  const deadline = monotonicMs() + timeoutMs;
  const answers = async () => readPidFile(daemon.pidFile) === pid && (await daemon.probe());
  // Of one that has run for long nothing need be watched.
  if (ended() === undefined && (await answers())) {
    return true;
  }
  const changes = new FileChanges(dirname(daemon.pidFile), basename(daemon.pidFile));
  try {
    for (;;) {
      if (ended() !== undefined) {
        return false;
      }
      if (await answers()) {
        return true;
      }
      if (monotonicMs() > deadline) {
        const why = lastProblem(tailOf(daemon.logFile, logStart).split("\n"));
        throw new StorageError(
          "unavailable",
          "start-timeout",
          `start ${daemon.name}: no answer within ${timeoutMs / 1000} s; ${why === undefined ? "" : `it says: ${why}; `}its log is ${daemon.logFile}`,
        );
      }
      await changes.next(PROBE_INTERVAL_MS);
    }
  } finally {
    changes.close();
  }
}

/** Why a daemon ended, from what it logged since `from`: its `fatal:` line, else its last problem. */
export function lastWords(logFile: string, from: number): string | undefined {
  const lines = tailOf(logFile, from).split("\n").filter(Boolean);
  const fatal = lines.findLast((line) => line.startsWith("fatal: "));
  return fatal?.slice("fatal: ".length) ?? lastProblem(lines) ?? lines.at(-1);
}

/** The last warning or error among log lines, or an uncaught error's telling line. */
function lastProblem(lines: readonly string[]): string | undefined {
  for (const line of lines.toReversed()) {
    try {
      const entry = JSON.parse(line) as {
        level?: string;
        msg?: string;
        reason?: string;
        error?: { message?: string };
      };
      if (/^(warn|error|fatal)$/.test(entry.level ?? "")) {
        return [entry.msg, entry.error?.message ?? entry.reason].filter(Boolean).join(": ");
      }
    } catch {
      // Not one of our lines.
      if (/^\w*Error\b/.test(line)) {
        return line;
      }
    }
  }
  return undefined;
}

const TAIL_BYTES = 64 * 1024;

function tailOf(path: string, from: number): string {
  if (!existsSync(path)) {
    return "";
  }
  const size = statSync(path).size;
  // A log that is shorter than before has begun anew.
  const start = Math.max(from > size ? 0 : from, size - TAIL_BYTES);
  const bytes = Buffer.alloc(Math.max(0, size - start));
  const fd = openSync(path, "r");
  try {
    const length = readSync(fd, bytes, 0, bytes.length, start);
    return bytes.toString("utf8", 0, length);
  } finally {
    closeSync(fd);
  }
}

/** How long a stop may take before a harder signal is sent. */
const STOP_PATIENCE_MS = { fast: 30_000, immediate: 5000 };

/** Stops the daemon and waits for its end; one that does not run is left alone. */
export async function stopDaemon(
  daemon: Daemon,
  mode: StopMode,
  print: Print,
  options: { ask?: (signal: () => void) => Promise<void> } = {},
): Promise<void> {
  const now = daemonState(daemon);
  if (now.state !== "running") {
    rmSync(daemon.pidFile, { force: true });
    print(`${daemon.name} is already stopped`);
    return;
  }
  await endProcess(now.pid, daemon.name, mode, print, options.ask);
  rmSync(daemon.pidFile, { force: true });
}

/** Asks the process to end, then insists. StorageError `unavailable` where it still does not. */
export async function endProcess(
  pid: number,
  name: string,
  mode: StopMode,
  print: Print,
  ask: (signal: () => void) => Promise<void> = async (signal) => signal(),
): Promise<void> {
  print(`Stopping ${name} with pid ${pid} ${mode === "fast" ? "gracefully" : "immediately"}..`);
  await ask(() => void sendSignal(pid, mode === "fast" ? "SIGTERM" : "SIGQUIT"));
  for (const harder of ["SIGQUIT", "SIGKILL"] as const) {
    if (await waitForExit(pid, STOP_PATIENCE_MS[harder === "SIGQUIT" ? mode : "immediate"])) {
      break;
    }
    print(`${name} has not stopped yet, sending ${harder}`);
    sendSignal(pid, harder);
  }
  if (!(await waitForExit(pid, STOP_PATIENCE_MS.immediate))) {
    throw new StorageError("unavailable", "stop-failed", `${name} with pid ${pid} does not stop`);
  }
  print(`${name} stopped`);
}
