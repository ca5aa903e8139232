// The simulated operator: changes the membership, and has safekeepers filled again that lost their disk.

import { StorageError } from "../src/base/errors.ts";
import type { SeededRandom } from "../src/base/random.ts";
import type {
  MembershipConfiguration,
  SafekeeperId,
} from "../src/safekeeper-protocol/membership.ts";
import type { MembershipRecord } from "../src/storage-controller/controller-state.ts";
import {
  type MembershipAnswer,
  type MembershipCall,
  membershipChange,
  type Told,
  unfinished,
} from "../src/storage-controller/membership-steps.ts";
import { type Answer, unwrapped } from "./answer.ts";
import type { Node } from "./simulated-network.ts";
import type { SafekeeperProcess, World } from "./world.ts";

const ROUND_MS = 300;
/** For the state to be kept: a crash comes before or after. */
const RECORD_MS = 3;
/** Before a change is given up for now. */
const PATIENCE_MS = 4000;
/** Share of the changes given up for now that are ended in favour of the old members. */
const ABORTS = 0.4;
const COMPUTE_PATIENCE_MS = 1000;

type Resume = (answer: MembershipAnswer) => void;
type Fail = (error: StorageError) => void;

export class OperatorNode implements Node {
  readonly name = "operator";
  readonly up = true;
  readonly #world: World;
  readonly #random: SeededRandom;
  readonly #safekeepers: ReadonlyMap<number, SafekeeperId>;
  /** Kept durably; undefined: membership is not known. */
  #record: MembershipRecord | undefined;
  /** Kept durably. */
  #goal: readonly SafekeeperId[] | undefined;
  /** The change that is under way in this process. */
  #steps: ReturnType<typeof membershipChange> | undefined;
  #patientUntilMs = 0;
  #abortNext = false;
  incarnation = 0;
  busyUntilMs = 0;

  constructor(world: World, ids: readonly SafekeeperId[], first: MembershipConfiguration) {
    this.#world = world;
    this.#random = world.randomFor("operator");
    this.#safekeepers = new Map(ids.map((safekeeper) => [safekeeper.id, safekeeper]));
    if (first.generation > 0) {
      this.#record = { generation: first.generation, members: first.members.map(({ id }) => id) };
      this.#round();
    }
  }

