import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import type { ComputeState, StandbySnapshot } from "../../pageserver/api.ts";
import { canGoOn, replicaStart } from "./replica-start.ts";

const BRANCH_START = toLsn(1000);

function running(start: number): StandbySnapshot {
  const lsns = { startLsn: toLsn(start), endLsn: toLsn(start + 56) };
  return { ...lsns, kind: "running", oldestRunningXid: start, nextXid: start + 3 };
}

function shutdown(start: number): StandbySnapshot {
  return { ...running(start), kind: "shutdown" };
}

function startOf(snapshots: readonly StandbySnapshot[], head = 9000) {
  const state = {
    lsn: toLsn(head),
    prevRecordLsn: toLsn(head - 40),
    timelineStartLsn: BRANCH_START,
    standbySnapshots: snapshots,
  };
  return replicaStart(state as unknown as ComputeState);
}

test("replicaStart: behind the last but one that names what runs, or behind a shutdown", () => {
  assert.deepEqual(startOf([running(2000), running(3000)]), {
    lsn: 2056,
    prevRecordLsn: 2000,
    headLsn: 9000,
    running: { oldestXid: 2000, nextXid: 2003 },
    consistentLsn: 3056,
  });
  assert.equal(startOf([running(2000), shutdown(3000)]).lsn, 3056);
  assert.equal(startOf([running(2000), shutdown(3000)]).running, undefined);
  assert.equal(startOf([shutdown(2000), running(3000)]).lsn, 2056);
  assert.equal(startOf([shutdown(2000), running(3000)]).running, undefined);
});

test("replicaStart: what is an ancestor's says nothing of a branch", () => {
  const start = startOf([running(800), running(900)], BRANCH_START);
  assert.equal(start.lsn, BRANCH_START);
  assert.equal(start.running, undefined);
  assert.equal(start.consistentLsn, BRANCH_START);
  assert.ok(canGoOn(start));
  // The one ends right where the branch begins.
  assert.equal(startOf([running(944), shutdown(1200)]).lsn, 1256);
  assert.throws(() => startOf([running(944), running(1200)]), { code: "no-replica-start" });
});

test("replicaStart: WAL of which storage has noted too little is said to be so", () => {
  for (const noted of [[], [running(2000)]]) {
    assert.throws(() => startOf(noted), {
      kind: "unavailable",
      message: /start its primary endpoint again, or run CHECKPOINT there twice/,
    });
  }
});
