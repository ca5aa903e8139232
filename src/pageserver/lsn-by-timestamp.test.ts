// Tests of LSN <-> time against a list of the records, with clocks that go anywhere.

import assert from "node:assert/strict";
import { test } from "node:test";
import { CHECKPOINT, controlFile, logger } from "../../testing/ingest-harness.ts";
import { FIXTURE_START_LSN, StorageFixture } from "../../testing/storage-fixture.ts";
import { generateTimelineId } from "../base/ids.ts";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { encodeStoredCheckPoint } from "./ingest/stored-checkpoint.ts";
import { WalIngest } from "./ingest/walingest.ts";
import {
  CHECKPOINT_INDEX,
  COMMIT_TIME_PREFIX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  formatKey,
} from "./layers/key.ts";
import { findLsnByTimestamp, timestampOfLsn } from "./lsn-by-timestamp.ts";
import type { Timeline } from "./storage/timeline.ts";

interface End {
  readonly start: Lsn;
  readonly end: Lsn;
  readonly timeUs: number;
  readonly committed: boolean;
}

function newRoot(fixture: StorageFixture): Promise<Timeline> {
  return fixture.createRoot([
    { prefix: CONTROL_PREFIX, index: CONTROL_FILE_INDEX, value: controlFile() },
    { prefix: CONTROL_PREFIX, index: CHECKPOINT_INDEX, value: encodeStoredCheckPoint(CHECKPOINT) },
  ]);
}

/** A timeline that takes in ends of transactions, and the list of them. */
class History {
  readonly timeline: Timeline;
  readonly ends: End[];
  #ingest: WalIngest;

  constructor(timeline: Timeline, ends: readonly End[] = []) {
    this.timeline = timeline;
    this.ends = [...ends];
    this.#ingest = new WalIngest(timeline, logger);
  }

  restart(): void {
    this.#ingest = new WalIngest(this.timeline, logger);
  }

  /** A record of so many bytes, after other WAL; multiples of 8, as Postgres aligns records. */
  end(timeUs: number, committed: boolean, bytes = 40, gap = 0): void {
    const start = toLsn(this.timeline.lastRecordLsn + gap);
    const end = toLsn(start + bytes);
    this.#ingest.beginRecord(start, end);
    this.#ingest.transactionEnd(BigInt(timeUs), committed);
    this.#ingest.endRecord();
    this.#ingest.publish();
    this.ends.push({ start, end, timeUs, committed });
  }

  /** Recovery's rule, from the first record on. */
  expectedLsn(timeUs: number) {
    const { ends, timeline } = this;
    const stop = ends.findIndex((end) => end.timeUs > timeUs);
    const passed = stop < 0 ? ends : ends.slice(0, stop);
    const commitUs = passed.findLast((end) => end.committed)?.timeUs;
    if (ends.length === 0) {
      return { kind: "nodata", lsn: timeline.minReadableLsn, commitUs: undefined };
    }
    if (stop < 0) {
      return { kind: "future", lsn: timeline.lastRecordLsn, commitUs };
    }
    return stop === 0
      ? { kind: "past", lsn: timeline.minReadableLsn, commitUs: ends[0]!.timeUs }
      : { kind: "present", lsn: ends[stop]!.start, commitUs };
  }

  expectedTime(lsn: Lsn): number | undefined {
    return this.ends.findLast((end) => end.committed && end.end <= lsn)?.timeUs;
  }

  async check(random: SeededRandom, count: number): Promise<void> {
    for (let i = 0; i < count; i++) {
      const { timeUs, end } = this.ends[random.int(this.ends.length)]!;
      const time = timeUs + random.int(3) - 1;
      assert.deepEqual(await findLsnByTimestamp(this.timeline, time), this.expectedLsn(time));
      const lsn = toLsn(
        Math.min(
          this.timeline.lastRecordLsn,
          Math.max(FIXTURE_START_LSN, end + random.int(33) - 16),
        ),
      );
      assert.equal(await timestampOfLsn(this.timeline, lsn), this.expectedTime(lsn));
    }
  }
}

