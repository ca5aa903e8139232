// Crashes and power cuts between any two disk operations of a timeline that is backed up, emptied, evicted and woken.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SimulatedCrash, SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { SEGMENT, START } from "../../../testing/safekeeper-cluster.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { monotonicMs, sleep, turn } from "../../base/clock.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { createLogger } from "../../base/log.ts";
import { type Lsn, minLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { FaultyObjectStore } from "../../object-store/faulty-object-store.ts";
import { MemoryObjectStore } from "../../object-store/memory-object-store.ts";
import { NO_MEMBERSHIP } from "../../safekeeper-protocol/membership.ts";
import { NO_PAGESERVER_FEEDBACK } from "../../safekeeper-protocol/pageserver-feedback.ts";
import type { AcceptorPersistentState } from "../consensus/acceptor.ts";
import { SafekeeperMetrics } from "../metrics.ts";
import { Timeline, type TimelineContext } from "../timeline.ts";
import { TimelineWal } from "../transfer/timeline-wal.ts";
import { parsePartialSegmentName } from "./stored-wal.ts";
import { TimelineBackup } from "./timeline-backup.ts";
import { WalBackup } from "./wal-backup.ts";

/*
 * After each: the timeline loads; WAL that was acknowledged is there to its last byte, on the disk or in
 * the store; whole segments in the store are committed WAL; once quiet, one partial segment at most is
 * left.
 */

const DIRECTORY = "/sk/timeline";
const LIVES = 4;
const SEEDS = 10;

const INITIAL: AcceptorPersistentState = {
  tenantId: parseTenantId("11111111111111111111111111111111"),
  timelineId: parseTimelineId("22222222222222222222222222222222"),
  mconf: NO_MEMBERSHIP,
  term: 0,
  termHistory: [],
  pgVersion: 170010,
  systemId: 42n,
  walSegSize: SEGMENT,
  timelineStartLsn: START,
  localStartLsn: START,
  commitLsn: START,
  backupLsn: START,
  peerHorizonLsn: START,
  remoteConsistentLsn: START,
  flushedLsn: START,
};

class World {
  readonly random: SeededRandom;
  readonly disk: SimulatedDisk;
  readonly store: MemoryObjectStore;
  readonly faulty: FaultyObjectStore;
  readonly context: TimelineContext;
  wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  acknowledged: Lsn = START;
  /** What happened at all, over the seeds. */
  readonly seen: Set<string>;

  constructor(seed: number, seen: Set<string>) {
    this.random = new SeededRandom(seed);
    this.disk = new SimulatedDisk(this.random);
    this.store = new MemoryObjectStore();
    this.faulty = new FaultyObjectStore(this.store, this.random);
    this.seen = seen;
    this.context = {
      nodeId: 1,
      logger: createLogger("test", "silent"),
      metrics: new SafekeeperMetrics(),
      disk: this.disk,
      store: this.faulty,
      onChange() {},
    };
  }

  /** From a load to the next crash, or to the end of what there is to do. */
  async live(term: number, mayCrash: boolean): Promise<void> {
    this.faulty.rates = {};
    const timeline = Timeline.load(this.context, DIRECTORY);
    let hasProposer = true;
    const backup = new WalBackup({
      nodeId: 1,
      metrics: this.context.metrics,
      settings: { partialTimeoutMs: 0, evictAfterMs: 0 },
      timelines: () => [timeline],
      hasProposer: () => hasProposer,
    });
    const work = async (until: () => boolean) => {
      this.faulty.rates = { lostReply: 0.03 };
      const deadline = monotonicMs() + 20_000;
      for (let i = 1; monotonicMs() < deadline && !until(); i++) {
        backup.tick();
        timeline.maintain();
        // Retries wait for the real clock.
        await (i % 100 === 0 ? sleep(2) : turn());
        if (this.disk.crashed) {
          throw new SimulatedCrash("in the background");
        }
      }
      this.faulty.rates = {};
    };
    try {
      await this.check(timeline);
      await timeline.wake();
      this.#elect(timeline, term);
      this.#pageserver(timeline);
      for (let round = 0; round < 3; round++) {
        this.#append(timeline, 1 + this.random.int(6));
        await work(() => timeline.isStored);
        assert.ok(timeline.isStored, "the backup is stuck");
        this.#note(timeline);
      }
      hasProposer = false;
      if (mayCrash && this.random.bool()) {
        // Few operations, and each counts.
        this.disk.operationsLeft = this.random.int(12);
      }
      await work(() => timeline.placement.evicted);
      this.#note(timeline);
      await this.check(timeline);
      const partials = () => this.store.keys.filter((key) => key.endsWith(".partial"));
      await work(() => partials().length <= 1);
      assert.ok(partials().length <= 1, partials().join(" "));
    } finally {
      await backup.stop();
    }
  }

  /** A timeline with some WAL of one term, and its backup, which never evicts it. */
  started(partialTimeoutMs = 0) {
    const timeline = Timeline.create(this.context, DIRECTORY, INITIAL);
    this.#elect(timeline, 1);
    this.#append(timeline, 2);
    const settings = { partialTimeoutMs, evictAfterMs: 0 };
    const backup = new WalBackup({
      nodeId: 1,
      metrics: this.context.metrics,
      settings,
      timelines: () => [timeline],
      hasProposer: () => true,
    });
    const until = async (test: () => boolean) => {
      for (let i = 0; !test(); i++) {
        assert.ok(i < 5000, "the backup is stuck");
        backup.tick();
        await sleep(1);
      }
    };
    return { timeline, settings, backup, until };
  }

  /** The sync after `goodSyncs` fails while the timeline is evicted; then it is written to again. */
  async evictionFails(goodSyncs: number): Promise<boolean> {
    const { timeline, backup, until } = this.started();
    await until(() => timeline.isStored);
    await backup.stop();
    Object.assign(this.disk, { goodSyncs, failingSyncs: 1 });
    let failed = false;
    try {
      timeline.evict();
    } catch {
      failed = true;
    }
    this.disk.failingSyncs = 0;
    try {
      this.#append(timeline, 1);
    } catch {
      // As the next connection of its proposer.
      await timeline.wake();
      this.#append(timeline, 1);
    }
    return failed;
  }

  #note(timeline: Timeline): void {
    this.seen.add(timeline.placement.evicted ? "evicted" : "present");
    if (timeline.localWalStartLsn > START && !timeline.placement.evicted) {
      this.seen.add("removed");
    }
    if (timeline.placement.partial !== undefined) {
      this.seen.add("partial");
    }
  }

  async check(timeline: Timeline): Promise<void> {
    assert.ok(timeline.state.flushLsn >= this.acknowledged, "acknowledged WAL is gone");
    const source = await TimelineWal.open(timeline);
    try {
      let lsn = START;
      for await (const bytes of source.read(START, this.acknowledged)) {
        const end = (lsn + bytes.length) as Lsn;
        assert.ok(Buffer.from(bytes).equals(this.wal.read(lsn, end)), `WAL at ${lsn} differs`);
        lsn = end;
      }
    } finally {
      source.close();
    }
    for (const key of this.store.keys) {
      const name = key.split("/").at(-1)!;
      const partial = parsePartialSegmentName(name, SEGMENT);
      assert.ok(partial !== undefined || /^[0-9A-F]{24}$/.test(name), name);
    }
  }

  #elect(timeline: Timeline, term: number): void {
    const { flushLsn, persistent } = timeline.state;
    this.wal = this.wal.fork(flushLsn);
    timeline.receive({ type: "vote-request", generation: 0, term });
    timeline.receive({
      type: "elected",
      generation: 0,
      term,
      startStreamingAt: flushLsn,
      termHistory: [
        ...persistent.termHistory.filter(({ lsn }) => lsn <= flushLsn),
        { term, lsn: flushLsn },
      ],
    });
  }

  #append(timeline: Timeline, records: number): void {
    const { flushLsn, persistent } = timeline.state;
    for (let i = 0; i < records; i++) {
      this.wal.appendFilled(this.random.bool(0.2) ? 900_000 : 100 + this.random.int(150_000));
    }
    const request = { type: "append-request", generation: 0, term: persistent.term } as const;
    const endLsn = this.wal.endLsn;
    for (let at = flushLsn; at < endLsn; ) {
      const end = minLsn((at + 131_072) as Lsn, endLsn);
      timeline.receive({
        ...request,
        beginLsn: at,
        endLsn: end,
        commitLsn: at,
        truncateLsn: at,
        walData: this.wal.read(at, end),
      });
      at = end;
    }
    timeline.settle();
    this.acknowledged = timeline.state.flushLsn;
    const walData = new Uint8Array(0);
    const done = { beginLsn: endLsn, endLsn, commitLsn: endLsn, truncateLsn: endLsn, walData };
    timeline.receive({ ...request, ...done });
  }

  /** One that has stored everything and reads on. */
  #pageserver(timeline: Timeline): void {
    const feedback = () => ({
      ...NO_PAGESERVER_FEEDBACK,
      remoteConsistentLsn: timeline.state.commitLsn,
    });
    timeline.addConsumer({
      wake: () => timeline.feedbackChanged(feedback()),
      get sentLsn() {
        return timeline.state.commitLsn;
      },
      get pageserverFeedback() {
        return feedback();
      },
      hotStandbyFeedback: undefined,
    });
  }
}

