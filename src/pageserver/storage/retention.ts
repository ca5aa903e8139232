// Which LSNs of a timeline must stay readable below its cutoff: branch points, leases, the cutoff itself.

import { type Lsn, pageOffset, pageStart, WAL_SEGMENT_SIZE } from "../../base/lsn.ts";

/** Promises that the state at an LSN stays readable for a while. They are in memory: whoever has one renews it. */
export class Leases {
  /** By LSN: when the last one ends. */
  readonly #ends = new Map<Lsn, number>();

  /** A lease of `lengthMs` from `nowMs` on, or a longer one that is there already. */
  grant(lsn: Lsn, nowMs: number, lengthMs: number): void {
    this.#ends.set(lsn, Math.max(this.#ends.get(lsn) ?? 0, nowMs + lengthMs));
  }

  has(lsn: Lsn, nowMs: number): boolean {
    return (this.#ends.get(lsn) ?? 0) > nowMs;
  }

  /** LSNs with a lease that has not ended. Forgets the others. */
  lsns(nowMs: number): Lsn[] {
    for (const [lsn, end] of this.#ends) {
      if (end <= nowMs) {
        this.#ends.delete(lsn);
      }
    }
    return [...this.#ends.keys()];
  }
}

/** Where branches begin, of a timeline: each holds what it sees there. */
export class BranchPoints {
  /** By LSN: how many. */
  readonly #counts = new Map<Lsn, number>();

  add(lsn: Lsn): void {
    this.#counts.set(lsn, (this.#counts.get(lsn) ?? 0) + 1);
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

/** Those of `needed` below `cutoff`, ascending, each once. */
export function retainedLsns(cutoff: Lsn, ...needed: readonly Iterable<Lsn>[]): Lsn[] {
  const lsns = new Set(needed.flatMap((some) => [...some].filter((lsn) => lsn < cutoff)));
  return [...lsns].sort((a, b) => a - b);
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
