// Tests of where storage says that a standby may begin.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHECKPOINT, IngestHarness, logger } from "../../../testing/ingest-harness.ts";
import { STANDBY_SNAPSHOTS_PREFIX } from "../layers/key.ts";
import { readStandbySnapshots } from "./standby-snapshots.ts";
import { WalIngest } from "./walingest.ts";

test("standby snapshots: the last two at each LSN, of running transactions and shutdowns only", () => {
  const h = new IngestHarness();
  const kinds = (lsn = h.storage.lastRecordLsn) =>
    readStandbySnapshots(h.storage, lsn).map(({ kind, nextXid }) => [kind, nextXid]);
  assert.deepEqual(kinds(), []);
  const first = h.record((ingest) => ingest.runningTransactions(740, 745));
  assert.deepEqual(kinds(), [["running", 745]]);
  h.record((ingest) => ingest.checkpoint(CHECKPOINT, false));
  h.record((ingest) => ingest.checkpoint({ ...CHECKPOINT, nextFullXid: (1n << 32n) + 800n }, true));
  const second = h.record((ingest) => ingest.nextOid(30_000));
  h.record((ingest) => ingest.runningTransactions(801, 810));
  assert.deepEqual(kinds(), [
    ["shutdown", 800],
    ["running", 810],
  ]);
  assert.deepEqual(kinds(second), [
    ["running", 745],
    ["shutdown", 800],
  ]);
  assert.deepEqual(kinds(first), [["running", 745]]);
  const [{ startLsn, endLsn, oldestRunningXid }] = readStandbySnapshots(h.storage, first) as [
    ReturnType<typeof readStandbySnapshots>[number],
  ];
  assert.ok(startLsn < endLsn);
  assert.equal(endLsn, first);
  assert.equal(oldestRunningXid, 740);
});

test("standby snapshots: who goes on with a timeline knows the one before", () => {
  const h = new IngestHarness();
  h.record((ingest) => ingest.runningTransactions(740, 745));
  const again = new WalIngest(h.storage, logger);
  const start = h.storage.lastRecordLsn;
  again.beginRecord(start, (start + 48) as typeof start);
  again.runningTransactions(741, 750);
  again.endRecord();
  again.publish();
  const found = readStandbySnapshots(h.storage, h.storage.lastRecordLsn);
  assert.deepEqual(
    found.map(({ nextXid }) => nextXid),
    [745, 750],
  );
});

test("standby snapshots: a value of another form is refused", () => {
  const h = new IngestHarness();
  const lsn = h.record((ingest) => ingest.runningTransactions(740, 745));
  const value = h.storage.readValue(STANDBY_SNAPSHOTS_PREFIX, 0, lsn)!;
  const changed = (at: number, byte: number) =>
    value.map((old: number, i: number) => (i === at ? byte : old));
  const bad = [value.subarray(0, 39), changed(0, 2), changed(1, 3), changed(8 + 24, 2)];
  for (const bytes of [...bad, new Uint8Array(0)]) {
    const storage = { readValue: () => bytes };
    assert.throws(() => readStandbySnapshots(storage, lsn), { kind: "corrupt" });
  }
});
