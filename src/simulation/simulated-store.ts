// The object store of a simulated run, and what the elected safekeeper does for it: a twin of wal-backup.ts.

import { StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, segmentNumber, segmentStart } from "../base/lsn.ts";
import { pgVersion } from "../postgres/versions.ts";
import type { Timeline } from "../safekeeper/timeline.ts";
import { WholeSegmentCheck } from "../safekeeper/wal-backup/whole-segment-check.ts";
import { Violation } from "./checker.ts";
import { SEGMENT_SIZE } from "./simulated-wal.ts";

/** Whole segments, the first put wins, durable at once. WAL below FIRST_LSN is zeros. */
export class SimulatedStore {
  readonly #segments = new Map<number, Uint8Array>();
  /** Every call fails. */
  away = false;

  get count(): number {
    return this.#segments.size;
  }

  has(segno: number): boolean {
    this.#checkThere();
    return this.#segments.has(segno);
  }

  /** What is there must be equal: whole committed segments are the same everywhere and for ever. */
  put(segno: number, bytes: Uint8Array): void {
    this.#checkThere();
    const there = this.#segments.get(segno);
    if (there !== undefined && Buffer.compare(there, bytes) !== 0) {
      throw new Violation(`segment ${segno} is in the store with other WAL`);
    }
    this.#segments.set(segno, bytes);
  }

  /** At most `length` bytes within one segment. StorageError `unavailable` where it is not there. */
  read(lsn: Lsn, length: number): Uint8Array {
    this.#checkThere();
    const bytes = this.peek(segmentNumber(lsn, SEGMENT_SIZE));
    if (bytes === undefined) {
      throw new StorageError("unavailable", "not-stored", `WAL at ${formatLsn(lsn)} is not stored`);
    }
    const offset = lsn % SEGMENT_SIZE;
    return bytes.subarray(offset, offset + length);
  }

  /** For checks: also while it is away. */
  peek(segno: number): Uint8Array | undefined {
    return this.#segments.get(segno);
  }

  #checkThere(): void {
    if (this.away) {
      throw new StorageError("unavailable", "store-away", "the object store is away");
    }
  }
}

/** The segments of one timeline, walked in their order as long as the process lives. */
export class SimulatedBackup {
  readonly #store: SimulatedStore;
  #check: WholeSegmentCheck | undefined;

  constructor(store: SimulatedStore) {
    this.#store = store;
  }

  /**
   * Brings the next whole committed segments into the store; where a peer was first, only looks. Object,
   * then control file; removal is the timeline's.
   */
  run(timeline: Timeline): void {
    for (;;) {
      const { commitLsn, persistent } = timeline.state;
      const start = segmentStart(persistent.backupLsn, SEGMENT_SIZE);
      const end = (start + SEGMENT_SIZE) as Lsn;
      if (end > commitLsn) {
        return;
      }
      const segno = segmentNumber(start, SEGMENT_SIZE);
      if (start >= segmentStart(timeline.localWalStartLsn, SEGMENT_SIZE)) {
        this.#store.put(segno, this.#readChecked(timeline, start));
      } else if (!this.#store.has(segno)) {
        throw new Violation(`segment ${segno} left the disk of a safekeeper and is not stored`);
      }
      timeline.advanceBackup(end);
    }
  }

  #readChecked(timeline: Timeline, start: Lsn): Uint8Array {
    const { pgVersion: version, systemId, localStartLsn } = timeline.state.persistent;
    const { pageMagic } = pgVersion(Math.floor(version / 10_000));
    const checked = { segmentSize: SEGMENT_SIZE, pageMagic, systemId };
    this.#check ??= new WholeSegmentCheck(checked, localStartLsn);
    const reader = timeline.openReader();
    try {
      const walk = this.#check.segment(start, timeline.state.commitLsn);
      let step = walk.next();
      while (step.done !== true) {
        const { lsn, length } = step.value;
        const isHere = lsn >= timeline.localWalStartLsn;
        step = walk.next(isHere ? reader.read(lsn, length) : this.#store.read(lsn, length));
      }
      return step.value;
    } finally {
      reader.close();
    }
  }
}
