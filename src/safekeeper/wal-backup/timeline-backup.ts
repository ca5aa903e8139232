// Brings committed WAL of one timeline into the object store, beside the path of a commit: what, when and in which order.

import { monotonicMs } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import {
  formatLsn,
  type Lsn,
  maxLsn,
  minLsn,
  segmentNumber,
  segmentStart,
} from "../../base/lsn.ts";
import { freeMemory } from "../../base/memory/free-memory.ts";
import { list, put, remove, type StoreSteps } from "../../object-store/store-steps.ts";
import type { SafekeeperMetrics } from "../metrics.ts";
import type { Timeline } from "../timeline.ts";
import { newWholeSegmentCheck, walked } from "./read-segment.ts";
import { type PartialSegment, parsePartialSegmentName } from "./stored-wal.ts";
import { uploadRank } from "./uploader-election.ts";
import type { WholeSegmentCheck } from "./whole-segment-check.ts";

/*
 * - A whole segment is uploaded once all of it is committed: then it is the same on every safekeeper
 *   and for ever. It is written only where there is none, so that two uploaders do no harm; one that
 *   was there must be equal.
 * - Its records are walked before, those that other segments have a part of as well: damage on this disk
 *   does not become the copy that all rely on.
 * - Object first, then the control file (`advanceBackup`), then removal of local WAL. A crash in
 *   between repeats the upload, which finds the object.
 * - Who uploads is only a matter of saving work (uploader-election.ts).
 * - WAL of the segment that is being written is uploaded as a partial segment, when some of it has
 *   been without a copy for `partialTimeoutMs`. New one first, then the control file, then the old
 *   one goes. What a crash leaves is found by its name.
 * - Nothing here is on the path of a commit. A store that fails is asked again, ever more seldom.
 *
 * Nothing here waits either: `run` gives pieces of work, each of them steps on the store. wal-backup.ts
 * carries them out with the real one; the simulation with its own, and with crashes between any two.
 */

const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 5_000;

export interface WalBackupSettings {
  /** WAL that is in no whole segment yet has a copy after this time, in milliseconds. */
  readonly partialTimeoutMs: number;
  /** A timeline that nobody reads or writes for so long keeps no WAL on this disk, in milliseconds. */
  readonly evictAfterMs: number;
}

/** Neon's: `--partial-backup-timeout` and `--eviction-min-resident`. */
export const DEFAULT_BACKUP_SETTINGS: WalBackupSettings = {
  partialTimeoutMs: 15 * 60_000,
  evictAfterMs: 15 * 60_000,
};

export type BackupState = "idle" | "uploading" | "failing";

export interface TimelineBackupOptions {
  readonly nodeId: number;
  readonly metrics: SafekeeperMetrics;
  readonly settings: WalBackupSettings;
  /** Whether a proposer is connected. */
  hasProposer(timeline: Timeline): boolean;
}

export class TimelineBackup {
  readonly #options: TimelineBackupOptions;
  readonly #timeline: Timeline;
  #state: BackupState = "idle";
  #lastError: string | undefined;
  #retryAtMs = 0;
  #backoffMs = 0;
  /** Walks the segments in their order, record by record. */
  #check: WholeSegmentCheck | undefined;
  /** Since when the partial segment is behind the flush LSN; undefined: it is not. */
  #staleSinceMs: number | undefined;
  /** Since when the backup LSN does not move although it could. */
  #stalledSinceMs: number | undefined;
  #backupLsn: Lsn;
  /** Partial segments in the store that nobody knows of; looked for at the first upload, and after errors. */
  #orphans: "unknown" | "suspected" | "none" = "unknown";

  constructor(timeline: Timeline, options: TimelineBackupOptions) {
    this.#timeline = timeline;
    this.#options = options;
    this.#backupLsn = timeline.state.persistent.backupLsn;
  }

