import assert from "node:assert/strict";
import { test } from "node:test";
import type { TimelinePosition } from "../storage-controller/safekeeper-positions.ts";
import { formatPositions } from "./safekeeper-list.ts";

const ROWS: TimelinePosition[] = [
  {
    safekeeper_id: 1,
    tenant_id: "1",
    timeline_id: "2",
    branch_name: "main",
    state: "idle",
    error: null,
    generation: 2,
    members: [1, 2, 3],
    new_members: null,
    term: 7,
    flush_lsn: "0/3000000",
    commit_lsn: "0/3000000",
    lag_bytes: 0,
    backup_lag_bytes: 0x1000000,
    remote_lag_bytes: 0x100000,
    reader_lag_bytes: null,
    peers: 1,
    readers: [],
  },
  {
    safekeeper_id: 2,
    tenant_id: "1",
    timeline_id: "2",
    branch_name: "main",
    state: "missing",
    error: null,
  },
];

test("formatPositions: lags as a person reads them; the tenant where there are several", () => {
  const lines = formatPositions(ROWS);
  assert.match(
    lines[1]!,
    /^ main +1 +idle +2 +1,2,3 +7 +0\/3000000 +0\/3000000 +0 +16MB +1MB +1 +/,
  );
  assert.match(lines[2]!, /^ main +2 +missing +--- /);
  assert.doesNotMatch(lines[0]!, /TENANT/);
  assert.match(formatPositions([...ROWS, { ...ROWS[0]!, tenant_id: "x" }])[0]!, /^ TENANT /);
  assert.deepEqual(formatPositions([]), []);
});
