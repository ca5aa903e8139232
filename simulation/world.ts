// What the processes of a simulated run share.

import type { Lsn } from "../src/base/lsn.ts";
import type { SeededRandom } from "../src/base/random.ts";
import type { AcceptorState } from "../src/safekeeper/consensus/acceptor.ts";
import type { PeerPositions } from "../src/safekeeper/timeline.ts";
import type { PullSource } from "../src/safekeeper/transfer/pull-decision.ts";
import type { MembershipConfiguration } from "../src/safekeeper-protocol/membership.ts";
import type { MemberPosition } from "../src/safekeeper-protocol/membership-change.ts";
import type { Term } from "../src/safekeeper-protocol/term-history.ts";
import type { Answer } from "./answer.ts";
import type { Checker } from "./checker.ts";
import type { AcceptorEnd } from "./connection.ts";
import type { Node, SimulatedNetwork } from "./simulated-network.ts";
import type { SimulatedStore } from "./simulated-store.ts";
import type { SimulatedTime } from "./simulated-time.ts";
import type { KeptWal } from "./simulated-wal.ts";

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
  /** Of them in a run without an object store. */
  removalsWithoutStore: number;
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
  /** False: no object store; WAL goes when all peers and the pageserver have it. */
  readonly hasStore: boolean;
  /** Some flushes go on beside what a safekeeper receives. */
  readonly flushesInBackground: boolean;
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

/** A safekeeper as the other processes know it. */
export interface SafekeeperProcess extends AcceptorEnd {
  /** Grows with every disk it gets; a part of its address. */
  readonly diskNumber: number;
  /** Undefined while it is down or has no timeline. */
  readonly state: AcceptorState | undefined;
  /** Flush LSN and WAL as told with the vote for a term. */
  readonly votes: ReadonlyMap<Term, { flushLsn: Lsn; wal: Uint8Array }>;
  /** START_REPLICATION: at most `maxBytes` of WAL, or none now; undefined where it is refused. */
  read(begin: Lsn, maxBytes: number, term: Term | undefined): Uint8Array | undefined;
  /** START_REPLICATION of the pageserver, which has WAL below `storedLsn` in files. */
  stream(begin: Lsn, maxBytes: number, storedLsn: Lsn): Uint8Array | undefined;
  streamEnded(): void;
  /** What another one tells through the broker. */
  hear(from: number, report: PeerPositions): void;
  /** What its HTTP API offers; `not-found` where it does not have the timeline. */
  status(): Answer<PullSource>;
  switchMembership(mconf: MembershipConfiguration): Answer<MemberPosition>;
  raiseTerm(term: Term): Answer<true>;
  exclude(mconf: MembershipConfiguration): Answer<true>;
  pull(
    mconf: MembershipConfiguration,
    from: readonly number[],
    reply: (answer: Answer<true>) => void,
  ): void;
  /** The archive that another one pulls. */
  snapshot(reply: (answer: Answer<Uint8Array>) => void): void;
}

/** A compute as the other processes know it. */
export interface ComputeProcess extends Node {
  readonly elected: boolean;
  /** Of the membership that it knows. */
  readonly generation: number;
}

export interface PageserverProcess extends Node {
  hear(node: SafekeeperProcess, report: PeerPositions): void;
}

export interface World {
  readonly time: SimulatedTime;
  readonly network: SimulatedNetwork;
  readonly checker: Checker;
  readonly counts: Counts;
  /** A stream of its own for each name: a fault left out changes little of the rest. */
  randomFor(name: string): SeededRandom;
  /** By node id, spares included. */
  readonly safekeepers: ReadonlyMap<number, SafekeeperProcess>;
  readonly computes: Set<ComputeProcess>;
  readonly pageserver: PageserverProcess;
  readonly store: SimulatedStore;
  readonly keptWal: KeptWal;
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