  get status(): { state: BackupState; lastError: string | undefined } {
    return { state: this.#state, lastError: this.#lastError };
  }

  /** To be asked about once a second: whether `run` has something to do. */
  isDue(): boolean {
    this.#observe();
    const timeline = this.#timeline;
    if (this.#retryAtMs > monotonicMs()) {
      return false;
    }
    return (
      this.#orphans === "suspected" ||
      peersBackup(timeline) > timeline.state.persistent.backupLsn ||
      isObsolete(timeline) ||
      (segmentIsDue(timeline) && this.#mayUpload()) ||
      this.#partialIsDue()
    );
  }

  /** Where nothing is due: an idle timeline's WAL leaves the disk. */
  evictIfIdle(): void {
    const timeline = this.#timeline;
    if (!this.#isIdle() || timeline.placement.evicted || !timeline.isStored) {
      return;
    }
    try {
      timeline.evict();
    } catch (error) {
      timeline.logger.warn({ error }, "eviction failed; tried again later");
    }
  }

  /**
   * Pieces of work, to be carried out one after the other. An error of one is to be thrown into the
   * generator; it ends it, unless it is one of the driver's own.
   */
  *run(): Generator<StoreSteps, void, void> {
    const timeline = this.#timeline;
    this.#state = "uploading";
    try {
      timeline.reloadIfNeeded();
      let refused: StorageError | undefined;
      yield this.#adoptPeersBackup((error) => {
        refused = error;
      });
      if (this.#mayUpload()) {
        while (segmentIsDue(timeline) && hasWholeSegment(timeline)) {
          yield this.#uploadSegment();
        }
      }
      if (this.#partialIsDue()) {
        yield this.#uploadPartial();
      }
      yield this.#removeObsoletePartial();
      if (this.#orphans === "suspected") {
        yield this.#removeOrphans();
      }
      if (refused !== undefined) {
        throw refused;
      }
      if (this.#lastError !== undefined) {
        timeline.logger.info({}, "WAL backup works again");
      }
      this.#state = "idle";
      this.#lastError = undefined;
      this.#backoffMs = 0;
    } catch (error) {
      if (timeline.closed) {
        return;
      }
      this.#failed(error);
    }
  }

