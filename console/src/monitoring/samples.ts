// What a branch is doing, as the control plane tells while the page is looked at; and rates made of it.

import { useEffect, useState } from "react";
import type { MonitoringSample } from "../api/types.ts";
import { lsnNumber } from "../parts/words.ts";

/** As many as the control plane keeps. */
const MAX_SAMPLES = 900;

export interface Watched {
  readonly samples: readonly MonitoringSample[];
  /** Nobody answers; the browser tries again by itself. */
  readonly isAway: boolean;
}

export function useSamples(projectId: string, branchId: string): Watched {
  const [watched, setWatched] = useState<Watched>({ samples: [], isAway: false });
  useEffect(() => {
    let source: EventSource | undefined;
    const open = () => {
      let isFirst = true;
      source = new EventSource(`/console/projects/${projectId}/branches/${branchId}/monitoring`);
      source.onopen = () => {
        isFirst = true;
      };
      source.onerror = () => setWatched(({ samples }) => ({ samples, isAway: true }));
      source.onmessage = ({ data }) => {
        const news = JSON.parse(data) as MonitoringSample[];
        // The first has all that was seen before, by whomever.
        const isAll = isFirst;
        isFirst = false;
        setWatched(({ samples }) => ({
          samples: isAll ? news : [...samples, ...news].slice(-MAX_SAMPLES),
          isAway: false,
        }));
      };
    };
    const follow = () => {
      if (document.hidden) {
        source?.close();
        source = undefined;
      } else if (source === undefined) {
        open();
      }
    };
    follow();
    document.addEventListener("visibilitychange", follow);
    return () => {
      document.removeEventListener("visibilitychange", follow);
      source?.close();
    };
  }, [projectId, branchId]);
  return watched;
}

type Value = number | null;

export interface SeriesOf {
  /** Unix seconds. */
  readonly times: readonly number[];
  /** A value a time; null where there was none. */
  readonly values: readonly (readonly Value[])[];
}

export type Measure = (now: MonitoringSample, before: MonitoringSample | undefined) => Value;

export function seriesOf(
  samples: readonly MonitoringSample[],
  measures: readonly Measure[],
): SeriesOf {
  return {
    times: samples.map(({ at }) => at / 1000),
    values: measures.map((measure) => samples.map((now, i) => measure(now, samples[i - 1]))),
  };
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
