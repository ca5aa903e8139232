// The only source of time, so that a simulation can replace it.

import { setTimeout as nodeSleep } from "node:timers/promises";

export interface Clock {
  /** Milliseconds since the Unix epoch. */
  nowMs(): number;
  /** Milliseconds on a clock that never goes back. */
  monotonicMs(): number;
}

let clock: Clock = { nowMs: () => Date.now(), monotonicMs: () => performance.now() };

/** For simulations: what `nowMs` and `monotonicMs` tell from now on. */
export function replaceClock(replacement: Clock): void {
  clock = replacement;
}

/** Milliseconds since the Unix epoch. */
export function nowMs(): number {
  return clock.nowMs();
}

/** Milliseconds on a clock that never goes back; only differences mean something. */
export function monotonicMs(): number {
  return clock.monotonicMs();
}

/** Lets whatever has arrived be handled before work that keeps the thread busy goes on. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

export function sleep(durationMs: number, signal?: AbortSignal): Promise<void> {
  return nodeSleep(durationMs, undefined, signal === undefined ? {} : { signal });
}
