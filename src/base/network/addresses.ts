// IP addresses, and lists of those from which clients may come, as Neon's API has them: `1.2.3.4`, `1.2.3.0/24`, `1.2.3.4-1.2.3.9`.

import { BlockList, isIPv4, isIPv6 } from "node:net";
import { errorMessage } from "../errors.ts";

const family = (address: string) => (isIPv4(address) ? "ipv4" : "ipv6");

/** IPv4 that came to an IPv6 socket is IPv4. */
export function plainAddress(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  return mapped === null ? address : mapped[1]!;
}

/** Only processes of this machine have it. `host`: an address, or a name as an option has it. */
export function isLoopback(host: string): boolean {
  const address = plainAddress(host.replace(/^\[(.*)\]$/, "$1").toLowerCase());
  // Not what only begins like one: 127.0.0.1.example.com.
  const isV4 = isIPv4(address) && address.startsWith("127.");
  return isV4 || address === "::1" || address === "localhost";
}

/** Whether `isAllowed` can use it. */
export function isAllowEntry(entry: string): boolean {
  try {
    add(new BlockList(), entry);
    return true;
  } catch {
    return false;
  }
}

/** An empty list lets everybody in; an entry that is none lets nobody in by itself. `onBad` hears of it. */
export function isAllowed(
  address: string,
  list: readonly string[],
  onBad: (entry: string, why: string) => void,
): boolean {
  if (list.length === 0) {
    return true;
  }
  const allowed = new BlockList();
  for (const entry of list) {
    try {
      add(allowed, entry);
    } catch (error) {
      onBad(entry, errorMessage(error));
    }
  }
  return (isIPv4(address) || isIPv6(address)) && allowed.check(address, family(address));
}

function add(list: BlockList, entry: string): void {
  const [first = "", bits] = entry.replaceAll(/\s/g, "").split("/");
  const [from = "", to] = first.split("-");
  if (bits !== undefined && /^\d{1,3}$/.test(bits)) {
    list.addSubnet(first, Number(bits), family(first));
  } else if (to !== undefined && bits === undefined) {
    list.addRange(from, to, family(from));
  } else if (bits === undefined) {
    list.addAddress(first, family(first));
  } else {
    throw new Error("not an address, network or range");
  }
}
