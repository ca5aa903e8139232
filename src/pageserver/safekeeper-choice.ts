// Which safekeeper a pageserver takes a timeline's WAL from: pure decisions, told what time it is.

import type { Lsn } from "../base/lsn.ts";

const FIRST_BACKOFF_MS = 50;
const MAX_BACKOFF_MS = 5_000;
/** While others have WAL that we lack, how long the connected safekeeper may stay silent. */
const LAGGING_TIMEOUT_MS = 3_000;
/** The broker passes on what anyone says: so many are remembered, and others only when some fall silent. */
const MAX_KNOWN = 64;
const SILENT_MS = 30_000;

/** What the broker says about one safekeeper's copy of the timeline. */
export interface SafekeeperCandidate {
  readonly safekeeperId: number;
  /** `host:port` of its replication listener. */
  readonly pgAddr: string;
  readonly commitLsn: Lsn;
}

interface KnownSafekeeper extends SafekeeperCandidate {
  /** Not to be tried before this. */
  retryAtMs: number;
  backoffMs: number;
  /** It sent bytes that are no WAL; what it says again will be no better. */
  damaged: boolean;
  heardAtMs: number;
}

/** All times are milliseconds on one monotonic clock. */
export class SafekeeperChoice {
  readonly #safekeepers = new Map<number, KnownSafekeeper>();

  /** News from the broker. A new address is a new start. */
  update(candidate: SafekeeperCandidate, nowMs: number): void {
    const known = this.#safekeepers.get(candidate.safekeeperId);
    if (known === undefined && !this.#hasRoom(nowMs)) {
      return;
    }
    if (known === undefined || known.pgAddr !== candidate.pgAddr) {
      this.#safekeepers.set(candidate.safekeeperId, {
        ...candidate,
        retryAtMs: 0,
        backoffMs: 0,
        damaged: false,
        heardAtMs: nowMs,
      });
    } else {
      Object.assign(known, candidate, { heardAtMs: nowMs });
    }
  }

  #hasRoom(nowMs: number): boolean {
    if (this.#safekeepers.size >= MAX_KNOWN) {
      for (const [id, { heardAtMs }] of this.#safekeepers) {
        if (nowMs - heardAtMs > SILENT_MS) {
          this.#safekeepers.delete(id);
        }
      }
    }
    return this.#safekeepers.size < MAX_KNOWN;
  }

  /** The one with the most committed WAL, if it has any above `haveLsn` and may be tried again. */
  choose(haveLsn: Lsn, nowMs: number): SafekeeperCandidate | undefined {
    let best: KnownSafekeeper | undefined;
    for (const safekeeper of this.#safekeepers.values()) {
      if (
        !safekeeper.damaged &&
        safekeeper.retryAtMs <= nowMs &&
        safekeeper.commitLsn > haveLsn &&
        (best === undefined || safekeeper.commitLsn > best.commitLsn)
      ) {
        best = safekeeper;
      }
    }
    return best;
  }

  /** Whether to leave the safekeeper we stream from, silent since `lastWalMs`, for this one. */
  shouldSwitch(
    connectedId: number,
    candidate: SafekeeperCandidate,
    haveLsn: Lsn,
    lastWalMs: number,
    nowMs: number,
  ): boolean {
    return (
      candidate.safekeeperId !== connectedId &&
      candidate.commitLsn > haveLsn &&
      nowMs - lastWalMs > LAGGING_TIMEOUT_MS
    );
  }

  /** A connection ended; without progress the next one waits longer. */
  ended(safekeeperId: number, progressed: boolean, nowMs: number): void {
    const known = this.#safekeepers.get(safekeeperId);
    if (known !== undefined) {
      known.backoffMs = progressed
        ? 0
        : Math.min(known.backoffMs * 2 || FIRST_BACKOFF_MS, MAX_BACKOFF_MS);
      known.retryAtMs = nowMs + known.backoffMs;
    }
  }

  markDamaged(safekeeperId: number): void {
    const known = this.#safekeepers.get(safekeeperId);
    if (known !== undefined) {
      known.damaged = true;
    }
  }

  get allDamaged(): boolean {
    return [...this.#safekeepers.values()].every((safekeeper) => safekeeper.damaged);
  }

  /** When the first of those that have WAL above `haveLsn` may be tried; undefined: none has. */
  retryAtMs(haveLsn: Lsn): number | undefined {
    const times = [...this.#safekeepers.values()]
      .filter((safekeeper) => !safekeeper.damaged && safekeeper.commitLsn > haveLsn)
      .map((safekeeper) => safekeeper.retryAtMs);
    return times.length === 0 ? undefined : Math.min(...times);
  }
}
