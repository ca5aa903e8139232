// Which safekeepers hold a timeline, and what a quorum of them is.

import { StorageError } from "../base/errors.ts";

export interface SafekeeperId {
  /** Node id, unique in the cluster. */
  readonly id: number;
  readonly host: string;
  readonly pgPort: number;
}

/**
 * A member set under a generation that only grows. `newMembers` is set while membership changes:
 * then every decision needs a majority of both sets. Generation 0 (none given yet) has no members.
 */
export interface MembershipConfiguration {
  readonly generation: number;
  readonly members: readonly SafekeeperId[];
  readonly newMembers: readonly SafekeeperId[] | undefined;
}

export const INVALID_GENERATION = 0;
/** Of 2^32 on the wire; the rest is room for changes by those who set this one. */
const MAX_GENERATION = 2 ** 31;
/** A safekeeper learns generations that it missed from a compute; so many more are a garbled value. */
export const MAX_GENERATION_JUMP = 1000;
/** As Neon's MAX_SAFEKEEPERS. */
export const MAX_SAFEKEEPERS = 32;

export const NO_MEMBERSHIP: MembershipConfiguration = {
  generation: INVALID_GENERATION,
  members: [],
  newMembers: undefined,
};

export function isMember(configuration: MembershipConfiguration, nodeId: number): boolean {
  return (
    configuration.members.some((member) => member.id === nodeId) ||
    (configuration.newMembers?.some((member) => member.id === nodeId) ?? false)
  );
}

/** Old and new ones, each once. */
export function allMembers({ members, newMembers }: MembershipConfiguration): SafekeeperId[] {
  const joining = (newMembers ?? []).filter(({ id }) => !members.some((old) => old.id === id));
  return [...members, ...joining];
}

/**
 * StorageError `invalid` where a set is too large, empty in a real generation, or has a duplicate, and
 * for a generation above MAX_GENERATION.
 */
export function checkMembership(configuration: MembershipConfiguration): void {
  const { generation, members, newMembers } = configuration;
  if (generation > MAX_GENERATION) {
    throw new StorageError("invalid", "bad-membership", `generation ${generation} is too high`);
  }
  if (generation !== INVALID_GENERATION && members.length === 0) {
    throw new StorageError("invalid", "bad-membership", `generation ${generation} has no members`);
  }
  for (const set of [members, newMembers ?? []]) {
    if (set.length > MAX_SAFEKEEPERS || new Set(set.map((member) => member.id)).size < set.length) {
      throw new StorageError("invalid", "bad-membership", "duplicate or too many safekeepers");
    }
  }
}

/** Members that make a majority of `count`. */
export function majority(count: number): number {
  return Math.floor(count / 2) + 1;
}
