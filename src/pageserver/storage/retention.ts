// Which LSNs of a timeline must stay readable below its cutoff: branch points, leases, the cutoff itself.

import { monotonicMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import {
  formatLsn,
  type Lsn,
  minLsn,
  pageOffset,
  pageStart,
  WAL_SEGMENT_SIZE,
} from "../../base/lsn.ts";
import { formatTimestamp } from "../../base/timestamp.ts";
import { readCommitTime } from "../ingest/commit-times.ts";
import type { TimelineStorage } from "./timeline-storage.ts";

/** Promises that the state at an LSN stays readable for a while. They are in memory and in the index, which says nothing of how long: whoever has one renews it. */
export class Leases {
  /** By LSN: when the last one ends. */
  readonly #ends = new Map<Lsn, number>();
  /** Where a replica would begin, ascending: for as long as that is so. */
  replicaStarts: readonly Lsn[] = [];

  /** A lease of `lengthMs` from `nowMs` on, or a longer one that is there already. */
  grant(lsn: Lsn, nowMs: number, lengthMs: number): void {
    this.#ends.set(lsn, Math.max(this.#ends.get(lsn) ?? 0, nowMs + lengthMs));
  }

  has(lsn: Lsn, nowMs: number): boolean {
    return (this.#ends.get(lsn) ?? 0) > nowMs || this.replicaStarts.includes(lsn);
  }

  /** By LSN: for how many milliseconds more. Forgets those that have ended. */
  left(nowMs: number): Map<Lsn, number> {
    for (const [lsn, end] of this.#ends) {
      if (end <= nowMs) {
        this.#ends.delete(lsn);
      }
    }
    return new Map([...this.#ends].map(([lsn, end]) => [lsn, end - nowMs]));
  }
}

/** Where branches begin, of a timeline: each holds what it sees there. */
export class BranchPoints {
  /** By LSN: how many. */
  readonly #counts = new Map<Lsn, number>();

  add(lsn: Lsn): void {
    this.#counts.set(lsn, (this.#counts.get(lsn) ?? 0) + 1);
  }

  /** The same, until what it returns is called, once or more. */
  hold(lsn: Lsn): () => void {
    this.add(lsn);
    let isHeld = true;
    return () => {
      if (isHeld) {
        isHeld = false;
        this.remove(lsn);
      }
    };
  }

  remove(lsn: Lsn): void {
    const count = this.#counts.get(lsn)! - 1;
    if (count === 0) {
      this.#counts.delete(lsn);
    } else {
      this.#counts.set(lsn, count);
    }
  }

  get lsns(): Iterable<Lsn> {
    return this.#counts.keys();
  }
}

/** A timeline, as those see it who ask what it keeps. */
export interface Keeper {
  readonly ancestor: Keeper | undefined;
  readonly startLsn: Lsn;
  readonly gcCutoffLsn: Lsn;
  readonly leases: Leases;
}

/** A lease: what is in an ancestor's history that one holds as well, as it collects there. */
export function holdLsn(timeline: Keeper, lsn: Lsn, lengthMs: number): void {
  const now = monotonicMs();
  for (let at: Keeper | undefined = timeline; at !== undefined; at = at.ancestor) {
    at.leases.grant(lsn, now, lengthMs);
    if (lsn >= at.startLsn) {
      return;
    }
  }
}

/** Whether the state at `lsn`, which is that at `boundary`, is still there: it is above the cutoff, or leased, or where a branch begins. */
export function isKept(timeline: Keeper, lsn: Lsn, boundary: Lsn): boolean {
  const now = monotonicMs();
  for (let at: Keeper | undefined = timeline; at !== undefined; at = at.ancestor) {
    const isOwn = at.ancestor === undefined || lsn >= at.startLsn;
    // Where a branch begins its ancestor keeps all that it sees.
    const isBranchPoint = at.ancestor !== undefined && lsn === at.startLsn;
    const isAbove = isOwn && lsn >= at.gcCutoffLsn;
    if (isAbove || isBranchPoint || at.leases.has(boundary, now)) {
      return true;
    }
    if (isOwn) {
      return false;
    }
  }
  return false;
}

/** Those of `needed` below `cutoff`, ascending, each once. */
export function retainedLsns(cutoff: Lsn, ...needed: readonly Iterable<Lsn>[]): Lsn[] {
  const lsns = new Set(needed.flatMap((some) => [...some].filter((lsn) => lsn < cutoff)));
  return [...lsns].sort((a, b) => a - b);
}

/** `invalid` where the state at `lsn` is not kept. */
export function checkKept(
  timeline: Pick<TimelineStorage, "readValue"> & {
    readonly gcCutoffLsn: Lsn;
    readonly minReadableLsn: Lsn;
    isKept(lsn: Lsn): boolean;
  },
  lsn: Lsn,
): void {
  if (lsn < timeline.gcCutoffLsn && !timeline.isKept(lsn)) {
    const message = `${formatLsn(lsn)} is below ${describeOldest(timeline)}`;
    throw new StorageError("invalid", "lsn-too-old", message);
  }
}

/** For messages: the oldest LSN that is kept, and when it was, where that is known. */
function describeOldest(
  timeline: Pick<TimelineStorage, "readValue"> & { readonly minReadableLsn: Lsn },
): string {
  const { minReadableLsn } = timeline;
  let ofWhen = "";
  try {
    const commitUs = readCommitTime(timeline, minReadableLsn)?.commitUs;
    ofWhen = commitUs === undefined ? "" : `, of ${formatTimestamp(commitUs)}`;
  } catch {
    // Whoever asked is to hear of the LSN all the same.
  }
  return `${formatLsn(minReadableLsn)}, the oldest LSN kept${ofWhen}`;
}

/**
 * The highest LSN at or below `lsn` where a record can end. Records end at multiples of 8 and never
 * inside a page header, so between the two nothing happened.
 */
export function recordBoundary(lsn: Lsn, segmentSize: number = WAL_SEGMENT_SIZE): Lsn {
  const aligned = (lsn - (lsn % 8)) as Lsn;
  const headerBytes = pageStart(aligned) % segmentSize === 0 ? 40 : 24;
  return pageOffset(aligned) < headerBytes ? pageStart(aligned) : aligned;
}

interface Descendant {
  readonly gcCutoffLsn: Lsn;
  readonly startLsn: Lsn;
  readonly ancestor: Descendant | undefined;
  readonly ancestorLsn: Lsn;
}

/** Every LSN from here up to lastRecordLsn can be read: on a branch that may be in its ancestors' history. */
export function minReadableLsn(timeline: Descendant): Lsn {
  let { gcCutoffLsn, startLsn, ancestorLsn } = timeline;
  for (let next = timeline.ancestor; next && gcCutoffLsn === startLsn; next = next.ancestor) {
    gcCutoffLsn = minLsn(ancestorLsn, next.gcCutoffLsn);
    ({ startLsn, ancestorLsn } = next);
  }
  return gcCutoffLsn;
}
