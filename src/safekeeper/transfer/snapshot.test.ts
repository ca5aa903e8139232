import assert from "node:assert/strict";
import { test } from "node:test";
import { SimulatedDisk } from "../../../simulation/simulated-disk.ts";
import { carryOutNow, SimulatedStore } from "../../../simulation/simulated-store.ts";
import {
  createTimeline,
  METRICS,
  newTimeline,
  silentContext,
} from "../../../simulation/simulated-timeline.ts";
import { FIRST_LSN, SEGMENT_SIZE, SYSTEM_ID } from "../../../simulation/simulated-wal.ts";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { turn } from "../../base/clock.ts";
import { type Lsn, segmentStart } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import type { StoreAnswer } from "../../object-store/store-steps.ts";
import { NO_MEMBERSHIP } from "../../safekeeper-protocol/membership.ts";
import type { TermHistory } from "../../safekeeper-protocol/term-history.ts";
import type { Timeline } from "../timeline.ts";
import { TimelineBackup } from "../wal-backup/timeline-backup.ts";
import { snapshot, snapshotSteps } from "./snapshot.ts";

/** A safekeeper with WAL of which the last record is not committed, and what is stored may leave the disk. */
class Donor {
  readonly store = new SimulatedStore();
  readonly timeline: Timeline;
  readonly committedLsn: Lsn;

  constructor({ hasStore }: { hasStore: boolean }) {
    const disk = new SimulatedDisk(new SeededRandom(1));
    const context = silentContext(1, disk, hasStore ? this.store : undefined);
    const timeline = createTimeline(context, newTimeline(NO_MEMBERSHIP));
    this.timeline = timeline;
    this.#elect(2, FIRST_LSN, [{ term: 2, lsn: FIRST_LSN }]);
    const startLsn = FIRST_LSN;
    const wal = new WalBuilder({ startLsn, systemId: SYSTEM_ID, segmentSize: SEGMENT_SIZE });
    for (const bytes of [200, 40_000, 300]) {
      wal.appendFilled(bytes);
    }
    this.committedLsn = wal.endLsn;
    wal.appendFilled(30_000);
    const request = { type: "append-request", generation: 0, term: 2 } as const;
    const { endLsn } = wal;
    const positions = { commitLsn: this.committedLsn, truncateLsn: this.committedLsn };
    const walData = wal.read(FIRST_LSN, endLsn);
    timeline.receive({ ...request, ...positions, beginLsn: FIRST_LSN, endLsn, walData });
    timeline.settle();
    // What all peers have counts once it is committed here.
    const nothing = { beginLsn: endLsn, endLsn, walData: new Uint8Array(0) };
    timeline.receive({ ...request, ...positions, ...nothing });
    timeline.peerReported(2, {
      generation: 0,
      term: 2,
      lastLogTerm: 2,
      flushLsn: this.committedLsn,
      commitLsn: this.committedLsn,
      remoteConsistentLsn: this.committedLsn,
    });
    if (hasStore) {
      this.#backUp();
    }
  }

  #backUp(): void {
    const { timeline } = this;
    const settings = { partialTimeoutMs: 1e9, evictAfterMs: 1e9 };
    const options = { nodeId: 1, metrics: METRICS, settings, hasProposer: () => true };
    for (const steps of new TimelineBackup(timeline, options).run()) {
      carryOutNow(steps, this.store);
    }
    assert.equal(
      timeline.state.persistent.backupLsn,
      segmentStart(this.committedLsn, SEGMENT_SIZE),
    );
  }

  /** What a new leader, which does not have the last record, does to the log. */
  cut(): void {
    this.#elect(3, this.committedLsn, [
      { term: 2, lsn: FIRST_LSN },
      { term: 3, lsn: this.committedLsn },
    ]);
  }

  #elect(term: number, startStreamingAt: Lsn, termHistory: TermHistory): void {
    this.timeline.receive({ type: "vote-request", generation: 0, term });
    const elected = { type: "elected", generation: 0, term, termHistory } as const;
    this.timeline.receive({ ...elected, startStreamingAt });
  }

  /** The archive; `afterStep` is called with the number of steps so far, from 0 on. */
  archive(afterStep: (steps: number) => void): Buffer {
    const steps = snapshotSteps(this.timeline);
    const parts: Uint8Array[] = [];
    let step = steps.next();
    for (let count = 0; step.done !== true; count++) {
      let answer: StoreAnswer;
      if (step.value instanceof Uint8Array) {
        parts.push(step.value);
      } else {
        answer = this.store.call(step.value);
      }
      afterStep(count);
      step = steps.next(answer);
    }
    return Buffer.concat(parts);
  }
}

test("snapshot: where a new term cuts the log between any two steps it breaks off, and nothing is called damaged", () => {
  for (const isRemoved of [false, true]) {
    const whole = new Donor({ hasStore: true });
    if (isRemoved) {
      // The record in the middle of which the rest begins is checked first.
      whole.timeline.maintain();
      assert.ok(whole.timeline.localWalStartLsn > FIRST_LSN);
    }
    let steps = 0;
    whole.archive((count) => {
      steps = count + 1;
    });
    assert.ok(steps > 10);
    // Not after its last bytes: then it was whole.
    for (let cutAfter = 0; cutAfter < steps - 1; cutAfter++) {
      const donor = new Donor({ hasStore: true });
      if (isRemoved) {
        donor.timeline.maintain();
      }
      assert.throws(
        () => donor.archive((count) => count === cutAfter && donor.cut()),
        { kind: "unavailable", code: "wal-changed" },
        `cut after step ${cutAfter} of ${steps}`,
      );
    }
  }
});

test("snapshot: no WAL leaves the disk until it ends", () => {
  const donor = new Donor({ hasStore: false });
  const whole = new Donor({ hasStore: false }).archive(() => undefined);
  const archive = donor.archive(() => donor.timeline.maintain());
  assert.ok(archive.equals(whole));
  donor.timeline.maintain();
  assert.ok(donor.timeline.localWalStartLsn > FIRST_LSN);
});

test("snapshot: who breaks it off holds no WAL any more", async () => {
  const { timeline } = new Donor({ hasStore: false });
  for await (const _ of snapshot(timeline)) {
    break;
  }
  timeline.maintain();
  assert.ok(timeline.localWalStartLsn > FIRST_LSN);
});

test("snapshot: others have their turn after each piece", async () => {
  const { timeline } = new Donor({ hasStore: false });
  let turns = 0;
  let ended = false;
  const counting = (async () => {
    for (; !ended; turns++) {
      await turn();
    }
  })();
  for await (const _ of snapshot(timeline)) {
    // Whoever takes it is never slow.
  }
  ended = true;
  await counting;
  const segments = Math.ceil((timeline.state.flushLsn - FIRST_LSN) / SEGMENT_SIZE);
  assert.ok(turns >= segments, `${turns} turns`);
});
