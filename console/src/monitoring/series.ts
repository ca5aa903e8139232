// What is drawn of samples: values as they were, and rates between two.

import type { MonitoringSample } from "../api/types.ts";
import { lsnNumber } from "../parts/words.ts";

type Value = number | null;

export interface SeriesOf {
  /** Unix seconds. */
  readonly times: readonly number[];
  /** A value a time; null where there was none. */
  readonly values: readonly (readonly Value[])[];
}

export type Measure = (now: MonitoringSample, before: MonitoringSample | undefined) => Value;

/** As long as nobody looked, nothing was seen: lines end and begin again. */
const MAX_GAP_MS = 10_000;

export function seriesOf(
  samples: readonly MonitoringSample[],
  measures: readonly Measure[],
): SeriesOf {
  const times: number[] = [];
  const values: Value[][] = measures.map(() => []);
  for (const [i, now] of samples.entries()) {
    const last = samples[i - 1];
    const isGap = last !== undefined && now.at - last.at > MAX_GAP_MS;
    if (isGap) {
      times.push((last.at + 1) / 1000);
    }
    times.push(now.at / 1000);
    for (const [which, measure] of measures.entries()) {
      if (isGap) {
        values[which]!.push(null);
      }
      values[which]!.push(measure(now, isGap ? undefined : last));
    }
  }
  return { times, values };
}

type Counted = "commits" | "rollbacks" | "rowsRead" | "rowsWritten" | "blocksHit" | "blocksRead";

/** A second. A Postgres that has started between two samples counts from zero. */
export function rateOf(counted: Counted): Measure {
  return (now, before) =>
    perSecond(now, before, now.postgres?.[counted], before?.postgres?.[counted]);
}

export const walRate: Measure = (now, before) =>
  perSecond(now, before, place(now.last_record_lsn), place(before?.last_record_lsn));

/** In percent, of the blocks that were asked for since the sample before; null: none was. */
export const cacheHits: Measure = (now, before) => {
  const hit = rateOf("blocksHit")(now, before);
  const read = rateOf("blocksRead")(now, before);
  return hit === null || read === null || hit + read === 0 ? null : (100 * hit) / (hit + read);
};

function perSecond(
  now: MonitoringSample,
  before: MonitoringSample | undefined,
  count: number | undefined,
  countBefore: number | undefined,
): Value {
  if (before === undefined || count === undefined || countBefore === undefined) {
    return null;
  }
  const seconds = (now.at - before.at) / 1000;
  return count < countBefore || seconds <= 0 ? null : (count - countBefore) / seconds;
}

function place(lsn: string | undefined): number | undefined {
  return lsn === undefined ? undefined : lsnNumber(lsn);
}
