// What may come of a safekeeper's report through the broker, where anyone can publish one.

import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually } from "../../testing/eventually.ts";
import { commit, SafekeeperCluster, SEGMENT, START } from "../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { generateTimelineId } from "../base/ids.ts";
import { SeededRandom } from "../base/random.ts";
import { FaultyObjectStore } from "../object-store/faulty-object-store.ts";
import { MemoryObjectStore } from "../object-store/memory-object-store.ts";
import type { PeerPositions, Timeline } from "./timeline.ts";

const BULK = Array.from({ length: 12 }, () => 300_000);

/** As a forger who knows everything would write it. */
function report(timeline: Timeline): PeerPositions {
  const { persistent, flushLsn, remoteConsistentLsn: _ } = timeline.state;
  return {
    generation: persistent.mconf.generation,
    term: persistent.term,
    lastLogTerm: timeline.lastLogTerm,
    flushLsn,
    commitLsn: flushLsn,
    remoteConsistentLsn: flushLsn,
    backupLsn: flushLsn,
  };
}

test("reports: of a known membership only members are heard: a stranger deletes and commits nothing", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 3);
  const timeline_id = generateTimelineId();
  const members = [1, 2, 3].map((id) => ({ id, host: "127.0.0.1", pg_port: 1 }));
  for (const i of [0, 1, 2]) {
    const { pgAddr } = cluster.address(i);
    members[i]!.pg_port = Number(pgAddr.split(":")[1]);
  }
  for (const i of [0, 1, 2]) {
    const mconf = { generation: 1, members };
    await cluster.http(i).createTimeline({ ...cluster.createRequest(), timeline_id, mconf });
  }
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const leader = await cluster.lead(timeline_id);
  await commit(leader, wal, BULK);
  const timeline = cluster.nodes[0]!.timelines.get(cluster.tenantId, timeline_id);
  await eventually("commit LSN", () => timeline.state.commitLsn === wal.endLsn);
  await commit(leader, wal, [24]);
  leader.driver.close();
  const before = timeline.state;
  for (let id = 4; id < 1000; id++) {
    timeline.peerReported(id, report(timeline));
  }
  timeline.maintain();
  assert.equal(timeline.peers.size, 0);
  assert.equal(timeline.state.commitLsn, before.commitLsn);
  assert.equal(timeline.state.remoteConsistentLsn, before.remoteConsistentLsn);
  assert.equal(timeline.localWalStartLsn, START);
  timeline.peerReported(2, report(timeline));
  assert.equal(timeline.peers.size, 1);
});

test("reports: without a membership not more are remembered than there can be safekeepers", async (t) => {
  const cluster = await SafekeeperCluster.start(t, 1);
  const timeline = cluster.timeline(0);
  for (let id = 2; id < 100_000; id++) {
    timeline.peerReported(id, report(timeline));
  }
  assert.equal(timeline.peers.size, 32);
});

test("reports: WAL that is not in the object store leaves no disk, whatever is reported", async (t) => {
  const store = new FaultyObjectStore(new MemoryObjectStore(), new SeededRandom(1));
  store.down = true;
  const backup = { partialTimeoutMs: 1e9, evictAfterMs: 1e9 };
  const cluster = await SafekeeperCluster.start(t, 1, { store, backup });
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  await commit(await cluster.lead(), wal, BULK);
  const timeline = cluster.timeline(0);
  timeline.peerReported(2, report(timeline));
  const { calls } = store;
  await eventually("it looks in the store", () => store.calls > calls);
  timeline.maintain();
  assert.equal(timeline.state.persistent.backupLsn, START);
  assert.equal(timeline.localWalStartLsn, START);
});