test(`wal backup: ${SEEDS} runs of ${LIVES} lives, each ended between two disk operations`, async () => {
  const seen = new Set<string>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const world = new World(seed, seen);
    world.disk.makeDirectory("/sk");
    world.disk.fsyncDirectory("/");
    Timeline.create(world.context, DIRECTORY, INITIAL);
    for (let term = 1; term <= LIVES; term++) {
      const isLast = term === LIVES;
      world.disk.operationsLeft = isLast ? Number.POSITIVE_INFINITY : world.random.int(150);
      try {
        await world.live(term, !isLast);
        seen.add("survived");
      } catch (error) {
        if (!world.disk.crashed || isLast) {
          throw new Error(`seed ${seed}, life ${term}`, { cause: error });
        }
        seen.add("crashed");
      }
      if (world.random.bool()) {
        world.disk.powerCut();
      } else {
        world.disk.processEnded();
      }
    }
  }
  // The runs are worth something only if they get everywhere.
  for (const what of ["crashed", "survived", "evicted", "removed", "partial"]) {
    assert.ok(seen.has(what), `no run ${what}`);
  }
});

test("a partial segment of a tail that was cut off is not taken for that of the new one", async () => {
  const world = new World(1, new Set());
  world.disk.makeDirectory("/sk");
  const timeline = Timeline.create(world.context, DIRECTORY, INITIAL);
  const tail = (term: number, filler: number) => {
    timeline.receive({ type: "vote-request", generation: 0, term });
    const termHistory = [{ term, lsn: START }];
    const elected = { type: "elected", generation: 0, term, termHistory } as const;
    timeline.receive({ ...elected, startStreamingAt: START });
    const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
    wal.appendFilled(500, filler);
    const positions = { beginLsn: START, endLsn: wal.endLsn, commitLsn: START, truncateLsn: START };
    const walData = wal.read(START, wal.endLsn);
    timeline.receive({ type: "append-request", generation: 0, term, ...positions, walData });
    timeline.settle();
    return wal;
  };
  const settings = { partialTimeoutMs: 0, evictAfterMs: 0 };
  const options = { nodeId: 1, metrics: world.context.metrics, settings };
  const backup = new WalBackup({
    ...options,
    timelines: () => [timeline],
    hasProposer: () => timeline.state.commitLsn === START,
  });
  const wait = async (what: string, test: () => boolean) => {
    for (let i = 0; !test(); i++) {
      assert.ok(i < 2000, what);
      backup.tick();
      await sleep(1);
    }
  };
  tail(1, 1);
  await wait("partial segment", () => timeline.partialIsCurrent);
  const kept = tail(2, 2);
  assert.equal(timeline.placement.partial?.flushLsn, timeline.state.flushLsn);
  assert.equal(timeline.partialIsCurrent, false);
  const { endLsn } = kept;
  const done = { beginLsn: endLsn, endLsn, commitLsn: endLsn, truncateLsn: START };
  const walData = new Uint8Array(0);
  timeline.receive({ type: "append-request", generation: 0, term: 2, ...done, walData });
  await wait("eviction", () => timeline.placement.evicted);
  world.wal = kept;
  world.acknowledged = endLsn;
  await world.check(timeline);
  await backup.stop();
});

