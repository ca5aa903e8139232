import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, toLsn } from "../../base/lsn.ts";
import { NO_MEMBERSHIP } from "../../safekeeper-protocol/membership.ts";
import type { AppendRequest, ProposerGreeting } from "../../safekeeper-protocol/messages.ts";
import { MAX_TERM, MAX_TERM_JUMP } from "../../safekeeper-protocol/term-history.ts";
import { decodeControlFile, encodeControlFile } from "../control-file.ts";
import {
  type AcceptorPersistentState,
  type AcceptorState,
  acceptorAfterStart,
  appendResponse,
  bumpTerm,
  checkExcluded,
  flushed,
  lastLogTerm,
  receive,
  switchMembership,
  written,
} from "./acceptor.ts";
import { commitFromPeers, type PeerReport } from "./peer-commit.ts";

const START = toLsn(0x1500028);
const at = (bytes: number) => toLsn(START + bytes);
const PERSISTENT: AcceptorPersistentState = {
  tenantId: parseTenantId("11111111111111111111111111111111"),
  timelineId: parseTimelineId("22222222222222222222222222222222"),
  mconf: NO_MEMBERSHIP,
  term: 0,
  termHistory: [],
  pgVersion: 170010,
  systemId: 42n,
  walSegSize: 16 * 1024 * 1024,
  timelineStartLsn: START,
  localStartLsn: START,
  commitLsn: START,
  backupLsn: START,
  peerHorizonLsn: START,
  remoteConsistentLsn: START,
  flushedLsn: START,
};
const GREETING: ProposerGreeting = {
  type: "greeting",
  tenantId: PERSISTENT.tenantId,
  timelineId: PERSISTENT.timelineId,
  mconf: NO_MEMBERSHIP,
  pgVersion: 170006,
  systemId: 42n,
  walSegSize: PERSISTENT.walSegSize,
};

function append(term: number, beginLsn: Lsn, length: number, commitLsn = START): AppendRequest {
  return {
    type: "append-request",
    generation: 0,
    term,
    beginLsn,
    endLsn: toLsn(beginLsn + length),
    commitLsn,
    truncateLsn: START,
    walData: new Uint8Array(length),
  };
}

/** An acceptor that has accepted term 1 and holds `length` bytes of it, `flushedBytes` on disk. */
function withWal(length: number, flushedBytes = length): AcceptorState {
  let state = acceptorAfterStart(1, PERSISTENT, START);
  state = receive(state, { type: "vote-request", generation: 0, term: 1 }).state;
  state = receive(state, {
    type: "elected",
    generation: 0,
    term: 1,
    startStreamingAt: START,
    termHistory: [{ term: 1, lsn: START }],
  }).state;
  for (const end of [flushedBytes, length]) {
    if (at(end) > state.writeLsn) {
      const step = receive(state, append(1, state.writeLsn, at(end) - state.writeLsn));
      assert.equal(step.reply, "append-response");
      state = written(step.state, at(end), at(end));
    }
    if (end === flushedBytes && state.flushLsn === START) {
      state = flushed(state);
    }
  }
  return state;
}

test("acceptor: greeting is answered; a foreign or incompatible proposer is refused", () => {
  const state = acceptorAfterStart(7, PERSISTENT, START);
  const step = receive(state, GREETING);
  assert.deepEqual(step.reply, { type: "greeting", nodeId: 7, mconf: NO_MEMBERSHIP, term: 0 });
  assert.equal(step.actions.length, 0);
  const wrong: Partial<ProposerGreeting>[] = [
    { tenantId: parseTenantId("33333333333333333333333333333333") },
    { timelineId: parseTimelineId("33333333333333333333333333333333") },
    { pgVersion: 160004 },
    { walSegSize: 1024 * 1024 },
    { systemId: 43n },
  ];
  for (const change of wrong) {
    assert.throws(() => receive(state, { ...GREETING, ...change }), { code: "greeting-mismatch" });
  }
  assert.doesNotThrow(() => receive(state, { ...GREETING, systemId: 0n }));
});

