// What becomes true by itself, waited for.

import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { monotonicMs } from "../src/base/clock.ts";

const POLL_MS = 10;

export interface Patience {
  /** Default 60 s. */
  readonly timeoutMs?: number;
  /** What a person wants to read where it never came true, as the ends of logs. */
  readonly logs?: () => string;
}

/**
 * Asks `test` until it gives something other than false or undefined, and gives that. An error of `test` means "not yet", but for
 * that of an assertion, which is a verdict.
 */
export async function eventually<T>(
  what: string,
  test: () => T | Promise<T>,
  { timeoutMs = 60_000, logs }: Patience = {},
): Promise<Exclude<T, false | undefined>> {
  const deadline = monotonicMs() + timeoutMs;
  for (let last: unknown; ; ) {
    try {
      const found = await test();
      if (found !== false && found !== undefined) {
        return found as Exclude<T, false | undefined>;
      }
    } catch (error) {
      if (error instanceof assert.AssertionError) {
        throw error;
      }
      last = error;
    }
    if (monotonicMs() > deadline) {
      const message = `${what}: not within ${timeoutMs} ms${logs === undefined ? "" : `\n${logs()}`}`;
      throw new Error(message, { cause: last });
    }
    await sleep(POLL_MS);
  }
}
