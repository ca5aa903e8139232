// Follows docs/safekeeper-protocol.md section by section, with real proposers and acceptors wired together.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { toLsn } from "../../base/lsn.ts";
import {
  type MembershipConfiguration,
  NO_MEMBERSHIP,
} from "../../safekeeper-protocol/membership.ts";
import {
  finalConfiguration,
  jointConfiguration,
  type MemberPosition,
  mayFinish,
  syncPosition,
} from "../../safekeeper-protocol/membership-change.ts";
import type { ProposerMessage } from "../../safekeeper-protocol/messages.ts";
import { Proposer, type ProposerEffect } from "../../walproposer/proposer.ts";
import {
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
  appendResponse,
  bumpTerm,
  flushed,
  lastLogTerm,
  receive,
  switchMembership,
  written,
} from "./acceptor.ts";
import { commitFromPeers, type PeerReport } from "./peer-commit.ts";

const START = toLsn(0x1000028);
const IDS = {
  tenantId: parseTenantId("11111111111111111111111111111111"),
  timelineId: parseTimelineId("22222222222222222222222222222222"),
  pgVersion: 170010,
  systemId: 42n,
  walSegSize: 16 * 1024 * 1024,
};
const at = (bytes: number) => toLsn(START + bytes);
const members = (...ids: number[]) => ids.map((id) => ({ id, host: `s${id}`, pgPort: 5454 }));

function newState(mconf: MembershipConfiguration): AcceptorPersistentState {
  return {
    ...IDS,
    mconf,
    term: 0,
    termHistory: [],
    timelineStartLsn: START,
    localStartLsn: START,
    commitLsn: START,
    backupLsn: START,
    peerHorizonLsn: START,
    remoteConsistentLsn: START,
    flushedLsn: START,
  };
}

/** Safekeepers that take every byte for the end of a record, and keep no bytes. */
class Safekeepers {
  readonly states = new Map<number, AcceptorState>();

  constructor(count: number, mconf: MembershipConfiguration = NO_MEMBERSHIP) {
    for (let id = 1; id <= count; id++) {
      this.states.set(id, acceptorAfterStart(id, newState(mconf), START));
    }
  }

  get(id: number): AcceptorState {
    return this.states.get(id)!;
  }

  flushAt(...ids: number[]): number[] {
    return ids.map((id) => this.get(id).flushLsn - START);
  }

  /** All that follows from one message; undefined where there is no answer. */
  receive(id: number, message: ProposerMessage) {
    const step = receive(this.get(id), message);
    let state = step.state;
    if (message.type === "append-request" && step.actions.length > 0) {
      state = written(state, message.endLsn, message.endLsn);
    }
    if (step.reply === "append-response") {
      state = flushed(state);
    }
    this.states.set(id, state);
    return step.reply === "append-response" ? appendResponse(state) : step.reply;
  }
}

/** A compute whose messages arrive at once, at the safekeepers in `reached` only. */
class Compute {
  readonly proposer: Proposer;
  readonly reached = new Set<number>();
  readonly seen: ProposerEffect[] = [];
  /** What is lost on the way. */
  drops: (safekeeper: number, message: ProposerMessage) => boolean = () => false;
  readonly #safekeepers: Safekeepers;
  readonly #due: ProposerEffect[] = [];

  constructor(safekeepers: Safekeepers, mconf?: MembershipConfiguration) {
    this.#safekeepers = safekeepers;
    const ids = [...safekeepers.states.keys()];
    const known = mconf === undefined ? {} : { mconf };
    this.proposer = new Proposer({ ...IDS, safekeepers: members(...ids), ...known });
  }

  connect(...ids: number[]): this {
    for (const safekeeper of ids) {
      this.reached.add(safekeeper);
      this.#carryOut(this.proposer.step({ type: "connected", safekeeper }));
    }
    return this;
  }

  lose(...ids: number[]): void {
    for (const safekeeper of ids) {
      this.reached.delete(safekeeper);
      this.proposer.step({ type: "disconnected", safekeeper });
    }
  }

  write(bytes: number): void {
    const endLsn = at(bytes);
    this.#carryOut(this.proposer.step({ type: "wal-available", endLsn }));
  }

  saw(type: ProposerEffect["type"]): boolean {
    return this.seen.some((effect) => effect.type === type);
  }

