import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { SimulatedTime, simulatedClock } from "../../simulation/simulated-time.ts";
import { REAL_CLOCK, replaceClock } from "../base/clock.ts";
import { toLsn } from "../base/lsn.ts";
import {
  type Announced,
  CommitAnnouncer,
  PAGESERVER_DELAY_MS,
  STANDBY_DELAY_MS,
} from "./commit-announcer.ts";

/** Who of safekeepers 1, 2, ... is told, in order; `readers`: who reads WAL from each. */
function setUp(context: TestContext, readers: readonly Announced["reader"][]) {
  const time = new SimulatedTime();
  replaceClock(simulatedClock(time));
  context.after(() => replaceClock(REAL_CLOCK));
  const told: number[] = [];
  const peers = readers.map((reader, index) => ({ reader, announce: () => told.push(index + 1) }));
  const announcer = new CommitAnnouncer(() => peers);
  const pass = (ms: number) => time.run(time.nowMs + ms);
  let lsn = 100;
  const commit = () => {
    lsn += 100;
    announcer.news(toLsn(lsn));
  };
  return { announcer, told, pass, commit };
}

test("CommitAnnouncer: who a standby reads from is told soon, the others at a tick", (context) => {
  const { announcer, told, pass, commit } = setUp(context, [undefined, "standby", undefined]);
  for (const round of [1, 2]) {
    commit();
    pass(STANDBY_DELAY_MS - 1);
    commit();
    assert.equal(told.length, round - 1);
    pass(1);
    assert.deepEqual(told, new Array(round).fill(2), "also where another commit has come");
    pass(1000);
    assert.equal(told.length, round, "once");
  }
  announcer.announce();
  assert.deepEqual(told.slice(2), [1, 2, 3]);
});

test("CommitAnnouncer: who a pageserver reads from is told when commits have paused", (context) => {
  const { told, pass, commit } = setUp(context, ["pageserver", undefined, undefined]);
  for (let i = 0; i < 20; i++) {
    commit();
    pass(PAGESERVER_DELAY_MS / 4);
  }
  assert.deepEqual(told, [], "each commit's WAL tells of the one before");
  pass(2 * PAGESERVER_DELAY_MS);
  assert.deepEqual(told, [1]);
  commit();
  pass(PAGESERVER_DELAY_MS);
  assert.deepEqual(told, [1, 1], "one that is alone waits for nothing more");
});

test("CommitAnnouncer: an answer that is asked for comes without a new commit", (context) => {
  const { announcer, told, pass } = setUp(context, ["pageserver"]);
  for (const round of [1, 2]) {
    announcer.news(toLsn(100));
    announcer.news(toLsn(100));
    pass(PAGESERVER_DELAY_MS);
    assert.equal(told.length, round);
  }
});

test("CommitAnnouncer: while nobody is known to read, all are told", (context) => {
  const { told, pass, commit } = setUp(context, [undefined, undefined, undefined]);
  commit();
  pass(PAGESERVER_DELAY_MS);
  assert.deepEqual(told, [1, 2, 3]);
});

test("CommitAnnouncer: the end tells everybody at once, and nobody later", (context) => {
  const { announcer, told, pass, commit } = setUp(context, ["pageserver", undefined]);
  commit();
  announcer.end();
  assert.deepEqual(told, [1, 2]);
  pass(1000);
  assert.deepEqual(told, [1, 2]);
});