test("acceptor: a newer membership is taken over by its members only, durably", () => {
  const state = acceptorAfterStart(7, PERSISTENT, START);
  const member = (id: number) => ({ id, host: "h", pgPort: 1 });
  const mconf = { generation: 2, members: [member(7), member(8)], newMembers: undefined };
  const step = receive(state, { ...GREETING, mconf });
  assert.equal(step.actions[0]?.type, "persist");
  assert.equal(step.state.persistent.mconf.generation, 2);
  const foreign = { ...mconf, members: [member(8)] };
  assert.throws(() => receive(state, { ...GREETING, mconf: foreign }), { code: "not-a-member" });
  const vote = { type: "vote-request", generation: 0, term: 1 } as const;
  assert.throws(() => receive(step.state, vote), { code: "generation-mismatch" });
});

test("acceptor: a vote is flushed and persisted before it is told, and given once a term", () => {
  const step = receive(withWal(100, 40), { type: "vote-request", generation: 0, term: 5 });
  assert.deepEqual(
    step.actions.map((action) => action.type),
    ["flush", "persist"],
  );
  assert.ok(step.reply !== undefined && step.reply !== "append-response");
  assert.ok(step.reply.type === "vote-response" && step.reply.voteGiven);
  assert.equal(step.reply.flushLsn, at(100));
  assert.deepEqual(step.reply.termHistory, [{ term: 1, lsn: START }]);
  for (const term of [4, 5]) {
    const again = receive(step.state, { type: "vote-request", generation: 0, term });
    const reply = again.reply;
    assert.ok(reply !== undefined && reply !== "append-response" && reply.type === "vote-response");
    assert.equal(reply.voteGiven, false);
    assert.equal(reply.term, 5);
    assert.ok(again.actions.every((action) => action.type !== "persist"));
  }
});

test("acceptor: a diverged tail is cut, the control file first told of the lower end", () => {
  const state = {
    ...withWal(100),
    persistent: { ...withWal(100).persistent, flushedLsn: at(100) },
  };
  const step = receive(state, {
    type: "elected",
    generation: 0,
    term: 3,
    startStreamingAt: at(60),
    termHistory: [
      { term: 1, lsn: START },
      { term: 2, lsn: at(60) },
      { term: 3, lsn: at(200) },
    ],
  });
  const [checked, lowered, cut, adopted] = step.actions;
  assert.deepEqual(checked, { type: "expect-record-end", lsn: at(60) });
  assert.ok(lowered?.type === "persist" && lowered.state.flushedLsn === at(60));
  assert.equal(lowered.state.termHistory.length, 1);
  assert.ok(cut?.type === "truncate" && cut.lsn === at(60));
  assert.ok(adopted?.type === "persist" && adopted.state.termHistory.length === 3);
  assert.equal(step.state.writeLsn, at(60));
  assert.equal(step.state.flushLsn, at(60));
  assert.equal(lastLogTerm(step.state), 2);
});

test("acceptor: ProposerElected with a wrong point, below commit or of an old term", () => {
  const elected = (term: number, startStreamingAt: Lsn, second: Lsn) => ({
    type: "elected" as const,
    generation: 0,
    term,
    startStreamingAt,
    termHistory: [
      { term: 1, lsn: START },
      { term, lsn: second },
    ],
  });
  const state = withWal(100);
  assert.throws(() => receive(state, elected(3, at(50), at(60))), {
    code: "unexpected-streaming-point",
  });
  const committed = { ...state, commitLsn: at(80) };
  assert.throws(() => receive(committed, elected(3, at(60), at(60))), {
    code: "truncation-below-commit",
    kind: "corrupt",
  });
  const voted = receive(state, { type: "vote-request", generation: 0, term: 9 }).state;
  const old = receive(voted, elected(3, at(60), at(60)));
  assert.equal(old.state, voted);
  assert.deepEqual(old.actions, []);
});