  #observe(): void {
    const timeline = this.#timeline;
    const now = monotonicMs();
    const { backupLsn } = timeline.state.persistent;
    if (backupLsn !== this.#backupLsn || !segmentIsDue(timeline)) {
      this.#backupLsn = backupLsn;
      this.#stalledSinceMs = undefined;
    } else {
      this.#stalledSinceMs ??= now;
    }
    this.#staleSinceMs = partialIsStale(timeline) ? (this.#staleSinceMs ?? now) : undefined;
  }

  #mayUpload(): boolean {
    if (!hasWholeSegment(this.#timeline)) {
      return false;
    }
    const since = this.#stalledSinceMs;
    return this.#rank() <= (since === undefined ? 0 : monotonicMs() - since);
  }

  #rank(): number {
    const { timelineId, state, peers } = this.#timeline;
    return uploadRank(this.#options.nodeId, timelineId, state, peers);
  }

  #partialIsDue(): boolean {
    const since = this.#staleSinceMs;
    if (since === undefined || segmentIsDue(this.#timeline)) {
      return false;
    }
    const hasWaited = monotonicMs() - since >= this.#options.settings.partialTimeoutMs;
    // One that is to be evicted relies on its own copy only.
    return (hasWaited && this.#rank() === 0) || this.#isIdle();
  }

  #isIdle(): boolean {
    const { settings, hasProposer } = this.#options;
    return this.#timeline.idleMs >= settings.evictAfterMs && !hasProposer(this.#timeline);
  }

  #failed(error: unknown): void {
    const reason = errorMessage(error);
    // What is wrong for good is looked at by a person; a store that is away comes back.
    const isFinal = isCorrupt(error);
    if (this.#lastError === undefined || (isFinal && this.#lastError !== reason)) {
      this.#timeline.logger[isFinal ? "error" : "warn"](
        { error },
        "WAL backup failed; tried again later",
      );
    }
    this.#options.metrics.backupErrors.inc();
    this.#state = "failing";
    this.#lastError = reason;
    this.#backoffMs = isFinal
      ? MAX_RETRY_MS
      : Math.min(this.#backoffMs * 2 || FIRST_RETRY_MS, MAX_RETRY_MS);
    this.#retryAtMs = monotonicMs() + this.#backoffMs;
  }

  /**
   * What a peer says to be in the store counts once it is seen there: it might mean another store.
   * `refused` gets the error where it is not there.
   */
  *#adoptPeersBackup(refused: (error: StorageError) => void): StoreSteps {
    const timeline = this.#timeline;
    const target = peersBackup(timeline);
    const stored = timeline.storedWal!;
    for (;;) {
      const { backupLsn, walSegSize } = timeline.state.persistent;
      const end = (segmentStart(backupLsn, walSegSize) + walSegSize) as Lsn;
      if (end > target) {
        return;
      }
      try {
        yield* stored.checkSteps(backupLsn);
      } catch (error) {
        if (error instanceof StorageError && error.kind === "not-found") {
          refused(error);
          return;
        }
        throw error;
      }
      timeline.advanceBackup(end);
    }
  }

  *#uploadSegment(): StoreSteps {
    const timeline = this.#timeline;
    const { segmentSize } = timeline.storedWal!;
    const start = segmentStart(timeline.state.persistent.backupLsn, segmentSize);
    const end = (start + segmentSize) as Lsn;
    const startedMs = monotonicMs();
    this.#check ??= newWholeSegmentCheck(timeline);
    const { commitLsn } = timeline.state;
    const bytes = yield* walked(timeline, this.#check.segment(start, commitLsn));
    yield* this.#putSegment(start, bytes);
    freeMemory(bytes);
    timeline.advanceBackup(end);
    this.#backoffMs = 0;
    const { metrics } = this.#options;
    metrics.uploadedSegments.inc({ kind: "full" });
    metrics.uploadSeconds.observe((monotonicMs() - startedMs) / 1000);
    timeline.logger.info({ backupLsn: formatLsn(end) }, "uploaded WAL segment");
  }

  *#putSegment(start: Lsn, bytes: Uint8Array): StoreSteps {
    const timeline = this.#timeline;
    const stored = timeline.storedWal!;
    const key = stored.segmentKey(segmentNumber(start, stored.segmentSize));
    const { localStartLsn } = timeline.state.persistent;
    const object = yield* stored.encode(start, bytes, localStartLsn);
    try {
      yield* put(key, object, true);
    } catch (error) {
      if (!(error instanceof StorageError) || error.code !== "object-exists") {
        throw error;
      }
      yield* this.#checkEqual(key, start, bytes);
    }
  }

  /** Of what is there already, however another safekeeper or release has compressed it, the WAL counts. */
  *#checkEqual(key: string, start: Lsn, bytes: Uint8Array): StoreSteps {
    let there: Uint8Array | undefined;
    let cause: unknown;
    try {
      there = yield* this.#timeline.storedWal!.readObjectSteps(key, start, bytes.length);
    } catch (error) {
      if (!isCorrupt(error)) {
        throw error;
      }
      cause = error;
    }
    if (there === undefined || !Buffer.from(bytes).equals(there)) {
      const message = `${key} is in the object store with other content than the committed WAL here`;
      throw new StorageError("corrupt", "stored-wal-differs", message, { cause });
    }
  }

  *#uploadPartial(): StoreSteps {
    const timeline = this.#timeline;
    const stored = timeline.storedWal!;
    const { state, truncations, placement } = timeline;
    if (!partialIsStale(timeline) || placement.evicted) {
      return;
    }
    const { flushLsn, commitLsn } = state;
    const start = segmentStart((flushLsn - 1) as Lsn, stored.segmentSize);
    const partial: PartialSegment = {
      segno: segmentNumber(start, stored.segmentSize),
      term: timeline.lastLogTerm,
      flushLsn,
      commitLsn: minLsn(commitLsn, flushLsn),
      safekeeperId: this.#options.nodeId,
    };
    let bytes: Uint8Array;
    try {
      bytes = yield* walked(timeline, newWholeSegmentCheck(timeline).lastSegment(flushLsn));
    } catch (error) {
      if (timeline.truncations !== truncations && isCorrupt(error)) {
        // A new term cut off what was being read: that is no damage.
        return;
      }
      throw error;
    }
    const key = stored.partialKey(partial);
    const { localStartLsn } = state.persistent;
    const object = yield* stored.encode(start, bytes, localStartLsn);
    const orphans = this.#orphans;
    this.#orphans = "suspected";
    yield* put(key, object);
    if (timeline.truncations !== truncations) {
      // A new term may have cut off what was read.
      yield* remove(key);
      return;
    }
    const old = timeline.placement.partial;
    timeline.setPartial(partial);
    this.#options.metrics.uploadedSegments.inc({ kind: "partial" });
    timeline.logger.info({ flushLsn: formatLsn(flushLsn) }, "uploaded partial WAL segment");
    if (old !== undefined && stored.partialKey(old) !== key) {
      yield* remove(stored.partialKey(old));
    }
    this.#orphans = orphans;
    if (orphans !== "none") {
      yield* this.#removeOrphans();
    }
  }

  /** Partial segments of this safekeeper that a crash, or a former life of it, left behind. */
  *#removeOrphans(): StoreSteps {
    const timeline = this.#timeline;
    const stored = timeline.storedWal!;
    // After an error the control file may name another one than we know of.
    timeline.checkpoint();
    const { partial: known } = timeline.placement;
    const current = known === undefined ? undefined : stored.partialKey(known);
    for (const key of yield* list(stored.prefix)) {
      const name = key.slice(stored.prefix.length);
      const partial = parsePartialSegmentName(name, stored.segmentSize);
      if (partial?.safekeeperId === this.#options.nodeId && key !== current) {
        yield* remove(key);
        timeline.logger.info({ key }, "removed an orphaned partial segment");
      }
    }
    this.#orphans = "none";
  }

  /** Whole segments have what it had. */
  *#removeObsoletePartial(): StoreSteps {
    const timeline = this.#timeline;
    const { partial } = timeline.placement;
    if (partial === undefined || !isObsolete(timeline)) {
      return;
    }
    yield* remove(timeline.storedWal!.partialKey(partial));
    timeline.setPartial(undefined);
  }
}