test("a tail that is cut off while it is read for its upload is not called damaged", () => {
  const world = new World(1, new Set());
  world.disk.makeDirectory("/sk");
  const timeline = Timeline.create(world.context, DIRECTORY, INITIAL);
  const { metrics } = world.context;
  const settings = { partialTimeoutMs: 0, evictAfterMs: 0 };
  const backup = new TimelineBackup(timeline, {
    nodeId: 1,
    metrics,
    settings,
    hasProposer: () => true,
  });
  const elect = (term: number) => {
    timeline.receive({ type: "vote-request", generation: 0, term });
    const termHistory = [{ term, lsn: START }];
    const elected = { type: "elected", generation: 0, term, termHistory } as const;
    timeline.receive({ ...elected, startStreamingAt: START });
  };
  // Not committed, and more than is read at once.
  elect(2);
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  wal.appendFilled(600_000);
  const positions = { beginLsn: START, endLsn: wal.endLsn, commitLsn: START, truncateLsn: START };
  const walData = wal.read(START, wal.endLsn);
  timeline.receive({ type: "append-request", generation: 0, term: 2, ...positions, walData });
  timeline.settle();
  assert.ok(backup.isDue());
  let pauses = 0;
  for (const steps of backup.run()) {
    for (let step = steps.next(); step.done !== true; ) {
      if (step.value.type === "pause" && pauses++ === 0) {
        elect(3);
      }
      step = steps.next(world.store.call(step.value));
    }
  }
  assert.ok(pauses > 0);
  assert.deepEqual(backup.status, { state: "idle", lastError: undefined });
  assert.deepEqual(world.store.keys, []);
});