  /** In order: what an answer brings about comes after what is due already. */
  #carryOut(effects: ProposerEffect[]): void {
    this.seen.push(...effects);
    const isIdle = this.#due.length === 0;
    this.#due.push(...effects);
    while (isIdle && this.#due.length > 0) {
      const effect = this.#due[0]!;
      if (effect.type === "send") {
        this.#send(effect.safekeeper, effect.message);
      } else if (effect.type === "send-wal") {
        const { beginLsn, endLsn } = effect;
        const header = this.proposer.appendHeader(beginLsn, endLsn);
        const walData = new Uint8Array(endLsn - beginLsn);
        this.#send(effect.safekeeper, { type: "append-request", ...header, walData });
      }
      this.#due.shift();
    }
  }

  #send(safekeeper: number, message: ProposerMessage): void {
    if (this.reached.has(safekeeper) && !this.drops(safekeeper, message)) {
      const reply = this.#safekeepers.receive(safekeeper, message);
      if (reply !== undefined) {
        this.#carryOut(this.proposer.step({ type: "message", safekeeper, message: reply }));
      }
    }
  }
}

test("a term, 1 and 2: a majority is greeted, then asked in a term above all that it told", () => {
  const safekeepers = new Safekeepers(3);
  safekeepers.states.set(2, bumpTerm(safekeepers.get(2), 6).state);
  const compute = new Compute(safekeepers).connect(1);
  assert.equal(safekeepers.get(1).persistent.term, 0);
  compute.connect(2);
  assert.equal(compute.proposer.term, 7);
  assert.equal(safekeepers.get(1).persistent.term, 7);
  assert.ok(compute.proposer.elected);
});

test("a term, 3: the donor has the highest last log term, then the longest log; its end is L", () => {
  const safekeepers = new Safekeepers(3);
  const first = new Compute(safekeepers).connect(1, 2);
  first.lose(2);
  first.write(500);
  const second = new Compute(safekeepers).connect(2, 3);
  second.lose(3);
  second.write(100);
  assert.deepEqual(safekeepers.flushAt(1, 2, 3), [500, 100, 0]);
  const third = new Compute(safekeepers).connect(1, 2);
  assert.equal(third.proposer.startLsn, at(100));
});

test("a term, 4: a safekeeper cuts its WAL where both histories part", () => {
  const safekeepers = new Safekeepers(3);
  const first = new Compute(safekeepers).connect(1, 2, 3);
  first.write(100);
  first.lose(2, 3);
  first.write(300);
  assert.deepEqual(safekeepers.flushAt(1, 2, 3), [300, 100, 100]);
  const second = new Compute(safekeepers).connect(2, 3);
  second.write(200);
  second.connect(1);
  assert.deepEqual(safekeepers.flushAt(1, 2, 3), [200, 200, 200]);
  assert.equal(lastLogTerm(safekeepers.get(1)), 2);
});

test("a term, 5 and 6: what a majority has flushed is committed", () => {
  const safekeepers = new Safekeepers(3);
  const compute = new Compute(safekeepers).connect(1, 2);
  compute.lose(2);
  compute.write(100);
  assert.equal(compute.proposer.commitLsn, START);
  compute.connect(3);
  assert.equal(compute.proposer.commitLsn, at(100));
});

test("a term, 6: WAL of older terms is not committed by counting (figure 8)", () => {
  const safekeepers = new Safekeepers(3);
  const first = new Compute(safekeepers).connect(1, 2);
  first.lose(2);
  first.write(100);
  const second = new Compute(safekeepers).connect(2, 3);
  second.lose(3);
  second.write(50);
  // Term 3: the donor is 2, with WAL of term 2. What 1 and 3 have says nothing.
  const third = new Compute(safekeepers).connect(2, 3);
  assert.equal(third.proposer.startLsn, at(50));
  assert.equal(third.proposer.commitLsn, at(50));
  const late = new Compute(safekeepers).connect(1, 3);
  assert.equal(late.proposer.startLsn, at(50));
});

test("fencing: the compute of a lower term commits nothing more, and learns of it", () => {
  const safekeepers = new Safekeepers(3);
  const old = new Compute(safekeepers).connect(1, 2, 3);
  old.write(100);
  const next = new Compute(safekeepers).connect(2, 3);
  assert.equal(next.proposer.startLsn, at(100));
  old.write(200);
  assert.equal(old.proposer.commitLsn, at(100));
  assert.ok(old.saw("fenced"));
  next.write(150);
  assert.equal(next.proposer.commitLsn, at(150));
});

