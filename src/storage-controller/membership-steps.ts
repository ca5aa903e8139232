// A change of a timeline's safekeepers as pure steps: what is to be done next, with the answers fed back.

import { errorKind, errorMessage, StorageError, withContext } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import {
  type MembershipConfiguration,
  majority,
  type SafekeeperId,
} from "../safekeeper-protocol/membership.ts";
import {
  finalConfiguration,
  jointConfiguration,
  type MemberPosition,
  mayFinish,
  renewedConfiguration,
  type SyncPosition,
  syncPosition,
} from "../safekeeper-protocol/membership-change.ts";
import type { Term } from "../safekeeper-protocol/term-history.ts";
import type { MembershipRecord } from "./controller-state.ts";

/*
 * The rules are those of safekeeper-protocol/membership-change.ts. The record has the newest configuration,
 * durably before any safekeeper hears of it; whoever comes after a crash begins anew with it.
 *
 * A driver performs each call and answers with `next`, or, where it failed, with `throw` and a
 * StorageError. It performs one at a time. safekeeper-migrate.ts does so over HTTP, the simulation's
 * operator in virtual time.
 */
export type MembershipCall =
  /** Keep it durably. */
  | { readonly type: "record"; readonly record: MembershipRecord }
  /** Which of them surely do not have the timeline? Answered by a set of ids. */
  | { readonly type: "look"; readonly ids: readonly number[] }
  /** Tell it to all of them, in parallel. Answered by a map with an entry for each id. */
  | {
      readonly type: "tell";
      readonly mconf: MembershipConfiguration;
      readonly ids: readonly number[];
    }
  /** `id` is to pull the timeline from the others and to be in `mconf` with it. */
  | {
      readonly type: "pull";
      readonly id: number;
      readonly from: readonly number[];
      readonly mconf: MembershipConfiguration;
    }
  | { readonly type: "raise-term"; readonly id: number; readonly term: Term }
  /** `id` is to let go of its copy. */
  | { readonly type: "exclude"; readonly id: number; readonly mconf: MembershipConfiguration }
  /** Wait a while for running computes to be in that generation. */
  | { readonly type: "await-computes"; readonly generation: number }
  /** Wait a little, or throw `unfinished(problem)` where it has been long enough. */
  | { readonly type: "wait"; readonly problem: string }
  /** For the person who waits. */
  | { readonly type: "say"; readonly line: string };

/** What a member answered when it was told a configuration. */
export type Told = { readonly position: MemberPosition } | { readonly error: unknown };
export type MembershipAnswer = ReadonlySet<number> | ReadonlyMap<number, Told> | undefined;
type Steps<R> = Generator<MembershipCall, R, MembershipAnswer>;

export interface WantedMembers {
  /** Node ids. */
  readonly newMembers: readonly number[];
  /** Ends a change that is under way in favour of the old members. */
  readonly abort: boolean;
  /** By node id. */
  readonly safekeeper: (id: number) => SafekeeperId;
}

/**
 * Returns the final record. StorageError `conflict` for another change under way, `unavailable` where it is
 * to be run again.
 */
export function membershipChange(
  record: MembershipRecord,
  wanted: WantedMembers,
): Steps<MembershipRecord> {
  return new MembershipChange(wanted).run(record);
}

export function unfinished(problem: string): StorageError {
  return new StorageError("unavailable", "change-unfinished", `${problem}; run it again`);
}

class MembershipChange {
  readonly #wanted: WantedMembers;
  /** Safekeepers without the timeline, seen before the present generation was recorded. */
  readonly #seenEmpty = new Set<number>();

  constructor(wanted: WantedMembers) {
    this.#wanted = wanted;
  }

  *run(start: MembershipRecord): Steps<MembershipRecord> {
    const { newMembers, abort } = this.#wanted;
    let record = start;
    if (abort) {
      record = yield* this.#abort(record);
    } else {
      if (record.newMembers === undefined) {
        record = yield* this.#settle(record, newMembers);
        if (yield* this.#isDone(record)) {
          return record;
        }
        record = yield* this.#begin(record);
      } else if (!sameSet(record.newMembers, newMembers)) {
        const message =
          `a change to safekeepers ${list(record.newMembers)} is under way: ` +
          "run it again to its end, or with --abort";
        throw new StorageError("conflict", "change-under-way", message);
      }
      record = yield* this.#finish(record);
    }
    return yield* this.#settle(record, []);
  }

