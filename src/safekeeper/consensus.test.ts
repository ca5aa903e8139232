import assert from "node:assert/strict";
import { test } from "node:test";
import { ConsensusViolation, type Fault, run } from "./consensus.fuzz.ts";

const SEEDS = 200;
const STEPS = 4000;

test("consensus: every seed keeps the invariants and ends in progress", () => {
  let elections = 0;
  let committedBytes = 0;
  for (let seed = 1; seed <= SEEDS; seed++) {
    const result = run(seed, STEPS);
    elections += result.elections;
    committedBytes += result.committedBytes;
  }
  // A simulation in which nothing happens proves nothing.
  assert.ok(elections > SEEDS * 3, `only ${elections} elections`);
  assert.ok(committedBytes > SEEDS * 500, `only ${committedBytes} bytes committed`);
});

const FAULTS: Fault[] = [
  "vote-not-persisted",
  "ack-before-fsync",
  "no-truncation",
  "accepts-old-terms",
  "commits-old-terms",
  "longest-log-wins",
];

for (const fault of FAULTS) {
  test(`consensus: the checkers catch ${fault}`, () => {
    for (let seed = 1; seed <= 1000; seed++) {
      try {
        run(seed, 5000, fault);
      } catch (error) {
        assert.ok(error instanceof ConsensusViolation, String(error));
        return;
      }
    }
    assert.fail("no seed noticed it");
  });
}
