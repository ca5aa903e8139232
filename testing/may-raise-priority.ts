// Whether this process may give itself and others a lower nice value.

import { readFileSync } from "node:fs";

/** CAP_SYS_NICE, capability 23 of capabilities(7), among our effective ones. */
export function mayRaisePriority(): boolean {
  const text = /^CapEff:\s*([0-9a-f]+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  return ((BigInt(`0x${text ?? "0"}`) >> 23n) & 1n) === 1n;
}
