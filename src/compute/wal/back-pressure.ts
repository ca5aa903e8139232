// How much a load is slowed down by how far its WAL is ahead of the pageserver.

/*
 * `max` is the lag above which no flush is answered. Long before it, whoever makes relations longer waits a little for each
 * block (shim/library/pace.c), so that WAL is soon made as fast as it is taken in: from a quarter of `max` on, exponentially
 * more, as nobody knows how fast that is. The lag then stays where the two are equal. Loads that make no relation longer are
 * held in their flushes, which holds up whoever commits too: from a half of `max` on, and never longer than MAX_HOLD_MS.
 */
const PACE_FROM = 0.25;
const PACE_TO = 0.75;
/** A block is 8 kB: from 400 MB/s down to 0.4 MB/s for each process. */
const FIRST_PACE_MICROS = 20;
const LAST_PACE_MICROS = 20_000;
const HOLD_FROM = 0.5;
export const MAX_HOLD_MS = 200;

/** `at` as a share of the way from `from` to `to`: 0 to 1. */
function share(at: number, from: number, to: number): number {
  return Math.min(Math.max((at - from) / (to - from), 0), 1);
}

/** Microseconds to wait for each block that makes a relation longer. */
export function extensionPaceMicros(lagBytes: number, maxBytes: number): number {
  const at = share(lagBytes / maxBytes, PACE_FROM, PACE_TO);
  return at === 0
    ? 0
    : Math.round(FIRST_PACE_MICROS * (LAST_PACE_MICROS / FIRST_PACE_MICROS) ** at);
}

/** Milliseconds that a flush takes at least; for ever above `maxBytes`. */
export function holdMs(lagBytes: number, maxBytes: number): number {
  const at = share(lagBytes / maxBytes, HOLD_FROM, 1);
  return lagBytes > maxBytes ? Number.POSITIVE_INFINITY : MAX_HOLD_MS * at ** 2;
}
