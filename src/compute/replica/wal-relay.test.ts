// Tests of what a walreceiver gets through the relay, and what safekeepers hear of it, whichever of them sends.

import assert from "node:assert/strict";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { eventually } from "../../../testing/eventually.ts";
import { commit, SafekeeperCluster, START, wholeWal } from "../../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { createLogger } from "../../base/log.ts";
import { addLsn, formatLsn } from "../../base/lsn.ts";
import { connectWire } from "../../postgres/wire/wire-client.ts";
import { WireServer } from "../../postgres/wire/wire-server.ts";
import { ReplicationStream } from "../../safekeeper/client.ts";
import { WalRelay } from "./wal-relay.ts";

const R = addLsn(START, 1000);
const SOON = { timeoutMs: 10_000 };

/** Two safekeepers with WAL, and a relay that asks the first one first. */
async function withRelay(t: TestContext) {
  const { cluster, wal } = await withCluster(t);
  await openRelay(
    t,
    cluster,
    [0, 1].map((index) => cluster.address(index).pgAddr),
  );
  return { cluster, wal };
}

async function withCluster(t: TestContext) {
  const cluster = await SafekeeperCluster.start(t, 2);
  const wal = new WalBuilder({ startLsn: START, segmentSize: 1024 * 1024 });
  await commit(await cluster.lead(), wal, [5000, 300_000, 8000]);
  return { cluster, wal };
}

async function openRelay(t: TestContext, cluster: SafekeeperCluster, safekeepers: string[]) {
  const { tenantId, timelineId } = cluster;
  const relay = new WalRelay({
    ...{ tenantId, timelineId, applicationName: "test", systemId: 42n, startLsn: R },
    safekeepers: () => safekeepers,
    logger: createLogger("test", "silent"),
  });
  t.after(() => relay.close());
  await relay.listen(join(cluster.directory, ".s.PGSQL.2"));
}

async function receive(t: TestContext, cluster: SafekeeperCluster) {
  const connection = await connectWire({
    ...{ host: cluster.directory, port: 2 },
    parameters: { user: "strata", replication: "true" },
  });
  t.after(() => connection.close());
  const from = formatLsn(addLsn(START, -40));
  const channel = await connection.copyBoth(`START_REPLICATION PHYSICAL ${from} TIMELINE 1`);
  const seen = { bytes: [] as Buffer[], closed: false };
  const stream = new ReplicationStream(channel, R, {
    onWal: (_lsn, bytes) => seen.bytes.push(Buffer.from(bytes)),
    onClose: () => {
      seen.closed = true;
    },
  });
  return { stream, seen };
}

test("WalRelay: from R on, wherever the walreceiver would begin; a new walreceiver takes the place of the one before", async (t) => {
  const { cluster, wal } = await withRelay(t);
  const wanted = wholeWal(wal).subarray(1000);
  const first = await receive(t, cluster);
  await eventually("WAL", () => Buffer.concat(first.seen.bytes).length >= wanted.length, SOON);
  assert.deepEqual(Buffer.concat(first.seen.bytes), wanted);
  const second = await receive(t, cluster);
  await eventually("the end of the first", () => first.seen.closed, SOON);
  await eventually("WAL", () => Buffer.concat(second.seen.bytes).length >= wanted.length, SOON);
  assert.equal(second.seen.closed, false);
});

test("WalRelay: the next safekeeper hears at once what the replica still sees", async (t) => {
  const { cluster } = await withRelay(t);
  const xmin = (index: number) => cluster.timeline(index).appendResponse().hotStandbyFeedback.xmin;
  const { stream, seen } = await receive(t, cluster);
  await eventually("WAL", () => seen.bytes.length > 0, SOON);
  stream.sendHotStandbyFeedback({ timestamp: 0, xmin: 700n, catalogXmin: 0n });
  await eventually("feedback", () => xmin(0) === 700n, SOON);
  await cluster.stopNode(0);
  await eventually("feedback at the other", () => xmin(1) === 700n, SOON);
  assert.equal(seen.closed, false);
});

test("WalRelay: one that has WAL is found behind one that says nothing and one that is away", async (t) => {
  const { cluster, wal } = await withCluster(t);
  const silent = new WireServer({
    logger: createLogger("test", "silent"),
    onQuery: async (session) => void session.copyBoth(),
  });
  const { port } = await silent.listen("127.0.0.1", 0);
  t.after(() => silent.close());
  await openRelay(t, cluster, [`127.0.0.1:${port}`, "127.0.0.1:1", cluster.address(1).pgAddr]);
  const { seen } = await receive(t, cluster);
  const wanted = wholeWal(wal).subarray(1000);
  await eventually("WAL", () => Buffer.concat(seen.bytes).length >= wanted.length, SOON);
  assert.deepEqual(Buffer.concat(seen.bytes), wanted);
});
