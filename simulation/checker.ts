// What must hold at every step of a simulated run.

import { formatLsn, type Lsn, maxLsn, minLsn } from "../src/base/lsn.ts";
import type { AcceptorState } from "../src/safekeeper/consensus/acceptor.ts";
import { lastLogTerm } from "../src/safekeeper/consensus/acceptor.ts";
import { type MembershipConfiguration, majority } from "../src/safekeeper-protocol/membership.ts";
import { isAtLeast } from "../src/safekeeper-protocol/membership-change.ts";
import { lastTermAt, type Term } from "../src/safekeeper-protocol/term-history.ts";
import type { SimulatedDisk } from "./simulated-disk.ts";
import { FIRST_LSN, type KeptWal, type Leader, readLeader, walOnDisk } from "./simulated-wal.ts";

/*
 * 1. One leader a term: no two proposers are elected in the same term.
 * 2. Nothing acknowledged is lost: what is committed in a term is, byte for byte, below L in the log of
 *    the leader of every higher term, whichever of the two is learned first. (A candidate may learn
 *    late that it won a term which others have left behind; it can commit nothing, but its log is
 *    held to this too.)
 * 3. A proposer commits nothing below its own L.
 * 4. Logs agree: below its commit LSN every safekeeper has the committed bytes, and no commit LSN is
 *    above what some proposer committed, or safekeepers worked out among themselves; the latter is
 *    held to 2 and 3 as committed in their last log term.
 * 5. A flush LSN is the end of a record of the log that the term history names; after a restart and
 *    with each vote the whole log is, byte for byte, that of the leader of its last term.
 * 6. What a safekeeper told (its term; a flush LSN in a term) is there after every restart.
 * 7. A pageserver has only committed bytes.
 * 8. Acknowledged means durable: if the power went everywhere now, every majority that could elect
 *    would elect a log with everything acknowledged in it.
 * 9. The real code reports no corruption where no bit rotted.
 * 10. WAL that left a safekeeper's disk is in the object store, and the same: wherever 2, 4, 5 and 8 look
 *    at a log, they look there for what the files do not have. In a run without a store the pageserver
 *    has it in files.
 * And at the end, with everything healed: a new proposer is elected, commits, and all members and the
 * pageserver have it.
 */

/** An invariant is broken; the message says which and by whom. */
export class Violation extends Error {}

/** A safekeeper as `powerCutEverywhere` needs it. */
export interface PowerCutCopy {
  readonly id: number;
  /** As a start finds it on `disk`; undefined where there is no timeline that can be served. */
  readonly state: AcceptorState | undefined;
  readonly disk: SimulatedDisk;
}

export class Checker {
  readonly #kept: KeptWal;
  readonly leaders = new Map<Term, Leader>();
  /** Committed bytes from FIRST_LSN on. */
  #committed = new Uint8Array(64 * 1024);
  committedEnd: Lsn = FIRST_LSN;
  /** What proposers, not safekeepers, called committed: their clients were told. */
  acknowledgedEnd: Lsn = FIRST_LSN;
  readonly #committedIn = new Map<Term, Lsn>();
  /** Ends of records of each leader's own WAL; L is one. */
  readonly #recordEnds = new Map<Term, { seen: number; ends: Set<Lsn> }>();
  readonly #told = new Map<number, { term: Term; flushTerm: Term; flushLsn: Lsn }>();
  readonly #checked = new Map<number, { state: AcceptorState; lsn: Lsn }>();

  constructor(kept: KeptWal) {
    this.#kept = kept;
  }

  /** Committed WAL, as far as it is known to be. */
  committed(begin: Lsn, end: Lsn): Uint8Array {
    return this.#committed.subarray(begin - FIRST_LSN, minLsn(end, this.committedEnd) - FIRST_LSN);
  }

  elected(leader: Leader): void {
    const other = this.leaders.get(leader.term);
    if (other !== undefined) {
      throw new Violation(`${other.compute} and ${leader.compute} both won term ${leader.term}`);
    }
    this.leaders.set(leader.term, leader);
    for (const [earlier, lsn] of this.#committedIn) {
      if (earlier < leader.term) {
        this.#expectComplete(leader, lsn);
      }
    }
  }

  /** `by` a proposer: it acknowledges everything below `lsn`. */
  acknowledged(leader: Leader, lsn: Lsn, by: string): void {
    if (lsn < leader.startLsn) {
      throw new Violation(
        `${by} commits ${formatLsn(lsn)}, WAL of older terms: its own begins at ` +
          formatLsn(leader.startLsn),
      );
    }
    this.acknowledgedEnd = maxLsn(this.acknowledgedEnd, lsn);
    this.#recordCommit(leader.term, (from, to) => readLeader(leader, from, to), lsn, by);
  }

