// The stretches of time that consumption is told by: hours, days and months, in UTC.

export const GRANULARITIES = ["hourly", "daily", "monthly"] as const;
export type Granularity = (typeof GRANULARITIES)[number];

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** How far back each is told of: Neon's 168 hours, 60 days, a year. */
export const TOLD_MS: Readonly<Record<Granularity, number>> = {
  hourly: 168 * HOUR_MS,
  daily: 60 * DAY_MS,
  monthly: 366 * DAY_MS,
};

/** Of the frame that the moment is in; milliseconds since 1970, as all times here. */
export function frameStart(granularity: Granularity, atMs: number): number {
  const at = new Date(atMs);
  switch (granularity) {
    case "hourly":
      return Math.floor(atMs / HOUR_MS) * HOUR_MS;
    case "daily":
      return Math.floor(atMs / DAY_MS) * DAY_MS;
    case "monthly":
      return Date.UTC(at.getUTCFullYear(), at.getUTCMonth());
  }
}

/** Of the frame that begins at `startMs`: where the next one begins. */
export function frameEnd(granularity: Granularity, startMs: number): number {
  const start = new Date(startMs);
  switch (granularity) {
    case "hourly":
      return startMs + HOUR_MS;
    case "daily":
      return startMs + DAY_MS;
    case "monthly":
      return Date.UTC(start.getUTCFullYear(), start.getUTCMonth() + 1);
  }
}

/** The oldest frame that is told of, as a start. */
export function oldestFrame(granularity: Granularity, atMs: number): number {
  return frameStart(granularity, atMs - TOLD_MS[granularity]);
}

/** `[fromMs, toMs)` by the frames that it is in: start, and milliseconds in it. */
export function splitByFrames(
  granularity: Granularity,
  fromMs: number,
  toMs: number,
): { readonly startMs: number; readonly ms: number }[] {
  const parts: { startMs: number; ms: number }[] = [];
  for (let at = fromMs; at < toMs; ) {
    const startMs = frameStart(granularity, at);
    const end = Math.min(toMs, frameEnd(granularity, startMs));
    parts.push({ startMs, ms: end - at });
    at = end;
  }
  return parts;
}
