// Simulation of the WAL consensus: real Proposers and acceptors on a bad network with bad disks.

import { StorageError } from "../base/errors.ts";
import type { TenantId, TimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn, maxLsn, minLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import type { PeerReport } from "./acceptor.ts";
import { INVALID_GENERATION, NO_MEMBERSHIP } from "./membership.ts";
import type { AcceptorMessage, ProposerMessage, VoteResponse } from "./messages.ts";
import { Proposer, type ProposerConfig, type ProposerEffect } from "./proposer.ts";
import {
  CELL_BYTES,
  CellLog,
  FIRST_LSN,
  type SafekeeperFault,
  SimulatedSafekeeper,
} from "./simulated-safekeeper.ts";

/*
 * Invariants checked, at every step:
 * 1. One leader a term: no two proposers are elected in the same term.
 * 2. Nothing acknowledged is lost: what is committed in a term is, byte for byte, below L in the
 *    log of the leader of every higher term, whichever of the two is learned first. (A candidate
 *    may learn late that it won a term which others have left behind already: it can commit
 *    nothing, and is not held to this.)
 * 3. Logs agree: below its commit LSN every safekeeper has the committed bytes.
 * 4. No safekeeper's commit LSN is above what some proposer knows to be committed; what safekeepers
 *    work out among themselves (commitFromPeers) counts as committed in their last log term and is
 *    held to 2 and 3.
 * 5. The real code reports no corruption (two starts of one term, truncation below the commit LSN,
 *    ...).
 * And at the end, with everything healed: a new proposer is elected and commits.
 *
 * The network keeps order within a connection most of the time (TCP), but connections break, old
 * ones still deliver, and rarely messages are doubled or swapped: safety must not depend on TCP.
 */

export type Fault = SafekeeperFault | "commits-old-terms" | "longest-log-wins";

const IDS = {
  tenantId: "11111111111111111111111111111111" as TenantId,
  timelineId: "22222222222222222222222222222222" as TimelineId,
  pgVersion: 170010,
  systemId: 42n,
  walSegSize: 16 * 1024 * 1024,
};

/** An invariant is broken; the message says which and by whom. */
export class ConsensusViolation extends Error {}

class CommitsOldTerms extends Proposer {
  protected override countsForCommit(): boolean {
    return true;
  }
}

class LongestLogWins extends Proposer {
  protected override isMoreAdvanced(a: VoteResponse, b: VoteResponse): boolean {
    return a.flushLsn > b.flushLsn;
  }
}

interface Connection {
  readonly compute: Compute;
  readonly safekeeper: SimulatedSafekeeper;
  toAcceptor: ProposerMessage[];
  toProposer: AcceptorMessage[];
  /** The proposer's side; an old connection may still deliver what was sent on it. */
  open: boolean;
  answerDue: boolean;
  /** WAL handed over by the proposer and not sent yet. */
  outbox: { beginLsn: Lsn; endLsn: Lsn; source: "recovery" | "compute" }[];
}

/** A compute with its proposer and the WAL it wrote. */
interface Compute {
  readonly id: number;
  readonly proposer: Proposer;
  readonly connections: Map<number, Connection>;
  /** From FIRST_LSN: the donor's WAL up to L as it was at the election, then its own. */
  log: CellLog | undefined;
  sequence: number;
  alive: boolean;
}

export interface FuzzResult {
  readonly elections: number;
  readonly committedBytes: number;
  readonly crashes: number;
  readonly refused: number;
}

/** Runs one seed; throws ConsensusViolation with the seed in its message. */
export function run(seed: number, steps: number, fault: Fault = "none"): FuzzResult {
  const world = new World(seed, fault);
  try {
    for (let i = 0; i < steps; i++) {
      world.step();
    }
    if (fault === "none") {
      world.heal();
    }
    return world.result;
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof ConsensusViolation || error instanceof StorageError) {
      throw new ConsensusViolation(`seed ${seed}, fault ${fault}: ${message}`, { cause: error });
    }
    throw error;
  }
}

class World {
  readonly #random: SeededRandom;
  readonly #fault: Fault;
  readonly #safekeepers: SimulatedSafekeeper[] = [];
  #computes: Compute[] = [];
  /** Connections whose messages can still arrive. */
  #connections: Connection[] = [];
  readonly #blocked = new Set<string>();
  #nextCompute = 1;
  #nowMs = 1;
  /** By term; the log is the leader's WAL up to its L. */
  readonly #leaders = new Map<number, { computeId: number; log: CellLog }>();
  readonly #committed = new CellLog();
  /** What each term is known to have committed. */
  readonly #committedIn = new Map<number, Lsn>();
  readonly #reports = new Map<number, PeerReport[]>();
  readonly #checkedLsn = new Map<number, Lsn>();
  readonly #counts = { elections: 0, crashes: 0, refused: 0 };
  readonly #config: ProposerConfig;
  /** Share of steps that break something: from nearly none to hardly ever quiet. */
  readonly #trouble: number;

