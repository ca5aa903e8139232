// Reads a timeline's WAL wherever it is: on this disk, or in the object store.

import { StorageError } from "../../base/errors.ts";
import { type Lsn, minLsn } from "../../base/lsn.ts";
import {
  carryOut,
  carryOutStream,
  pause,
  type StoreSteps,
  type StoreStream,
} from "../../object-store/store-steps.ts";
import type { Timeline } from "../timeline.ts";
import { newWholeSegmentCheck, walked } from "../wal-backup/read-segment.ts";
import type { WalReader } from "../wal-storage.ts";

const MAX_READ_BYTES = 1024 * 1024;

/** While it is open no WAL leaves the disk. */
export class TimelineWal {
  readonly #timeline: Timeline;
  readonly #reader: WalReader;
  readonly #release: () => void;
  readonly #truncations: number;

  /** Of one that is not evicted. */
  constructor(timeline: Timeline) {
    this.#timeline = timeline;
    this.#reader = timeline.openReader();
    this.#release = timeline.hold();
    this.#truncations = timeline.truncations;
  }

  /** Brings an evicted timeline back first. */
  static async open(timeline: Timeline): Promise<TimelineWal> {
    await timeline.wake();
    return new TimelineWal(timeline);
  }

  /** The pieces of [start, end), each of the caller's own; StorageError where WAL was cut meanwhile. */
  read(start: Lsn, end: Lsn): AsyncGenerator<Uint8Array> {
    const { storedWal, closing } = this.#timeline;
    return carryOutStream(this.readSteps(start, end), storedWal?.store, () => closing);
  }

  /** The same, as steps. Others have their turn after each piece. */
  *readSteps(start: Lsn, end: Lsn): StoreStream {
    for (let at = start; at < end; ) {
      const bytes = yield* this.#unlessCut(this.#piece(at, end));
      yield bytes;
      yield* pause();
      at = (at + bytes.length) as Lsn;
    }
  }

  /**
   * Checks the record that goes on at `start`, half of which a copy that begins there will not have; with
   * the log's WAL up to `end`. StorageError `corrupt` names the LSN. Without an object store the other
   * half may be gone: then nothing is checked.
   */
  async checkRecordAt(start: Lsn, end: Lsn): Promise<void> {
    const { storedWal, closing } = this.#timeline;
    if (storedWal !== undefined) {
      await carryOut(this.checkRecordAtSteps(start, end), storedWal.store, () => closing);
    }
  }

  /** The same, as steps. */
  *checkRecordAtSteps(start: Lsn, end: Lsn): StoreSteps {
    if (this.#timeline.storedWal !== undefined && start < end) {
      const walk = newWholeSegmentCheck(this.#timeline).recordAt(start, end);
      yield* this.#unlessCut(walked(this.#timeline, walk));
    }
  }

  /** StorageError `unavailable` where what was read may have been cut off since. */
  check(): void {
    if (this.#timeline.closed || this.#timeline.truncations !== this.#truncations) {
      const message = "the log changed while it was read; try again";
      throw new StorageError("unavailable", "wal-changed", message);
    }
  }

  close(): void {
    this.#reader.close();
    this.#release();
  }

  /** Where a new term cuts off what is being read, neither what was read counts nor what seems damaged. */
  *#unlessCut<T>(steps: StoreSteps<T>): StoreSteps<T> {
    let result: T;
    try {
      result = yield* steps;
    } catch (error) {
      this.check();
      throw error;
    }
    this.check();
    return result;
  }

  *#piece(lsn: Lsn, end: Lsn): StoreSteps<Uint8Array> {
    const { localWalStartLsn, storedWal } = this.#timeline;
    const length = Math.min(end - lsn, MAX_READ_BYTES);
    return lsn >= localWalStartLsn || storedWal === undefined
      ? this.#reader.read(lsn, length)
      : yield* storedWal.readSteps(lsn, Math.min(length, minLsn(end, localWalStartLsn) - lsn));
  }
}
