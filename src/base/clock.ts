// The only source of time, so that a simulation can replace it.

import { setTimeout as nodeSleep } from "node:timers/promises";

/** Milliseconds since the Unix epoch. */
export function nowMs(): number {
  return Date.now();
}

/** Milliseconds on a clock that never goes back; only differences mean something. */
export function monotonicMs(): number {
  return performance.now();
}

/** Lets whatever has arrived be handled before work that keeps the thread busy goes on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export function sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
  return nodeSleep(durationMs, undefined, signal === undefined ? {} : { signal });
}
