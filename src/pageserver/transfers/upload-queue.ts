// The upload queue of one timeline: layers in parallel, and indexes after the layers that they name.

import assert from "node:assert/strict";
import { sleep } from "../../base/clock.ts";
import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Lsn } from "../../base/lsn.ts";
import { indexKey } from "../remote/remote-paths.ts";
import type { LayerUploads } from "./layer-uploads.ts";
import { retrying, SMALL_CALL_MS, withDeadline } from "./store-calls.ts";

/*
 * - An index is put into the store when every layer that it names is there, whichever timeline uploads it.
 *   Whatever happens then, what the index in the store names is there.
 * - Indexes are put one after the other. Of those that could be put the newest is, the older ones are
 *   left out; one that still waits for its layers does not hold up an older one that does not, or a
 *   timeline that is written to without end would never have an index.
 * - `remoteConsistentLsn` is that of the index that was last put with success, so that safekeepers may
 *   forget WAL up to there, once it is sure that the generation still counts.
 */

export interface UploadQueueOptions {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly generation: number;
  /** Of the index that is in the store; 0 where there is none. */
  readonly remoteConsistentLsn: Lsn;
  readonly uploads: LayerUploads;
}

interface QueuedIndex {
  readonly bytes: Uint8Array;
  readonly lsn: Lsn;
  /** Keys of layers that are not in the store yet. */
  readonly waitsFor: Set<string>;
  readonly done: PromiseWithResolvers<void>;
}

interface LsnWaiter {
  readonly lsn: Lsn;
  readonly done: PromiseWithResolvers<void>;
}

export interface PendingUploads {
  readonly layers: number;
  readonly layerBytes: number;
  readonly indexes: number;
}

export class UploadQueue {
  readonly #options: UploadQueueOptions;
  readonly #indexKey: string;
  readonly #stopping = new AbortController();
  /** Bytes by key. */
  readonly #layers = new Map<string, number>();
  /** Oldest first. */
  #queued: QueuedIndex[] = [];
  /** That are being put: the last one is, and settles the others. */
  #current: QueuedIndex[] = [];
  #isPutting = false;
  #closed = false;
  #remoteConsistentLsn: Lsn;
  #lastLsn: Lsn;
  /** That was asked for, and that was put. */
  #lastIndex: QueuedIndex | undefined;
  #durableIndex: QueuedIndex | undefined;
  #lsnWaiters: LsnWaiter[] = [];
  #idleWaiters: (() => void)[] = [];

  constructor(options: UploadQueueOptions) {
    this.#options = options;
    this.#indexKey = indexKey(options.tenantId, options.timelineId, options.generation);
    this.#remoteConsistentLsn = options.remoteConsistentLsn;
    this.#lastLsn = options.remoteConsistentLsn;
  }

  /** Everything up to here is in the store, in layers that the index there names. */
  get remoteConsistentLsn(): Lsn {
    return this.#remoteConsistentLsn;
  }

  /** Of the index that was queued last. */
  get lastLsn(): Lsn {
    return this.#lastLsn;
  }

  /** Whether an index of this generation is in the store. */
  get hasIndex(): boolean {
    return this.#durableIndex !== undefined;
  }

