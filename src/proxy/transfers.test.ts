// Bytes that clients were sent: each counted once, whatever closes, and whichever report gets lost.

import assert from "node:assert/strict";
import { test } from "node:test";
import { createLogger } from "../base/log.ts";
import type { TransferReport } from "./api.ts";
import { TransferCounts, TransferReports } from "./transfers.ts";

const logger = createLogger("test", "silent");

test("TransferCounts: what sockets have written since they were watched, once, also when they have closed", () => {
  const counts = new TransferCounts();
  const first = { bytesWritten: 100 };
  const second = { bytesWritten: 0 };
  const stopFirst = counts.watch("ep-a", first);
  const stopSecond = counts.watch("ep-a", second);
  first.bytesWritten = 150;
  second.bytesWritten = 7;
  counts.add("ep-b", 3);
  assert.deepEqual(counts.take(10), { "ep-a": 57, "ep-b": 3 });
  assert.deepEqual(counts.take(10), {});
  first.bytesWritten = 160;
  stopFirst();
  first.bytesWritten = 1000;
  assert.deepEqual(counts.take(10), { "ep-a": 10 });
  stopSecond();
  assert.deepEqual(counts.take(10), {});
});

test("TransferCounts: of more endpoints than a report takes the others are in the next", () => {
  const counts = new TransferCounts();
  for (const name of ["a", "b", "c"]) {
    counts.add(name, 1);
  }
  assert.deepEqual(counts.take(2), { a: 1, b: 1 });
  counts.add("a", 5);
  assert.deepEqual(counts.take(2), { c: 1, a: 5 });
});

test("TransferReports: one of which nobody knows whether it arrived is sent again as it was, before others", async () => {
  const counts = new TransferCounts();
  const sent: TransferReport[] = [];
  let isAway = true;
  const send = async (report: TransferReport) => {
    sent.push(report);
    if (isAway) {
      throw new Error("no answer");
    }
  };
  const reports = new TransferReports(counts, send, logger);
  await reports.report();
  assert.deepEqual(sent, []);
  counts.add("ep-a", 1);
  await reports.report();
  counts.add("ep-a", 2);
  await reports.report();
  isAway = false;
  await reports.report();
  await reports.stop();
  assert.deepEqual(
    sent.map(({ sequence, bytes }) => [sequence, bytes]),
    [
      [1, { "ep-a": 1 }],
      [1, { "ep-a": 1 }],
      [1, { "ep-a": 1 }],
      [2, { "ep-a": 2 }],
    ],
  );
  assert.equal(new Set(sent.map(({ proxy }) => proxy)).size, 1);
});