test("fencing: a vote on a connection that broke still stands", () => {
  const safekeepers = new Safekeepers(3);
  const compute = new Compute(safekeepers).connect(1, 2);
  compute.lose(1, 2);
  const term = compute.proposer.term;
  compute.connect(1, 2).write(10);
  assert.equal(compute.proposer.term, term);
  assert.equal(compute.proposer.commitLsn, at(10));
});

test("members: while they change, elections and commits need a majority of both sets", () => {
  const from = { generation: 1, members: members(1, 2, 3), newMembers: undefined };
  const safekeepers = new Safekeepers(5, from);
  const joint = jointConfiguration(from, members(3, 4, 5));
  const compute = new Compute(safekeepers, joint).connect(3, 4, 5);
  assert.ok(!compute.proposer.elected);
  compute.connect(1);
  assert.ok(compute.proposer.elected);
  compute.lose(4, 5);
  compute.write(100);
  assert.equal(compute.proposer.commitLsn, START);
  compute.connect(4);
  assert.equal(compute.proposer.commitLsn, at(100));
});

test("members: after a switch nothing of an older generation is taken", () => {
  const from = { generation: 1, members: members(1, 2, 3), newMembers: undefined };
  const safekeepers = new Safekeepers(3, from);
  const compute = new Compute(safekeepers).connect(1, 2, 3);
  const joint = jointConfiguration(from, members(1, 2, 3));
  safekeepers.states.set(1, switchMembership(safekeepers.get(1), joint).state);
  assert.throws(() => compute.write(100), { code: "generation-mismatch" });
  assert.throws(() => switchMembership(safekeepers.get(1), from), { code: "generation-mismatch" });
  const others = { ...joint, generation: 9, members: members(2, 3), newMembers: undefined };
  assert.throws(() => switchMembership(safekeepers.get(1), others), { code: "not-a-member" });
});

test("members: the sync position is that of an old majority, and a new majority must reach it", () => {
  const from = { generation: 4, members: members(1, 2, 3), newMembers: undefined };
  const joint = jointConfiguration(from, members(3, 4, 5));
  assert.throws(() => jointConfiguration(joint, members(1)), { code: "change-under-way" });
  assert.throws(() => jointConfiguration(NO_MEMBERSHIP, members(1)), { code: "bad-membership" });
  const answer = (change: Partial<MemberPosition>): MemberPosition => {
    return { generation: 5, term: 3, lastLogTerm: 3, flushLsn: at(100), ...change };
  };
  const answers = new Map([
    [1, answer({ term: 7, lastLogTerm: 2, flushLsn: at(900) })],
    [2, answer({ generation: 4 })],
    [4, answer({})],
  ]);
  assert.equal(syncPosition(joint, answers), undefined);
  answers.set(3, answer({}));
  const sync = syncPosition(joint, answers)!;
  assert.deepEqual(
    { term: sync.term, lastLogTerm: sync.lastLogTerm, flushLsn: sync.flushLsn },
    { term: 7, lastLogTerm: 3, flushLsn: at(100) },
  );
  // 3 and 4 have the WAL, but they could still vote in a term that was won already.
  assert.equal(mayFinish(joint, sync, answers), false);
  answers.set(3, answer({ term: 7 })).set(4, answer({ term: 8, flushLsn: at(60) }));
  assert.equal(mayFinish(joint, sync, answers), false);
  answers.set(4, answer({ term: 8 }));
  assert.equal(mayFinish(joint, sync, answers), true);
  assert.deepEqual(finalConfiguration(joint), {
    generation: 6,
    members: members(3, 4, 5),
    newMembers: undefined,
  });
});

/** Safekeeper 1 acknowledged 100 bytes, which 2 and 3 have not got, and lost its disk then. */
function withLostDisk() {
  const mconf = { generation: 1, members: members(1, 2, 3), newMembers: undefined };
  const safekeepers = new Safekeepers(3, mconf);
  const compute = new Compute(safekeepers).connect(1, 2, 3);
  compute.lose(2, 3);
  compute.write(100);
  compute.lose(1);
  return { safekeepers, compute, mconf };
}

test("members: a lost disk filled from the others in the same generation would lose WAL", () => {
  const { safekeepers, compute } = withLostDisk();
  // 2 and 3 are a majority, and 1 takes the best of both. But the leader still counts what 1 told.
  const best = safekeepers.get(2);
  safekeepers.states.set(1, acceptorAfterStart(1, best.persistent, best.flushLsn));
  compute.connect(2);
  assert.equal(compute.proposer.commitLsn, at(100));
  const next = new Compute(safekeepers).connect(1, 3);
  assert.equal(next.proposer.startLsn, START);
});

