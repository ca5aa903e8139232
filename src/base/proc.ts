// What Linux tells about processes and TCP ports (proc(5)): command lines, and who has a port.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** The words that a living process was started with; undefined for a dead one or a zombie. */
export function commandWords(pid: number): string[] | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/cmdline`, "utf8");
    // A zombie, which nobody has waited for, has an empty command line.
    return text === "" ? undefined : text.replace(/\0+$/, "").split("\0");
  } catch {
    return undefined;
  }
}

/** Pids of all processes that we can see. */
export function processIds(): number[] {
  return readdirSync("/proc").map(Number).filter(Number.isSafeInteger);
}

const MAX_COMMAND_LENGTH = 2000;

/** `pid N (command line)`; words that hold anything but plain characters are quoted. */
export function describeProcess(pid: number): string {
  const words = commandWords(pid)?.map((word) =>
    /^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word),
  );
  const command = words?.join(" ") ?? "?";
  const cut = command.length > MAX_COMMAND_LENGTH;
  return `pid ${pid} (${cut ? `${command.slice(0, MAX_COMMAND_LENGTH)}...` : command})`;
}

export interface PortHolder {
  /** Undefined where we may not know. */
  readonly pid: number | undefined;
  /** `pid N (command)`, or what of it we may know. */
  readonly name: string;
  /** Its process ends, and has no command line, or no descriptors, any more: the port is free in a moment. */
  readonly isEnding: boolean;
}

/** Who has that TCP port, listening or as the near end of a connection; undefined where nobody shows. */
export function portHolder(port: number): PortHolder | undefined {
  const socket = socketOn(port);
  if (socket === undefined) {
    return undefined;
  }
  const what = socket.listens ? "" : `the connection to ${socket.remote} of `;
  const pid = processIds().find((one) => holdsSocket(one, socket.inode));
  return pid === undefined
    ? {
        pid,
        name: `${what}a process of user id ${socket.uid}`,
        // Descriptors of our own user's processes, and for root everybody's, are seen as long as there are any.
        isEnding: [socket.uid, "0"].includes(String(process.getuid?.())),
      }
    : { pid, name: `${what}${describeProcess(pid)}`, isEnding: commandWords(pid) === undefined };
}

interface HeldSocket {
  readonly listens: boolean;
  readonly remote: string;
  readonly uid: string;
  readonly inode: string;
}

const LISTEN = "0A";

/** A listener before all others; those that only wait for their end (no inode) block nobody. */
function socketOn(port: number): HeldSocket | undefined {
  const suffix = `:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  const found = ["/proc/net/tcp", "/proc/net/tcp6"].flatMap(linesOf).flatMap((line) => {
    const columns = line.trim().split(/\s+/);
    const [, local = "", remote = "", state, , , , uid = "?", , inode = "0"] = columns;
    return local.endsWith(suffix) && inode !== "0"
      ? [{ listens: state === LISTEN, remote: readableAddress(remote), uid, inode }]
      : [];
  });
  return found.find((socket) => socket.listens) ?? found[0];
}

/** `0100007F:1538` is 127.0.0.1:5432: IPv4 in the machine's byte order; of IPv6 only the port is told. */
function readableAddress(text: string): string {
  const [address = "", port = ""] = text.split(":");
  const bytes = [...Buffer.from(address, "hex")];
  const host = bytes.length === 4 ? bytes.toReversed().join(".") : "[IPv6]";
  return `${host}:${Number.parseInt(port, 16)}`;
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

/** Both included: where the kernel takes the near ends of outgoing connections from (ip(7)). */
export function outgoingPorts(): { readonly first: number; readonly last: number } {
  const [line = ""] = linesOf("/proc/sys/net/ipv4/ip_local_port_range");
  const [first = Number.NaN, last = Number.NaN] = line.trim().split(/\s+/).map(Number);
  return first > 0 && last >= first ? { first, last } : { first: 32_768, last: 60_999 };
}

function linesOf(path: string): string[] {
  try {
    return readFileSync(path, "utf8").split("\n");
  } catch {
    return [];
  }
}