function isCorrupt(error: unknown): boolean {
  return error instanceof StorageError && error.kind === "corrupt";
}

/** Up to where peers say that WAL is in the store, and it is committed here; a segment's end, or 0. */
function peersBackup({ state, peers }: Timeline): Lsn {
  const told = Math.max(0, ...[...peers.values()].map(({ backupLsn }) => backupLsn ?? 0)) as Lsn;
  return segmentStart(minLsn(told, state.commitLsn), state.persistent.walSegSize);
}

/** Whether all WAL of the next segment is committed. */
function segmentIsDue({ state }: Timeline): boolean {
  const { backupLsn, walSegSize } = state.persistent;
  return segmentStart(backupLsn, walSegSize) + walSegSize <= state.commitLsn;
}

/** Whether that segment is here from its start, or from the start of the timeline's WAL. */
function hasWholeSegment(timeline: Timeline): boolean {
  const { backupLsn, walSegSize, timelineStartLsn } = timeline.state.persistent;
  const from = maxLsn(segmentStart(backupLsn, walSegSize), timelineStartLsn);
  return timeline.localWalStartLsn <= from && !timeline.placement.evicted;
}

/** Whether there is WAL that is neither in a whole nor in the partial segment. */
function partialIsStale({ state, placement, partialIsCurrent }: Timeline): boolean {
  return !placement.evicted && state.flushLsn > state.persistent.backupLsn && !partialIsCurrent;
}

/** Whether the partial segment is in a whole one too. */
function isObsolete({ state, placement }: Timeline): boolean {
  const { partial, evicted } = placement;
  return partial !== undefined && !evicted && partial.flushLsn <= state.persistent.backupLsn;
}
