// Calls of the object store as the pageserver makes them: with a deadline, and tried again.

import { setIdleTimer, sleep } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import type { ObjectInfo, ObjectStore } from "../../object-store/object-store.ts";

/** Of a call for something small: an index, a listing, a deletion. */
export const SMALL_CALL_MS = 30_000;
const LARGE_CALL_MS = 120_000;
/** 128 MiB in less than LARGE_CALL_MS; whatever is larger gets as much longer. */
const LEAST_BYTES_PER_MS = 1200;

const FIRST_BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 20_000;
/** Once is nothing, twice happens. */
const WARNED_ATTEMPT = 3;
/** And again, so that whoever looks later sees it too. */
const WARNED_EVERY = 10;

/** Of a call that carries a layer. */
export function layerCallMs(sizeBytes: number): number {
  return Math.max(LARGE_CALL_MS, sizeBytes / LEAST_BYTES_PER_MS);
}

/** The call is told to end after `limitMs`, then it is StorageError `unavailable`; or by `signal`. */
export async function withDeadline<T>(
  doing: string,
  limitMs: number,
  signal: AbortSignal,
  call: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  signal.throwIfAborted();
  const ended = new AbortController();
  const stop = () => ended.abort(signal.reason);
  signal.addEventListener("abort", stop, { once: true });
  const timer = setIdleTimer(() => {
    const message = `${doing}: no answer within ${limitMs / 1000} s`;
    ended.abort(new StorageError("unavailable", "object-store-timeout", message));
  }, limitMs);
  try {
    return await call(ended.signal);
  } finally {
    timer.cancel();
    signal.removeEventListener("abort", stop);
  }
}

export interface RetryOptions {
  /** For messages: `upload layer ...`. */
  readonly doing: string;
  readonly logger: Logger;
  /** Ends the waits; what it was aborted with is thrown. */
  readonly signal: AbortSignal;
  /** A whole number in [0, limit). */
  readonly randomInt: (limit: number) => number;
  /** Infinity where absent. */
  readonly attempts?: number;
  /** Codes of StorageErrors that no retry changes, beside those of the kinds below. */
  readonly finalCodes?: readonly string[];
}

/**
 * Tries again until it works, with a random wait of up to 100 ms, 200 ms, ... 20 s in between. What no
 * retry changes is thrown at once: `conflict`, `corrupt`, `fenced`, and what is no StorageError.
 */
export async function retrying<T>(options: RetryOptions, attempt: () => Promise<T>): Promise<T> {
  const { doing, logger, signal, attempts = Number.POSITIVE_INFINITY } = options;
  for (let number = 1; ; number++) {
    signal.throwIfAborted();
    try {
      return await attempt();
    } catch (error) {
      signal.throwIfAborted();
      if (isFinal(error, options) || number >= attempts) {
        throw error;
      }
      if (number === WARNED_ATTEMPT || number % WARNED_EVERY === 0) {
        const fields = { doing, attempts: number, reason: errorMessage(error) };
        logger.warn(fields, "the object store fails; tried again");
      }
    }
    const limitMs = Math.min(MAX_BACKOFF_MS, FIRST_BACKOFF_MS * 2 ** (number - 1));
    await sleep(options.randomInt(limitMs + 1), signal);
  }
}

/** With what a question to the store is asked. */
export interface StoreAccess {
  readonly store: ObjectStore;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  /** A whole number in [0, limit). */
  readonly randomInt: (limit: number) => number;
}

/** Someone waits for the answer: he is to be told rather than to hang for minutes. */
export const ASKED_ATTEMPTS = 10;
const ASKED_FINAL_CODES = ["object-not-found", "object-too-large"];

/** A small call with a deadline, tried again some times. */
export function ask<T>(
  { logger, signal, randomInt }: StoreAccess,
  doing: string,
  call: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const finalCodes = ASKED_FINAL_CODES;
  const options = { doing, logger, signal, randomInt, attempts: ASKED_ATTEMPTS, finalCodes };
  return retrying(options, () => withDeadline(doing, SMALL_CALL_MS, signal, call));
}

/** Every object below a prefix. `goOn` says behind which key to go on after a page. */
export async function listObjects(
  access: StoreAccess,
  prefix: string,
  goOn: (next: string) => string = (next) => next,
): Promise<readonly ObjectInfo[]> {
  const found: ObjectInfo[] = [];
  let after: string | undefined;
  do {
    const start = after;
    const page = await ask(access, `list ${prefix}`, (signal) =>
      access.store.list({ prefix, after: start, signal }),
    );
    found.push(...page.objects);
    after = page.next === undefined ? undefined : goOn(page.next);
  } while (after !== undefined);
  return found;
}

function isFinal(error: unknown, { finalCodes = [] }: RetryOptions): boolean {
  return (
    !(error instanceof StorageError) ||
    ["conflict", "corrupt", "fenced"].includes(error.kind) ||
    finalCodes.includes(error.code)
  );
}
