// Does something again while what went wrong passes by itself, with growing pauses, until a deadline.

import { monotonicMs, sleep } from "../../base/clock.ts";

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1000;

export interface RetryOptions {
  readonly timeoutMs: number;
  /** The least time to wait; undefined where another attempt is pointless. */
  readonly delayMs: (error: unknown) => number | undefined;
  readonly onRetry?: (error: unknown) => void;
  /** What the last attempt's error becomes when the time is over. */
  readonly tooLate?: (error: unknown) => unknown;
}

/** `work` gets the time that is left for it. */
export async function retry<T>(
  work: (leftMs: number) => Promise<T>,
  { timeoutMs, delayMs, onRetry, tooLate }: RetryOptions,
): Promise<T> {
  const deadlineMs = monotonicMs() + timeoutMs;
  const leftMs = () => Math.max(deadlineMs - monotonicMs(), 1);
  let pauseMs = FIRST_PAUSE_MS;
  for (;;) {
    try {
      return await work(leftMs());
    } catch (error) {
      const least = delayMs(error);
      if (least === undefined) {
        throw error;
      }
      const waitMs = Math.max(pauseMs, least);
      if (waitMs > leftMs()) {
        throw tooLate === undefined ? error : tooLate(error);
      }
      onRetry?.(error);
      await sleep(waitMs);
      pauseMs = Math.min(pauseMs * 2, LONGEST_PAUSE_MS);
    }
  }
}
