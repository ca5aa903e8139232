import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { INVALID_LSN, type Lsn, toLsn } from "../base/lsn.ts";
import { NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import {
  type AcceptorMessage,
  type AppendResponse,
  NO_HOT_STANDBY_FEEDBACK,
  type VoteResponse,
} from "../safekeeper-protocol/messages.ts";
import { NO_PAGESERVER_FEEDBACK } from "../safekeeper-protocol/pageserver-feedback.ts";
import { Proposer, type ProposerEffect, RESPONSE_TIMEOUT_MS } from "./proposer.ts";

const START = toLsn(0x1000028);
const at = (bytes: number) => toLsn(START + bytes);
const SAFEKEEPERS = [1, 2, 3].map((id) => ({ id, host: `sk${id}`, pgPort: 5454 }));

function newProposer(): Proposer {
  return new Proposer({
    tenantId: parseTenantId("11111111111111111111111111111111"),
    timelineId: parseTimelineId("22222222222222222222222222222222"),
    pgVersion: 170010,
    systemId: 42n,
    walSegSize: 16 * 1024 * 1024,
    safekeepers: SAFEKEEPERS,
  });
}

function vote(change: Partial<VoteResponse> = {}): VoteResponse {
  return {
    type: "vote-response",
    generation: 0,
    term: 1,
    voteGiven: true,
    flushLsn: START,
    truncateLsn: START,
    termHistory: [],
    ...change,
  };
}

function ack(flushLsn: Lsn, change: Partial<AppendResponse> = {}): AppendResponse {
  return {
    type: "append-response",
    generation: 0,
    term: 1,
    flushLsn,
    commitLsn: START,
    hotStandbyFeedback: NO_HOT_STANDBY_FEEDBACK,
    pageserverFeedback: undefined,
    ...change,
  };
}

const greeting = (nodeId: number, term = 0): AcceptorMessage => {
  return { type: "greeting", nodeId, mconf: NO_MEMBERSHIP, term };
};

const offset = (lsn: number) => `${lsn - START}`;

/** In short words: `1: elected at 28`, `2: recovery 28-50`. */
function word(effect: ProposerEffect): string {
  switch (effect.type) {
    case "send": {
      const { message } = effect;
      const detail = message.type === "elected" ? ` at ${offset(message.startStreamingAt)}` : "";
      const term = message.type === "vote-request" ? ` ${message.term}` : "";
      return `${effect.safekeeper}: ${message.type}${term}${detail}`;
    }
    case "send-wal": {
      const range = `${offset(effect.beginLsn)}-${offset(effect.endLsn)}`;
      return `${effect.safekeeper}: ${effect.source} ${range}`;
    }
    case "elected":
      return `elected in ${effect.term}, L ${offset(effect.startLsn)}, donor ${effect.donor}`;
    case "committed":
      return `committed ${offset(effect.lsn)}`;
    case "disconnect":
      return `${effect.safekeeper}: disconnect`;
    case "fenced":
      return `fenced by ${effect.term}, elected ${effect.elected}`;
  }
}

const words = (effects: ProposerEffect[]) => effects.map(word);

class Script {
  readonly proposer = newProposer();

  connect(id: number, term = 0): string[] {
    const connected = words(this.proposer.step({ type: "connected", safekeeper: id }));
    assert.deepEqual(connected, [`${id}: greeting`]);
    return this.message(id, greeting(id, term));
  }

  message(safekeeper: number, message: AcceptorMessage): string[] {
    return words(this.proposer.step({ type: "message", safekeeper, message }));
  }

  disconnect(safekeeper: number): string[] {
    return words(this.proposer.step({ type: "disconnected", safekeeper }));
  }
}

test("Proposer: an election and the first commits, word for word", () => {
  const script = new Script();
  const histories = {
    1: [{ term: 3, lsn: START }],
    2: [
      { term: 3, lsn: START },
      { term: 5, lsn: at(40) },
    ],
  };
  assert.deepEqual(script.connect(1, 4), []);
  assert.deepEqual(script.connect(2, 7), ["1: vote-request 8", "2: vote-request 8"]);
  // The longer log, but of an older term: it is not the donor, and its tail must go.
  const longer = vote({ term: 8, flushLsn: at(200), termHistory: histories[1] });
  assert.deepEqual(script.message(1, longer), []);
  const newer = vote({ term: 8, flushLsn: at(100), termHistory: histories[2] });
  assert.deepEqual(script.message(2, newer), [
    "elected in 8, L 100, donor 2",
    "2: elected at 100",
    "2: compute 100-100",
    "1: elected at 40",
    "1: recovery 40-100",
    "1: compute 100-100",
  ]);
  assert.equal(script.proposer.recoverySource(1), 2);
  assert.deepEqual(script.message(2, ack(at(100), { term: 8 })), []);
  // WAL of older terms on a majority is not enough: it must reach L.
  assert.deepEqual(script.message(1, ack(at(80), { term: 8 })), []);
  assert.deepEqual(script.message(1, ack(at(100), { term: 8 })), [
    "committed 100",
    "1: compute 100-100",
    "2: compute 100-100",
  ]);
  const wal = script.proposer.step({ type: "wal-available", endLsn: at(150) });
  assert.deepEqual(words(wal), ["1: compute 100-150", "2: compute 100-150"]);
  assert.deepEqual(script.connect(3), ["3: vote-request 8"]);
  assert.deepEqual(script.message(3, vote({ term: 8 })), [
    "3: elected at 0",
    "3: recovery 0-100",
    "3: compute 100-150",
  ]);
  assert.deepEqual(script.message(3, ack(at(150), { term: 8 })), []);
  const second = script.message(1, ack(at(150), { term: 8 }));
  assert.equal(second[0], "committed 150");
  const header = script.proposer.appendHeader(at(150), at(150));
  assert.equal(header.commitLsn, at(150));
  assert.equal(header.truncateLsn, at(100));
});

test("Proposer: WAL that a safekeeper lacks is kept for it, whether it is connected or not", () => {
  const script = new Script();
  const truncateLsn = () => script.proposer.appendHeader(START, START).truncateLsn;
  for (const id of [1, 2]) {
    script.connect(id);
  }
  script.message(1, vote());
  script.message(2, vote());
  script.proposer.step({ type: "wal-available", endLsn: at(100) });
  script.message(1, ack(at(100)));
  script.message(2, ack(at(100)));
  assert.equal(script.proposer.commitLsn, at(100));
  // The third one was never seen: nobody knows what it has.
  assert.equal(truncateLsn(), START);
  script.connect(3);
  script.message(3, vote());
  script.message(3, ack(at(60)));
  assert.equal(truncateLsn(), at(60));
  script.disconnect(3);
  script.proposer.step({ type: "wal-available", endLsn: at(200) });
  script.message(1, ack(at(200)));
  script.message(2, ack(at(200)));
  assert.equal(script.proposer.commitLsn, at(200));
  assert.equal(truncateLsn(), at(60));
  script.connect(3, 1);
  script.message(
    3,
    vote({ voteGiven: false, flushLsn: at(60), termHistory: [{ term: 1, lsn: START }] }),
  );
  script.message(3, ack(at(200)));
  assert.equal(truncateLsn(), at(200));
});

test("Proposer: fenced by a greeting, a vote or an answer of a higher term", () => {
  const lost = new Script();
  lost.connect(1);
  lost.connect(2);
  assert.deepEqual(lost.message(1, vote({ term: 9, voteGiven: false })), [
    "fenced by 9, elected false",
  ]);
  const elected = () => {
    const script = new Script();
    script.connect(1);
    script.connect(2);
    script.message(1, vote());
    script.message(2, vote());
    assert.ok(script.proposer.elected);
    return script;
  };
  const fenced = ["fenced by 5, elected true"];
  assert.deepEqual(elected().connect(3, 5), fenced);
  const answered = elected();
  assert.deepEqual(answered.message(1, ack(INVALID_LSN, { term: 5 })), fenced);
  // And then nothing more.
  assert.deepEqual(answered.message(2, ack(at(0))), []);
  assert.deepEqual(answered.disconnect(1), []);
});

test("Proposer: a vote given on a connection that broke still stands, another's does not", () => {
  const script = new Script();
  script.connect(1);
  script.connect(2);
  script.message(1, vote());
  script.disconnect(1);
  assert.deepEqual(script.connect(1, 1), ["1: vote-request 1"]);
  assert.deepEqual(script.message(1, vote({ voteGiven: false })), []);
  assert.equal(script.message(2, vote())[0], "elected in 1, L 0, donor 1");
  const other = new Script();
  other.connect(1);
  other.connect(2);
  assert.deepEqual(other.message(2, vote({ voteGiven: false })), ["fenced by 1, elected false"]);
});

test("Proposer: membership is taken over from the safekeepers, a later one means a new campaign", () => {
  const members = SAFEKEEPERS;
  const mconf = { generation: 4, members, newMembers: undefined };
  const script = new Script();
  script.proposer.step({ type: "connected", safekeeper: 1 });
  script.message(1, { type: "greeting", nodeId: 1, mconf, term: 0 });
  script.proposer.step({ type: "connected", safekeeper: 2 });
  const requests = script.proposer.step({
    type: "message",
    safekeeper: 2,
    message: { type: "greeting", nodeId: 2, mconf, term: 0 },
  });
  const first = requests[0];
  assert.ok(first?.type === "send" && first.message.type === "vote-request");
  assert.equal(first.message.generation, 4);
  script.proposer.step({ type: "connected", safekeeper: 3 });
  const newer = { ...mconf, generation: 5 };
  assert.deepEqual(script.message(3, { type: "greeting", nodeId: 3, mconf: newer, term: 0 }), [
    "fenced by 0, elected false",
  ]);
});

test("Proposer: joint membership needs a majority of both sets", () => {
  const mconf = { generation: 1, members: [SAFEKEEPERS[0]!], newMembers: SAFEKEEPERS.slice(1) };
  const script = new Script();
  for (const id of [1, 2, 3]) {
    script.proposer.step({ type: "connected", safekeeper: id });
    script.message(id, { type: "greeting", nodeId: id, mconf, term: 0 });
  }
  const joint = { generation: 1 };
  assert.deepEqual(script.message(1, vote(joint)), []);
  assert.deepEqual(script.message(2, vote(joint)), []);
  assert.equal(script.message(3, vote(joint))[0], "elected in 1, L 0, donor 1");
  assert.deepEqual(script.message(1, ack(START, joint)), []);
  assert.deepEqual(script.message(2, ack(START, joint)), []);
  assert.equal(script.message(3, ack(START, joint))[0], "committed 0");
});

test("Proposer: a pageserver that is further counts, also where its clock was set back", () => {
  const script = new Script();
  script.connect(1);
  script.connect(2);
  script.message(1, vote());
  script.message(2, vote());
  const told = (bytes: number, replyTime: number) => {
    const lastReceivedLsn = at(bytes);
    const pageserverFeedback = { ...NO_PAGESERVER_FEEDBACK, lastReceivedLsn, replyTime };
    script.message(1, ack(START, { pageserverFeedback }));
    const now = script.proposer.pageserverFeedback;
    return [now.lastReceivedLsn - START, now.replyTime];
  };
  assert.deepEqual(told(10, 5000), [10, 5000]);
  assert.deepEqual(told(20, 1000), [20, 1000]);
  // What another safekeeper was told before.
  assert.deepEqual(told(10, 6000), [20, 1000]);
  assert.deepEqual(told(20, 900), [20, 1000]);
  assert.deepEqual(told(20, 1100), [20, 1100]);
});

test("Proposer: a wrong node, a wrong answer and silence end the connection", () => {
  const script = new Script();
  script.proposer.step({ type: "connected", safekeeper: 1 });
  assert.deepEqual(script.message(1, greeting(2)), ["1: disconnect"]);
  script.proposer.step({ type: "connected", safekeeper: 1 });
  assert.deepEqual(script.message(1, vote()), ["1: disconnect"]);
  script.connect(1);
  script.connect(2);
  script.message(1, vote());
  script.message(2, vote());
  assert.deepEqual(script.message(1, ack(at(8))), ["1: disconnect"]);
  script.proposer.step({ type: "tick", nowMs: 1 });
  assert.deepEqual(words(script.proposer.step({ type: "tick", nowMs: 1500 })), ["2: compute 0-0"]);
  const late = RESPONSE_TIMEOUT_MS + 1000;
  assert.deepEqual(words(script.proposer.step({ type: "tick", nowMs: late })), ["2: disconnect"]);
});

const membership = (generation: number, ids: readonly number[], newIds?: readonly number[]) => {
  const set = (members: readonly number[]) =>
    members.map((id) => ({ id, host: `sk${id}`, pgPort: 5454 }));
  return { generation, members: set(ids), newMembers: newIds && set(newIds) };
};
const OWN_HISTORY = [
  { term: 3, lsn: START },
  { term: 5, lsn: at(16) },
];

/** Elected in term 5 at 16, by generation 1; now it campaigns in generation 2. */
class Resumed {
  readonly proposer = new Proposer({
    tenantId: parseTenantId("11111111111111111111111111111111"),
    timelineId: parseTimelineId("22222222222222222222222222222222"),
    pgVersion: 170010,
    systemId: 42n,
    walSegSize: 16 * 1024 * 1024,
    safekeepers: SAFEKEEPERS,
    mconf: membership(2, [1, 2, 3]),
    resumes: { term: 5, wonTerms: [5], startLsn: at(16), termBefore: 3 },
  });

  greet(id: number, term = 5, mconf = membership(2, [1, 2, 3])): ProposerEffect[] {
    this.proposer.step({ type: "connected", safekeeper: id });
    const message: AcceptorMessage = { type: "greeting", nodeId: id, mconf, term };
    return this.proposer.step({ type: "message", safekeeper: id, message });
  }

  vote(id: number, change: Partial<VoteResponse>): string[] {
    const message = vote({ generation: 2, term: 6, ...change });
    return words(this.proposer.step({ type: "message", safekeeper: id, message }));
  }
}

test("Proposer: resumes in a newer membership where its own WAL ends, in a new term", () => {
  const resumed = new Resumed();
  assert.deepEqual(words(resumed.greet(1)), []);
  assert.deepEqual(words(resumed.greet(2)), ["1: vote-request 6", "2: vote-request 6"]);
  resumed.vote(1, { flushLsn: at(40), termHistory: OWN_HISTORY });
  const elected = resumed.vote(2, { flushLsn: at(32), termHistory: OWN_HISTORY });
  assert.equal(elected[0], "elected in 6, L 40, donor 1");
  assert.deepEqual(resumed.proposer.resumable, {
    term: 6,
    wonTerms: [5, 6],
    startLsn: at(16),
    termBefore: 3,
  });
});

test("Proposer: resumes where nothing was written since its first election", () => {
  const resumed = new Resumed();
  resumed.greet(1);
  resumed.greet(2);
  const before = { flushLsn: at(16), termHistory: OWN_HISTORY.slice(0, 1) };
  resumed.vote(1, before);
  assert.equal(resumed.vote(2, before)[0], "elected in 6, L 16, donor 1");
});

test("Proposer: does not resume after somebody else has campaigned", () => {
  assert.deepEqual(words(new Resumed().greet(1, 6)), ["fenced by 6, elected true"]);
});

test("Proposer: does not resume on WAL that it did not write", () => {
  for (const foreign of [
    { flushLsn: at(40), termHistory: [...OWN_HISTORY, { term: 5.5, lsn: at(32) }] },
    { flushLsn: at(24), termHistory: OWN_HISTORY.slice(0, 1) },
  ]) {
    const resumed = new Resumed();
    resumed.greet(1);
    resumed.greet(2);
    resumed.vote(1, { flushLsn: at(16), termHistory: OWN_HISTORY.slice(0, 1) });
    assert.deepEqual(resumed.vote(2, foreign), ["fenced by 6, elected true"]);
  }
});

test("Proposer: a newer membership ends it, and says which one", () => {
  const joint = membership(3, [1, 2, 3], [1, 2, 4]);
  const [effect] = new Resumed().greet(1, 5, joint);
  assert.deepEqual(effect, {
    type: "fenced",
    term: 5,
    safekeeper: 1,
    elected: true,
    newer: joint,
  });
});
