// Carries out the backups of all timelines: some at a time, each in its turn.

import { abortAfter, setTimer } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { carryOut, type StoreSteps } from "../../object-store/store-steps.ts";
import type { Timeline } from "../timeline.ts";
import { type BackupState, TimelineBackup, type TimelineBackupOptions } from "./timeline-backup.ts";

/*
 * What is uploaded when is timeline-backup.ts's. Each of its pieces of work, a segment, waits in line for
 * one of MAX_UPLOADS places: a timeline that is written to without end does not keep the others from the
 * store.
 */

/** Uploads at once: each holds a segment in memory. */
const MAX_UPLOADS = 2;
const CALL_TIMEOUT_MS = 60_000;
/** After one upload, before it is asked what else is due. */
const NEXT_UPLOAD_MS = 20;

export interface WalBackupOptions extends TimelineBackupOptions {
  timelines(): Iterable<Timeline>;
}

export class WalBackup {
  readonly #options: WalBackupOptions;
  readonly #backups = new Map<Timeline, TimelineBackup>();
  readonly #stopping = new AbortController();
  readonly #running = new Map<TimelineBackup, Promise<void>>();
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
      const backup = this.#backup(timeline);
      if (this.#running.has(backup)) {
        continue;
      }
      if (!backup.isDue()) {
        backup.evictIfIdle();
        continue;
      }
      const run = this.#run(timeline, backup);
      this.#running.set(backup, run);
      void run.finally(() => {
        this.#running.delete(backup);
        setTimer(() => this.tick(), NEXT_UPLOAD_MS);
      });
    }
    for (const timeline of this.#backups.keys()) {
      if (!alive.has(timeline)) {
        this.#backups.delete(timeline);
      }
    }
  }

  status(timeline: Timeline): { state: BackupState; lastError: string | undefined } {
    return this.#backups.get(timeline)?.status ?? { state: "idle", lastError: undefined };
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new StorageError("unavailable", "stopping", "the safekeeper stops"));
    await Promise.allSettled(this.#running.values());
  }

  #backup(timeline: Timeline): TimelineBackup {
    let backup = this.#backups.get(timeline);
    if (backup === undefined) {
      backup = new TimelineBackup(timeline, this.#options);
      this.#backups.set(timeline, backup);
    }
    return backup;
  }

  async #run(timeline: Timeline, backup: TimelineBackup): Promise<void> {
    const pieces = backup.run();
    let piece = pieces.next();
    while (piece.done !== true) {
      const steps = piece.value;
      try {
        await this.#inTurn(() => this.#carryOut(timeline, steps));
      } catch (error) {
        if (this.#stopping.signal.aborted) {
          return;
        }
        piece = pieces.throw(error);
        continue;
      }
      piece = pieces.next();
    }
  }

  #carryOut(timeline: Timeline, steps: StoreSteps): Promise<void> {
    return carryOut(steps, timeline.storedWal!.store, () => {
      const timeout = abortAfter(CALL_TIMEOUT_MS);
      return AbortSignal.any([this.#stopping.signal, timeline.closing, timeout]);
    });
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
}
