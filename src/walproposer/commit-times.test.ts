import assert from "node:assert/strict";
import { test } from "node:test";
import { CommitTimes } from "./commit-times.ts";

test("CommitTimes: each safekeeper has its own", () => {
  const times = new CommitTimes();
  times.observeSafekeeper(7, "answer", 2);
  const lines = times.lines();
  const name = "strata_compute_safekeeper_step_seconds";
  assert.ok(lines.includes(`${name}_count{safekeeper="7",step="answer"} 1`));
  assert.ok(lines.includes(`${name}_count{safekeeper="7",step="queue"} 0`));
  assert.ok(lines.includes('strata_compute_commit_step_seconds_count{step="notify"} 0'));
});
