// Terms and the history of term switches: which proposer wrote which range of a timeline's WAL.

import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, minLsn } from "../base/lsn.ts";

/** A proposer's reign, as in Raft; u64 on the wire, refused at 2^53 and above. 0 is "none yet". */
export type Term = number;

/**
 * No safekeeper goes above: a term is raised with each election, and one near 2^53 would leave no room
 * for the next.
 */
export const MAX_TERM = 2 ** 52;
/**
 * A compute may raise a safekeeper's term by so much at once: more elections than a safekeeper misses
 * in days, while its way to MAX_TERM stays one of 2^32 durable votes.
 */
export const MAX_TERM_JUMP = 2 ** 20;

/** From `lsn` on, WAL was written in `term` (until the next entry). */
export interface TermLsn {
  readonly term: Term;
  readonly lsn: Lsn;
}

/** Ascending in term, not descending in LSN. */
export type TermHistory = readonly TermLsn[];

/** StorageError `corrupt` where entries are out of order. */
export function checkTermHistory(history: TermHistory): void {
  for (let i = 1; i < history.length; i++) {
    const [previous, entry] = [history[i - 1]!, history[i]!];
    if (entry.term <= previous.term || entry.lsn < previous.lsn) {
      throw new StorageError(
        "corrupt",
        "bad-term-history",
        `term history is out of order at entry ${i}: ${formatTermHistory(history)}`,
      );
    }
  }
}

/** The entries that begin at or before `lsn`: the history of WAL that ends there. */
export function historyUpTo(history: TermHistory, lsn: Lsn): TermHistory {
  let count = history.length;
  while (count > 0 && history[count - 1]!.lsn > lsn) {
    count--;
  }
  return count === history.length ? history : history.slice(0, count);
}

/** Term of the last entry that begins at or before `lsn`; 0 where there is none. */
export function lastTermAt(history: TermHistory, lsn: Lsn): Term {
  for (let i = history.length - 1; i >= 0; i--) {
    if (history[i]!.lsn <= lsn) {
      return history[i]!.term;
    }
  }
  return 0;
}

/**
 * Up to where an acceptor's WAL, which ends at `acceptorEnd`, is the proposer's WAL too. Undefined
 * where they share no term. The proposer's own last term has no end yet. StorageError `corrupt`
 * where one term begins at two places: two proposers wrote in one term.
 */
export function highestCommonPoint(
  proposer: TermHistory,
  acceptor: TermHistory,
  acceptorEnd: Lsn,
): TermLsn | undefined {
  let common = -1;
  for (let i = 0; i < Math.min(proposer.length, acceptor.length); i++) {
    if (proposer[i]!.term !== acceptor[i]!.term) {
      break;
    }
    if (proposer[i]!.lsn !== acceptor[i]!.lsn) {
      throw new StorageError(
        "corrupt",
        "term-started-twice",
        `term ${proposer[i]!.term} starts at ${formatLsn(proposer[i]!.lsn)} for the proposer ` +
          `and at ${formatLsn(acceptor[i]!.lsn)} for the acceptor`,
      );
    }
    common = i;
  }
  if (common < 0) {
    return undefined;
  }
  const term = proposer[common]!.term;
  const acceptorTermEnd = acceptor[common + 1]?.lsn ?? acceptorEnd;
  const proposerTermEnd = proposer[common + 1]?.lsn;
  return {
    term,
    lsn: proposerTermEnd === undefined ? acceptorEnd : minLsn(proposerTermEnd, acceptorTermEnd),
  };
}

export function formatTermHistory(history: TermHistory): string {
  const shown = history.slice(-20).map((entry) => `${entry.term}@${formatLsn(entry.lsn)}`);
  return `[${history.length > 20 ? "... " : ""}${shown.join(" ")}]`;
}
