// Which of several safekeepers on one machine gets its WAL a little later than the others.

import { atNextTurn, setRepeatingTimer, type Timer } from "../base/clock.ts";
import type { Lsn } from "../base/lsn.ts";
import type { ProposerPeerStatus } from "./proposer.ts";

/*
 * Three safekeepers on one machine share its cores and its disk. Two make a majority; to bother the
 * third with every commit slows the two down, and with them the commit. So one of them is sent its WAL
 * in larger pieces, every LATE_MS. It is a member like the others: the rule of the commit LSN is as
 * ever, and where the majority without it does not answer within HEDGE_MS, or somebody's connection
 * breaks, everybody is sent everything at once, until all have answered that.
 *
 * On machines of their own the third one costs the others nothing, and the fastest two of three
 * answer sooner than two that were chosen: then nobody is late.
 */

/** Time in which the majority without it must have answered. */
export const HEDGE_MS = 5;
/** In multiples of HEDGE_MS: how late WAL is sent. */
const LATE_LOOKS = 4;
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
  #timer: Timer | undefined;
  #looks = 0;
  /** What had been sent to the others at the last look. */
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
    this.#stopTimer();
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
    if (this.#timer === undefined) {
      this.#looks = 0;
      this.#seenLsn = this.#options.sentLsn();
      this.#timer = setRepeatingTimer(() => this.#look(), HEDGE_MS);
    }
  }

  #look(): void {
    if (this.#options.commitLsn() < this.#seenLsn) {
      // Timers come before what has arrived: if this thread was busy, the answers may be there.
      atNextTurn(() => this.#lookAgain());
      return;
    }
    this.#looks++;
    this.#seenLsn = this.#options.sentLsn();
    if (this.#looks === LATE_LOOKS) {
      this.#stopTimer();
      this.#options.onDue(this.#id!);
    }
  }

  #lookAgain(): void {
    if (this.#timer !== undefined && this.#options.commitLsn() < this.#seenLsn) {
      this.end();
    }
  }

  #stopTimer(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}
