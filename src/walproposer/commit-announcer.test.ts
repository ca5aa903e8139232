import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { SimulatedTime, simulatedClock } from "../../simulation/simulated-time.ts";
import { REAL_CLOCK, replaceClock } from "../base/clock.ts";
import { ANNOUNCE_DELAY_MS, CommitAnnouncer } from "./commit-announcer.ts";

/** Who of safekeepers 1, 2, ... is told, in order; `read`: from whom WAL is read. */
function setUp(context: TestContext, read: readonly boolean[]) {
  const time = new SimulatedTime();
  replaceClock(simulatedClock(time));
  context.after(() => replaceClock(REAL_CLOCK));
  const told: number[] = [];
  const peers = read.map((isRead, index) => ({ isRead, announce: () => told.push(index + 1) }));
  const announcer = new CommitAnnouncer(() => peers);
  const pass = (ms: number) => time.run(time.nowMs + ms);
  return { announcer, peers, told, pass };
}

test("CommitAnnouncer: who is read from is told soon, the others at a tick", (context) => {
  const { announcer, told, pass } = setUp(context, [false, true, false]);
  for (const round of [1, 2]) {
    announcer.news();
    pass(ANNOUNCE_DELAY_MS - 1);
    announcer.news();
    assert.equal(told.length, round - 1);
    pass(1);
    assert.deepEqual(told, new Array(round).fill(2));
    pass(1000);
    assert.equal(told.length, round, "once");
  }
  announcer.announce();
  assert.deepEqual(told.slice(2), [1, 2, 3]);
});

test("CommitAnnouncer: while nobody is known to read, all are told soon", (context) => {
  const { announcer, told, pass } = setUp(context, [false, false, false]);
  announcer.news();
  pass(ANNOUNCE_DELAY_MS);
  assert.deepEqual(told, [1, 2, 3]);
});

test("CommitAnnouncer: the end tells everybody at once, and nobody later", (context) => {
  const { announcer, told, pass } = setUp(context, [true, false]);
  announcer.news();
  announcer.end();
  assert.deepEqual(told, [1, 2]);
  pass(1000);
  assert.deepEqual(told, [1, 2]);
});
