// When safekeepers are told a new commit LSN that no WAL carries.

import { setTimer, type Timer } from "../base/clock.ts";

/*
 * A new commit LSN travels with the next WAL; only where none follows within this time is it sent by
 * itself. Sent at once it would wake every safekeeper a second time for each commit, so that the
 * pageserver is a moment less behind. Where some of them are known to be read from, the others, for whom
 * nobody waits, hear of it by the driver's next tick, a few times a second.
 */
export const ANNOUNCE_DELAY_MS = 5;

export interface Announced {
  /** Whether a pageserver or a standby reads from it, as far as it has told. */
  readonly isRead: boolean;
  /** Tells it, where it is news. */
  announce(): void;
}

export class CommitAnnouncer {
  readonly #peers: () => readonly Announced[];
  /** Has fired where nothing is due. */
  #timer: Timer | undefined;
  #isDue = false;

  constructor(peers: () => readonly Announced[]) {
    this.#peers = peers;
  }

  /** There is a commit LSN that somebody was not told. */
  news(): void {
    if (this.#isDue) {
      return;
    }
    this.#isDue = true;
    if (this.#timer === undefined) {
      this.#timer = setTimer(() => this.#announceToReaders(), ANNOUNCE_DELAY_MS);
    } else {
      this.#timer.restart();
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
    this.#isDue = false;
    this.announce();
  }

  #announceToReaders(): void {
    this.#isDue = false;
    const peers = this.#peers();
    const isAnyRead = peers.some(({ isRead }) => isRead);
    for (const peer of peers) {
      if (peer.isRead || !isAnyRead) {
        peer.announce();
      }
    }
  }
}
