// Moves a timeline to other safekeepers while it is in use, in steps that can be repeated after any crash.

import { monotonicMs, sleep } from "../base/clock.ts";
import { errorKind, errorMessage, StorageError, withContext } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, parseLsn } from "../base/lsn.ts";
import { splitAddress } from "../compute/api.ts";
import { membershipFromJson, membershipToJson } from "../safekeeper/api.ts";
import { SafekeeperHttpClient } from "../safekeeper/client.ts";
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
import type { ControllerStore, MembershipRecord, StorageNode } from "./controller-state.ts";
import { findNode, type StorageController } from "./storage-controller.ts";

/*
 * The steps are those of safekeeper-protocol/membership-change.ts. The state has the newest configuration,
 * written before any safekeeper hears of it; whoever comes after a crash goes on from there.
 */

const REQUEST_TIMEOUT_MS = 5_000;
/** A pull gives up by itself where nothing arrives. */
const PULL_TIMEOUT_MS = 3_600_000;
const POLL_MS = 200;
/** For a running compute to hear of the new members, before the old ones are gone. */
const COMPUTE_TIMEOUT_MS = 15_000;

export interface Migration {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** Node ids. */
  readonly newMembers: readonly number[];
  /** Ends a change that is under way in favour of the old members. */
  readonly abort: boolean;
  /** For the new members to have all that was committed. */
  readonly timeoutMs: number;
}

/** StorageError `conflict` for another change under way, `unavailable` where it is to be run again. */
export async function migrateSafekeepers(
  controller: StorageController,
  wanted: Migration,
  say: (line: string) => void,
): Promise<void> {
  await controller.store.exclusively(`membership ${wanted.timelineId}`, () =>
    new MembershipChange(controller, wanted, say).run(),
  );
}

class MembershipChange {
  readonly #controller: StorageController;
  readonly #wanted: Migration;
  readonly #say: (line: string) => void;
  /** Safekeepers without the timeline, seen before the present generation was recorded. */
  readonly #seenEmpty = new Set<number>();

  constructor(controller: StorageController, wanted: Migration, say: (line: string) => void) {
    this.#controller = controller;
    this.#wanted = wanted;
    this.#say = say;
  }