test("members: filled in a new generation, nobody counts any more what the lost disk had told", () => {
  const { safekeepers, compute, mconf } = withLostDisk();
  const joint = jointConfiguration(mconf, mconf.members);
  for (const id of [2, 3]) {
    safekeepers.states.set(id, switchMembership(safekeepers.get(id), joint).state);
  }
  const best = safekeepers.get(2);
  safekeepers.states.set(1, acceptorAfterStart(1, best.persistent, best.flushLsn));
  compute.connect(2);
  assert.equal(compute.proposer.commitLsn, START);
  assert.ok(compute.saw("fenced"));
});

test("spreading: a commit LSN is announced, and holds up to what is flushed", () => {
  const safekeepers = new Safekeepers(3);
  const compute = new Compute(safekeepers).connect(1, 2, 3);
  compute.lose(3);
  compute.write(100);
  assert.equal(safekeepers.get(1).commitLsn, at(100));
  assert.equal(safekeepers.get(3).commitLsn, START);
});

test("spreading: peers count only with WAL that they got from the leader of that very term", () => {
  const mconf = { generation: 1, members: members(1, 2, 3, 4, 5), newMembers: undefined };
  const safekeepers = new Safekeepers(5, mconf);
  // Term 1 leaves 100 bytes at 1, term 2 leaves 50 others at 5.
  const first = new Compute(safekeepers).connect(1, 2, 3);
  first.lose(2, 3);
  first.write(100);
  const second = new Compute(safekeepers);
  second.drops = (id, { type }) => id !== 5 && (type === "elected" || type === "append-request");
  second.connect(3, 4, 5);
  second.lose(3, 4);
  second.write(50);
  // Term 3 begins to copy the WAL of term 1, and stops short of L: those logs still end in term 1.
  const third = new Compute(safekeepers);
  third.drops = (id, message) => id !== 1 && message.type === "append-request";
  third.connect(1, 2, 3, 4);
  assert.equal(third.proposer.startLsn, at(100));
  const header = third.proposer.appendHeader(START, at(80));
  for (const id of [2, 3, 4]) {
    safekeepers.receive(id, { type: "append-request", ...header, walData: new Uint8Array(80) });
  }
  assert.equal(lastLogTerm(safekeepers.get(2)), 1);
  const positions = { flushLsn: at(80), commitLsn: START };
  const report: PeerReport = { generation: 1, term: 3, lastLogTerm: 1, ...positions };
  const reports = new Map([3, 4].map((id) => [id, report]));
  assert.equal(commitFromPeers(safekeepers.get(2), reports).commitLsn, START);
  // A majority has those 80 bytes, and yet term 4 is won with the WAL of term 2.
  const fourth = new Compute(safekeepers).connect(3, 4, 5);
  assert.equal(fourth.proposer.startLsn, at(50));
});

test("spreading: one's own WAL counts only in the term that it is of, too", () => {
  const mconf = { generation: 1, members: members(1, 2, 3), newMembers: undefined };
  const safekeepers = new Safekeepers(3, mconf);
  const first = new Compute(safekeepers).connect(1, 2);
  first.lose(2);
  first.write(100);
  const state = safekeepers.get(1);
  const positions = { flushLsn: at(100), commitLsn: START };
  const reports = new Map([[2, { generation: 1, term: 1, lastLogTerm: 1, ...positions }]]);
  assert.equal(commitFromPeers(state, reports).commitLsn, at(100));
  // A copy that it pulled, or it voted since: whom that term elected may not know of it.
  const later = { ...state, persistent: { ...state.persistent, term: 2 } };
  assert.equal(commitFromPeers(later, reports).commitLsn, START);
});

test("away: a safekeeper that missed terms gets what it lacks, from the common point on", () => {
  const safekeepers = new Safekeepers(3);
  const first = new Compute(safekeepers).connect(1, 2, 3);
  first.write(100);
  first.lose(3);
  first.write(200);
  new Compute(safekeepers).connect(1, 2).write(300);
  const third = new Compute(safekeepers).connect(1, 2);
  third.write(400);
  third.connect(3);
  assert.deepEqual(safekeepers.flushAt(1, 2, 3), [400, 400, 400]);
  assert.deepEqual(safekeepers.get(3).persistent.termHistory, [
    { term: 1, lsn: START },
    { term: 2, lsn: at(200) },
    { term: 3, lsn: at(300) },
  ]);
});
