import assert from "node:assert/strict";
import { test } from "node:test";
import { compareEndStates } from "./end-state.ts";

const STATE = {
  sums: new Map([
    ["a", "1 rows, 7"],
    ["b", "0 rows, 0"],
  ]),
  indexes: 2,
  damaged: [],
};

test("compareEndStates: the same state has nothing to say", () => {
  assert.deepEqual(compareEndStates(STATE, STATE), []);
});

test("compareEndStates: another sum, a table or an index that is gone or new, and damage", () => {
  const sums = new Map([
    ["a", "1 rows, 8"],
    ["c", "0 rows, 0"],
  ]);
  assert.deepEqual(compareEndStates(STATE, { sums, indexes: 1, damaged: ["i: bad item order"] }), [
    "a: 1 rows, 7, then 1 rows, 8",
    "b: 0 rows, 0, then not there",
    "c: not there, then 0 rows, 0",
    "2 whole indexes, then 1",
    "i: bad item order",
  ]);
});
