import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { SimulatedTime, simulatedClock } from "../../simulation/simulated-time.ts";
import { REAL_CLOCK, replaceClock, setTimer } from "../base/clock.ts";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { LATE_MS, LateMember } from "./late-member.ts";
import type { ProposerPeerStatus } from "./proposer.ts";

interface Fixture {
  readonly late: LateMember;
  /** Of WAL: what was sent to the others, and what a majority has. */
  readonly at: { sent: Lsn; committed: Lsn };
  /** Who was due. */
  readonly due: number[];
  pass(ms: number): void;
}

function setUp(context: TestContext): Fixture {
  const time = new SimulatedTime();
  replaceClock(simulatedClock(time));
  context.after(() => replaceClock(REAL_CLOCK));
  const at = { sent: toLsn(100), committed: toLsn(100) };
  const due: number[] = [];
  const late = new LateMember({
    sentLsn: () => at.sent,
    commitLsn: () => at.committed,
    onDue: (safekeeper) => due.push(safekeeper),
  });
  const pass = (ms: number) => time.run(time.nowMs + ms);
  return { late, at, due, pass };
}

function members(...flushLsns: number[]): ProposerPeerStatus[] {
  return flushLsns.map((flushLsn, index) => ({
    id: index + 1,
    phase: "active",
    flushLsn: toLsn(flushLsn),
  }));
}

test("LateMember: the last that has all there was is late, not one that feeds a pageserver", (context) => {
  const { late, due } = setUp(context);
  late.end();
  late.choose(1, members(100, 99, 100));
  assert.equal(late.id, undefined);
  const [one, two, three] = members(100, 100, 100);
  late.choose(2, [one!, { ...two!, phase: "offline" }, three!]);
  assert.equal(late.id, undefined);
  late.feedsPageserver(2);
  late.choose(2, members(100, 100, 100));
  assert.equal(late.id, undefined);
  late.choose(3, members(100, 100, 100));
  late.choose(1, members(100, 100, 100));
  assert.equal(late.id, 3);
  late.feedsPageserver(3);
  assert.equal(late.id, undefined);
  assert.deepEqual(due, [3]);
});

test("LateMember: WAL is held while the others commit, and due some time later", (context) => {
  const { late, at, due, pass } = setUp(context);
  late.choose(3, members(100, 100, 100));
  for (let round = 1; round <= 2; round++) {
    late.hold();
    for (let passed = 0; passed < LATE_MS - 1; passed++) {
      at.committed = at.sent;
      at.sent = toLsn(at.sent + 10);
      late.hold();
      pass(1);
    }
    assert.equal(due.length, round - 1);
    at.committed = at.sent;
    pass(1);
    assert.deepEqual(due, new Array(round).fill(3));
    assert.equal(late.id, 3);
  }
  pass(100);
  assert.equal(due.length, 2);
});

test("LateMember: where the others do not answer in time, all are alike until all have it", (context) => {
  const { late, at, due, pass } = setUp(context);
  late.choose(3, members(100, 100, 100));
  at.sent = toLsn(200);
  late.hold();
  pass(LATE_MS - 1);
  assert.deepEqual(due, []);
  pass(2);
  assert.deepEqual(due, [3]);
  assert.equal(late.id, undefined);
  at.sent = at.committed = toLsn(300);
  late.choose(1, members(300, 199, 300));
  assert.equal(late.id, undefined);
  late.choose(2, members(300, 200, 300));
  assert.equal(late.id, 2);
});

test("LateMember: an answer that has arrived at the time of the look is in time", (context) => {
  const { late, at, due, pass } = setUp(context);
  late.choose(3, members(100, 100, 100));
  at.sent = toLsn(200);
  late.hold();
  pass(LATE_MS - 1);
  // The look's timer fires, then what has arrived is read.
  setTimer(() => {
    at.committed = toLsn(200);
  }, 1);
  pass(2);
  assert.deepEqual(due, [3]);
  assert.equal(late.id, 3, "late it is, and had its turn");
});
