// From whom a timeline is pulled, and whether it may be: decided by what the others tell, without any I/O.

import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import {
  INVALID_GENERATION,
  isMember,
  type MembershipConfiguration,
  majority,
  type SafekeeperId,
} from "../../safekeeper-protocol/membership.ts";
import type { Term } from "../../safekeeper-protocol/term-history.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";

/*
 * A safekeeper that lost its disk has forgotten votes and acknowledged WAL. What makes its return safe:
 *
 * - Until the whole timeline is durable here it does not exist here: no vote, no acknowledgement.
 * - So many of the others must answer that every majority it was part of has one of them: n minus a
 *   majority plus one of n members. Then what was committed with its help is on one that answered, and
 *   on the one with the highest (last log term, flush LSN), which is copied: it won against every
 *   other as a leader would.
 * - A leader may still count what the lost disk acknowledged, and a candidate its vote. So where a
 *   membership that any of the others is in names this safekeeper (or where membership is unknown), the
 *   copy is for a newer, joint generation only, and as many as above must be in it already: they refuse
 *   leaders and candidates of the older ones. Whoever drives the change of membership knows that the
 *   disk was lost before that generation was made; here nobody can.
 * - Its term becomes the highest of theirs.
 */

/** What another safekeeper tells about the timeline; durable there. */
export interface PullSource {
  readonly nodeId: number;
  readonly mconf: MembershipConfiguration;
  readonly term: Term;
  readonly lastLogTerm: Term;
  readonly flushLsn: Lsn;
}

export interface PullDecision<S extends PullSource> {
  /** Who pulls. */
  readonly nodeId: number;
  readonly donor: S;
  /** The copy's term and configuration, where the donor's own are not newer by then. */
  readonly term: Term;
  readonly mconf: MembershipConfiguration;
}

/**
 * `sources`: the others that answered. `wanted` is adopted where its generation is the
 * highest. StorageError `unavailable` where too few answered, `invalid` where this node is not a member,
 * `conflict` where it may have had the timeline in this very generation.
 */
export function decidePull<S extends PullSource>(
  nodeId: number,
  sources: readonly S[],
  wanted: MembershipConfiguration | undefined,
): PullDecision<S> {
  if (sources.length === 0) {
    const message = "no other safekeeper that has it was given";
    throw new StorageError("unavailable", "too-few-safekeepers", message);
  }
  const mconf = newestMembership(wanted, sources);
  checkMember(nodeId, mconf);
  checkMayFill(nodeId, sources, mconf);
  checkEnough(sources);
  const donor = sources.reduce((best, source) => (isAhead(source, best) ? source : best));
  return { nodeId, donor, mconf, term: Math.max(...sources.map(({ term }) => term)) };
}

/**
 * The control file of the copy, from that of the donor as of the copying. StorageError `invalid` where the
 * donor is by then in a membership without this node: nobody would ever tell it to let go of the copy.
 */
export function adoptedState(
  state: AcceptorPersistentState,
  decision: Omit<PullDecision<PullSource>, "donor">,
): AcceptorPersistentState {
  const term = Math.max(state.term, decision.term);
  const mconf = decision.mconf.generation > state.mconf.generation ? decision.mconf : state.mconf;
  checkMember(decision.nodeId, mconf);
  return { ...state, term, mconf };
}

function checkMember(nodeId: number, mconf: MembershipConfiguration): void {
  if (mconf.generation !== INVALID_GENERATION && !isMember(mconf, nodeId)) {
    const message = `node ${nodeId} is no member in generation ${mconf.generation}`;
    throw new StorageError("invalid", "not-a-member", message);
  }
}

function newestMembership(
  wanted: MembershipConfiguration | undefined,
  sources: readonly PullSource[],
): MembershipConfiguration {
  const known = sources.map(({ mconf }) => mconf);
  return [...known, ...(wanted === undefined ? [] : [wanted])].reduce((newest, mconf) =>
    mconf.generation > newest.generation ? mconf : newest,
  );
}

/** Where this node may have had the timeline before: only in a generation newer than its loss. */
function checkMayFill(
  nodeId: number,
  sources: readonly PullSource[],
  mconf: MembershipConfiguration,
): void {
  const mayHaveHadIt = sources.some(
    ({ mconf: current }) => current.generation === INVALID_GENERATION || isMember(current, nodeId),
  );
  if (!mayHaveHadIt) {
    return;
  }
  const { generation, members, newMembers } = mconf;
  if (newMembers?.some(({ id }) => id === nodeId) !== true) {
    const message =
      generation === INVALID_GENERATION
        ? "the timeline's membership is not known: what a lost disk acknowledged may still be counted"
        : `node ${nodeId} is a member in generation ${generation} already: what its lost disk ` +
          "acknowledged may still be counted; `strata timeline safekeeper-migrate` to the same set fills it";
    throw new StorageError("conflict", "filled-in-its-generation", message);
  }
  const inIt = sources.filter(({ mconf: current }) => current.generation === generation);
  expectEnough(members, inIt, `are in generation ${generation}`);
}

/**
 * What was committed, was so in the members of the configurations that the others are in. While
 * membership changes every decision needs a majority of the old members too: they are enough.
 */
function checkEnough(sources: readonly PullSource[]): void {
  for (const { mconf } of sources) {
    expectEnough(mconf.members, sources, "answered");
  }
}

/** StorageError unless every majority of `members` that this node was part of has one of `sources`. */
function expectEnough(
  members: readonly SafekeeperId[],
  sources: readonly PullSource[],
  what: string,
): void {
  const have = members.filter(({ id }) => sources.some(({ nodeId }) => nodeId === id)).length;
  const need = members.length === 0 ? 0 : members.length - majority(members.length) + 1;
  if (have < need) {
    throw new StorageError(
      "unavailable",
      "too-few-safekeepers",
      `${have} other safekeepers ${what}, ${need} are needed to know all that was committed`,
    );
  }
}

function isAhead(a: PullSource, b: PullSource): boolean {
  return a.lastLogTerm !== b.lastLogTerm ? a.lastLogTerm > b.lastLogTerm : a.flushLsn > b.flushLsn;
}