test("WAL that is written after a failed eviction survives a restart, whichever sync had failed", async () => {
  let failures = 0;
  for (let goodSyncs = 0; goodSyncs < 4; goodSyncs++) {
    const world = new World(goodSyncs, new Set());
    world.disk.makeDirectory("/sk");
    failures += (await world.evictionFails(goodSyncs)) ? 1 : 0;
    world.disk.processEnded();
    await world.check(Timeline.load(world.context, DIRECTORY));
  }
  assert.ok(failures >= 2, `${failures}`);
});

test("an evicted timeline that comes back survives a power cut between any two disk operations", async () => {
  let crashes = 0;
  for (let operations = 0, survived = false; !survived; operations++) {
    const world = new World(operations, new Set());
    world.disk.makeDirectory("/sk");
    world.disk.fsyncDirectory("/");
    const { timeline, backup, until } = world.started();
    await until(() => timeline.isStored);
    await backup.stop();
    timeline.evict();
    assert.ok(timeline.placement.evicted);
    world.disk.operationsLeft = operations;
    try {
      await timeline.wake();
      survived = true;
    } catch (error) {
      assert.ok(world.disk.crashed, String(error));
      crashes++;
    }
    world.disk.powerCut();
    const restarted = Timeline.load(world.context, DIRECTORY);
    await world.check(restarted);
    await restarted.wake();
    await world.check(restarted);
  }
  assert.ok(crashes >= 4, `${crashes}`);
});

test("a partial segment that the control file may name is not removed as an orphan", async () => {
  const world = new World(1, new Set());
  world.disk.makeDirectory("/sk");
  const { timeline, settings, backup, until } = world.started();
  const isPartial = (key: string) => key.endsWith(".partial");
  // The control file has its new content and name, but its directory could not be synced.
  Object.assign(world.disk, { goodSyncs: 1, failingSyncs: 1 });
  await until(() => world.disk.failingSyncs === 0 && backup.status(timeline).state === "failing");
  assert.equal(world.store.keys.filter(isPartial).length, 1);
  // From now on no other is uploaded, but what the error left is looked at.
  settings.partialTimeoutMs = 1_000_000;
  await until(() => backup.status(timeline).state === "idle");
  await backup.stop();
  world.disk.processEnded();
  const restarted = Timeline.load(world.context, DIRECTORY);
  await sleep(2);
  restarted.evict();
  await world.check(restarted);
});