  get pending(): PendingUploads {
    const layerBytes = [...this.#layers.values()].reduce((sum, bytes) => sum + bytes, 0);
    const indexes = this.#queued.length + this.#current.length;
    return { layers: this.#layers.size, layerBytes, indexes };
  }

  /**
   * The file must stay as it is until this settles. Resolves when the object is durable; for ever tried
   * again. Rejects with `corrupt` where the file is damaged, `conflict` where the object has other content,
   * `unavailable` (`upload-stopped`) by `stop`, of all queues that upload it. Nobody needs to wait for it.
   */
  uploadLayer(path: string, key: string, sizeBytes: number): Promise<void> {
    if (this.#closed) {
      return handled(Promise.reject(stopped(`upload ${key}`)));
    }
    if (this.#layers.has(key)) {
      return this.#options.uploads.pending(key)!;
    }
    const { tenantId, uploads } = this.#options;
    const { signal } = this.#stopping;
    const done = uploads.upload({ tenantId, key, path, sizeBytes, signal });
    this.#layers.set(key, sizeBytes);
    const settled = () => {
      this.#layers.delete(key);
      this.#wakeIfIdle();
    };
    done.then(settled, (error: unknown) => {
      settled();
      this.#logFailure(error);
    });
    return handled(done);
  }

  /**
   * Queues an index that names the layers of `layerKeys`; those that no queue is uploading are taken for
   * durable, so a layer's upload is begun, or joined, first. `lsn`, its disk_consistent_lsn, never falls. Bytes must
   * not change. It also waits for `after`. Resolves when this index, or a later one, is durable; rejects with why a layer that it
   * names could not be uploaded, or `unavailable` (`upload-stopped`). Nobody needs to wait for it.
   */
  uploadIndex(
    bytes: Uint8Array,
    lsn: Lsn,
    layerKeys: Iterable<string>,
    after?: Promise<void>,
  ): Promise<void> {
    if (this.#closed) {
      return handled(Promise.reject(stopped(`upload ${this.#indexKey}`)));
    }
    assert(lsn >= this.#lastLsn, `index at ${lsn} after one at ${this.#lastLsn}`);
    this.#lastLsn = lsn;
    const index: QueuedIndex = {
      bytes,
      lsn,
      waitsFor: new Set(),
      done: Promise.withResolvers<void>(),
    };
    const wait = (what: string, done: Promise<void>) => {
      index.waitsFor.add(what);
      done.then(
        () => {
          index.waitsFor.delete(what);
          this.#putNext();
        },
        (error: unknown) => this.#drop(index, error),
      );
    };
    if (after !== undefined) {
      wait("", after);
    }
    for (const key of layerKeys) {
      const upload = this.#options.uploads.pending(key);
      if (upload !== undefined) {
        wait(key, upload);
      }
    }
    this.#lastIndex = index;
    this.#enqueue(index);
    return handled(index.done.promise);
  }

  /** An index that waits for no more than an older one that waits too makes that one needless. */
  #enqueue(index: QueuedIndex): void {
    const isNeedless = ({ waitsFor }: QueuedIndex) =>
      waitsFor.size > 0 && index.waitsFor.isSubsetOf(waitsFor);
    for (const older of this.#queued.filter(isNeedless)) {
      index.done.promise.then(older.done.resolve, older.done.reject);
    }
    this.#queued = [...this.#queued.filter((older) => !isNeedless(older)), index];
    this.#putNext();
  }

  /** Resolves when `remoteConsistentLsn` is at least `lsn`; rejects by `stop`. */
  waitFor(lsn: Lsn): Promise<void> {
    if (lsn <= this.#remoteConsistentLsn) {
      return Promise.resolve();
    }
    if (this.#stopping.signal.aborted) {
      return handled(Promise.reject(this.#stopping.signal.reason));
    }
    const done = Promise.withResolvers<void>();
    this.#lsnWaiters.push({ lsn, done });
    return handled(done.promise);
  }

  /**
   * Takes nothing more, waits up to `timeoutMs` for what is queued, and stops. True where all of it is
   * durable.
   */
  async shutdown(timeoutMs: number): Promise<boolean> {
    this.#closed = true;
    const waited = new AbortController();
    const idle = new Promise<void>((resolve) => this.#idleWaiters.push(resolve));
    this.#wakeIfIdle();
    const late = sleep(timeoutMs, waited.signal).catch(() => undefined);
    await Promise.race([idle, late]);
    waited.abort();
    const isDone = this.#isIdle && this.#lastIndex === this.#durableIndex;
    this.stop();
    return isDone;
  }

  /** Ends everything at once: what is not durable is for the next life of the timeline to find out. */
  stop(): void {
    this.#closed = true;
    if (this.#stopping.signal.aborted) {
      return;
    }
    const reason = stopped(`upload timeline ${this.#options.timelineId}`);
    this.#stopping.abort(reason);
    for (const { done } of [...this.#queued.splice(0), ...this.#lsnWaiters.splice(0)]) {
      done.reject(reason);
    }
    this.#wakeIfIdle();
  }

  get #isIdle(): boolean {
    return this.#layers.size === 0 && this.#queued.length === 0 && !this.#isPutting;
  }

  #wakeIfIdle(): void {
    if (this.#isIdle) {
      for (const wake of this.#idleWaiters.splice(0)) {
        wake();
      }
    }
  }

  /** One that a later index has taken the place of shares its fate. */
  #drop(index: QueuedIndex, error: unknown): void {
    if (!this.#queued.includes(index)) {
      return;
    }
    this.#queued = this.#queued.filter((one) => one !== index);
    index.done.reject(withContext(error, `upload ${this.#indexKey}`));
    this.#wakeIfIdle();
  }

  #putNext(): void {
    if (!this.#isPutting && !this.#stopping.signal.aborted && this.#takeReady()) {
      this.#isPutting = true;
      void this.#put().finally(() => {
        this.#isPutting = false;
        this.#putNext();
        this.#wakeIfIdle();
      });
    }
  }

  /** Moves the newest index whose layers are there, and all before it, to those that are being put. */
  #takeReady(): boolean {
    const newest = this.#queued.findLastIndex(({ waitsFor }) => waitsFor.size === 0);
    this.#current.push(...this.#queued.splice(0, newest + 1));
    return this.#current.length > 0;
  }

  async #put(): Promise<void> {
    const { tenantId, uploads } = this.#options;
    const { store, slots, logger, randomInt } = uploads.resources;
    const { signal } = this.#stopping;
    const doing = `upload ${this.#indexKey}`;
    const slot = { tenantId, isUrgent: () => true, signal };
    try {
      const put = await retrying({ doing, logger, signal, randomInt }, () =>
        slots.run(slot, async () => {
          // One that became ready while the store was away is as good, and newer.
          this.#takeReady();
          const index = this.#current.at(-1)!;
          await withDeadline(doing, SMALL_CALL_MS, signal, (callSignal) =>
            store.put(this.#indexKey, index.bytes, { signal: callSignal }),
          );
          return index;
        }),
      );
      this.#durable(put);
    } catch (error) {
      this.#logFailure(error);
      for (const { done } of this.#current.splice(0)) {
        done.reject(error);
      }
    }
  }

  #durable(index: QueuedIndex): void {
    this.#remoteConsistentLsn = index.lsn;
    this.#durableIndex = index;
    for (const { done } of this.#current.splice(0)) {
      done.resolve();
    }
    const isReached = ({ lsn }: LsnWaiter) => lsn <= index.lsn;
    for (const { done } of this.#lsnWaiters.filter(isReached)) {
      done.resolve();
    }
    this.#lsnWaiters = this.#lsnWaiters.filter((waiter) => !isReached(waiter));
  }

  #logFailure(error: unknown): void {
    if (!this.#stopping.signal.aborted) {
      const { tenantId, timelineId, uploads } = this.#options;
      uploads.resources.logger.error({ tenantId, timelineId, error }, "upload failed for good");
    }
  }
}

function stopped(doing: string): StorageError {
  return new StorageError("unavailable", "upload-stopped", `${doing}: uploads have stopped`);
}

/** Its failure is told by the log, and to whoever waits. */
function handled(promise: Promise<void>): Promise<void> {
  promise.catch(() => undefined);
  return promise;
}
