// The object store of a simulated run, and what the elected safekeeper does for it: a twin of wal-backup.ts.

import { StorageError } from "../src/base/errors.ts";
import { formatLsn, type Lsn, segmentNumber, segmentStart } from "../src/base/lsn.ts";
import type { AcceptorState } from "../src/safekeeper/consensus/acceptor.ts";
import type { WalPlacement } from "../src/safekeeper/control-file.ts";
import type { Timeline } from "../src/safekeeper/timeline.ts";
import {
  checkEndOfWal,
  type EndOfWal,
  whereEndOfWal,
} from "../src/safekeeper/wal-backup/eviction.ts";
import { newWholeSegmentCheck } from "../src/safekeeper/wal-backup/read-segment.ts";
import {
  type PartialSegment,
  partialSegmentName,
} from "../src/safekeeper/wal-backup/stored-wal.ts";
import type { Walk, WholeSegmentCheck } from "../src/safekeeper/wal-backup/whole-segment-check.ts";
import { Violation } from "./checker.ts";
import { SEGMENT_SIZE } from "./simulated-wal.ts";

/** Durable at once. Whole segments, the first put wins; partial ones by their names. WAL below FIRST_LSN is zeros. */
export class SimulatedStore {
  readonly #segments = new Map<number, Uint8Array>();
  readonly #partials = new Map<string, { readonly of: number; readonly bytes: Uint8Array }>();
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

  putPartial(partial: PartialSegment, bytes: Uint8Array): void {
    this.#checkThere();
    this.#partials.set(nameOf(partial), { of: partial.safekeeperId, bytes });
  }

  /** Removes all of a safekeeper's partial segments but `kept`. */
  removePartials(safekeeperId: number, kept: PartialSegment | undefined): void {
    this.#checkThere();
    for (const [name, { of }] of this.#partials) {
      if (of === safekeeperId && (kept === undefined || name !== nameOf(kept))) {
        this.#partials.delete(name);
      }
    }
  }

  /** The last segment of an evicted log. StorageError `not-found` where it is not there. */
  readEnd(state: AcceptorState, placement: WalPlacement): EndOfWal {
    this.#checkThere();
    const { lsn, partial } = whereEndOfWal(state, placement);
    const bytes = partial ? this.peekPartial(partial) : this.peek(segmentNumber(lsn, SEGMENT_SIZE));
    if (bytes === undefined) {
      const message = `the end of WAL at ${formatLsn(state.flushLsn)} is not stored`;
      throw new StorageError("not-found", "not-stored", message);
    }
    const end = { lsn, bytes: bytes.subarray(0, state.flushLsn - lsn) };
    checkEndOfWal(state, end);
    return end;
  }

  /** For checks: also while it is away. */
  peek(segno: number): Uint8Array | undefined {
    return this.#segments.get(segno);
  }

  /** The same. */
  peekPartial(partial: PartialSegment): Uint8Array | undefined {
    return this.#partials.get(nameOf(partial))?.bytes;
  }

  #checkThere(): void {
    if (this.away) {
      throw new StorageError("unavailable", "store-away", "the object store is away");
    }
  }
}

function nameOf(partial: PartialSegment): string {
  return partialSegmentName(partial, SEGMENT_SIZE);
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
    timeline.reloadIfNeeded();
    for (;;) {
      const { commitLsn, persistent } = timeline.state;
      const start = segmentStart(persistent.backupLsn, SEGMENT_SIZE);
      const end = (start + SEGMENT_SIZE) as Lsn;
      if (end > commitLsn) {
        return;
      }
      const segno = segmentNumber(start, SEGMENT_SIZE);
      if (start >= segmentStart(timeline.localWalStartLsn, SEGMENT_SIZE)) {
        this.#check ??= newWholeSegmentCheck(timeline);
        this.#store.put(
          segno,
          carryOut(this.#check.segment(start, commitLsn), timeline, this.#store),
        );
      } else if (!this.#store.has(segno)) {
        throw new Violation(`segment ${segno} left the disk of a safekeeper and is not stored`);
      }
      timeline.advanceBackup(end);
    }
  }

  /** Of an idle timeline all WAL leaves the disk, where the store has it. Returns whether it does. */
  evict(timeline: Timeline, safekeeperId: number): boolean {
    timeline.reloadIfNeeded();
    const { state, placement } = timeline;
    if (placement.evicted || state.flushLsn <= timeline.localWalStartLsn) {
      return false;
    }
    if (state.flushLsn > state.persistent.backupLsn && !timeline.partialIsCurrent) {
      this.#uploadPartial(timeline, safekeeperId);
    }
    timeline.checkpoint();
    this.#store.removePartials(safekeeperId, timeline.placement.partial);
    timeline.evict();
    return timeline.placement.evicted;
  }

  #uploadPartial(timeline: Timeline, safekeeperId: number): void {
    const { state, lastLogTerm: term } = timeline;
    const { flushLsn, commitLsn } = state;
    const walk = newWholeSegmentCheck(timeline).lastSegment(flushLsn);
    const bytes = carryOut(walk, timeline, this.#store);
    const segno = segmentNumber((flushLsn - 1) as Lsn, SEGMENT_SIZE);
    const partial = { segno, term, flushLsn, commitLsn, safekeeperId };
    this.#store.putPartial(partial, bytes);
    timeline.setPartial(partial);
  }
}

/** Reads what a walk wants, from the disk or from the store. */
export function carryOut<T>(walk: Walk<T>, timeline: Timeline, store: SimulatedStore): T {
  const reader = timeline.openReader();
  try {
    let step = walk.next();
    while (step.done !== true) {
      const { lsn, length } = step.value;
      const isHere = lsn >= timeline.localWalStartLsn;
      step = walk.next(isHere ? reader.read(lsn, length) : store.read(lsn, length));
    }
    return step.value;
  } finally {
    reader.close();
  }
}
