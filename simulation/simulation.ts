// One simulated run: the processes, the faults of its plan, and the checks at its end.

import { replaceClock } from "../src/base/clock.ts";
import { formatLsn, type Lsn, maxLsn, minLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import {
  type MembershipConfiguration,
  NO_MEMBERSHIP,
  type SafekeeperId,
} from "../src/safekeeper-protocol/membership.ts";
import { Checker, type PowerCutCopy, Violation } from "./checker.ts";
import { ComputeNode } from "./compute-node.ts";
import { type FaultyWorld, injectFault } from "./fault-injection.ts";
import { describeFault, type Fault, planFaults } from "./faults.ts";
import { OperatorNode } from "./operator-node.ts";
import { PageserverNode } from "./pageserver-node.ts";
import { SafekeeperNode } from "./safekeeper-node.ts";
import { SimulatedNetwork } from "./simulated-network.ts";
import { SimulatedStore } from "./simulated-store.ts";
import { SimulatedTime, simulatedClock } from "./simulated-time.ts";
import { loadedState, newTimeline } from "./simulated-timeline.ts";
import { FIRST_LSN, type KeptWal, SEGMENT_SIZE, TIMELINE_IDS } from "./simulated-wal.ts";
import type { Counts, RunShape, World } from "./world.ts";

const SUPERVISION_MS = 300;
/** A compute that is not elected for so long is started afresh, with the members of then. */
const ELECTION_PATIENCE_MS = 4000;
/** How long healing may take. */
const HEALING_MS = 60_000;
const HEALED_DELAY_MS = 0.5;
const HEALED_SYNC_MS = 0.2;
/** Share of acknowledgements after which a power cut everywhere is imagined. */
const POWER_CUT_CHECKS = 0.01;
/** Share of runs with an object store. */
const WITH_STORE = 0.8;
/** The same, and how long, after a safekeeper got a copy: what it lacks it gets soon, if it may. */
const CHECKS_AFTER_REFILL = 0.3;
const CHECKED_AFTER_REFILL_MS = 600;

export interface RunOptions {
  /** Instead of the plan that the seed makes. */
  readonly faults?: readonly Fault[];
  readonly trace?: (atMs: number, who: string, text: string) => void;
}

export interface RunResult {
  readonly counts: Counts;
  readonly events: number;
  readonly faults: readonly Fault[];
  readonly violation: Violation | undefined;
  /** When it ended, virtual. */
  readonly endMs: number;
}

/** Runs one seed to its end or to the first violation. The same seed, the same run. */
export function run(seed: number, options: RunOptions = {}): RunResult {
  const simulation = new Simulation(seed, options);
  let violation: Violation | undefined;
  try {
    simulation.runAll();
  } catch (error) {
    violation =
      error instanceof Violation
        ? error
        : new Violation(`it broke down: ${String(error)}`, { cause: error });
  }
  const { counts, faults, time } = simulation;
  return { counts, faults, violation, events: time.events, endMs: time.nowMs };
}

export class Simulation implements FaultyWorld {
  readonly time = new SimulatedTime();
  readonly network: SimulatedNetwork;
  readonly store = new SimulatedStore();
  readonly keptWal: KeptWal;
  readonly checker: Checker;
  readonly counts: Counts = {
    elections: 0,
    resumes: 0,
    acknowledgedBytes: 0,
    crashes: 0,
    powerCuts: 0,
    refused: 0,
    refills: 0,
    removals: 0,
    removalsWithoutStore: 0,
    evictions: 0,
    membershipChanges: 0,
    faults: 0,
  };
  readonly safekeepers = new Map<number, SafekeeperNode>();
  readonly computes = new Set<ComputeNode>();
  readonly pageserver: PageserverNode;
  readonly operator: OperatorNode;
  readonly damaged = new Set<number>();
  readonly faults: readonly Fault[];
  readonly ids: readonly SafekeeperId[];
  readonly shape: RunShape;
  readonly trace: World["trace"];
  readonly #seed: number;
  readonly #random: SeededRandom;
  #nextCompute = 1;
  #waitingSinceMs = 0;
  #checkedEnd = FIRST_LSN;
  #refills = 0;
  #watchUntilMs = 0;
  rotted = false;
  healed = false;
  #resting = false;

  constructor(seed: number, options: RunOptions) {
    this.#seed = seed;
    const { trace } = options;
    this.trace = trace === undefined ? undefined : (who, text) => trace(this.time.nowMs, who, text);
    this.shape = makeShape(
      this.randomFor("shape"),
      this.randomFor("object store").bool(WITH_STORE),
      this.randomFor("background flushes").bool(),
    );
    const { shape } = this;
    this.keptWal = shape.hasStore
      ? this.store
      : { peek: (segno) => this.#peekPageserver(segno), peekPartial: () => undefined };
    this.checker = new Checker(this.keptWal);
    this.#random = this.randomFor("supervision");
    replaceClock(simulatedClock(this.time));
    this.network = new SimulatedNetwork(this.time, this.randomFor("network"));
    this.network.meanDelayMs = shape.meanDelayMs;
    const { lengthMs, faultsPerSecond, memberCount, syncMs } = shape;
    this.faults = options.faults ?? planFaults(this.randomFor("faults"), lengthMs, faultsPerSecond);
    this.ids = Array.from({ length: memberCount + 2 }, (_, index) => {
      return { id: index + 1, host: `s${index + 1}`, pgPort: 5454 };
    });
    const members = this.ids.slice(0, memberCount);
    const first = shape.membershipKnown
      ? { generation: 1, members, newMembers: undefined }
      : NO_MEMBERSHIP;
    this.pageserver = new PageserverNode(this);
    this.operator = new OperatorNode(this, this.ids, first);
    for (const { id } of this.ids) {
      const node = new SafekeeperNode(this, id);
      this.safekeepers.set(id, node);
      node.disk.syncMs = syncMs;
      if (members.some((member) => member.id === id)) {
        node.create(newTimeline(first));
      } else {
        node.start();
      }
    }
    this.#unknownMembers = members;
  }

  /** The members of a run without a known membership. */
  readonly #unknownMembers: readonly SafekeeperId[];

  get mconf(): MembershipConfiguration {
    return this.operator.recorded ?? NO_MEMBERSHIP;
  }

  /** All that a compute should connect to now. */
  get members(): readonly SafekeeperId[] {
    const { generation, members, newMembers } = this.mconf;
    if (generation === 0) {
      return this.#unknownMembers;
    }
    const ids = new Set([...members, ...(newMembers ?? [])].map(({ id }) => id));
    return this.ids.filter(({ id }) => ids.has(id));
  }

  randomFor(name: string): SeededRandom {
    let hash = Math.imul(this.#seed, 0x9e3779b1) ^ 0x85ebca6b;
    for (let i = 0; i < name.length; i++) {
      hash = Math.imul(hash ^ name.charCodeAt(i), 0x01000193);
    }
    return new SeededRandom(hash ^ (hash >>> 15));
  }

  runAll(): void {
    for (const fault of this.faults) {
      this.time.at(fault.atMs, () => {
        if (!this.healed) {
          this.counts.faults += 1;
          this.trace?.("fault", describeFault(fault));
          injectFault(this, fault);
        }
      });
    }
    this.startCompute();
    this.#supervise();
    this.time.run(this.shape.lengthMs, () => this.#afterEvent());
    this.#powerCutEverywhere();
    this.#heal();
    this.counts.acknowledgedBytes = this.checker.acknowledgedEnd - FIRST_LSN;
  }

  startCompute(): ComputeNode {
    const compute = new ComputeNode(this, this.#nextCompute++, this.members, TIMELINE_IDS);
    this.computes.add(compute);
    this.#waitingSinceMs = this.time.nowMs;
    return compute;
  }

  /** Without an object store nobody needs WAL any more that the pageserver has in files. */
  #peekPageserver(segno: number): Uint8Array {
    const start = (segno * SEGMENT_SIZE) as Lsn;
    const end = maxLsn(start, minLsn((start + SEGMENT_SIZE) as Lsn, this.pageserver.storedLsn));
    const bytes = new Uint8Array(end - start);
    const from = maxLsn(start, FIRST_LSN);
    if (from < end) {
      bytes.set(this.checker.committed(from, end), from - start);
    }
    return bytes;
  }

  #supervise(): void {
    this.time.after(SUPERVISION_MS, () => {
      const patient = this.time.nowMs - this.#waitingSinceMs < ELECTION_PATIENCE_MS;
      if (this.#resting) {
        return;
      }
      if (this.computes.size === 0) {
        if (this.healed || this.#random.bool()) {
          this.startCompute();
        }
      } else if (!patient && ![...this.computes].some((compute) => compute.elected)) {
        for (const compute of [...this.computes]) {
          compute.stop();
        }
      }
      this.#supervise();
    });
  }

  #afterEvent(): boolean {
    if (this.counts.refills > this.#refills) {
      this.#refills = this.counts.refills;
      this.#watchUntilMs = this.time.nowMs + CHECKED_AFTER_REFILL_MS;
      this.#powerCutEverywhere();
    }
    if (this.checker.acknowledgedEnd > this.#checkedEnd) {
      this.#checkedEnd = this.checker.acknowledgedEnd;
      const isWatched = this.time.nowMs < this.#watchUntilMs;
      if (this.#random.bool(isWatched ? CHECKS_AFTER_REFILL : POWER_CUT_CHECKS)) {
        this.#powerCutEverywhere();
      }
    }
    return false;
  }

  #powerCutEverywhere(): void {
    const copies: PowerCutCopy[] = [...this.safekeepers.values()].map(({ id, disk }) => {
      const copy = disk.afterPowerCut();
      return { id, disk: copy, state: this.damaged.has(id) ? undefined : loadedState(id, copy) };
    });
    const { mconf } = this;
    const members = mconf.generation === 0 ? this.#unknownMembers : mconf.members;
    this.checker.powerCutEverywhere(copies, { ...mconf, members }, this.damaged);
  }

  /** Ends all trouble; a fresh compute must commit, and everybody get it. */
  #heal(): void {
    this.trace?.("simulation", "everything is healed");
    this.healed = true;
    this.network.heal();
    this.store.away = false;
    this.network.meanDelayMs = HEALED_DELAY_MS;
    for (const node of this.safekeepers.values()) {
      node.disk.full = false;
      node.disk.failingSyncs = 0;
      node.disk.operationsLeft = Number.POSITIVE_INFINITY;
      node.disk.syncMs = HEALED_SYNC_MS;
      if (this.damaged.has(node.id)) {
        node.loseDisk();
      } else if (node.refusesTimeline) {
        node.crash(false);
      }
      node.start();
    }
    for (const compute of [...this.computes]) {
      compute.stop();
    }
    const goal = this.checker.acknowledgedEnd;
    const done = () => {
      return (
        this.checker.acknowledgedEnd > goal &&
        !this.operator.busy &&
        this.pageserver.lastRecordLsn > goal &&
        this.members.every(({ id }) => (this.safekeepers.get(id)?.state?.commitLsn ?? 0) > goal)
      );
    };
    this.time.run(this.time.nowMs + HEALING_MS, done);
    if (!done()) {
      const states = this.members.map(({ id }) => {
        const state = this.safekeepers.get(id)?.state;
        return `s${id} ${state === undefined ? "down" : formatLsn(state.commitLsn)}`;
      });
      throw new Violation(
        `no progress after everything was healed: acknowledged ${formatLsn(goal)} before, ` +
          `${formatLsn(this.checker.acknowledgedEnd)} now; ${states.join(", ")}; ` +
          `pageserver ${formatLsn(this.pageserver.lastRecordLsn)}`,
      );
    }
    this.#powerCutEverywhere();
    this.#restAtLast();
  }

  /** No WAL comes any more, and safekeepers restart: of what is stored they must hear nevertheless, or they keep it for ever. */
  #restAtLast(): void {
    this.trace?.("simulation", "rest");
    this.#resting = true;
    for (const compute of [...this.computes]) {
      compute.stop();
    }
    this.pageserver.checkpoint();
    for (const { id } of this.members) {
      this.safekeepers.get(id)?.crash(false);
      this.safekeepers.get(id)?.start();
    }
    const { storedLsn } = this.pageserver;
    const ignorant = () =>
      this.members.filter(({ id }) => {
        const state = this.safekeepers.get(id)?.state;
        return (state?.remoteConsistentLsn ?? 0) < minLsn(storedLsn, state?.commitLsn ?? storedLsn);
      });
    this.time.run(this.time.nowMs + HEALING_MS, () => ignorant().length === 0);
    if (ignorant().length > 0) {
      const names = ignorant().map(({ id }) => `s${id}`);
      throw new Violation(
        `not told that WAL is stored up to ${formatLsn(storedLsn)}: ${names.join(", ")}`,
      );
    }
  }
}

function makeShape(
  random: SeededRandom,
  hasStore: boolean,
  flushesInBackground: boolean,
): RunShape {
  return {
    hasStore,
    flushesInBackground,
    lengthMs: random.pick([2000, 4000, 8000]),
    memberCount: random.bool(0.7) ? 3 : 5,
    membershipKnown: random.bool(0.85),
    writeEveryMs: random.pick([50, 150, 400]),
    meanDelayMs: random.pick([0.3, 1, 5, 20]),
    syncMs: random.pick([0.1, 1, 5]),
    faultsPerSecond: random.pick([1, 3, 6, 12]),
    gossipMs: random.pick([200, 500, 1000]),
    chunkBytes: random.pick([300, 2000, 20_000, 100_000]),
  };
}
