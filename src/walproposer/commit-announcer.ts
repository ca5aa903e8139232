// When safekeepers are told a new commit LSN that no WAL carries.

import { setTimer, type Timer } from "../base/clock.ts";
import type { Lsn } from "../base/lsn.ts";

/*
 * A new commit LSN travels with the next WAL; only where none follows within some time is it sent by
 * itself. Sent at once it would wake every safekeeper a second time for each commit, so that the
 * pageserver is a moment less behind.
 *
 * - To those that a standby reads from, soon: its users wait for it.
 * - To those that a pageserver reads from, once commits have paused: nearly all that a compute asks of it is as of its start, and
 *   who asks the compute how far it is, as for a branch, has it told at once. A message by itself wakes this process, a safekeeper
 *   and the pageserver, which was a fifth of what a commit cost the agents of many computes that commit now and then.
 * - To the others, for whom nobody waits, by the driver's next tick, a few times a second.
 */
export const STANDBY_DELAY_MS = 5;
export const PAGESERVER_DELAY_MS = 50;

export interface Announced {
  /** Who reads from it, as far as it has told. */
  readonly reader: "standby" | "pageserver" | undefined;
  /** Tells it, where it is news. */
  announce(): void;
}

export class CommitAnnouncer {
  readonly #peers: () => readonly Announced[];
  /** Undefined where nothing is due. */
  #timer: Timer | undefined;
  /** The commit LSN when it was started, and the newest. */
  #seenLsn = 0 as Lsn;
  #newestLsn = 0 as Lsn;

  constructor(peers: () => readonly Announced[]) {
    this.#peers = peers;
  }

  /** There is a commit LSN that somebody was not told. */
  news(commitLsn: Lsn): void {
    this.#newestLsn = commitLsn;
    if (this.#timer === undefined) {
      this.#start();
    }
  }

  /** Now, to everybody. */
  announce(): void {
    for (const peer of this.#peers()) {
      peer.announce();
    }
  }

  /** To everybody, and nothing more later. */
  end(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.announce();
  }

  #start(): void {
    this.#seenLsn = this.#newestLsn;
    const delayMs = this.#hasStandby() ? STANDBY_DELAY_MS : PAGESERVER_DELAY_MS;
    this.#timer = setTimer(() => this.#look(), delayMs);
  }

  #hasStandby(): boolean {
    return this.#peers().some(({ reader }) => reader === "standby");
  }

  #look(): void {
    // What was news before the newest has travelled with the WAL that came between them.
    if (this.#newestLsn > this.#seenLsn && !this.#hasStandby()) {
      this.#start();
      return;
    }
    this.#timer = undefined;
    const peers = this.#peers();
    const isAnyRead = peers.some(({ reader }) => reader !== undefined);
    for (const peer of peers) {
      if (peer.reader !== undefined || !isAnyRead) {
        peer.announce();
      }
    }
  }
}
