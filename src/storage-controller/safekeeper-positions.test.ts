import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { SafekeeperTimelineStatus } from "../safekeeper/api.ts";
import {
  type Found,
  type NamedState,
  positionsOf,
  safekeeperPositions,
} from "./safekeeper-positions.ts";

const TENANT = "1".padStart(32, "0");
const TIMELINE = "2".padStart(32, "0");
const CONFIG = {
  safekeepers: [1, 2, 3, 4].map((id) => ({ id, listenPgAddr: "h:1", listenHttpAddr: "h:2" })),
  branchNameMappings: new Map([[TENANT, new Map([["main", TIMELINE]])]]),
  memberships: new Map(),
} as unknown as NamedState;

function found(safekeeperId: number, changes: Partial<SafekeeperTimelineStatus> = {}): Found {
  const mconf = {
    generation: 2,
    members: [1, 2, 3].map((id) => ({ id, host: "h", pg_port: 1 })),
    new_members: null,
  };
  const status = {
    mconf,
    acceptor_state: { term: 7, epoch: 6, term_history: [] },
    flush_lsn: "0/3000000",
    commit_lsn: "0/3000000",
    backup_lsn: "0/2000000",
    remote_consistent_lsn: "0/2F00000",
    eviction_state: "present",
    wal_backup: { state: "idle", lag_bytes: 0x1000000, partial: null, last_error: null },
    peers: [10, 60_000].map((reported_ms_ago) => ({ reported_ms_ago })),
    walsenders: [],
    walreceivers: [],
    ...changes,
  } as unknown as SafekeeperTimelineStatus;
  return { safekeeperId, tenantId: TENANT, timelineId: TIMELINE, status, error: null };
}

const states = (copies: readonly Found[], answering: readonly number[]) =>
  positionsOf(CONFIG, copies, new Set(answering)).map((row) => [row.safekeeper_id, row.state]);

test("positionsOf: members that do not answer, or have lost their copy, and copies of former members", () => {
  const leading = { walreceivers: [{ remote: "r", connected_at: "" }] };
  assert.deepEqual(states([found(1, leading), found(4)], [1, 2, 4]), [
    [1, "leading"],
    [2, "missing"],
    [3, "unreachable"],
    [4, "former"],
  ]);
  const refused = { ...found(2), status: undefined, error: "damaged" };
  assert.deepEqual(states([found(1), refused, found(3, { eviction_state: "offloaded" })], [1]), [
    [1, "idle"],
    [2, "refused"],
    [3, "offloaded"],
  ]);
  // Nobody tells who the members are: all, or those on record.
  assert.deepEqual(
    states([], []),
    [1, 2, 3, 4].map((id) => [id, "unreachable"]),
  );
  const memberships = new Map([
    [TENANT, new Map([[TIMELINE, { generation: 1, members: [1, 3] }]])],
  ]);
  const rows = positionsOf({ ...CONFIG, memberships }, [], new Set([1]));
  assert.deepEqual(
    rows.map((row) => [row.safekeeper_id, row.state]),
    [
      [1, "missing"],
      [3, "unreachable"],
    ],
  );
});

test("positionsOf: how far behind each is, in bytes", () => {
  const [first, second] = positionsOf(
    CONFIG,
    [found(1), found(2, { flush_lsn: "0/2FFF000", wal_backup: null })],
    new Set([1, 2]),
  );
  assert.deepEqual(
    [first!.lag_bytes, first!.backup_lag_bytes, first!.remote_lag_bytes, first!.peers],
    [0, 0x1000000, 0x100000, 1],
  );
  assert.deepEqual([second!.lag_bytes, second!.backup_lag_bytes], [0x1000, null]);
});

test("safekeeperPositions: a timeline that is deleted after it was listed is not one that is refused", async (t) => {
  const server = createServer((request, response) => {
    const isList = request.url === "/v1/tenant/timeline";
    response.writeHead(isList ? 200 : 404, { "content-type": "application/json" });
    response.end(
      isList ? JSON.stringify([{ tenant_id: TENANT, timeline_id: TIMELINE }]) : '{"msg": "gone"}',
    );
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close().closeAllConnections());
  const listenHttpAddr = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const { answering, rows } = await safekeeperPositions({
    ...CONFIG,
    safekeepers: [{ id: 1, listenPgAddr: "h:1", listenHttpAddr }],
    branchNameMappings: new Map(),
  });
  assert.deepEqual([...answering], [1]);
  assert.deepEqual(rows, []);
});
