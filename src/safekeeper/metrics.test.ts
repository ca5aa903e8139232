import assert from "node:assert/strict";
import { test } from "node:test";
import { SafekeeperMetrics } from "./metrics.ts";

test("SafekeeperMetrics: one text holds prom-client's metrics and the cheap histograms", async () => {
  const metrics = new SafekeeperMetrics();
  metrics.writtenWalBytes.inc(7);
  metrics.flushSeconds.observe(0.0003);
  metrics.appendSteps.flush.observe(0.0004);
  metrics.flushedBytes.observe(300);
  const lines = (await metrics.text()).split("\n");
  for (const line of [
    "safekeeper_written_wal_bytes 7",
    "# TYPE safekeeper_flush_wal_seconds histogram",
    'safekeeper_flush_wal_seconds_bucket{le="0.0005"} 1',
    'safekeeper_append_step_seconds_count{step="flush"} 1',
    'safekeeper_append_step_seconds_count{step="wait"} 0',
    "safekeeper_flush_wal_bytes_sum 300",
  ]) {
    assert.ok(lines.includes(line), line);
  }
  assert.equal(lines.at(-1), "");
});
