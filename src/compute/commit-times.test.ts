import assert from "node:assert/strict";
import { test } from "node:test";
import { CommitTimes, Histogram } from "./commit-times.ts";

test("Histogram: buckets are cumulative, a bound belongs to its own bucket", () => {
  const histogram = new Histogram();
  for (const ms of [0.05, 0.051, 1, 6000]) {
    histogram.observeMs(ms);
  }
  const lines = histogram.lines("x_seconds", 'step="total"');
  const bucket = (bound: string) =>
    lines.find((line) => line.includes(`le="${bound}"`))?.split(" ")[1];
  assert.deepEqual(["0.00005", "0.0001", "0.0005", "0.001", "5", "+Inf"].map(bucket), [
    "1",
    "2",
    "2",
    "3",
    "3",
    "4",
  ]);
  assert.equal(lines[0], 'x_seconds_bucket{step="total",le="0.00005"} 1');
  assert.equal(lines.at(-1), 'x_seconds_count{step="total"} 4');
});

test("CommitTimes: each safekeeper has its own", () => {
  const times = new CommitTimes();
  times.observeSafekeeper(7, "answer", 2);
  const lines = times.lines();
  const name = "strata_compute_safekeeper_step_seconds";
  assert.ok(lines.includes(`${name}_count{safekeeper="7",step="answer"} 1`));
  assert.ok(lines.includes(`${name}_count{safekeeper="7",step="queue"} 0`));
  assert.ok(lines.includes('strata_compute_commit_step_seconds_count{step="notify"} 0'));
});