  /** The newest configuration on record; undefined where membership is not known. */
  get recorded(): MembershipConfiguration | undefined {
    if (this.#record === undefined) {
      return undefined;
    }
    const { generation, members, newMembers } = this.#record;
    const set = (ids: readonly number[]) => ids.map((id) => this.#safekeeper(id));
    return { generation, members: set(members), newMembers: newMembers && set(newMembers) };
  }

  /** Wishes another set of members; taken up when no change is under way. */
  wish(members: readonly SafekeeperId[]): void {
    this.#goal = members;
  }

  /** The set that is wished for and not begun. */
  get wished(): readonly SafekeeperId[] | undefined {
    return this.#goal;
  }

  get busy(): boolean {
    const { newMembers, excluding } = this.#record ?? {};
    return this.#goal !== undefined || newMembers !== undefined || excluding !== undefined;
  }

  /** Forgets everything but what is recorded. */
  restart(): void {
    this.incarnation += 1;
    this.#steps = undefined;
    this.#abortNext = false;
    this.#world.trace?.(this.name, "restarts");
    if (this.#record !== undefined) {
      this.#round();
    }
  }

  #round(): void {
    this.#after(ROUND_MS, () => {
      if (this.#steps === undefined) {
        this.#begin();
      }
      this.#round();
    });
  }

  /** Without another wish to the same members: each must have it. */
  #begin(): void {
    const record = this.#record!;
    const abort = this.#abortNext && record.newMembers !== undefined;
    this.#abortNext = false;
    const steps = membershipChange(record, {
      newMembers: record.newMembers ?? this.#goal?.map(({ id }) => id) ?? record.members,
      abort,
      safekeeper: (id) => this.#safekeeper(id),
    });
    this.#steps = steps;
    this.#patientUntilMs = this.#world.time.nowMs + PATIENCE_MS;
    this.#advance(() => steps.next());
  }

  #advance(step: () => IteratorResult<MembershipCall, MembershipRecord>): void {
    let result: IteratorResult<MembershipCall, MembershipRecord>;
    try {
      result = step();
    } catch (error) {
      if (!(error instanceof StorageError)) {
        throw error;
      }
      this.#world.trace?.(this.name, `gives up for now: ${error.message}`);
      this.#steps = undefined;
      this.#abortNext = this.#random.bool(ABORTS);
      return;
    }
    if (result.done === true) {
      this.#steps = undefined;
      this.#fulfil(result.value.members);
      return;
    }
    const steps = this.#steps!;
    const { incarnation } = this;
    const isCurrent = () => this.incarnation === incarnation;
    this.#perform(
      result.value,
      (answer) => isCurrent() && this.#advance(() => steps.next(answer)),
      (error) => isCurrent() && this.#advance(() => steps.throw(error)),
    );
  }

  #perform(call: MembershipCall, resume: Resume, fail: Fail): void {
    const settle = (answer: Answer<unknown>) =>
      answer instanceof StorageError ? fail(answer) : resume(undefined);
    switch (call.type) {
      case "record":
        this.#after(RECORD_MS, () => {
          this.#keep(call.record);
          this.#after(RECORD_MS, () => resume(undefined));
        });
        break;
      case "look":
        this.#askAll(
          call.ids,
          (node) => node.status(),
          (answers) => resume(new Set(call.ids.filter((id) => isMissing(answers.get(id))))),
        );
        break;
      case "tell":
        this.#askAll(
          call.ids,
          (node) => node.switchMembership(call.mconf),
          (answers) => resume(new Map([...answers].map(([id, answer]) => [id, told(answer)]))),
        );
        break;
      case "pull": {
        const target = this.#world.safekeepers.get(call.id)!;
        const begin = (reply: (answer: Answer<true>) => void) =>
          target.pull(call.mconf, call.from, reply);
        this.#world.network.ask(this, target, begin, (answer) => settle(unwrapped(answer)));
        break;
      }
      case "raise-term":
        this.#ask(call.id, (node) => node.raiseTerm(call.term), settle);
        break;
      case "exclude":
        this.#ask(call.id, (node) => node.exclude(call.mconf), settle);
        break;
      case "await-computes":
        this.#awaitComputes(call.generation, this.#world.time.nowMs + COMPUTE_PATIENCE_MS, resume);
        break;
      case "wait":
        if (this.#world.time.nowMs > this.#patientUntilMs) {
          fail(unfinished(call.problem));
        } else {
          this.#after(ROUND_MS, () => resume(undefined));
        }
        break;
      case "say":
        this.#world.trace?.(this.name, call.line);
        resume(undefined);
        break;
    }
  }

  #keep(record: MembershipRecord): void {
    const { newMembers } = this.#record!;
    if (newMembers !== undefined && record.newMembers === undefined) {
      this.#world.counts.membershipChanges += 1;
    } else if (newMembers === undefined && record.newMembers !== undefined) {
      this.#fulfil(record.newMembers);
    }
    this.#record = record;
  }

  /** Forgets the wish for these members, if there is one. */
  #fulfil(members: readonly number[]): void {
    const wished = this.#goal?.map(({ id }) => id).toSorted();
    if (wished?.join() === members.toSorted().join()) {
      this.#goal = undefined;
    }
  }

  #awaitComputes(generation: number, untilMs: number, resume: Resume): void {
    const { computes, time } = this.#world;
    const late = [...computes].some((one) => one.elected && one.generation < generation);
    if (late && time.nowMs < untilMs) {
      this.#after(ROUND_MS, () => this.#awaitComputes(generation, untilMs, resume));
    } else {
      resume(undefined);
    }
  }

  #ask<T>(
    id: number,
    question: (node: SafekeeperProcess) => Answer<T>,
    done: (answer: Answer<T>) => void,
  ): void {
    const target = this.#world.safekeepers.get(id)!;
    this.#world.network.call(
      this,
      target,
      () => question(target),
      (answer) => done(unwrapped(answer)),
    );
  }

  #askAll<T>(
    ids: readonly number[],
    question: (node: SafekeeperProcess) => Answer<T>,
    done: (answers: ReadonlyMap<number, Answer<T>>) => void,
  ): void {
    const answers = new Map<number, Answer<T>>();
    for (const id of ids) {
      this.#ask(id, question, (answer) => {
        answers.set(id, answer);
        if (answers.size === ids.length) {
          done(answers);
        }
      });
    }
  }

  #safekeeper(id: number): SafekeeperId {
    return this.#safekeepers.get(id)!;
  }

  #after(delayMs: number, run: () => void): void {
    const { incarnation } = this;
    this.#world.time.after(delayMs, () => {
      if (this.incarnation === incarnation) {
        run();
      }
    });
  }
}

function told(answer: Answer<Extract<Told, { position: unknown }>["position"]>): Told {
  return answer instanceof StorageError ? { error: answer } : { position: answer };
}

function isMissing(answer: Answer<unknown> | undefined): boolean {
  return answer instanceof StorageError && answer.kind === "not-found";
}
