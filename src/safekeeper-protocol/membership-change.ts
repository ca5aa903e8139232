// How the safekeepers of a timeline are exchanged, or one that lost its disk filled again: the rules.

import { StorageError } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import { type MembershipConfiguration, majority, type SafekeeperId } from "./membership.ts";
import type { Term } from "./term-history.ts";

/*
 * Raft's joint consensus with Neon's generations (its RFC 035). Whoever drives a change keeps the newest
 * configuration durably, makes each generation once, and repeats these steps until they succeed:
 *
 * 1. Record `jointConfiguration`. Tell it to the old and the new members ("switch"); each answers with
 *    its position. From then on it refuses what comes from an older generation.
 * 2. When a majority of the old members has answered, `syncPosition` is known: whatever was committed
 *    in an older generation is in a log that ends there or later, and no proposer of an older
 *    generation has a higher term or can commit more.
 * 3. New members that have no timeline pull one from a member that is at least there. A new member's
 *    term is raised to that of the position.
 * 4. When `mayFinish`, record `finalConfiguration` and tell the new members.
 *
 * A member that lost its disk must not vote before: it has forgotten votes and WAL that others count
 * on. It comes back by a change whose new set is the old one: its answer is missing in step 2, which
 * asks a majority of those that did not forget, and step 3 fills it.
 *
 * For the same reason a member is filled only in a generation that was recorded after that very disk
 * was seen to be empty: another one may have had the timeline in this generation, acknowledged WAL and
 * been lost. (So disks need ids.) One that is found empty later makes `renewedConfiguration` necessary,
 * and step 2 once more.
 */

/** What a member answers to a switch; everything it says is durable. */
export interface MemberPosition {
  readonly generation: number;
  readonly term: Term;
  readonly lastLogTerm: Term;
  readonly flushLsn: Lsn;
}

export interface SyncPosition {
  /** The highest term that a proposer of an older generation may have won. */
  readonly term: Term;
  readonly lastLogTerm: Term;
  readonly flushLsn: Lsn;
}

/** StorageError `conflict` while another change is under way, `invalid` where membership is unknown. */
export function jointConfiguration(
  from: MembershipConfiguration,
  newMembers: readonly SafekeeperId[],
): MembershipConfiguration {
  if (from.generation === 0 || newMembers.length === 0) {
    throw new StorageError("invalid", "bad-membership", "a change needs two known sets of members");
  }
  if (from.newMembers !== undefined) {
    throw new StorageError("conflict", "change-under-way", "a change of membership is under way");
  }
  return { generation: from.generation + 1, members: from.members, newMembers };
}

/** The same change under the next generation. */
export function renewedConfiguration(joint: MembershipConfiguration): MembershipConfiguration {
  return { ...joint, generation: joint.generation + 1 };
}

export function finalConfiguration(joint: MembershipConfiguration): MembershipConfiguration {
  return {
    generation: joint.generation + 1,
    members: joint.newMembers ?? joint.members,
    newMembers: undefined,
  };
}

/** `answers` by node id, to the switch to `joint`; undefined until they are enough. */
export function syncPosition(
  joint: MembershipConfiguration,
  answers: ReadonlyMap<number, MemberPosition>,
): SyncPosition | undefined {
  const old = joint.members
    .map((member) => answers.get(member.id))
    .filter((answer) => answer?.generation === joint.generation);
  if (old.length < majority(joint.members.length)) {
    return undefined;
  }
  let best: SyncPosition = { term: 0, lastLogTerm: 0, flushLsn: 0 as Lsn };
  for (const answer of old) {
    const position = isAtLeast(answer!, best) ? answer! : best;
    best = { ...position, term: Math.max(best.term, answer!.term) };
  }
  return best;
}

/** Whether a log holds all that was committed in a generation before `sync`. */
export function isAtLeast(
  log: { readonly lastLogTerm: Term; readonly flushLsn: Lsn },
  sync: { readonly lastLogTerm: Term; readonly flushLsn: Lsn },
): boolean {
  return (
    log.lastLogTerm > sync.lastLogTerm ||
    (log.lastLogTerm === sync.lastLogTerm && log.flushLsn >= sync.flushLsn)
  );
}

/** Whether the old members are needed no more: a majority of the new ones has everything. */
export function mayFinish(
  joint: MembershipConfiguration,
  sync: SyncPosition,
  answers: ReadonlyMap<number, MemberPosition>,
): boolean {
  const newMembers = joint.newMembers ?? [];
  const ready = newMembers.filter((member) => {
    const answer = answers.get(member.id);
    return (
      answer?.generation === joint.generation && answer.term >= sync.term && isAtLeast(answer, sync)
    );
  });
  return ready.length >= majority(newMembers.length);
}
