// Which LSN a time stands for, and which time an LSN, by the index of commit times.
//
// The LSN of time t is where recovery with recovery_target_time = t stops (recoveryStopsBefore with
// recovery_target_inclusive): before the first record of a commit or abort, prepared or not, whose time
// is after t. Later records with earlier times, of a clock that was set back, are not looked at.

import { monotonicMs, turn } from "../base/clock.ts";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { type CommitTime, readCommitTime } from "./ingest/commit-times.ts";
import type { ServedTimeline } from "./served-timeline.ts";

/** A search whose blocks are on disk only gives the event loop back now and then. */
const SLICE_MS = 2;

/** Neon's kinds. */
export interface LsnOfTimestamp {
  /** `present`: its time is known. `future`: no transaction ended after it, so it is the last record's LSN.
   *  `past`: all that are known ended after it. `nodata`: no time is known. */
  readonly kind: "present" | "future" | "past" | "nodata";
  /** `past`, `nodata`: the oldest readable one. */
  readonly lsn: Lsn;
  /** Microseconds since 2000-01-01: of the last commit at `lsn`; `past`: of the first end of a
   *  transaction that is known. Undefined where there is none. */
  readonly commitUs: number | undefined;
}

/** `timeUs`: microseconds since 2000-01-01. */
export async function findLsnByTimestamp(
  timeline: ServedTimeline,
  timeUs: number,
): Promise<LsnOfTimestamp> {
  const { lastRecordLsn, minReadableLsn } = timeline;
  const last = await commitTimeAt(timeline, lastRecordLsn);
  if (last === undefined) {
    return { kind: "nodata", lsn: minReadableLsn, commitUs: undefined };
  }
  if (last.latestUs <= timeUs) {
    return { kind: "future", lsn: lastRecordLsn, commitUs: last.commitUs };
  }
  const { first, before } = await findFirstAfter(timeline, timeUs, last);
  return before === undefined
    ? { kind: "past", lsn: minReadableLsn, commitUs: first.latestUs }
    : { kind: "present", lsn: first.recordStart, commitUs: before.commitUs };
}

/**
 * The first end of a transaction after `timeUs`, and what is known as of the record's start, where it is
 * readable. `last` is one after it. Halves what is left of the WAL at each step.
 */
async function findFirstAfter(
  timeline: ServedTimeline,
  timeUs: number,
  last: CommitTime,
): Promise<{ first: CommitTime; before: CommitTime | undefined }> {
  const { minReadableLsn } = timeline;
  let sliceStart = monotonicMs();
  let first = last;
  let before: CommitTime | undefined;
  // As of `lower` nothing has ended after the time; what `first` tells of ends above `lower`.
  let lower = minReadableLsn - 1;
  while (lower < first.recordStart && first.recordStart >= minReadableLsn) {
    const middle = toLsn(lower + Math.ceil((first.recordStart - lower) / 2));
    const found = await commitTimeAt(timeline, middle);
    if (found !== undefined && found.latestUs > timeUs) {
      first = found;
    } else {
      lower = middle;
      before = found;
    }
    if (monotonicMs() - sliceStart > SLICE_MS) {
      await turn();
      sliceStart = monotonicMs();
    }
  }
  return { first, before };
}

/**
 * Of the last commit at or below `lsn`, at most `lastRecordLsn`; microseconds since 2000-01-01. Undefined
 * where none is known. StorageError `invalid` below what is kept.
 */
export async function timestampOfLsn(
  timeline: ServedTimeline,
  lsn: Lsn,
): Promise<number | undefined> {
  return (await commitTimeAt(timeline, lsn))?.commitUs;
}

function commitTimeAt(timeline: ServedTimeline, lsn: Lsn): Promise<CommitTime | undefined> {
  return timeline.whenResident(() => readCommitTime(timeline, lsn));
}
