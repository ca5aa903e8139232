import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../base/lsn.ts";
import { type SafekeeperCandidate, SafekeeperChoice } from "./safekeeper-choice.ts";

const candidate = (
  safekeeperId: number,
  commitLsn: number,
  pgAddr = "a:1",
): SafekeeperCandidate => {
  return { safekeeperId, pgAddr, commitLsn: toLsn(commitLsn) };
};
const HAVE = toLsn(100);

test("SafekeeperChoice: the most committed WAL above ours, with growing pauses after failures", () => {
  const choice = new SafekeeperChoice();
  choice.update(candidate(1, 100));
  assert.equal(choice.choose(HAVE, 0), undefined);
  assert.equal(choice.retryAtMs(HAVE), undefined);
  choice.update(candidate(2, 150));
  choice.update(candidate(3, 120));
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

test("SafekeeperChoice: a damaged one is tried again only under a new address", () => {
  const choice = new SafekeeperChoice();
  choice.update(candidate(1, 150));
  choice.markDamaged(1);
  assert.ok(choice.allDamaged);
  choice.update(candidate(1, 160));
  assert.equal(choice.choose(HAVE, 0), undefined);
  choice.update(candidate(1, 160, "b:1"));
  assert.equal(choice.choose(HAVE, 0)?.safekeeperId, 1);
});

test("SafekeeperChoice: a silent safekeeper is left for one that is ahead", () => {
  const choice = new SafekeeperChoice();
  assert.ok(choice.shouldSwitch(1, candidate(2, 150), HAVE, 0, 3001));
  assert.ok(!choice.shouldSwitch(1, candidate(2, 150), HAVE, 0, 3000));
  assert.ok(!choice.shouldSwitch(1, candidate(2, 100), HAVE, 0, 3001));
  assert.ok(!choice.shouldSwitch(1, candidate(1, 150), HAVE, 0, 3001));
});