  get #store(): ControllerStore {
    return this.#controller.store;
  }

  async run(): Promise<void> {
    for (const id of this.#wanted.newMembers) {
      this.#node(id);
    }
    let record = await this.#current();
    if (this.#wanted.abort) {
      record = await this.#abort(record);
    } else {
      if (record.newMembers === undefined) {
        record = await this.#settle(record, this.#wanted.newMembers);
        if (await this.#isDone(record)) {
          this.#say(
            `safekeepers ${list(record.members)} have it in generation ${record.generation}`,
          );
          return;
        }
        record = await this.#begin(record);
      } else if (!sameSet(record.newMembers, this.#wanted.newMembers)) {
        const message =
          `a change to safekeepers ${list(record.newMembers)} is under way: ` +
          "run it again to its end, or with --abort";
        throw new StorageError("conflict", "change-under-way", message);
      }
      record = await this.#finish(record);
    }
    record = await this.#settle(record, []);
    this.#say(`safekeepers ${list(record.members)} have it in generation ${record.generation}`);
  }

  /** On record, or what the safekeepers have been told when the timeline was created. */
  async #current(): Promise<MembershipRecord> {
    const { tenantId, timelineId } = this.#wanted;
    const { memberships, safekeepers } = this.#store.read();
    const record = memberships.get(tenantId)?.get(timelineId);
    if (record !== undefined) {
      return record;
    }
    const answers = await Promise.allSettled(
      safekeepers.map((node) => client(node).timelineStatus(tenantId, timelineId)),
    );
    for (const answer of answers) {
      if (answer.status === "fulfilled" && answer.value.mconf.generation > 0) {
        const { generation, members } = membershipFromJson(answer.value.mconf);
        return { generation, members: members.map(({ id }) => id) };
      }
    }
    const reason: unknown = answers.find((answer) => answer.status === "rejected")?.reason;
    throw withContext(
      reason ?? new StorageError("unsupported", "no-membership", "no safekeeper knows any"),
      `find the membership of timeline ${timelineId}`,
    );
  }

  async #isDone({ generation, members }: MembershipRecord): Promise<boolean> {
    if (!sameSet(members, this.#wanted.newMembers)) {
      return false;
    }
    const { tenantId, timelineId } = this.#wanted;
    const generations = await Promise.all(
      members.map((id) =>
        client(this.#node(id))
          .timelineStatus(tenantId, timelineId)
          .then(
            ({ mconf }) => mconf.generation,
            (error: unknown) => (errorKind(error) === "not-found" ? 0 : generation),
          ),
      ),
    );
    return generations.every((each) => each === generation);
  }

  async #begin(record: MembershipRecord): Promise<MembershipRecord> {
    const { tenantId, timelineId } = this.#wanted;
    const look = async (id: number) => {
      try {
        await client(this.#node(id)).timelineStatus(tenantId, timelineId);
      } catch (error) {
        if (errorKind(error) === "not-found") {
          this.#seenEmpty.add(id);
        }
      }
    };
    await Promise.all(this.#wanted.newMembers.map(look));
    const joint = jointConfiguration(
      this.#configuration(record),
      this.#wanted.newMembers.map((id) => this.#safekeeper(id)),
    );
    const { generation } = joint;
    const newMembers = ids(joint);
    this.#say(`generation ${generation}: ${list(record.members)} and ${list(newMembers)}`);
    return this.#record({ ...record, generation, newMembers });
  }

  /** From a joint configuration to that of the new members alone. */
  async #finish(record: MembershipRecord): Promise<MembershipRecord> {
    let joint = this.#configuration(record);
    const deadline = monotonicMs() + this.#wanted.timeoutMs;
    const answers = new Map<number, MemberPosition>();
    for (;;) {
      joint = await this.#renew(record, joint, answers);
      const problem = await this.#advance(joint, answers);
      if (problem === undefined) {
        break;
      }
      if (monotonicMs() > deadline) {
        throw new StorageError("unavailable", "change-unfinished", `${problem}; run it again`);
      }
      await sleep(POLL_MS);
    }
    const { generation } = finalConfiguration(joint);
    const members = record.newMembers!;
    const left = record.members.filter((id) => !members.includes(id));
    const excluding = [...new Set([...(record.excluding ?? []), ...left])];
    this.#say(`generation ${generation}: ${list(members)}`);
    return this.#record({ generation, members, excluding });
  }

  /**
   * The next generation where a new member is found to be empty only now: it may have had the timeline
   * in this one, and others may count on what it has forgotten.
   */
  async #renew(
    record: MembershipRecord,
    joint: MembershipConfiguration,
    answers: Map<number, MemberPosition>,
  ): Promise<MembershipConfiguration> {
    const problems = await this.#tell(joint, joint.newMembers!, answers);
    const empty = [...problems].filter(([, problem]) => problem === NO_TIMELINE);
    if (empty.every(([id]) => this.#seenEmpty.has(id))) {
      return joint;
    }
    for (const [id] of empty) {
      this.#seenEmpty.add(id);
    }
    const renewed = renewedConfiguration(joint);
    this.#say(
      `generation ${renewed.generation}: ${empty.map(([id]) => id).join(", ")} is to be filled`,
    );
    await this.#record({ ...record, generation: renewed.generation });
    return renewed;
  }

  /** Undefined when the new members need the old ones no more; else what is missing. */
  async #advance(
    joint: MembershipConfiguration,
    answers: Map<number, MemberPosition>,
  ): Promise<string | undefined> {
    const newMembers = joint.newMembers!;
    const problems = await this.#tell(joint, [...joint.members, ...newMembers], answers);
    const sync = syncPosition(joint, answers);
    if (sync === undefined) {
      return `too few of the safekeepers ${list(joint.members.map(({ id }) => id))} answer: ${[...problems.values()].join("; ")}`;
    }
    for (const { id } of newMembers) {
      // Each sight of an empty disk allows one attempt: what a failed one has left behind is unknown.
      if (problems.get(id) === NO_TIMELINE && this.#seenEmpty.delete(id)) {
        try {
          await this.#pull(id, joint);
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
    for (const [id, problem] of await this.#tell(joint, newMembers, answers)) {
      return `safekeeper ${id}: ${problem}`;
    }
    await this.#raiseTerms(newMembers, sync, answers);
    return mayFinish(joint, sync, answers)
      ? undefined
      : `too few of the safekeepers ${list(newMembers.map(({ id }) => id))} have WAL up to ` +
          `${formatLsn(sync.flushLsn)}: a running endpoint of the branch brings it to them`;
  }

  async #pull(id: number, joint: MembershipConfiguration): Promise<void> {
    const { tenantId, timelineId } = this.#wanted;
    const others = joint.members.filter((member) => member.id !== id);
    this.#say(`safekeeper ${id} copies the timeline from ${list(others.map((one) => one.id))}`);
    const target = new SafekeeperHttpClient(
      `http://${this.#node(id).listenHttpAddr}`,
      PULL_TIMEOUT_MS,
    );
    await target.pullTimeline({
      tenant_id: tenantId,
      timeline_id: timelineId,
      http_hosts: others.map((member) => `http://${this.#node(member.id).listenHttpAddr}`),
      mconf: membershipToJson(joint),
    });
  }

  async #raiseTerms(
    members: readonly SafekeeperId[],
    sync: SyncPosition,
    answers: Map<number, MemberPosition>,
  ): Promise<void> {
    const { tenantId, timelineId } = this.#wanted;
    for (const { id } of members) {
      const answer = answers.get(id)!;
      if (answer.term < sync.term) {
        await client(this.#node(id)).termBump(tenantId, timelineId, sync.term);
        answers.set(id, { ...answer, term: sync.term });
      }
    }
  }

  /** Ends a change in favour of the old members: whatever was decided meanwhile, they have too. */
  async #abort(record: MembershipRecord): Promise<MembershipRecord> {
    const { generation, members, newMembers } = record;
    if (newMembers === undefined) {
      throw new StorageError("conflict", "no-change", "no change is under way");
    }
    const joined = newMembers.filter((id) => !members.includes(id));
    const excluding = [...new Set([...(record.excluding ?? []), ...joined])];
    return this.#record({ generation: generation + 1, members, excluding });
  }

  /**
   * What follows a change: makes the final configuration known, then former members let go of their
   * copies. Those in `needed` must have: an old copy cannot join again. The others are tried again by
   * the next change.
   */
  async #settle(record: MembershipRecord, needed: readonly number[]): Promise<MembershipRecord> {
    const { excluding, ...rest } = record;
    if (excluding === undefined) {
      return record;
    }
    await this.#announce(record);
    const left: number[] = [];
    for (const id of excluding) {
      const problem = await this.#exclude(id, record);
      if (problem !== undefined && needed.includes(id)) {
        throw withContext(problem, `exclude safekeeper ${id} before it joins again`);
      }
      if (problem !== undefined) {
        this.#say(`safekeeper ${id} keeps its copy for now: ${errorMessage(problem)}`);
        left.push(id);
      }
    }
    return this.#record({ ...rest, ...(left.length === 0 ? {} : { excluding: left }) });
  }

  /** Tells a final configuration to its members; a majority must know it before others let go. */
  async #announce(record: MembershipRecord): Promise<void> {
    const { members } = this.#configuration(record);
    const answers = new Map<number, MemberPosition>();
    const problems = await this.#tell(this.#configuration(record), members, answers);
    if (answers.size < majority(members.length)) {
      const reasons = [...problems].map(([id, problem]) => `safekeeper ${id}: ${problem}`);
      throw new StorageError(
        "unavailable",
        "change-unfinished",
        `${reasons.join("; ")}; run it again`,
      );
    }
    await this.#awaitComputes(record.generation - 1);
  }

  /** Adds the answers to `answers`; returns why others gave none. */
  async #tell(
    mconf: MembershipConfiguration,
    members: readonly SafekeeperId[],
    answers: Map<number, MemberPosition>,
  ): Promise<Map<number, string>> {
    const { tenantId, timelineId } = this.#wanted;
    const problems = new Map<number, string>();
    const tell = async (id: number) => {
      try {
        const answer = await client(this.#node(id)).switchMembership(
          tenantId,
          timelineId,
          membershipToJson(mconf),
        );
        const flushLsn = parseLsn(answer.flush_lsn);
        if (flushLsn !== undefined) {
          const { term, last_log_term: lastLogTerm } = answer;
          answers.set(id, { generation: mconf.generation, term, lastLogTerm, flushLsn });
        }
      } catch (error) {
        const lost = errorKind(error) === "not-found";
        problems.set(id, lost ? NO_TIMELINE : errorMessage(error));
        if (lost) {
          // What it answered before is gone: perhaps WAL that nobody else has, and nobody needs.
          answers.delete(id);
        }
      }
    };
    await Promise.all([...new Set(members.map(({ id }) => id))].map(tell));
    return problems;
  }

  /** Until running computes have heard of the new members: from the old ones, who are to go. */
  async #awaitComputes(generation: number): Promise<void> {
    const deadline = monotonicMs() + COMPUTE_TIMEOUT_MS;
    const { tenantId, timelineId } = this.#wanted;
    const running = () => this.#controller.computes.runningPrimaries(tenantId, timelineId);
    for (const { id } of running()) {
      // Asked anew each time: one that has ended need not hear of it.
      for (;;) {
        const compute = running().find((one) => one.id === id);
        if (compute === undefined) {
          break;
        }
        const status = await compute.status().catch(() => undefined);
        if ((status?.generation ?? 0) >= generation) {
          break;
        }
        if (monotonicMs() > deadline) {
          this.#say(`endpoint ${id} has not heard of it: it may have to be restarted`);
          break;
        }
        await sleep(POLL_MS);
      }
    }
  }

  /** Why it could not be done, if so. */
  async #exclude(id: number, record: MembershipRecord): Promise<unknown> {
    const { tenantId, timelineId } = this.#wanted;
    try {
      const mconf = membershipToJson(this.#configuration(record));
      await client(this.#node(id)).exclude(tenantId, timelineId, mconf);
      this.#say(`safekeeper ${id} has let go of the timeline`);
    } catch (error) {
      return errorKind(error) === "not-found" ? undefined : error;
    }
    return undefined;
  }

  async #record(record: MembershipRecord): Promise<MembershipRecord> {
    const { tenantId, timelineId } = this.#wanted;
    await this.#store.setMembership(tenantId, timelineId, record);
    return record;
  }

  #configuration({ generation, members, newMembers }: MembershipRecord): MembershipConfiguration {
    const set = (nodes: readonly number[]) => nodes.map((id) => this.#safekeeper(id));
    return { generation, members: set(members), newMembers: newMembers && set(newMembers) };
  }

  #safekeeper(id: number): SafekeeperId {
    const { host, port } = splitAddress(this.#node(id).listenPgAddr);
    return { id, host, pgPort: port };
  }

  #node(id: number): StorageNode {
    return findNode(this.#store.read().safekeepers, id, "safekeeper");
  }
}

const NO_TIMELINE = "it does not have the timeline";

function client(node: StorageNode): SafekeeperHttpClient {
  return new SafekeeperHttpClient(`http://${node.listenHttpAddr}`, REQUEST_TIMEOUT_MS);
}

function ids({ newMembers = [] }: MembershipConfiguration): number[] {
  return newMembers.map(({ id }) => id);
}

function list(members: readonly number[]): string {
  return members.join(", ");
}

function sameSet(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((id) => b.includes(id));
}
