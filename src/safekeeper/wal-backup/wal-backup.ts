// Brings committed WAL of every timeline into the object store, beside the path of a commit.

import { abortAfter, monotonicMs, setTimer } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import {
  formatLsn,
  type Lsn,
  maxLsn,
  minLsn,
  segmentNumber,
  segmentStart,
} from "../../base/lsn.ts";
import { listAll, readObject } from "../../object-store/object-store.ts";
import type { SafekeeperMetrics } from "../metrics.ts";
import type { Timeline } from "../timeline.ts";
import { newWholeSegmentCheck, readSegment } from "./read-segment.ts";
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
 * - Each segment waits in line for one of MAX_UPLOADS places: a timeline that is written to without
 *   end does not keep the others from the store.
 * - Nothing here is on the path of a commit. A store that fails is asked again, ever more seldom.
 */

const FIRST_RETRY_MS = 200;
const MAX_RETRY_MS = 5_000;
/** Uploads at once: each holds a segment in memory. */
const MAX_UPLOADS = 2;
const CALL_TIMEOUT_MS = 60_000;
/** After one upload, before it is asked what else is due. */
const NEXT_UPLOAD_MS = 20;

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

interface BackupTask {
  readonly timeline: Timeline;
  running: boolean;
  state: BackupState;
  lastError: string | undefined;
  retryAtMs: number;
  backoffMs: number;
  /** Walks the segments in their order, record by record. */
  check: WholeSegmentCheck | undefined;
  /** Since when the partial segment is behind the flush LSN; undefined: it is not. */
  staleSinceMs: number | undefined;
  /** Since when the backup LSN does not move although it could. */
  stalledSinceMs: number | undefined;
  backupLsn: Lsn;
  /** Partial segments in the store that nobody knows of; looked for at the first upload, and after errors. */
  orphans: "unknown" | "suspected" | "none";
}

export interface WalBackupOptions {
  readonly nodeId: number;
  readonly metrics: SafekeeperMetrics;
  readonly settings: WalBackupSettings;
  timelines(): Iterable<Timeline>;
  /** Whether a proposer is connected. */
  hasProposer(timeline: Timeline): boolean;
}

export class WalBackup {
  readonly #options: WalBackupOptions;
  readonly #tasks = new Map<Timeline, BackupTask>();
  readonly #stopping = new AbortController();
  readonly #running = new Set<Promise<void>>();
  #freePlaces = MAX_UPLOADS;
  readonly #line: (() => void)[] = [];

  constructor(options: WalBackupOptions) {
    this.#options = options;
  }

  /** Starts what is due; to be called about once a second. */
  tick(): void {
    if (this.#stopping.signal.aborted) {
      return;
    }
    const alive = new Set<Timeline>();
    for (const timeline of this.#options.timelines()) {
      alive.add(timeline);
      if (timeline.storedWal === undefined || timeline.closed) {
        continue;
      }
      const task = this.#task(timeline);
      this.#observe(task);
      if (!task.running && this.#isDue(task)) {
        const run = this.#run(task);
        this.#running.add(run);
        void run.finally(() => {
          this.#running.delete(run);
          setTimer(() => this.tick(), NEXT_UPLOAD_MS);
        });
      } else if (!task.running) {
        this.#evictIfIdle(timeline);
      }
    }
    for (const timeline of this.#tasks.keys()) {
      if (!alive.has(timeline)) {
        this.#tasks.delete(timeline);
      }
    }
  }

  status(timeline: Timeline): { state: BackupState; lastError: string | undefined } {
    const task = this.#tasks.get(timeline);
    return { state: task?.state ?? "idle", lastError: task?.lastError };
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new StorageError("unavailable", "stopping", "the safekeeper stops"));
    await Promise.allSettled(this.#running);
  }

