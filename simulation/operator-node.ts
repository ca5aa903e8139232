// The simulated operator: changes the membership, and fills safekeepers again that lost their disk.

import type {
  MembershipConfiguration,
  SafekeeperId,
} from "../src/safekeeper-protocol/membership.ts";
import {
  finalConfiguration,
  isAtLeast,
  jointConfiguration,
  type MemberPosition,
  mayFinish,
  renewedConfiguration,
  type SyncPosition,
  syncPosition,
} from "../src/safekeeper-protocol/membership-change.ts";
import type { Node } from "./simulated-network.ts";
import type { World } from "./world.ts";

const ROUND_MS = 300;
/** Rounds in which a change waits for the last of the new members, though a majority is enough. */
const PATIENCE_ROUNDS = 20;

export class OperatorNode implements Node {
  readonly name = "operator";
  readonly up = true;
  /** The newest configuration, kept durably. */
  recorded: MembershipConfiguration;
  /** Kept durably with it: the disks, by node id, that were seen to be empty before. */
  #toFill = new Map<number, number>();
  readonly #world: World;
  #goal: readonly SafekeeperId[] | undefined;
  #answers = new Map<number, MemberPosition>();
  /** Empty disks by node id, as told last. */
  readonly #absent = new Map<number, number>();
  readonly #pulling = new Set<number>();
  #sync: SyncPosition | undefined;
  #rounds = 0;
  incarnation = 0;
  busyUntilMs = 0;

  constructor(world: World, mconf: MembershipConfiguration) {
    this.#world = world;
    this.recorded = mconf;
    this.#round();
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
    return this.#goal !== undefined || this.recorded.newMembers !== undefined;
  }

  /** Forgets everything but what is recorded. */
  restart(): void {
    this.incarnation += 1;
    this.#forget();
    this.#world.trace?.(this.name, "restarts");
    this.#round();
  }

  #forget(): void {
    this.#answers.clear();
    this.#absent.clear();
    this.#pulling.clear();
    this.#sync = undefined;
    this.#rounds = 0;
  }

  #round(): void {
    const { incarnation } = this;
    this.#world.time.after(ROUND_MS, () => {
      if (this.incarnation === incarnation) {
        this.#work();
        this.#round();
      }
    });
  }

  #work(): void {
    const { recorded } = this;
    if (recorded.generation === 0) {
      return;
    }
    this.#switchAll();
    if (recorded.newMembers === undefined) {
      this.#begin();
      return;
    }
    const sync = this.#sync;
    if (sync === undefined) {
      return;
    }
    for (const { id } of recorded.newMembers) {
      const answer = this.#answers.get(id);
      const emptyDisk = this.#absent.get(id);
      if (emptyDisk !== undefined && emptyDisk === this.#toFill.get(id)) {
        this.#pull(id, emptyDisk, sync);
      } else if (emptyDisk !== undefined) {
        this.#record(renewedConfiguration(recorded));
        return;
      } else if (answer !== undefined && answer.term < sync.term) {
        const target = this.#world.safekeepers.get(id)!;
        this.#world.network.call(
          this,
          target,
          () => target.raiseTerm(sync.term),
          () => undefined,
        );
      }
    }
    this.#rounds += 1;
    const complete = recorded.newMembers.every(({ id }) => this.#answers.has(id));
    const enough = complete || this.#rounds > PATIENCE_ROUNDS;
    if (enough && mayFinish(recorded, sync, this.#answers)) {
      this.#record(finalConfiguration(recorded));
      this.#world.counts.membershipChanges += 1;
    }
  }

  #begin(): void {
    const { recorded } = this;
    const lost = recorded.members.some(({ id }) => this.#absent.has(id));
    const next = lost ? recorded.members : this.#goal;
    if (next !== undefined) {
      if (!lost) {
        this.#goal = undefined;
      }
      this.#record(jointConfiguration(recorded, next));
    }
  }

  #record(mconf: MembershipConfiguration): void {
    this.recorded = mconf;
    this.#toFill = new Map(this.#absent);
    this.#forget();
    const ids = (set: readonly SafekeeperId[]) => set.map(({ id }) => id).join(",");
    const text = mconf.newMembers === undefined ? "" : ` to ${ids(mconf.newMembers)}`;
    this.#world.trace?.(
      this.name,
      `generation ${mconf.generation}: members ${ids(mconf.members)}${text}`,
    );
  }

  /** Tells everyone the newest configuration again; the answers say where they are. */
  #switchAll(): void {
    const { recorded } = this;
    const { network, safekeepers } = this.#world;
    const ids = new Set([...recorded.members, ...(recorded.newMembers ?? [])].map(({ id }) => id));
    for (const id of ids) {
      const target = safekeepers.get(id)!;
      const tell = () => target.switchMembership(recorded);
      network.call(this, target, tell, (answer) => {
        if (this.recorded !== recorded || answer === undefined) {
          return;
        }
        if ("emptyDisk" in answer) {
          this.#absent.set(id, answer.emptyDisk);
          if (this.#answers.delete(id)) {
            // A log that was uncommitted and is gone must not be waited for.
            this.#sync = undefined;
          }
        } else {
          this.#absent.delete(id);
          this.#answers.set(id, answer);
          if (recorded.newMembers !== undefined) {
            this.#sync ??= syncPosition(recorded, this.#answers);
          }
        }
      });
    }
  }

  #pull(id: number, emptyDisk: number, sync: SyncPosition): void {
    const { recorded } = this;
    const { network, safekeepers } = this.#world;
    const complete = [...this.#answers].filter(([, answer]) => isAtLeast(answer, sync));
    if (complete.length === 0 || this.#pulling.has(id)) {
      return;
    }
    const donor = safekeepers.get(network.random.pick(complete)[0])!;
    const target = safekeepers.get(id)!;
    this.#pulling.add(id);
    const done = () => this.#pulling.delete(id);
    network.call(
      this,
      donor,
      () => donor.copy(),
      (copy) => {
        const usable =
          this.recorded === recorded &&
          copy !== undefined &&
          copy.position.generation === recorded.generation &&
          isAtLeast(copy.position, sync);
        if (usable) {
          const install = () => target.install(copy, recorded, sync.term, emptyDisk);
          network.call(this, target, install, done);
        } else {
          done();
        }
      },
    );
  }
}
