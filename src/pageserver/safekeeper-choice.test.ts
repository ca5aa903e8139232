import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../base/lsn.ts";
import { type SafekeeperCandidate, SafekeeperChoice } from "./safekeeper-choice.ts";

const candidate = (
  safekeeperId: number,
  commitLsn: number,
  pgAddr = "a:1",
  remoteConsistentLsn = 80,
): SafekeeperCandidate => {
  return {
    safekeeperId,
    pgAddr,
    commitLsn: toLsn(commitLsn),
    remoteConsistentLsn: toLsn(remoteConsistentLsn),
  };
};
const HAVE = { lastRecordLsn: toLsn(100), remoteConsistentLsn: toLsn(80) };

test("SafekeeperChoice: the most committed WAL above ours, with growing pauses after failures", () => {
  const choice = new SafekeeperChoice();
  choice.update(candidate(1, 100), 0);
  assert.equal(choice.choose(HAVE, 0), undefined);
  assert.equal(choice.retryAtMs(HAVE), undefined);
  choice.update(candidate(2, 150), 0);
  choice.update(candidate(3, 120), 0);
  assert.equal(choice.choose(HAVE, 0)?.safekeeperId, 2);
  choice.ended(2, false, 1000);
  assert.equal(choice.choose(HAVE, 1049)?.safekeeperId, 3);
  assert.equal(choice.choose(HAVE, 1050)?.safekeeperId, 2);
  choice.ended(3, true, 1000);
  choice.ended(2, false, 1050);
  assert.equal(choice.retryAtMs(HAVE), 1000);
  choice.markDamaged(3);
  assert.equal(choice.retryAtMs(HAVE), 1150);
});

test("SafekeeperChoice: one that has nothing for us, but keeps WAL that we have stored", () => {
  const choice = new SafekeeperChoice();
  const stored = { ...HAVE, remoteConsistentLsn: toLsn(90) };
  choice.update(candidate(1, 100, "a:1", 90), 0);
  // More than its commit LSN it cannot know to be stored.
  choice.update(candidate(2, 85, "a:1", 85), 0);
  assert.equal(choice.choose(stored, 0), undefined);
  assert.equal(choice.retryAtMs(stored), undefined);
  choice.update(candidate(3, 95, "a:1", 89), 0);
  assert.equal(choice.choose(stored, 0)?.safekeeperId, 3);
  choice.ended(3, false, 1000);
  assert.equal(choice.retryAtMs(stored), 1050);
  assert.equal(choice.choose(HAVE, 2000), undefined);
  choice.markDamaged(3);
  assert.equal(choice.choose(stored, 2000), undefined);
});

test("SafekeeperChoice: a damaged one is tried again only under a new address", () => {
  const choice = new SafekeeperChoice();
  choice.update(candidate(1, 150), 0);
  choice.markDamaged(1);
  assert.ok(choice.allDamaged);
  choice.update(candidate(1, 160), 0);
  assert.equal(choice.choose(HAVE, 0), undefined);
  choice.update(candidate(1, 160, "b:1"), 0);
  assert.equal(choice.choose(HAVE, 0)?.safekeeperId, 1);
});

test("SafekeeperChoice: a silent safekeeper is left for one that is ahead", () => {
  const choice = new SafekeeperChoice();
  assert.ok(choice.shouldSwitch(1, candidate(2, 150), HAVE.lastRecordLsn, 0, 3001));
  assert.ok(!choice.shouldSwitch(1, candidate(2, 150), HAVE.lastRecordLsn, 0, 3000));
  assert.ok(!choice.shouldSwitch(1, candidate(2, 100), HAVE.lastRecordLsn, 0, 3001));
  assert.ok(!choice.shouldSwitch(1, candidate(1, 150), HAVE.lastRecordLsn, 0, 3001));
});

test("SafekeeperChoice: a flood of strangers neither grows without end nor hides those that are known", () => {
  const choice = new SafekeeperChoice();
  choice.update(candidate(1, 150), 0);
  for (let id = 2; id < 100_000; id++) {
    choice.update(candidate(id, 2 ** 52), 10);
  }
  // What they say is tried, and then waits; the one that sends WAL is streamed from meanwhile.
  let tried = 0;
  for (
    let next = choice.choose(HAVE, 20);
    next?.safekeeperId !== 1;
    next = choice.choose(HAVE, 20)
  ) {
    choice.ended(next!.safekeeperId, false, 20);
    tried++;
  }
  assert.ok(tried < 64, `${tried} strangers were tried`);
  // Silent for half a minute, and others have room.
  choice.update(candidate(1, 150), 30_000);
  choice.update(candidate(100_000, 170), 40_000);
  assert.equal(choice.choose(HAVE, 40_000)?.safekeeperId, 100_000);
});
