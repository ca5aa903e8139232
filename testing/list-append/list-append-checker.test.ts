// The checker finds each of Adya's anomalies, and nothing in histories that are serializable.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../src/base/random.ts";
import { checkListAppend, type HistoryTransaction, type Operation } from "./list-append-checker.ts";

const append = (key: number, value: number): Operation => ({ op: "append", key, value });
const read = (key: number, ...values: number[]): Operation => ({ op: "read", key, values });

/** Transactions that all overlap. */
function history(...lists: (Operation | HistoryTransaction["outcome"])[][]): HistoryTransaction[] {
  return lists.map((parts, i) => ({
    name: `T${i + 1}`,
    outcome: parts.find((part) => typeof part === "string") ?? "committed",
    operations: parts.filter((part) => typeof part !== "string"),
    startedAt: 0,
    endedAt: 1,
  }));
}

function check(
  transactions: HistoryTransaction[],
  final: Record<number, number[]>,
  realTime = false,
): string[] {
  const lists = new Map(Object.entries(final).map(([key, list]) => [Number(key), list]));
  return checkListAppend(transactions, lists, { realTime }).map(
    ({ kind, message }) => `${kind}: ${message}`,
  );
}

test("checkListAppend: serializable histories pass, whatever became of unknown commits", () => {
  assert.deepEqual(
    check(
      history(
        [append(1, 1), append(1, 2)],
        [read(1, 1, 2), append(2, 1)],
        [append(2, 2), read(2, 1, 2), read(1, 1, 2)],
        ["aborted", append(1, 9), read(2, 7)],
        ["unknown", append(1, 8)],
        ["unknown", append(1, 3), append(2, 3)],
      ),
      { 1: [1, 2, 3], 2: [1, 2, 3] },
      true,
    ),
    [],
  );
});

test("checkListAppend: acknowledged appends are there, once, and nothing else is", () => {
  assert.deepEqual(check(history([append(1, 1)], [append(1, 2)]), { 1: [2] }), [
    "lost-append: 1, appended to list 1 by T1, is not there",
  ]);
  assert.deepEqual(check(history([append(1, 1)]), { 1: [1, 1] }), [
    "duplicate: list 1 has 1 twice",
  ]);
  assert.deepEqual(check(history([append(1, 1)]), { 1: [1, 5] }), [
    "phantom-value: at the end: nobody appended 5 to list 1",
  ]);
  // Half of a commit whose answer was lost.
  assert.deepEqual(check(history(["unknown", append(1, 1), append(2, 1)]), { 1: [1] }), [
    "lost-append: 1, appended to list 2 by T1, is not there",
  ]);
});

test("checkListAppend: G0, dirty write", () => {
  const both = history([append(1, 1), append(2, 1)], [append(1, 2), append(2, 2)]);
  assert.deepEqual(check(both, { 1: [1, 2], 2: [2, 1] }), ["G0: T1 -ww-> T2 -ww-> T1"]);
  assert.deepEqual(check(both, { 1: [1, 2], 2: [1, 2] }), []);
});

test("checkListAppend: G1a, aborted read", () => {
  const aborted = history(["aborted", append(1, 1)], [read(1, 1)]);
  assert.deepEqual(check(aborted, {}), [
    "G1a: read by T2: 1 in list 1 is of T1, which was aborted",
  ]);
  assert.match(check(aborted, { 1: [1] })[0]!, /^G1a: at the end: /);
});

test("checkListAppend: G1b, intermediate read", () => {
  assert.deepEqual(check(history([append(1, 1), append(1, 2)], [read(1, 1)]), { 1: [1, 2] }), [
    "G1b: T2 read list 1 between two appends of T1",
  ]);
});

test("checkListAppend: G1c, circular information flow", () => {
  const circle = history([append(1, 1), read(2, 1)], [append(2, 1), read(1, 1)]);
  assert.deepEqual(check(circle, { 1: [1], 2: [1] }), ["G1c: T1 -wr-> T2 -wr-> T1"]);
});

test("checkListAppend: G-single, lost update and read skew", () => {
  const update = history([read(1), append(1, 1)], [read(1), append(1, 2)]);
  assert.deepEqual(check(update, { 1: [1, 2] }), ["G-single: T2 -rw-> T1 -ww-> T2"]);
  const skew = history([append(1, 1), append(2, 1)], [read(1, 1), read(2)]);
  assert.deepEqual(check(skew, { 1: [1], 2: [1] }), ["G-single: T2 -rw-> T1 -wr-> T2"]);
});

test("checkListAppend: G2, write skew", () => {
  const skew = history([read(1), append(2, 1)], [read(2), append(1, 1)]);
  assert.deepEqual(check(skew, { 1: [1], 2: [1] }), ["G2: T1 -rw-> T2 -rw-> T1"]);
});

test("checkListAppend: reads that contradict the lists or their own transaction", () => {
  const swapped = history([append(1, 1)], [append(1, 2)], [read(1, 2, 1)]);
  assert.deepEqual(check(swapped, { 1: [1, 2] }), [
    "incompatible-order: T3 read [2,1] in list 1, which is [1,2] in the end",
  ]);
  // An unknown commit that was seen and then was gone.
  const gone = history(["unknown", append(1, 1)], [read(1, 1)]);
  assert.match(check(gone, {})[0]!, /^incompatible-order: T2 read \[1\]/);
  const own = history([append(1, 1), read(1)]);
  assert.match(check(own, { 1: [1] })[0]!, /^internal: .* expected its own \[1\] at the end$/);
  const twice = history([append(1, 1)], [read(1), read(1, 1)]);
  assert.match(
    check(twice, { 1: [1] })[0]!,
    /^internal: T2 read \[1\] .* expected \[\] as before$/,
  );
});

test("checkListAppend: real time: an answered append that a later transaction does not see", () => {
  const [first, second] = history([append(1, 1)], [read(1)]);
  const stale = [first!, { ...second!, startedAt: 2, endedAt: 3 }];
  assert.deepEqual(check(stale, { 1: [1] }), []);
  assert.deepEqual(check(stale, { 1: [1] }, true), ["real-time: T1 -rt-> T2 -rw-> T1"]);
  assert.deepEqual(
    check([first!, { ...second!, startedAt: 0.5, endedAt: 3 }], { 1: [1] }, true),
    [],
  );
});

/** 400 transactions one after the other; where `faulty`, the last on lists that are 20 old. */
function serialHistory(seed: number, faulty: boolean) {
  const random = new SeededRandom(seed);
  const lists: number[][] = [[], [], [], []];
  const copies: number[][][] = [];
  const transactions: HistoryTransaction[] = [];
  for (let i = 0; i < 400; i++) {
    copies.push(lists.map((list) => [...list]));
    const readable = faulty && i === 399 ? copies[379]! : lists;
    const operations: Operation[] = lists.map((_, key) => read(key, ...readable[key]!));
    const key = random.int(4);
    lists[key]!.push(i);
    operations.push(append(key, i));
    const times = { startedAt: i, endedAt: i + 0.5 };
    transactions.push({ name: `T${i}`, outcome: "committed", operations, ...times });
  }
  return { transactions, final: { ...lists } };
}

test("checkListAppend: long serial histories pass; one transaction on an old state is found", () => {
  for (let seed = 1; seed <= 20; seed++) {
    const good = serialHistory(seed, false);
    assert.deepEqual(check(good.transactions, good.final, true), [], `seed ${seed}`);
    const bad = serialHistory(seed, true);
    assert.match(check(bad.transactions, bad.final)[0] ?? "", /^G-single: .*T399/, `seed ${seed}`);
  }
});