test("acceptor: a compute raises term and generation by bounded steps, an operator further", () => {
  const state = withWal(100);
  const { term } = state.persistent;
  const vote = (to: number) =>
    receive(state, { type: "vote-request", generation: 0, term: to }).state.persistent.term;
  const elected = (to: number) =>
    receive(state, {
      type: "elected",
      generation: 0,
      term: to,
      startStreamingAt: at(100),
      termHistory: [...state.persistent.termHistory, { term: to, lsn: at(100) }],
    }).state.persistent.term;
  for (const raise of [vote, elected]) {
    assert.equal(raise(term + MAX_TERM_JUMP), term + MAX_TERM_JUMP);
    for (const to of [term + MAX_TERM_JUMP + 1, Number.MAX_SAFE_INTEGER]) {
      assert.throws(() => raise(to), { kind: "invalid", code: "term-jump" });
    }
  }
  const raised = bumpTerm(state, MAX_TERM).state;
  assert.equal(raised.persistent.term, MAX_TERM);
  assert.throws(() => bumpTerm(state, MAX_TERM + 1), { code: "term-too-high" });
  const above = { type: "vote-request" as const, generation: 0, term: MAX_TERM + 1 };
  assert.throws(() => receive(raised, above), { code: "term-jump" });
  const members = [{ id: state.nodeId, host: "h", pgPort: 1 }];
  const first = switchMembership(state, { generation: 3, members, newMembers: undefined }).state;
  const greet = (generation: number) =>
    receive(first, { ...GREETING, mconf: { generation, members, newMembers: undefined } }).state
      .persistent.mconf.generation;
  assert.equal(greet(1003), 1003);
  assert.throws(() => greet(1004), { kind: "invalid", code: "generation-jump" });
});

test("acceptor: WAL is taken in the current term only, after ProposerElected, at the end only", () => {
  const state = withWal(100);
  const newer = receive(state, { type: "vote-request", generation: 0, term: 2 }).state;
  const fencing = receive(newer, append(1, at(100), 8)).reply;
  assert.ok(typeof fencing === "object" && fencing.type === "append-response");
  assert.equal(fencing.term, 2);
  assert.equal(fencing.flushLsn, 0);
  assert.throws(() => receive(newer, append(2, at(100), 8)), { code: "append-before-elected" });
  assert.throws(() => receive(state, append(2, at(100), 8)), { code: "append-before-elected" });
  assert.throws(() => receive(state, append(1, at(92), 8)), { code: "append-not-at-end" });
  assert.throws(() => receive(state, append(1, at(108), 8)), { code: "append-not-at-end" });
});

test("acceptor: flush LSN is a record end, commit LSN never above it nor going back", () => {
  const state = withWal(100, 40);
  assert.equal(state.flushLsn, at(40));
  const step = receive(state, append(1, at(100), 50, at(500)));
  // The 50 bytes end inside a record that began at 120.
  let next = written(step.state, at(150), at(120));
  assert.equal(next.commitLsn, at(40));
  next = flushed(next);
  assert.equal(next.flushLsn, at(120));
  assert.equal(next.commitLsn, at(120));
  assert.equal(next.writeLsn, at(150));
  assert.equal(appendResponse(next).flushLsn, at(120));
  const lower = receive(next, append(1, at(150), 0, at(50)));
  assert.equal(lower.state.commitLsn, at(120));
});

test("acceptor: a heartbeat is answered, a mere announcement of a commit LSN is not", () => {
  const state = withWal(100);
  assert.equal(receive(state, append(1, at(100), 0)).reply, "append-response");
  const announced = receive(state, append(1, at(100), 0, at(100)));
  assert.equal(announced.reply, undefined);
  assert.equal(announced.state.commitLsn, at(100));
});