test("LSN <-> time: as recovery_target_time, with any clocks, over flushes, restarts and branches", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new SeededRandom(seed);
    await using fixture = await StorageFixture.create();
    const root = new History(await newRoot(fixture));
    let clock = 800_000_000_000_000;
    const grow = async (history: History, count: number) => {
      for (let i = 0; i < count; i++) {
        clock += random.bool(0.01) ? random.int(10_000_000) - 5_000_000 : random.int(300);
        const jitter = random.bool(0.3) ? random.int(2000) : 0;
        const gap = 8 * (random.bool(0.01) ? random.int(1 << 19) : random.int(100));
        history.end(clock - jitter, random.bool(0.8), 8 * (1 + random.int(30)), gap);
        const event = random.int(1000);
        if (event === 0) {
          await history.timeline.checkpoint();
        } else if (event === 1) {
          history.restart();
        }
      }
    };
    try {
      await grow(root, 1 + random.int(6000));
      await root.check(random, 60);
      const at = random.int(root.ends.length);
      const { timelineId } = root.timeline;
      const branch = await fixture.manager.tenant(fixture.tenantId).createBranch({
        timelineId: generateTimelineId(),
        ancestorTimelineId: timelineId,
        ancestorLsn: root.ends[at]!.end,
      });
      const child = new History(branch, root.ends.slice(0, at + 1));
      await child.check(random, 20);
      await grow(root, random.int(2000));
      await grow(child, random.int(2000));
      await root.check(random, 40);
      await child.check(random, 60);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});

test("findLsnByTimestamp: nothing known, too early, too late", async () => {
  await using fixture = await StorageFixture.create();
  const history = new History(await newRoot(fixture));
  const ask = (timeUs: number) => findLsnByTimestamp(history.timeline, timeUs);
  assert.deepEqual(await ask(5), history.expectedLsn(5));
  assert.equal(await timestampOfLsn(history.timeline, FIXTURE_START_LSN), undefined);
  history.end(100, false);
  assert.equal(await timestampOfLsn(history.timeline, history.timeline.lastRecordLsn), undefined);
  history.end(200, true);
  for (const timeUs of [-1, 99, 100, 199, 200, Number.MAX_SAFE_INTEGER]) {
    assert.deepEqual(await ask(timeUs), history.expectedLsn(timeUs));
  }
  assert.equal((await ask(99)).kind, "past");
  assert.equal((await ask(100)).kind, "present");
  // Infinity, and a clock before 2000.
  history.end(2 ** 63 - 1024, true);
  history.end(-5, true);
  assert.equal(await timestampOfLsn(history.timeline, history.timeline.lastRecordLsn), 0);
  assert.equal((await ask(201)).lsn, history.ends[2]!.start);
  await assert.rejects(timestampOfLsn(history.timeline, toLsn(FIXTURE_START_LSN - 8)), {
    kind: "invalid",
    code: "lsn-too-old",
  });
});

test("index of commit times: damage is corrupt, and says what", async () => {
  await using fixture = await StorageFixture.create();
  const history = new History(await newRoot(fixture));
  const { timeline } = history;
  history.end(100, true);
  for (const [index, value] of [
    [1, [0, 0]],
    [1, [0, 0, 0x80]],
    [1, [0, 0, 0, 0]],
    [1, [0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]],
    [1, [0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0, 0]],
    [0, new Array(23).fill(0)],
    [0, new Array(24).fill(2)],
  ] as const) {
    const lsn = toLsn(timeline.lastRecordLsn + 8);
    timeline.putImage(COMMIT_TIME_PREFIX, index, lsn, Uint8Array.from(value));
    timeline.advance(lsn, lsn);
    await assert.rejects(
      timestampOfLsn(timeline, lsn),
      { kind: "corrupt", code: "bad-commit-time", message: /index of commit times: / },
      `${formatKey(COMMIT_TIME_PREFIX, index)} ${value}`,
    );
  }
});

test("index of commit times: a search is short also where most ends are in memory", async () => {
  await using fixture = await StorageFixture.create();
  const history = new History(await newRoot(fixture));
  const count = 120_000;
  for (let i = 0; i < count; i++) {
    history.end(1000 * i, true, 40, 360);
  }
  const reads = 50;
  // Of the processor, and not of the clock: others have it, too.
  const start = process.cpuUsage();
  for (let i = 0; i < reads; i++) {
    await findLsnByTimestamp(history.timeline, 1000 * Math.floor((i * count) / reads));
  }
  const eachMs = process.cpuUsage(start).user / 1000 / reads;
  assert.ok(eachMs < 20, `${eachMs} ms a search`);
});