  constructor(seed: number, fault: Fault) {
    this.#random = new SeededRandom(seed);
    this.#fault = fault;
    this.#trouble = this.#random.pick([0.003, 0.01, 0.03, 0.1]);
    const count = this.#random.bool(0.8) ? 3 : 5;
    const isOurs = fault === "commits-old-terms" || fault === "longest-log-wins";
    const ids = Array.from({ length: count }, (_, index) => index + 1);
    const members = ids.map((id) => ({ id, host: `sk${id}`, pgPort: 5454 }));
    const mconf = this.#random.bool()
      ? NO_MEMBERSHIP
      : { generation: INVALID_GENERATION + 1, members, newMembers: undefined };
    for (const id of ids) {
      const persistent = {
        ...IDS,
        mconf,
        term: 0,
        termHistory: [],
        timelineStartLsn: FIRST_LSN,
        localStartLsn: FIRST_LSN,
        commitLsn: FIRST_LSN,
        backupLsn: FIRST_LSN,
        peerHorizonLsn: FIRST_LSN,
        remoteConsistentLsn: FIRST_LSN,
        flushedLsn: FIRST_LSN,
      };
      const safekeeperFault = isOurs ? "none" : fault;
      this.#safekeepers.push(
        new SimulatedSafekeeper(id, persistent, safekeeperFault, this.#random),
      );
    }
    this.#config = { ...IDS, safekeepers: members };
  }

  get result(): FuzzResult {
    return { ...this.#counts, committedBytes: this.#committed.length * CELL_BYTES };
  }

  step(): void {
    if (this.#random.bool(this.#trouble)) {
      this.#makeTrouble();
    } else {
      this.#work();
    }
    for (const safekeeper of this.#safekeepers) {
      this.#checkSafekeeper(safekeeper);
    }
  }

  #work(): void {
    const choice = this.#random.int(100);
    if (choice < 50) {
      this.#deliver();
    } else if (choice < 65) {
      this.#pump();
    } else if (choice < 80) {
      this.#settle();
    } else if (choice < 88) {
      this.#writeWal();
    } else if (choice < 95) {
      this.#connectOne();
    } else if (choice < 97) {
      this.#gossip();
    } else {
      this.#tick();
    }
  }

  /** A safekeeper hears of another one, or again what it had told long ago. */
  #gossip(): void {
    const [from, to] = [this.#random.pick(this.#safekeepers), this.#random.pick(this.#safekeepers)];
    if (from.up) {
      const reports = this.#reports.get(from.id) ?? [];
      reports.push(from.report);
      this.#reports.set(from.id, reports);
    }
    const told = this.#reports.get(from.id);
    if (!to.up || from === to || told === undefined) {
      return;
    }
    const before = to.state.commitLsn;
    to.hear(from.id, this.#random.bool(0.8) ? told.at(-1)! : this.#random.pick(told));
    if (to.state.commitLsn > before) {
      this.#recordCommit(to.report.lastLogTerm, to.log, to.state.commitLsn, `safekeeper ${to.id}`);
    }
  }

  #makeTrouble(): void {
    const choice = this.#random.int(100);
    const safekeeper = this.#random.pick(this.#safekeepers);
    if (choice < 15) {
      this.#breakConnection();
    } else if (choice < 35) {
      this.#crashOrRestart(safekeeper);
    } else if (choice < 55) {
      this.#startOrKillCompute();
    } else if (choice < 70) {
      this.#togglePartition();
    } else if (choice < 80 && safekeeper.up) {
      safekeeper.persistPositions();
    } else if (choice < 83 && safekeeper.up) {
      safekeeper.bumpTerm();
    } else {
      this.#mangle();
    }
  }

