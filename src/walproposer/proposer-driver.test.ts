import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { eventually } from "../../testing/eventually.ts";
import {
  commit,
  type Leader,
  SafekeeperCluster,
  SEGMENT,
  START,
  wholeWal,
} from "../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { REAL_CLOCK, replaceClock } from "../base/clock.ts";

const COMMITS = 200;

/** How often each safekeeper makes WAL durable from now on. */
function countFlushes(cluster: SafekeeperCluster): number[] {
  const counts = cluster.nodes.map(() => 0);
  for (const index of counts.keys()) {
    const timeline = cluster.timeline(index);
    const settle = timeline.settle.bind(timeline);
    timeline.settle = () => {
      counts[index]! += timeline.state.writeLsn > timeline.state.flushLsn ? 1 : 0;
      settle();
    };
  }
  return counts;
}

/** One after the other; everybody has all of it at the end. */
async function commitMany(cluster: SafekeeperCluster, leader: Leader, wal: WalBuilder) {
  for (let i = 0; i < COMMITS; i++) {
    await commit(leader, wal, [100]);
  }
  await allHave(cluster, wal);
}

/** Three safekeepers that have taken a first commit. */
async function start(
  context: TestContext,
  hosts: readonly string[] = [],
): Promise<{ cluster: SafekeeperCluster; leader: Leader; wal: WalBuilder }> {
  const cluster = await SafekeeperCluster.start(context, 3);
  const leader = await cluster.lead(cluster.timelineId, hosts);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  await commit(leader, wal, [100]);
  await allHave(cluster, wal);
  return { cluster, leader, wal };
}

async function allHave(cluster: SafekeeperCluster, wal: WalBuilder): Promise<void> {
  await eventually("everybody has it", () =>
    cluster.nodes.every((node, index) => !node || cluster.state(index).commitLsn === wal.endLsn),
  );
}

/** Timers take so many times as long, so that a commit of a busy machine is as short beside them as one of an idle one. */
function slowTimers(context: TestContext, factor: number): void {
  const { setTimer } = REAL_CLOCK;
  replaceClock({ ...REAL_CLOCK, setTimer: (what, ms, idle) => setTimer(what, ms * factor, idle) });
  context.after(() => replaceClock(REAL_CLOCK));
}

test("ProposerDriver: of three safekeepers on one host one gets its WAL late, and all of it", async (context) => {
  const { cluster, leader, wal } = await start(context);
  slowTimers(context, 20);
  const flushes = countFlushes(cluster);
  await commitMany(cluster, leader, wal);
  const all = flushes.reduce((sum, count) => sum + count, 0);
  assert.ok(all >= 2 * COMMITS && all < 2.5 * COMMITS, `${flushes}`);
  const bytes = wholeWal(wal);
  for (const index of cluster.nodes.keys()) {
    const reader = cluster.timeline(index).openReader();
    assert.ok(bytes.equals(reader.read(START, bytes.length)));
    reader.close();
  }
});

test("ProposerDriver: when one stops, the late one is at once like the other", async (context) => {
  const { cluster, leader, wal } = await start(context);
  const flushes = countFlushes(cluster);
  await commitMany(cluster, leader, wal);
  const fast = flushes.indexOf(Math.max(...flushes));
  await cluster.stopNode(fast);
  const before = [...flushes];
  await commitMany(cluster, leader, wal);
  const more = flushes.map((count, index) => count - before[index]!);
  assert.deepEqual(more.toSorted(), [0, COMMITS, COMMITS]);
  await cluster.startNode(fast);
  await allHave(cluster, wal);
});

test("ProposerDriver: on hosts of their own nobody is late", async (context) => {
  const { cluster, leader, wal } = await start(context, ["127.0.0.1", "localhost"]);
  const flushes = countFlushes(cluster);
  await commitMany(cluster, leader, wal);
  assert.ok(Math.min(...flushes) > COMMITS / 2, `${flushes}`);
});

test("ProposerDriver: neither a start nor who asks how far it is waits for a timer", async (context) => {
  const cluster = await SafekeeperCluster.start(context, 3);
  replaceClock({ ...REAL_CLOCK, setTimer: () => ({ cancel: () => {}, restart: () => {} }) });
  context.after(() => replaceClock(REAL_CLOCK));
  let leader: Leader | undefined;
  const hosts = ["127.0.0.1", "localhost"];
  const leading = cluster.lead(cluster.timelineId, hosts).then((led) => {
    leader = led;
  });
  await eventually("it leads", () => leader !== undefined, { timeoutMs: 15_000 });
  await leading;
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  await commit(leader!, wal, [100]);
  await eventually("all have the WAL", () =>
    cluster.nodes.every((_, index) => cluster.state(index).flushLsn === wal.endLsn),
  );
  const know = () => cluster.nodes.filter((_, i) => cluster.state(i).commitLsn === wal.endLsn);
  assert.deepEqual(know(), [], "nobody was told yet");
  leader!.driver.announceCommit();
  await allHave(cluster, wal);
});
