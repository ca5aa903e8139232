// Reads a timeline's WAL wherever it is: on this disk, or in the object store.

import { StorageError } from "../../base/errors.ts";
import type { Lsn } from "../../base/lsn.ts";
import { minLsn } from "../../base/lsn.ts";
import type { Timeline } from "../timeline.ts";
import { newWholeSegmentCheck } from "../wal-backup/read-segment.ts";
import type { WalReader } from "../wal-storage.ts";

const MAX_READ_BYTES = 1024 * 1024;

/** While it is open no WAL leaves the disk. */
export class TimelineWal {
  readonly #timeline: Timeline;
  readonly #reader: WalReader;
  readonly #release: () => void;
  readonly #truncations: number;

  private constructor(timeline: Timeline) {
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
  async *read(start: Lsn, end: Lsn): AsyncGenerator<{ lsn: Lsn; bytes: Uint8Array }> {
    for (let at = start; at < end; ) {
      const bytes = await this.#piece(at, end);
      this.check();
      yield { lsn: at, bytes };
      at = (at + bytes.length) as Lsn;
    }
  }

  /**
   * Checks the record that goes on at `start`, half of which a copy that begins there will not have; with
   * the log's WAL up to `end`. StorageError `corrupt` names the LSN. Without an object store the other
   * half may be gone: then nothing is checked.
   */
  async checkRecordAt(start: Lsn, end: Lsn): Promise<void> {
    if (this.#timeline.storedWal === undefined || start >= end) {
      return;
    }
    const walk = newWholeSegmentCheck(this.#timeline).recordAt(start, end);
    for (let step = walk.next(); step.done !== true; ) {
      const { lsn, length } = step.value;
      step = walk.next(await this.#piece(lsn, (lsn + length) as Lsn));
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

  async #piece(lsn: Lsn, end: Lsn): Promise<Uint8Array> {
    const { localWalStartLsn, storedWal } = this.#timeline;
    const length = Math.min(end - lsn, MAX_READ_BYTES);
    if (lsn >= localWalStartLsn || storedWal === undefined) {
      return this.#reader.read(lsn, length);
    }
    return storedWal.read(lsn, Math.min(length, minLsn(end, localWalStartLsn) - lsn));
  }
}
