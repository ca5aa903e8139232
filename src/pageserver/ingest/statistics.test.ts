// Tests of the statistics that a clean stop leaves.

import assert from "node:assert/strict";
import { test } from "node:test";
import { IngestHarness } from "../../../testing/ingest-harness.ts";
import { readStatistics } from "./statistics.ts";

test("statistics: true where their record ends, and nowhere behind it", () => {
  const h = new IngestHarness();
  assert.equal(readStatistics(h.storage, h.storage.lastRecordLsn), undefined);
  const first = h.record((ingest) => ingest.statistics(Buffer.from("first")));
  assert.deepEqual(Buffer.from(readStatistics(h.storage, first)!), Buffer.from("first"));
  const behind = h.record((ingest) => ingest.nextOid(30_000));
  assert.equal(readStatistics(h.storage, behind), undefined);
  const second = h.record((ingest) => ingest.statistics(Buffer.from("second")));
  assert.deepEqual(Buffer.from(readStatistics(h.storage, second)!), Buffer.from("second"));
  assert.deepEqual(Buffer.from(readStatistics(h.storage, first)!), Buffer.from("first"));
});