  /** Ends all trouble; a fresh compute must be elected and commit. */
  heal(): void {
    this.#blocked.clear();
    for (const safekeeper of this.#safekeepers) {
      if (!safekeeper.up) {
        safekeeper.restart();
      }
    }
    for (const compute of [...this.#computes]) {
      this.#kill(compute);
    }
    let compute = this.#startCompute();
    const before = this.#committed.endLsn;
    for (let i = 0; i < 20_000; i++) {
      if (!compute.alive) {
        compute = this.#startCompute();
      }
      this.#connectOne();
      this.#deliver();
      this.#pump();
      this.#settle();
      if (i % 50 === 0) {
        this.#writeWal();
        this.#tick();
      }
      for (const safekeeper of this.#safekeepers) {
        this.#checkSafekeeper(safekeeper);
      }
      const ends = this.#safekeepers.map((safekeeper) => safekeeper.state.commitLsn);
      if (this.#committed.endLsn > before && Math.min(...ends) > before) {
        return;
      }
    }
    throw new ConsensusViolation("liveness: nothing was committed after everything was healed");
  }

  #deliver(): void {
    const busy = this.#connections.filter(
      (connection) => connection.toAcceptor.length + connection.toProposer.length > 0,
    );
    if (busy.length === 0) {
      return;
    }
    const connection = this.#random.pick(busy);
    if (this.#blocked.has(linkName(connection))) {
      return;
    }
    const toAcceptor = connection.toProposer.length === 0 || this.#random.bool();
    if (toAcceptor && connection.toAcceptor.length > 0) {
      this.#deliverToAcceptor(connection, connection.toAcceptor.shift()!);
    } else if (connection.toProposer.length > 0) {
      const message = connection.toProposer.shift()!;
      if (connection.open && connection.compute.alive) {
        const safekeeper = connection.safekeeper.id;
        this.#carryOut(
          connection.compute,
          connection.compute.proposer.step({ type: "message", safekeeper, message }),
        );
      }
    }
  }

  #deliverToAcceptor(connection: Connection, message: ProposerMessage): void {
    const { safekeeper } = connection;
    if (!safekeeper.up) {
      this.#drop(connection);
      return;
    }
    try {
      const reply = safekeeper.receive(message);
      if (reply === "append-response") {
        connection.answerDue = true;
      } else if (reply !== undefined) {
        connection.toProposer.push(reply);
      }
    } catch (error) {
      if (!(error instanceof StorageError) || error.kind === "corrupt") {
        throw error;
      }
      this.#counts.refused += 1;
      this.#drop(connection);
    }
  }

  #settle(): void {
    const due = this.#connections.filter((connection) => connection.answerDue);
    if (due.length > 0) {
      const connection = this.#random.pick(due);
      connection.answerDue = false;
      if (connection.safekeeper.up) {
        connection.toProposer.push(connection.safekeeper.settle());
      }
    }
  }

  /** Sends a piece of what a proposer handed over. */
  #pump(): void {
    const waiting = this.#connections.filter((connection) => {
      return connection.open && connection.outbox.length > 0;
    });
    if (waiting.length === 0) {
      return;
    }
    const connection = this.#random.pick(waiting);
    const { compute, outbox } = connection;
    const range = outbox[0]!;
    const cells = (range.endLsn - range.beginLsn) / CELL_BYTES;
    const take = Math.min(cells, 1 + this.#random.int(12));
    const endLsn = (range.beginLsn + take * CELL_BYTES) as Lsn;
    const walData = this.#readWal(connection, range.source, range.beginLsn, endLsn);
    if (walData === undefined) {
      return;
    }
    const header = compute.proposer.appendHeader(range.beginLsn, endLsn);
    connection.toAcceptor.push({ type: "append-request", ...header, walData });
    if (endLsn === range.endLsn) {
      outbox.shift();
    } else {
      outbox[0] = { ...range, beginLsn: endLsn };
    }
  }

  #readWal(
    connection: Connection,
    source: "recovery" | "compute",
    beginLsn: Lsn,
    endLsn: Lsn,
  ): Uint8Array | undefined {
    const { compute, safekeeper } = connection;
    if (source === "compute" || beginLsn === endLsn) {
      return compute.log!.read(beginLsn, endLsn);
    }
    const from = compute.proposer.recoverySource(safekeeper.id);
    const donor = this.#safekeepers.find((candidate) => candidate.id === from);
    // START_REPLICATION with a term: only while the donor is in it, and only what it has flushed.
    const usable =
      donor?.up &&
      donor.state.persistent.term === compute.proposer.term &&
      donor.state.flushLsn >= endLsn;
    return usable ? donor.log.read(beginLsn, endLsn) : undefined;
  }

  #writeWal(): void {
    const elected = this.#computes.filter((compute) => compute.log !== undefined);
    if (elected.length === 0) {
      return;
    }
    const compute = this.#random.pick(elected);
    const log = compute.log!;
    for (let records = 1 + this.#random.int(4); records > 0; records--) {
      for (let cells = 1 + this.#random.int(3); cells > 0; cells--) {
        compute.sequence += 1;
        log.append(compute.id, compute.sequence, cells === 1);
      }
    }
    const endLsn = log.endLsn;
    this.#carryOut(compute, compute.proposer.step({ type: "wal-available", endLsn }));
  }

  #connectOne(): void {
    if (this.#computes.length === 0) {
      if (this.#random.bool(0.3)) {
        this.#startCompute();
      }
      return;
    }
    const compute = this.#random.pick(this.#computes);
    const offline = this.#safekeepers.filter((safekeeper) => {
      const name = linkName({ compute, safekeeper });
      return safekeeper.up && !compute.connections.has(safekeeper.id) && !this.#blocked.has(name);
    });
    if (offline.length === 0) {
      return;
    }
    const safekeeper = this.#random.pick(offline);
    const connection: Connection = {
      compute,
      safekeeper,
      toAcceptor: [],
      toProposer: [],
      open: true,
      answerDue: false,
      outbox: [],
    };
    compute.connections.set(safekeeper.id, connection);
    this.#connections.push(connection);
    this.#carryOut(
      compute,
      compute.proposer.step({ type: "connected", safekeeper: safekeeper.id }),
    );
  }

  #tick(): void {
    this.#nowMs += this.#random.int(2000);
    for (const compute of [...this.#computes]) {
      this.#carryOut(compute, compute.proposer.step({ type: "tick", nowMs: this.#nowMs }));
    }
  }

  #breakConnection(): void {
    const open = this.#connections.filter((connection) => connection.open);
    if (open.length > 0) {
      this.#closeProposerSide(this.#random.pick(open));
    }
  }

  /** What was sent still arrives, or not. */
  #closeProposerSide(connection: Connection): void {
    connection.open = false;
    connection.outbox = [];
    connection.toAcceptor.length = this.#random.int(connection.toAcceptor.length + 1);
    const { compute, safekeeper } = connection;
    if (compute.connections.get(safekeeper.id) === connection) {
      compute.connections.delete(safekeeper.id);
      if (compute.alive) {
        this.#carryOut(
          compute,
          compute.proposer.step({ type: "disconnected", safekeeper: safekeeper.id }),
        );
      }
    }
  }

  #drop(connection: Connection): void {
    this.#closeProposerSide(connection);
    this.#connections = this.#connections.filter((other) => other !== connection);
  }

  #crashOrRestart(safekeeper: SimulatedSafekeeper): void {
    if (safekeeper.up) {
      this.#counts.crashes += 1;
      safekeeper.crash();
      for (const connection of this.#connections) {
        if (connection.safekeeper === safekeeper) {
          connection.answerDue = false;
          connection.toAcceptor = [];
        }
      }
      for (const connection of this.#connections.filter((c) => c.safekeeper === safekeeper)) {
        this.#drop(connection);
      }
    } else {
      safekeeper.restart();
    }
  }

  #startOrKillCompute(): void {
    if (this.#computes.length < 3 && this.#random.bool(0.6)) {
      this.#startCompute();
    } else if (this.#computes.length > 0) {
      this.#kill(this.#random.pick(this.#computes));
    }
  }

  #startCompute(): Compute {
    const factory = { "commits-old-terms": CommitsOldTerms, "longest-log-wins": LongestLogWins };
    const ProposerClass = factory[this.#fault as keyof typeof factory] ?? Proposer;
    const compute: Compute = {
      id: this.#nextCompute++,
      proposer: new ProposerClass(this.#config),
      connections: new Map(),
      log: undefined,
      sequence: 0,
      alive: true,
    };
    this.#computes.push(compute);
    return compute;
  }

  #kill(compute: Compute): void {
    compute.alive = false;
    this.#computes = this.#computes.filter((other) => other !== compute);
    for (const connection of compute.connections.values()) {
      connection.open = false;
      connection.outbox = [];
    }
    compute.connections.clear();
  }

  #togglePartition(): void {
    if (this.#blocked.size > 0 && this.#random.bool(0.6)) {
      this.#blocked.delete(this.#random.pick([...this.#blocked]));
    } else if (this.#computes.length > 0) {
      const compute = this.#random.pick(this.#computes);
      const safekeeper = this.#random.pick(this.#safekeepers);
      this.#blocked.add(linkName({ compute, safekeeper }));
    }
  }

  /** Doubles or swaps messages of one connection. */
  #mangle(): void {
    const busy = this.#connections.filter((connection) => connection.toAcceptor.length > 1);
    if (busy.length === 0) {
      return;
    }
    const queue = this.#random.pick(busy).toAcceptor;
    const at = this.#random.int(queue.length - 1);
    if (this.#random.bool()) {
      queue.splice(at, 0, queue[at]!);
    } else {
      [queue[at], queue[at + 1]] = [queue[at + 1]!, queue[at]!];
    }
  }

  #carryOut(compute: Compute, effects: ProposerEffect[]): void {
    for (const effect of effects) {
      switch (effect.type) {
        case "send":
          compute.connections.get(effect.safekeeper)?.toAcceptor.push(effect.message);
          break;
        case "send-wal":
          compute.connections.get(effect.safekeeper)?.outbox.push(effect);
          break;
        case "elected":
          this.#elected(compute, effect.term, effect.startLsn, effect.donor);
          break;
        case "committed":
          this.#recordCommit(
            compute.proposer.term,
            compute.log!,
            effect.lsn,
            `compute ${compute.id}`,
          );
          break;
        case "disconnect": {
          const connection = compute.connections.get(effect.safekeeper);
          if (connection !== undefined) {
            this.#closeProposerSide(connection);
          }
          break;
        }
        case "fenced":
          this.#kill(compute);
          return;
      }
    }
  }

  #elected(compute: Compute, term: number, startLsn: Lsn, donorId: number): void {
    this.#counts.elections += 1;
    const other = this.#leaders.get(term)?.computeId;
    if (other !== undefined) {
      throw new ConsensusViolation(`computes ${other} and ${compute.id} both won term ${term}`);
    }
    const donor = this.#safekeepers.find((candidate) => candidate.id === donorId)!;
    const log = donor.log.copy();
    log.cut(startLsn);
    this.#leaders.set(term, { computeId: compute.id, log: log.copy() });
    for (const [earlier, lsn] of this.#committedIn) {
      if (earlier < term) {
        this.#expectComplete(term, log, lsn);
      }
    }
    compute.log = log;
  }

  #recordCommit(term: number, log: CellLog, lsn: Lsn, by: string): void {
    const known = minLsn(lsn, this.#committed.endLsn);
    this.#expectCommitted(log, FIRST_LSN, known, `commit by ${by}`);
    if (lsn > this.#committed.endLsn) {
      const from = this.#committed.endLsn;
      this.#committed.write(from, log.read(from, lsn));
    }
    this.#committedIn.set(term, maxLsn(lsn, this.#committedIn.get(term) ?? lsn));
    for (const [later, leader] of this.#leaders) {
      if (later > term) {
        this.#expectComplete(later, leader.log, lsn);
      }
    }
  }

  #expectComplete(term: number, log: CellLog, committedLsn: Lsn): void {
    if (log.endLsn < committedLsn) {
      throw new ConsensusViolation(
        `term ${term} starts at ${formatLsn(log.endLsn)}, but ` +
          `${formatLsn(committedLsn)} was committed before`,
      );
    }
    this.#expectCommitted(log, FIRST_LSN, committedLsn, `leader of term ${term}`);
  }

  #checkSafekeeper(safekeeper: SimulatedSafekeeper): void {
    const { commitLsn } = safekeeper.state;
    const checked = this.#checkedLsn.get(safekeeper.id) ?? FIRST_LSN;
    if (!safekeeper.up || commitLsn === checked) {
      return;
    }
    const name = `safekeeper ${safekeeper.id}`;
    if (commitLsn > this.#committed.endLsn) {
      throw new ConsensusViolation(
        `${name} has commit LSN ${formatLsn(commitLsn)}, nobody committed that`,
      );
    }
    this.#expectCommitted(safekeeper.log, FIRST_LSN, commitLsn, name);
    this.#checkedLsn.set(safekeeper.id, maxLsn(commitLsn, FIRST_LSN));
  }

  #expectCommitted(log: CellLog, from: Lsn, to: Lsn, what: string): void {
    const difference = log.firstDifference(this.#committed, from, to);
    if (difference !== undefined) {
      throw new ConsensusViolation(`${what}: WAL differs at ${formatLsn(difference)}`);
    }
  }
}

function linkName(link: { compute: { id: number }; safekeeper: { id: number } }): string {
  return `${link.compute.id}-${link.safekeeper.id}`;
}

if (import.meta.main) {
  const [first = "1", count = "1000", steps = "5000", fault = "none"] = process.argv.slice(2);
  const totals = { elections: 0, committedBytes: 0, crashes: 0, refused: 0 };
  for (let seed = Number(first); seed < Number(first) + Number(count); seed++) {
    const result = run(seed, Number(steps), fault as Fault);
    for (const key of Object.keys(totals) as (keyof FuzzResult)[]) {
      totals[key] += result[key];
    }
  }
  console.log(`${count} seeds of ${steps} steps:`, totals);
}
