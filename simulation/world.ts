// What the processes of a simulated run share.

import type { SeededRandom } from "../src/base/random.ts";
import type { MembershipConfiguration } from "../src/safekeeper-protocol/membership.ts";
import type { Checker } from "./checker.ts";
import type { ComputeNode } from "./compute-node.ts";
import type { PageserverNode } from "./pageserver-node.ts";
import type { SafekeeperNode } from "./safekeeper-node.ts";
import type { SimulatedNetwork } from "./simulated-network.ts";
import type { SimulatedStore } from "./simulated-store.ts";
import type { SimulatedTime } from "./simulated-time.ts";

export interface Counts {
  elections: number;
  /** Of them by a compute that ran already. */
  resumes: number;
  acknowledgedBytes: number;
  crashes: number;
  powerCuts: number;
  refused: number;
  refills: number;
  /** Segments that left a safekeeper's disk. */
  removals: number;
  evictions: number;
  membershipChanges: number;
  faults: number;
}

/** What differs from run to run, beside the faults. */
export interface RunShape {
  readonly lengthMs: number;
  readonly memberCount: number;
  /** False: no generation, so that members can be neither changed nor filled again. */
  readonly membershipKnown: boolean;
  /** Mean time between two of a compute's writes. */
  readonly writeEveryMs: number;
  readonly meanDelayMs: number;
  readonly syncMs: number;
  readonly faultsPerSecond: number;
  /** Time between two reports of a safekeeper to all others. */
  readonly gossipMs: number;
  /** Most WAL in one message. */
  readonly chunkBytes: number;
}

export interface World {
  readonly time: SimulatedTime;
  readonly network: SimulatedNetwork;
  readonly checker: Checker;
  readonly counts: Counts;
  /** A stream of its own for each name: a fault left out changes little of the rest. */
  randomFor(name: string): SeededRandom;
  /** By node id, spares included. */
  readonly safekeepers: ReadonlyMap<number, SafekeeperNode>;
  readonly computes: Set<ComputeNode>;
  readonly pageserver: PageserverNode;
  readonly store: SimulatedStore;
  /** The newest configuration that was recorded; generation 0: membership is not known. */
  readonly mconf: MembershipConfiguration;
  /** Safekeepers whose disk is lost or rotten and not replaced yet. */
  readonly damaged: Set<number>;
  /** Some bit was flipped in this run: reports of corruption are to be expected. */
  readonly rotted: boolean;
  readonly shape: RunShape;
  /** Set: lines of what happens are wanted. */
  readonly trace: ((who: string, text: string) => void) | undefined;
}
