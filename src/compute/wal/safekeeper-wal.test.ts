// Tests of reading WAL back: whom it asks, what it says where nobody gives it, and that each byte comes once.

import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { commit, SafekeeperCluster, START, wholeWal } from "../../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { addLsn, type Lsn } from "../../base/lsn.ts";
import { safekeeperWal } from "./safekeeper-wal.ts";

async function withWal(t: TestContext) {
  const cluster = await SafekeeperCluster.start(t, 2);
  const wal = new WalBuilder({ startLsn: START, segmentSize: 1024 * 1024 });
  await commit(await cluster.lead(), wal, [5000, 300_000, 8000]);
  const addresses = [0, 1].map((index) => cluster.address(index).pgAddr);
  const { tenantId, timelineId } = cluster;
  const reader = (...safekeepers: string[]) =>
    safekeeperWal({ tenantId, timelineId, safekeepers: () => safekeepers });
  const ignore = () => {};
  return { cluster, wal, addresses, reader, ignore };
}

test("safekeeperWal: contiguous, not a byte more, from the first one that answers", async (t) => {
  const { cluster, wal, addresses, reader } = await withWal(t);
  await cluster.stopNode(0);
  const [begin, end] = [addLsn(START, 1000), addLsn(wal.endLsn, -1000)];
  const pieces: Uint8Array[] = [];
  let next = begin;
  await reader(...addresses)(begin, end, (lsn, bytes) => {
    assert.equal(lsn, next);
    next = addLsn(lsn, bytes.length);
    pieces.push(Uint8Array.from(bytes));
  });
  assert.equal(next, end);
  assert.deepEqual(Buffer.concat(pieces), wholeWal(wal).subarray(1000, -1000));
});

test("safekeeperWal: gone only where all say so; while one of them is away it may have it", async (t) => {
  const { cluster, addresses, reader, ignore } = await withWal(t);
  const before = addLsn(START, -8) as Lsn;
  await assert.rejects(reader(...addresses)(before, START, ignore), { kind: "not-found" });
  await cluster.stopNode(0);
  for (const some of [addresses, addresses.toReversed(), addresses.slice(0, 1), []]) {
    await assert.rejects(reader(...some)(before, START, ignore), { kind: "unavailable" });
  }
});
