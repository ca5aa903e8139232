// Which of several safekeepers on one machine gets its WAL a little later than the others.

import { atNextTurn, setTimer, type Timer } from "../base/clock.ts";
import type { Lsn } from "../base/lsn.ts";
import type { ProposerPeerStatus } from "./proposer.ts";

/*
 * Three safekeepers on one machine share its cores and its disk. Two make a majority; to bother the
 * third with every commit slows the two down, and with them the commit. So one of them is sent its WAL
 * in larger pieces, every LATE_MS. It is a member like the others: the rule of the commit LSN is as
 * ever, and where the majority without it does not answer meanwhile, or somebody's connection breaks,
 * everybody is sent everything at once, until all have answered that.
 *
 * On machines of their own the third one costs the others nothing, and the fastest two of three
 * answer sooner than two that were chosen: then nobody is late.
 */

/**
 * How late WAL is sent; and the time in which the majority without it must have answered. One timer serves
 * both: each look is a wake-up, and another one brings the answer, of an agent that makes a hundred commits a second.
 */
export const LATE_MS = 50;
/** So much at a time is bulk load, not commits: it is sent at once. */
export const LATE_BYTES = 64 * 1024;

export interface LateMemberOptions {
  /** The highest LSN that was sent to the others. */
  readonly sentLsn: () => Lsn;
  readonly commitLsn: () => Lsn;
  /** The late member is to be sent what it was not sent yet. */
  readonly onDue: (safekeeper: number) => void;
}

export class LateMember {
  readonly #options: LateMemberOptions;
  #id: number | undefined;
  /** All must have flushed WAL up to here before one is late. */
  #allMustHave: Lsn = 0 as Lsn;
  /** Streams to a pageserver, which is not to wait. */
  #feedsPageserver: number | undefined;
  /** Runs while WAL is held back; has fired otherwise. */
  #timer: Timer | undefined;
  #isHeld = false;
  /** What had been sent to the others when WAL was first held back. */
  #seenLsn: Lsn = 0 as Lsn;

  constructor(options: LateMemberOptions) {
    this.#options = options;
  }

  /** Undefined: all are alike. */
  get id(): number | undefined {
    return this.#id;
  }

  /** It has told a pageserver's positions. */
  feedsPageserver(safekeeper: number): void {
    this.#feedsPageserver = safekeeper;
    if (this.#id === safekeeper) {
      this.end();
    }
  }

  /** From now on all are alike, until they all have what was sent by now. */
  end(): void {
    const late = this.#id;
    this.#id = undefined;
    this.#allMustHave = this.#options.sentLsn();
    this.#isHeld = false;
    this.#timer?.cancel();
    this.#timer = undefined;
    if (late !== undefined) {
      this.#options.onDue(late);
    }
  }

  /** `answered` is the last of `members` that may have come so far: if it was, it is late from now on. */
  choose(answered: number, members: readonly ProposerPeerStatus[]): void {
    const isReady = members.every(
      ({ phase, flushLsn }) => phase === "active" && flushLsn >= this.#allMustHave,
    );
    if (this.#id === undefined && isReady && answered !== this.#feedsPageserver) {
      this.#id = answered;
    }
  }

  /** WAL for it is held back. */
  hold(): void {
    if (!this.#isHeld) {
      this.#isHeld = true;
      this.#seenLsn = this.#options.sentLsn();
      if (this.#timer === undefined) {
        this.#timer = setTimer(() => this.#look(), LATE_MS);
      } else {
        this.#timer.restart();
      }
    }
  }

  #look(): void {
    if (this.#options.commitLsn() < this.#seenLsn) {
      // Timers come before what has arrived: if this thread was busy, the answers may be there.
      atNextTurn(() => this.#lookAgain());
      return;
    }
    this.#isHeld = false;
    this.#options.onDue(this.#id!);
  }

  #lookAgain(): void {
    if (!this.#isHeld) {
      return;
    }
    if (this.#options.commitLsn() < this.#seenLsn) {
      this.end();
    } else {
      this.#look();
    }
  }
}
