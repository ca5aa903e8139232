import assert from "node:assert/strict";
import { test } from "node:test";
import type { Lsn } from "../../base/lsn.ts";
import {
  type MembershipConfiguration,
  NO_MEMBERSHIP,
  type SafekeeperId,
} from "../../safekeeper-protocol/membership.ts";
import { decidePull, type PullSource } from "./pull-decision.ts";

const members = (...ids: number[]): SafekeeperId[] =>
  ids.map((id) => ({ id, host: "h", pgPort: id }));

const configuration = (
  generation: number,
  set: SafekeeperId[],
  newMembers?: SafekeeperId[],
): MembershipConfiguration => ({ generation, members: set, newMembers });

function source(nodeId: number, change: Partial<PullSource> = {}): PullSource {
  const mconf = configuration(4, members(1, 2, 3));
  return { nodeId, mconf, term: 3, lastLogTerm: 3, flushLsn: 100 as Lsn, ...change };
}

test("decidePull: copies the log that would win an election, in the highest term", () => {
  const joint = configuration(5, members(1, 2, 3), members(1, 2, 4));
  const sources = [
    source(1, { mconf: joint, term: 9, lastLogTerm: 2, flushLsn: 900 as Lsn }),
    source(2, { mconf: joint }),
    source(3, { flushLsn: 90 as Lsn }),
  ];
  const { donor, term, mconf } = decidePull(4, sources, undefined);
  assert.deepEqual([donor.nodeId, term, mconf], [2, 9, joint]);
});

test("decidePull: who may have had the timeline is filled only in a newer joint generation, known to enough", () => {
  const sources = [source(1), source(2)];
  const refused = { kind: "conflict", code: "filled-in-its-generation" };
  assert.throws(() => decidePull(3, sources, undefined), refused);
  assert.throws(() => decidePull(3, sources, configuration(5, members(1, 2, 3))), refused);
  const unknown = sources.map((each) => ({ ...each, mconf: NO_MEMBERSHIP }));
  assert.throws(() => decidePull(3, unknown, undefined), refused);
  // A majority of the three that it was part of has one of two: both must refuse older generations.
  const joint = configuration(5, members(1, 2, 3), members(1, 2, 3));
  const few = { kind: "unavailable", code: "too-few-safekeepers" };
  assert.throws(() => decidePull(3, [source(1, { mconf: joint }), source(2)], joint), few);
  const both = sources.map((each) => ({ ...each, mconf: joint }));
  assert.equal(decidePull(3, both, joint).mconf, joint);
});

test("decidePull: one that never had it needs so many answers that what was committed is among them", () => {
  const joint = configuration(5, members(1, 2, 3), members(2, 3, 4));
  const few = { kind: "unavailable", code: "too-few-safekeepers" };
  assert.throws(() => decidePull(4, [source(1)], joint), few);
  assert.throws(() => decidePull(4, [], joint), few);
  assert.equal(decidePull(4, [source(1), source(3)], joint).mconf, joint);
  assert.throws(() => decidePull(5, [source(1), source(3)], joint), { code: "not-a-member" });
});
