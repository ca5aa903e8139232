// What the safekeepers among themselves can know to be committed, without a proposer.

import { INVALID_LSN, type Lsn, maxLsn, minLsn } from "../../base/lsn.ts";
import { INVALID_GENERATION, majority } from "../../safekeeper-protocol/membership.ts";
import type { Term } from "../../safekeeper-protocol/term-history.ts";
import { type AcceptorState, lastLogTerm } from "./acceptor.ts";

/** What a safekeeper told about itself. It may be old: its log may have been cut since. */
export interface PeerReport {
  /** Of the membership that it was in; 0 where it knew none. */
  readonly generation: number;
  readonly term: Term;
  readonly lastLogTerm: Term;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
}

/**
 * Takes over what the safekeepers among themselves can know to be committed, so that pageservers
 * get all WAL also where the compute went down before it could tell. Two rules, for peers with our
 * last log term:
 *
 * - A commit LSN that a peer knows holds for us up to our flush LSN: logs that end in one term are
 *   prefixes of one log.
 * - What a majority has flushed is committed, if each got it from the leader of that very term (its
 *   own term is still that one; ours too). Counting copies that a later leader made of it would be Raft's
 *   known mistake (figure 8 of its paper; a simulated cluster lost WAL by it). Needs a known
 *   membership, and reports of that very generation: a majority of these members makes every later
 *   leader of theirs hold the WAL, but not one whom the members before them elected meanwhile.
 */
export function commitFromPeers(
  state: AcceptorState,
  reports: ReadonlyMap<number, PeerReport>,
): AcceptorState {
  const term = lastLogTerm(state);
  let commitLsn = maxLsn(state.commitLsn, committedByPeers(state, reports, term));
  for (const report of reports.values()) {
    if (report.lastLogTerm === term) {
      commitLsn = maxLsn(commitLsn, minLsn(report.commitLsn, state.flushLsn));
    }
  }
  return commitLsn === state.commitLsn
    ? state
    : { ...state, commitLsn, commitCandidate: maxLsn(commitLsn, state.commitCandidate) };
}

function committedByPeers(
  state: AcceptorState,
  reports: ReadonlyMap<number, PeerReport>,
  term: Term,
): Lsn {
  const { mconf, termHistory } = state.persistent;
  const isOwnTerm = term > 0 && termHistory.at(-1)?.term === term;
  if (mconf.generation === INVALID_GENERATION || !isOwnTerm) {
    return INVALID_LSN;
  }
  let committed = state.flushLsn;
  for (const set of [
    mconf.members,
    ...(mconf.newMembers === undefined ? [] : [mconf.newMembers]),
  ]) {
    const flushLsns = set.map(({ id }) => {
      if (id === state.nodeId) {
        // In a later term it may have been pulled as a copy, unknown to whom that term elected.
        return state.persistent.term === term ? state.flushLsn : INVALID_LSN;
      }
      const report = reports.get(id);
      const counts =
        report?.generation === mconf.generation &&
        report.lastLogTerm === term &&
        report.term === term;
      return counts ? report.flushLsn : INVALID_LSN;
    });
    flushLsns.sort((a, b) => b - a);
    committed = minLsn(committed, flushLsns[majority(set.length) - 1]!);
  }
  return committed;
}
