// Which safekeeper a pageserver takes a timeline's WAL from: pure decisions, told what time it is.

import { type Lsn, minLsn } from "../base/lsn.ts";

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
  /** Up to where it knows WAL to be stored by us; what is above stays on its disk. */
  readonly remoteConsistentLsn: Lsn;
}

/** How far the pageserver is with a timeline. */
export interface PageserverPosition {
  readonly lastRecordLsn: Lsn;
  readonly remoteConsistentLsn: Lsn;
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

  /** Of those that have WAL for us or news to hear, and may be tried again, the one with the most committed WAL. */
  choose(at: PageserverPosition, nowMs: number): SafekeeperCandidate | undefined {
    let best: KnownSafekeeper | undefined;
    for (const safekeeper of this.#safekeepers.values()) {
      if (
        safekeeper.retryAtMs <= nowMs &&
        isWanted(safekeeper, at) &&
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

  /** When the first that `choose` might give may be tried; undefined: there is none. */
  retryAtMs(at: PageserverPosition): number | undefined {
    const times = [...this.#safekeepers.values()]
      .filter((safekeeper) => isWanted(safekeeper, at))
      .map((safekeeper) => safekeeper.retryAtMs);
    return times.length === 0 ? undefined : Math.min(...times);
  }
}

/** It has WAL that we lack, or keeps WAL that we have stored: a restart of it, and no more WAL since, leave it without that news. */
function isWanted(safekeeper: KnownSafekeeper, at: PageserverPosition): boolean {
  const { commitLsn, remoteConsistentLsn, damaged } = safekeeper;
  const hasWal = commitLsn > at.lastRecordLsn;
  const lacksNews = minLsn(at.remoteConsistentLsn, commitLsn) > remoteConsistentLsn;
  return !damaged && (hasWal || lacksNews);
}