test("acceptor: term_bump goes up only; WAL below the commit LSN must be there after a start", () => {
  const state = withWal(100);
  assert.equal(bumpTerm(state, 4).state.persistent.term, 4);
  assert.throws(() => bumpTerm(state, 1), { code: "term-not-higher" });
  const persistent = { ...state.persistent, commitLsn: at(80) };
  assert.throws(() => acceptorAfterStart(1, persistent, at(40)), { code: "committed-wal-missing" });
});

test("acceptor: safekeepers among themselves know what a majority got from the leader of one term", () => {
  const member = (id: number) => ({ id, host: "h", pgPort: 1 });
  const mconf = { generation: 1, members: [1, 2, 3].map(member), newMembers: undefined };
  const plain = withWal(100);
  const state = { ...plain, persistent: { ...plain.persistent, mconf } };
  const report = (change: Partial<PeerReport>): PeerReport => {
    const told = { generation: 1, term: 1, lastLogTerm: 1, flushLsn: at(60), commitLsn: START };
    return { ...told, ...change };
  };
  const commit = (from: AcceptorState, ...reports: PeerReport[]) =>
    commitFromPeers(from, new Map(reports.map((entry, index) => [index + 2, entry]))).commitLsn;
  assert.equal(commit(state), START);
  assert.equal(commit(state, report({})), at(60));
  assert.equal(commit(state, report({ flushLsn: at(500) })), at(100));
  // Copies that a later leader made, logs of other terms, reports of another generation, and an unknown
  // membership count nothing.
  assert.equal(commit(state, report({ generation: 2 })), START);
  assert.equal(commit(state, report({ generation: 0 })), START);
  assert.equal(commit(state, report({ term: 2 })), START);
  assert.equal(commit(state, report({ lastLogTerm: 0 })), START);
  assert.equal(commit(plain, report({})), START);
  // What a peer knows to be committed holds here too.
  assert.equal(commit(plain, report({ term: 2, commitLsn: at(40) })), at(40));
  assert.equal(commit(plain, report({ lastLogTerm: 2, commitLsn: at(40) })), START);
  const lone = { ...mconf, members: [member(1)] };
  assert.equal(commit({ ...state, persistent: { ...state.persistent, mconf: lone } }), at(100));
});

test("control file: round trip; every flipped bit and every cut is noticed", () => {
  const state: AcceptorPersistentState = {
    ...PERSISTENT,
    mconf: { generation: 1, members: [{ id: 3, host: "a", pgPort: 5454 }], newMembers: undefined },
    term: 12,
    termHistory: [
      { term: 3, lsn: START },
      { term: 12, lsn: at(8) },
    ],
    systemId: 2n ** 64n - 1n,
  };
  const bytes = encodeControlFile(state);
  assert.deepEqual(decodeControlFile(bytes), state);
  for (let i = 0; i < bytes.length; i++) {
    const damaged = bytes.slice();
    damaged[i]! ^= 4;
    assert.throws(() => decodeControlFile(damaged), /safekeeper control file/, `byte ${i}`);
    assert.throws(() => decodeControlFile(bytes.subarray(0, i)), { kind: "corrupt" });
  }
  assert.match(Buffer.from(bytes).toString(), new RegExp(formatLsn(START)));
});

test("acceptor: a member is excluded by a membership without it that is not older than its own", () => {
  const other = (generation: number) => ({
    generation,
    members: [{ id: 9, host: "h", pgPort: 1 }],
    newMembers: undefined,
  });
  const state = acceptorAfterStart(1, { ...PERSISTENT, mconf: other(4) }, START);
  const refused = { kind: "conflict", code: "not-excluded" };
  assert.throws(() => checkExcluded(state, other(3)), refused);
  assert.throws(() => checkExcluded(state, other(0)), refused);
  const self = { generation: 5, members: [{ id: 1, host: "h", pgPort: 1 }], newMembers: undefined };
  assert.throws(() => checkExcluded(state, self), refused);
  checkExcluded(state, other(4));
  checkExcluded(state, other(5));
});
