// What the system knows about processes and ports (proc(5)): is this pid alive, is it ours, who listens there.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { monotonicMs, sleep } from "../base/clock.ts";
import { errnoCode } from "../base/errors.ts";

/** The pid in a pid file; undefined where there is none, or no number in it. */
export function readPidFile(path: string): number | undefined {
  try {
    const pid = Number(readFileSync(path, "utf8").trim().split("\n")[0]);
    return Number.isSafeInteger(pid) && pid > 1 ? pid : undefined;
  } catch {
    return undefined;
  }
}

/** Command line of a living process, words joined by spaces; undefined for a dead one or a zombie. */
export function commandLine(pid: number): string | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ").trim();
    // A zombie, which nobody has waited for, has an empty command line.
    return text === "" ? undefined : text;
  } catch {
    return undefined;
  }
}

/** Whether `pid` lives and is the daemon of that working directory, not a later process of that number. */
export function isDaemonOf(pid: number, workdir: string): boolean {
  return commandLine(pid)?.split(" ").includes(workdir) === true;
}

/** Sends a signal; false where the process is gone already. */
export function sendSignal(pid: number, signal: NodeJS.Signals): boolean {
  try {
    process.kill(pid, signal);
    return true;
  } catch (error) {
    if (errnoCode(error) === "ESRCH") {
      return false;
    }
    throw error;
  }
}

/** Waits until the process has ended; false after `timeoutMs`. */
export async function waitForExit(pid: number, timeoutMs: number): Promise<boolean> {
  const deadline = monotonicMs() + timeoutMs;
  while (commandLine(pid) !== undefined) {
    if (monotonicMs() > deadline) {
      return false;
    }
    await sleep(20);
  }
  return true;
}

/** Whether somebody accepts connections on `host:port`; quicker to learn than isFree(). */
export function isListening(address: string): Promise<boolean> {
  const colon = address.lastIndexOf(":");
  const host = address.slice(0, colon);
  const socket = createConnection({ host, port: Number(address.slice(colon + 1)) });
  return new Promise((resolve) => {
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** Whether nobody listens on `host:port` and we could. */
export function isFree(address: string): Promise<boolean> {
  const colon = address.lastIndexOf(":");
  const server = createServer();
  return new Promise((resolve, reject) => {
    server.once("error", (error) => {
      if (errnoCode(error) === "EADDRINUSE") {
        resolve(false);
      } else {
        reject(error);
      }
    });
    server.listen(Number(address.slice(colon + 1)), address.slice(0, colon), () => {
      server.close(() => resolve(true));
    });
  });
}

/** `pid N (command)` of the process listening on that TCP port, where we may see it. */
export function describeListener(address: string): string | undefined {
  const port = Number(address.slice(address.lastIndexOf(":") + 1));
  const inode = listeningInode(port);
  if (inode === undefined) {
    return undefined;
  }
  for (const name of readdirSync("/proc")) {
    const pid = Number(name);
    if (Number.isSafeInteger(pid) && holdsSocket(pid, inode)) {
      return `pid ${pid} (${(commandLine(pid) ?? "?").slice(0, 100)})`;
    }
  }
  return undefined;
}

/** Socket inode listening on `port`: state 0A in /proc/net/tcp, local address in the second column. */
function listeningInode(port: number): string | undefined {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (const file of ["/proc/net/tcp", "/proc/net/tcp6"]) {
    for (const line of linesOf(file)) {
      const columns = line.trim().split(/\s+/);
      if (columns[1]?.endsWith(suffix) && columns[3] === "0A") {
        return columns[9];
      }
    }
  }
  return undefined;
}

function holdsSocket(pid: number, inode: string): boolean {
  try {
    return readdirSync(`/proc/${pid}/fd`).some((fd) => {
      try {
        return readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${inode}]`;
      } catch {
        return false;
      }
    });
  } catch {
    // Not our process, or gone.
    return false;
  }
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n");
  } catch {
    return [];
  }
}