  /** After anything that may have changed a safekeeper. */
  safekeeper(id: number, state: AcceptorState, disk: SimulatedDisk): void {
    const before = this.#checked.get(id);
    if (before?.state === state) {
      return;
    }
    const name = `safekeeper ${id}`;
    let lsn = before?.lsn ?? FIRST_LSN;
    if (before?.state.persistent.termHistory !== state.persistent.termHistory) {
      lsn = FIRST_LSN;
    }
    if (state.commitLsn > state.flushLsn) {
      throw new Violation(`${name}: commit LSN above its flush LSN ${formatLsn(state.flushLsn)}`);
    }
    if (before?.state.flushLsn !== state.flushLsn) {
      this.#expectRecordEnd(name, state);
    }
    if (state.commitLsn > lsn) {
      this.#safekeeperCommit(name, state, disk, lsn);
      lsn = state.commitLsn;
    }
    this.#checked.set(id, { state, lsn });
  }

  /** A reply left the safekeeper. */
  told(id: number, term: Term, flushLsn: Lsn, logTerm: Term): void {
    const told = this.#told.get(id) ?? { term: 0, flushTerm: 0, flushLsn: FIRST_LSN };
    this.#told.set(id, {
      term: Math.max(told.term, term),
      flushTerm: logTerm,
      flushLsn: logTerm === told.flushTerm ? maxLsn(told.flushLsn, flushLsn) : flushLsn,
    });
  }

  /** Its log was cut by a leader, so that what it told of the old one holds no more. */
  logReplaced(id: number): void {
    const told = this.#told.get(id);
    if (told !== undefined) {
      this.#told.set(id, { ...told, flushTerm: 0, flushLsn: FIRST_LSN });
    }
  }

  restarted(id: number, state: AcceptorState, disk: SimulatedDisk): void {
    this.#checked.delete(id);
    this.wholeLog(id, state, disk);
    const told = this.#told.get(id);
    if (told === undefined) {
      return;
    }
    if (state.persistent.term < told.term) {
      throw new Violation(
        `safekeeper ${id} is in term ${state.persistent.term} after a restart, it had told ${told.term}`,
      );
    }
    if (lastLogTerm(state) === told.flushTerm && state.flushLsn < told.flushLsn) {
      throw new Violation(
        `safekeeper ${id} has WAL up to ${formatLsn(state.flushLsn)} after a restart, ` +
          `it had told ${formatLsn(told.flushLsn)}`,
      );
    }
  }

  wholeLog(id: number, state: AcceptorState, disk: SimulatedDisk): void {
    const { flushLsn } = state;
    const leader = this.leaders.get(lastLogTerm(state));
    if (leader !== undefined) {
      const bytes = this.#wal(disk, FIRST_LSN, flushLsn);
      const expected = readLeader(leader, FIRST_LSN, flushLsn);
      if (bytes === undefined || Buffer.compare(bytes, expected) !== 0) {
        const at = bytes?.findIndex((byte, index) => byte !== expected[index]) ?? 0;
        throw new Violation(
          `safekeeper ${id}: WAL at ${formatLsn((FIRST_LSN + at) as Lsn)} is not that of the leader ` +
            `of term ${leader.term}, with which its log ends`,
        );
      }
    }
  }

  /** Its disk is gone, and with it what it had told. */
  forgot(id: number): void {
    this.#told.delete(id);
    this.#checked.delete(id);
  }

  pageserver(bytes: Uint8Array, from: Lsn): void {
    const to = (from + bytes.length) as Lsn;
    if (to > this.committedEnd) {
      throw new Violation(
        `pageserver ingested up to ${formatLsn(to)}, committed is ${formatLsn(this.committedEnd)}`,
      );
    }
    this.#expectCommitted(bytes, from, "pageserver");
  }

  /** `copies`: every safekeeper's disk as it would be. `damaged` ones are not asked. */
  powerCutEverywhere(
    copies: readonly PowerCutCopy[],
    mconf: MembershipConfiguration,
    damaged: ReadonlySet<number>,
  ): void {
    const able = copies.filter(({ id, state }) => state !== undefined && !damaged.has(id));
    for (let mask = 1; mask < 1 << able.length; mask++) {
      const voters = able.filter((_, index) => (mask & (1 << index)) !== 0);
      if (!isQuorum(mconf, new Set(voters.map(({ id }) => id)))) {
        continue;
      }
      let best = voters[0]!;
      for (const voter of voters) {
        best = isAtLeast(position(best), position(voter)) ? best : voter;
      }
      const names = voters.map(({ id }) => id).join(", ");
      const { flushLsn } = best.state!;
      if (flushLsn < this.acknowledgedEnd) {
        throw new Violation(
          `after a power cut everywhere, safekeepers ${names} would elect WAL up to ` +
            `${formatLsn(flushLsn)}; ${formatLsn(this.acknowledgedEnd)} is acknowledged`,
        );
      }
      const bytes = this.#wal(best.disk, FIRST_LSN, this.acknowledgedEnd);
      this.#expectCommitted(bytes, FIRST_LSN, `after a power cut, safekeepers ${names}`);
    }
  }

  #wal(disk: SimulatedDisk, begin: Lsn, end: Lsn): Uint8Array | undefined {
    return walOnDisk(disk, begin, end, this.#kept);
  }

  #safekeeperCommit(name: string, state: AcceptorState, disk: SimulatedDisk, from: Lsn): void {
    const { commitLsn } = state;
    const read = (begin: Lsn, end: Lsn) => this.#wal(disk, begin, end);
    if (commitLsn > this.committedEnd) {
      const term = lastLogTerm(state);
      const leader = this.leaders.get(term);
      if (leader === undefined || commitLsn < leader.startLsn) {
        throw new Violation(
          `${name} has commit LSN ${formatLsn(commitLsn)}, which nobody of term ${term} committed`,
        );
      }
      this.#recordCommit(term, read, commitLsn, name);
    } else {
      this.#expectCommitted(read(from, commitLsn), from, name);
    }
  }

  #recordCommit(
    term: Term,
    read: (from: Lsn, to: Lsn) => Uint8Array | undefined,
    lsn: Lsn,
    by: string,
  ): void {
    const known = minLsn(lsn, this.committedEnd);
    const checkFrom = minLsn(known, this.#committedIn.get(term) ?? FIRST_LSN);
    this.#expectCommitted(read(checkFrom, known), checkFrom, `commit by ${by}`);
    if (lsn > this.committedEnd) {
      const from = this.committedEnd;
      const bytes = read(from, lsn);
      if (bytes === undefined) {
        throw new Violation(`${by} commits ${formatLsn(lsn)} without having it`);
      }
      this.#append(bytes);
    }
    this.#committedIn.set(term, maxLsn(lsn, this.#committedIn.get(term) ?? lsn));
    for (const [later, leader] of this.leaders) {
      if (later > term) {
        this.#expectComplete(leader, lsn);
      }
    }
  }

  #append(bytes: Uint8Array): void {
    const at = this.committedEnd - FIRST_LSN;
    if (at + bytes.length > this.#committed.length) {
      const grown = new Uint8Array((at + bytes.length) * 2);
      grown.set(this.#committed.subarray(0, at));
      this.#committed = grown;
    }
    this.#committed.set(bytes, at);
    this.committedEnd = (this.committedEnd + bytes.length) as Lsn;
  }

  #expectRecordEnd(name: string, state: AcceptorState): void {
    const { flushLsn, persistent } = state;
    const term = lastTermAt(persistent.termHistory, flushLsn);
    const leader = this.leaders.get(term);
    if (leader === undefined) {
      if (flushLsn !== FIRST_LSN) {
        throw new Violation(`${name} has WAL of term ${term}, which nobody won`);
      }
      return;
    }
    const known = this.#recordEnds.get(term) ?? { seen: 0, ends: new Set([leader.startLsn]) };
    this.#recordEnds.set(term, known);
    for (const end of leader.own.recordEnds.slice(known.seen)) {
      known.ends.add(end);
    }
    known.seen = leader.own.recordEnds.length;
    if (!known.ends.has(flushLsn)) {
      throw new Violation(
        `${name}: flush LSN ${formatLsn(flushLsn)} is no record end of term ${term}`,
      );
    }
  }

  #expectComplete(leader: Leader, committedLsn: Lsn): void {
    if (leader.startLsn < committedLsn) {
      throw new Violation(
        `term ${leader.term} starts at ${formatLsn(leader.startLsn)}, but ` +
          `${formatLsn(committedLsn)} was committed before`,
      );
    }
    const bytes = leader.below.subarray(0, committedLsn - FIRST_LSN);
    this.#expectCommitted(bytes, FIRST_LSN, `leader of term ${leader.term}`);
  }

  #expectCommitted(bytes: Uint8Array | undefined, from: Lsn, what: string): void {
    if (bytes === undefined) {
      throw new Violation(`${what}: committed WAL from ${formatLsn(from)} on is not there`);
    }
    const start = from - FIRST_LSN;
    const expected = this.#committed.subarray(start, start + bytes.length);
    if (Buffer.compare(bytes, expected) !== 0) {
      const at = bytes.findIndex((byte, index) => byte !== expected[index]);
      throw new Violation(`${what}: WAL differs at ${formatLsn((from + at) as Lsn)}`);
    }
  }
}

function position(copy: PowerCutCopy) {
  return { lastLogTerm: lastLogTerm(copy.state!), flushLsn: copy.state!.flushLsn };
}

export function isQuorum(mconf: MembershipConfiguration, ids: ReadonlySet<number>): boolean {
  const sets = [mconf.members, ...(mconf.newMembers === undefined ? [] : [mconf.newMembers])];
  return sets.every((set) => set.filter(({ id }) => ids.has(id)).length >= majority(set.length));
}