  #task(timeline: Timeline): BackupTask {
    let task = this.#tasks.get(timeline);
    if (task === undefined) {
      task = {
        timeline,
        running: false,
        state: "idle",
        lastError: undefined,
        retryAtMs: 0,
        backoffMs: 0,
        check: undefined,
        staleSinceMs: undefined,
        stalledSinceMs: undefined,
        backupLsn: timeline.state.persistent.backupLsn,
        orphans: "unknown",
      };
      this.#tasks.set(timeline, task);
    }
    return task;
  }

  #observe(task: BackupTask): void {
    const { timeline } = task;
    const now = monotonicMs();
    const { backupLsn } = timeline.state.persistent;
    if (backupLsn !== task.backupLsn || !segmentIsDue(timeline)) {
      task.backupLsn = backupLsn;
      task.stalledSinceMs = undefined;
    } else {
      task.stalledSinceMs ??= now;
    }
    task.staleSinceMs = partialIsStale(timeline) ? (task.staleSinceMs ?? now) : undefined;
  }

  #isDue(task: BackupTask): boolean {
    const { timeline } = task;
    const now = monotonicMs();
    if (task.retryAtMs > now) {
      return false;
    }
    return (
      task.orphans === "suspected" ||
      peersBackup(timeline) > timeline.state.persistent.backupLsn ||
      isObsolete(timeline) ||
      (segmentIsDue(timeline) && this.#mayUpload(task)) ||
      this.#partialIsDue(task)
    );
  }

  #mayUpload(task: BackupTask): boolean {
    const { timeline, stalledSinceMs } = task;
    if (!hasWholeSegment(timeline)) {
      return false;
    }
    const stalledMs = stalledSinceMs === undefined ? 0 : monotonicMs() - stalledSinceMs;
    const { nodeId } = this.#options;
    return uploadRank(nodeId, timeline.timelineId, timeline.state, timeline.peers) <= stalledMs;
  }

  #partialIsDue(task: BackupTask): boolean {
    const { timeline, staleSinceMs } = task;
    if (staleSinceMs === undefined || segmentIsDue(timeline)) {
      return false;
    }
    const { nodeId, settings } = this.#options;
    const isElected = uploadRank(nodeId, timeline.timelineId, timeline.state, timeline.peers) === 0;
    const hasWaited = monotonicMs() - staleSinceMs >= settings.partialTimeoutMs;
    // One that is to be evicted relies on its own copy only.
    return (hasWaited && isElected) || this.#isIdle(timeline);
  }

  #isIdle(timeline: Timeline): boolean {
    return (
      timeline.idleMs >= this.#options.settings.evictAfterMs && !this.#options.hasProposer(timeline)
    );
  }

  #evictIfIdle(timeline: Timeline): void {
    if (!this.#isIdle(timeline) || timeline.placement.evicted || !timeline.isStored) {
      return;
    }
    try {
      timeline.evict();
    } catch (error) {
      timeline.logger.warn({ error }, "eviction failed; tried again later");
    }
  }

  async #inTurn<T>(work: () => Promise<T>): Promise<T> {
    if (this.#freePlaces > 0) {
      this.#freePlaces--;
    } else {
      await new Promise<void>((resolve) => this.#line.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.#line.shift();
      if (next === undefined) {
        this.#freePlaces++;
      } else {
        next();
      }
    }
  }

  async #run(task: BackupTask): Promise<void> {
    const { timeline } = task;
    task.running = true;
    task.state = "uploading";
    try {
      timeline.reloadIfNeeded();
      const refused = await this.#inTurn(() => this.#adoptPeersBackup(timeline));
      if (this.#mayUpload(task)) {
        while (segmentIsDue(timeline) && hasWholeSegment(timeline)) {
          await this.#inTurn(() => this.#uploadSegment(task));
        }
      }
      if (this.#partialIsDue(task)) {
        await this.#inTurn(() => this.#uploadPartial(task));
      }
      await this.#inTurn(() => this.#removeObsoletePartial(task));
      if (task.orphans === "suspected") {
        await this.#inTurn(() => this.#removeOrphans(task));
      }
      if (refused !== undefined) {
        throw refused;
      }
      if (task.lastError !== undefined) {
        timeline.logger.info({}, "WAL backup works again");
      }
      Object.assign(task, { state: "idle", lastError: undefined, backoffMs: 0 });
    } catch (error) {
      if (!this.#stopping.signal.aborted && !timeline.closed) {
        this.#failed(task, error);
      }
    } finally {
      task.running = false;
    }
  }

  #failed(task: BackupTask, error: unknown): void {
    const { timeline } = task;
    const reason = errorMessage(error);
    // What is wrong for good is looked at by a person; a store that is away comes back.
    const isFinal = error instanceof StorageError && error.kind === "corrupt";
    if (task.lastError === undefined || (isFinal && task.lastError !== reason)) {
      timeline.logger[isFinal ? "error" : "warn"](
        { error },
        "WAL backup failed; tried again later",
      );
    }
    this.#options.metrics.backupErrors.inc();
    task.state = "failing";
    task.lastError = reason;
    task.backoffMs = isFinal
      ? MAX_RETRY_MS
      : Math.min(task.backoffMs * 2 || FIRST_RETRY_MS, MAX_RETRY_MS);
    task.retryAtMs = monotonicMs() + task.backoffMs;
  }

  #signal(timeline: Timeline): AbortSignal {
    const timeout = abortAfter(CALL_TIMEOUT_MS);
    return AbortSignal.any([this.#stopping.signal, timeline.closing, timeout]);
  }

  /**
   * What a peer says to be in the store counts once it is seen there: it might mean another store. Returns
   * the error where it is not there.
   */
  async #adoptPeersBackup(timeline: Timeline): Promise<StorageError | undefined> {
    const target = peersBackup(timeline);
    const stored = timeline.storedWal!;
    for (;;) {
      const { backupLsn, walSegSize } = timeline.state.persistent;
      const end = (segmentStart(backupLsn, walSegSize) + walSegSize) as Lsn;
      if (end > target) {
        return undefined;
      }
      try {
        await stored.check(backupLsn, this.#signal(timeline));
      } catch (error) {
        if (error instanceof StorageError && error.kind === "not-found") {
          return error;
        }
        throw error;
      }
      timeline.advanceBackup(end);
    }
  }

  async #uploadSegment(task: BackupTask): Promise<void> {
    const { timeline } = task;
    const { segmentSize } = timeline.storedWal!;
    const start = segmentStart(timeline.state.persistent.backupLsn, segmentSize);
    const end = (start + segmentSize) as Lsn;
    const startedMs = monotonicMs();
    task.check ??= newWholeSegmentCheck(timeline);
    const walk = task.check.segment(start, timeline.state.commitLsn);
    const bytes = await readSegment(timeline, walk, this.#signal(timeline));
    await this.#putSegment(timeline, start, bytes);
    timeline.advanceBackup(end);
    task.backoffMs = 0;
    const { metrics } = this.#options;
    metrics.uploadedSegments.inc({ kind: "full" });
    metrics.uploadSeconds.observe((monotonicMs() - startedMs) / 1000);
    timeline.logger.info({ backupLsn: formatLsn(end) }, "uploaded WAL segment");
  }

  async #putSegment(timeline: Timeline, start: Lsn, bytes: Uint8Array): Promise<void> {
    const stored = timeline.storedWal!;
    const key = stored.segmentKey(segmentNumber(start, stored.segmentSize));
    try {
      await stored.store.put(key, bytes, { ifAbsent: true, signal: this.#signal(timeline) });
    } catch (error) {
      if (!(error instanceof StorageError) || error.code !== "object-exists") {
        throw error;
      }
      const there = await readObject(stored.store, key, {
        signal: this.#signal(timeline),
        maxBytes: stored.segmentSize,
      });
      if (!Buffer.from(bytes).equals(there)) {
        const message = `${key} is in the object store with other content than the committed WAL here`;
        throw new StorageError("corrupt", "stored-wal-differs", message);
      }
    }
  }

  async #uploadPartial(task: BackupTask): Promise<void> {
    const { timeline } = task;
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
    const walk = newWholeSegmentCheck(timeline).lastSegment(flushLsn);
    const bytes = await readSegment(timeline, walk, this.#signal(timeline));
    const key = stored.partialKey(partial);
    const { orphans } = task;
    task.orphans = "suspected";
    await stored.store.put(key, bytes, { signal: this.#signal(timeline) });
    if (timeline.truncations !== truncations) {
      // A new term may have cut off what was read.
      await stored.store.delete([key], { signal: this.#signal(timeline) });
      return;
    }
    const old = timeline.placement.partial;
    timeline.setPartial(partial);
    this.#options.metrics.uploadedSegments.inc({ kind: "partial" });
    timeline.logger.info({ flushLsn: formatLsn(flushLsn) }, "uploaded partial WAL segment");
    if (old !== undefined && stored.partialKey(old) !== key) {
      await stored.store.delete([stored.partialKey(old)], { signal: this.#signal(timeline) });
    }
    task.orphans = orphans;
    if (orphans !== "none") {
      await this.#removeOrphans(task);
    }
  }

  /** Partial segments of this safekeeper that a crash, or a former life of it, left behind. */
  async #removeOrphans(task: BackupTask): Promise<void> {
    const stored = task.timeline.storedWal!;
    // After an error the control file may name another one than we know of.
    task.timeline.checkpoint();
    const { partial: known } = task.timeline.placement;
    const current = known === undefined ? undefined : stored.partialKey(known);
    for await (const { key } of listAll(stored.store, stored.prefix, this.#signal(task.timeline))) {
      const name = key.slice(stored.prefix.length);
      const partial = parsePartialSegmentName(name, stored.segmentSize);
      if (partial?.safekeeperId === this.#options.nodeId && key !== current) {
        await stored.store.delete([key], { signal: this.#signal(task.timeline) });
        task.timeline.logger.info({ key }, "removed an orphaned partial segment");
      }
    }
    task.orphans = "none";
  }

  /** Whole segments have what it had. */
  async #removeObsoletePartial({ timeline }: BackupTask): Promise<void> {
    const { partial } = timeline.placement;
    if (partial === undefined || !isObsolete(timeline)) {
      return;
    }
    const stored = timeline.storedWal!;
    await stored.store.delete([stored.partialKey(partial)], { signal: this.#signal(timeline) });
    timeline.setPartial(undefined);
  }
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