  /** Whether they are the members, and none has lost it: each is told where it has missed something. */
  *#isDone(record: MembershipRecord): Steps<boolean> {
    if (!sameSet(record.members, this.#wanted.newMembers)) {
      return false;
    }
    const mconf = this.#configuration(record);
    const problems = yield* this.#tell(mconf, mconf.members, new Map());
    return [...problems.values()].every((problem) => problem !== NO_TIMELINE);
  }

  *#begin(record: MembershipRecord): Steps<MembershipRecord> {
    const { newMembers: ids } = this.#wanted;
    const lacking = (yield { type: "look", ids }) as ReadonlySet<number>;
    for (const id of lacking) {
      this.#seenEmpty.add(id);
    }
    const joint = jointConfiguration(
      this.#configuration(record),
      ids.map((id) => this.#wanted.safekeeper(id)),
    );
    const { generation } = joint;
    yield say(`generation ${generation}: ${list(record.members)} and ${list(ids)}`);
    return yield* this.#record({ ...record, generation, newMembers: ids });
  }

  /** From a joint configuration to that of the new members alone. */
  *#finish(record: MembershipRecord): Steps<MembershipRecord> {
    let joint = this.#configuration(record);
    const answers = new Map<number, MemberPosition>();
    for (;;) {
      joint = yield* this.#renew(record, joint, answers);
      const problem = yield* this.#advance(joint, answers);
      if (problem === undefined) {
        break;
      }
      yield { type: "wait", problem };
    }
    const { generation } = finalConfiguration(joint);
    const members = record.newMembers!;
    const left = record.members.filter((id) => !members.includes(id));
    const excluding = [...new Set([...(record.excluding ?? []), ...left])];
    yield say(`generation ${generation}: ${list(members)}`);
    return yield* this.#record({ generation, members, excluding });
  }

  /**
   * The next generation where a new member is found to be empty only now: it may have had the timeline
   * in this one, and others may count on what it has forgotten.
   */
  *#renew(
    record: MembershipRecord,
    joint: MembershipConfiguration,
    answers: Map<number, MemberPosition>,
  ): Steps<MembershipConfiguration> {
    const problems = yield* this.#tell(joint, joint.newMembers!, answers);
    const empty = [...problems].filter(([, problem]) => problem === NO_TIMELINE);
    if (empty.every(([id]) => this.#seenEmpty.has(id))) {
      return joint;
    }
    for (const [id] of empty) {
      this.#seenEmpty.add(id);
    }
    const renewed = renewedConfiguration(joint);
    yield say(
      `generation ${renewed.generation}: ${empty.map(([id]) => id).join(", ")} is to be filled`,
    );
    yield* this.#record({ ...record, generation: renewed.generation });
    return renewed;
  }

  /** Undefined when the new members need the old ones no more; else what is missing. */
  *#advance(
    joint: MembershipConfiguration,
    answers: Map<number, MemberPosition>,
  ): Steps<string | undefined> {
    const newMembers = joint.newMembers!;
    const problems = yield* this.#tell(joint, [...joint.members, ...newMembers], answers);
    const sync = syncPosition(joint, answers);
    if (sync === undefined) {
      return `too few of the safekeepers ${list(joint.members.map(({ id }) => id))} answer: ${[...problems.values()].join("; ")}`;
    }
    for (const { id } of newMembers) {
      // Each sight of an empty disk allows one attempt: what a failed one has left behind is unknown.
      if (problems.get(id) === NO_TIMELINE && this.#seenEmpty.delete(id)) {
        try {
          yield* this.#pull(id, joint);
        } catch (error) {
          // The donor's log was cut for a new term, say. #renew makes way for another attempt.
          if (errorKind(error) === "unavailable") {
            return errorMessage(error);
          }
          throw error;
        }
        problems.delete(id);
      }
    }
    for (const [id, problem] of yield* this.#tell(joint, newMembers, answers)) {
      return `safekeeper ${id}: ${problem}`;
    }
    yield* this.#raiseTerms(newMembers, sync, answers);
    return mayFinish(joint, sync, answers)
      ? undefined
      : `too few of the safekeepers ${list(newMembers.map(({ id }) => id))} have WAL up to ` +
          `${formatLsn(sync.flushLsn)}: a running endpoint of the branch brings it to them`;
  }

  *#pull(id: number, mconf: MembershipConfiguration): Steps<void> {
    const from = mconf.members.map((member) => member.id).filter((other) => other !== id);
    yield say(`safekeeper ${id} copies the timeline from ${list(from)}`);
    yield { type: "pull", id, from, mconf };
  }

  *#raiseTerms(
    members: readonly SafekeeperId[],
    sync: SyncPosition,
    answers: Map<number, MemberPosition>,
  ): Steps<void> {
    for (const { id } of members) {
      const answer = answers.get(id)!;
      if (answer.term < sync.term) {
        yield { type: "raise-term", id, term: sync.term };
        answers.set(id, { ...answer, term: sync.term });
      }
    }
  }

  /** Ends a change in favour of the old members: whatever was decided meanwhile, they have too. */
  *#abort(record: MembershipRecord): Steps<MembershipRecord> {
    const { generation, members, newMembers } = record;
    if (newMembers === undefined) {
      throw new StorageError("conflict", "no-change", "no change is under way");
    }
    const joined = newMembers.filter((id) => !members.includes(id));
    const excluding = [...new Set([...(record.excluding ?? []), ...joined])];
    return yield* this.#record({ generation: generation + 1, members, excluding });
  }

  /**
   * What follows a change: makes the final configuration known, then former members let go of their
   * copies. Those in `needed` must have: an old copy cannot join again. The others are tried again by
   * the next change.
   */
  *#settle(record: MembershipRecord, needed: readonly number[]): Steps<MembershipRecord> {
    const { excluding, ...rest } = record;
    if (excluding === undefined) {
      return record;
    }
    yield* this.#announce(record);
    const left: number[] = [];
    for (const id of excluding) {
      const problem = yield* this.#exclude(id, record);
      if (problem !== undefined && needed.includes(id)) {
        throw withContext(problem, `exclude safekeeper ${id} before it joins again`);
      }
      if (problem !== undefined) {
        yield say(`safekeeper ${id} keeps its copy for now: ${errorMessage(problem)}`);
        left.push(id);
      }
    }
    return yield* this.#record({ ...rest, ...(left.length === 0 ? {} : { excluding: left }) });
  }

  /** Tells a final configuration to its members; a majority must know it before others let go. */
  *#announce(record: MembershipRecord): Steps<void> {
    const { members } = this.#configuration(record);
    const answers = new Map<number, MemberPosition>();
    const problems = yield* this.#tell(this.#configuration(record), members, answers);
    if (answers.size < majority(members.length)) {
      const reasons = [...problems].map(([id, problem]) => `safekeeper ${id}: ${problem}`);
      throw unfinished(reasons.join("; "));
    }
    yield { type: "await-computes", generation: record.generation - 1 };
  }

  /** Adds the answers to `answers`; returns why others gave none. */
  *#tell(
    mconf: MembershipConfiguration,
    members: readonly SafekeeperId[],
    answers: Map<number, MemberPosition>,
  ): Steps<Map<number, string>> {
    const problems = new Map<number, string>();
    const ids = [...new Set(members.map(({ id }) => id))];
    const all = (yield { type: "tell", mconf, ids }) as ReadonlyMap<number, Told>;
    for (const [id, told] of all) {
      if ("position" in told) {
        answers.set(id, told.position);
        continue;
      }
      const lost = errorKind(told.error) === "not-found";
      problems.set(id, lost ? NO_TIMELINE : errorMessage(told.error));
      if (lost) {
        // What it answered before is gone: perhaps WAL that nobody else has, and nobody needs.
        answers.delete(id);
      }
    }
    return problems;
  }

  /** Why it could not be done, if so. */
  *#exclude(id: number, record: MembershipRecord): Steps<unknown> {
    try {
      yield { type: "exclude", id, mconf: this.#configuration(record) };
      yield say(`safekeeper ${id} has let go of the timeline`);
    } catch (error) {
      return errorKind(error) === "not-found" ? undefined : error;
    }
    return undefined;
  }

  *#record(record: MembershipRecord): Steps<MembershipRecord> {
    yield { type: "record", record };
    return record;
  }

  #configuration({ generation, members, newMembers }: MembershipRecord): MembershipConfiguration {
    const set = (nodes: readonly number[]) => nodes.map(this.#wanted.safekeeper);
    return { generation, members: set(members), newMembers: newMembers && set(newMembers) };
  }
}

const NO_TIMELINE = "it does not have the timeline";

function say(line: string): MembershipCall {
  return { type: "say", line };
}

function list(members: readonly number[]): string {
  return members.join(", ");
}

function sameSet(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}
