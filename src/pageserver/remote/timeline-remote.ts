// One timeline in the object store: puts what its commits leave there, and knows how far the store is.

import { sleep } from "../../base/clock.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import { type Lsn, minLsn } from "../../base/lsn.ts";
import { encodeIndexPart, type IndexPart } from "../storage/index-part.ts";
import type { SetLayer } from "../storage/layer-set.ts";
import { retrying } from "../transfers/store-calls.ts";
import { UploadQueue } from "../transfers/upload-queue.ts";
import type { RemoteIndex, RemoteTenant } from "./load-tenant.ts";
import type { IndexName } from "./remote-paths.ts";
import type { RemoteStorage } from "./remote-storage.ts";

const INVALID = 0 as Lsn;
/** A stop waits so long for what is on its way. */
const SHUTDOWN_MS = 10_000;
/** So long does somebody wait for an answer that needs the store. */
const ANSWER_MS = 30_000;

/** A layer, and who made it. */
export type StoredLayer = Pick<SetLayer, "file" | "maker">;

/** The tenant, to its timelines. */
export interface TimelineOwner {
  readonly storage: RemoteStorage;
  readonly generation: number;
  keyOf(layer: StoredLayer): string;
  /** Damaged ones are told apart; else what the store throws. */
  read(names: ReadonlyMap<TimelineId, IndexName>): Promise<RemoteTenant<IndexPart>>;
  /** An index is on its way, and is durable when the promise resolves. */
  indexUnderWay(durable: Promise<void>): void;
  /** Resolves when indexes of lower generations count no more. */
  settle(): Promise<void>;
}

/** What is put: read when it is to be put. */
export interface UploadedTimeline {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  /** As it is on the local disk. */
  readonly index: IndexPart;
  /** The files that the index names. */
  readonly ownedLayers: readonly StoredLayer[];
  /** Resolves when its ancestor's index of this generation is in the store; undefined where it has none. */
  holdAncestor?(): Promise<void> | undefined;
  /** Called where an index that is news is in the store for good: whoever takes over from here on sees it, or a later one. */
  indexCounts?(index: IndexPart): void;
}

export class TimelineRemote {
  readonly #tenant: TimelineOwner;
  readonly #timeline: UploadedTimeline;
  /** Resolves when the store has been compared with what is here, and what is missing there is on its way. */
  readonly ready: Promise<void>;
  #isReady = false;
  /** While something is put: thousands of timelines have nothing to put. */
  #queue: UploadQueue | undefined;
  /** Of the index that was put last. */
  #storedLsn: Lsn = INVALID;
  /** The store has an index of this generation. */
  #hasIndex = false;
  #closed = false;
  /** The last index that is put says so: none of the timeline comes after it. */
  #isDeleted = false;
  #consistentLsn: Lsn = INVALID;
  #last: Promise<void> | undefined;
  /** The same while it is on its way. */
  #underWay: Promise<void> | undefined;
  /** As the index in the store has it. */
  #storedAncestor: TimelineId | undefined;

  constructor(
    tenant: TimelineOwner,
    timeline: UploadedTimeline,
    stored: IndexName | RemoteIndex<IndexPart> | undefined,
  ) {
    this.#tenant = tenant;
    this.#timeline = timeline;
    this.ready = this.#compare(stored);
    this.ready.catch(() => undefined);
  }

  /**
   * Everything up to here is in the store, in an index of this generation that counts: found when the generation was current
   * after the put. Safekeepers may forget WAL below it. Of lower generations a later one may still come, from a pageserver
   * that was replaced. 0 until there is such an index.
   */
  get consistentLsn(): Lsn {
    return this.#consistentLsn;
  }

  async #compare(stored: IndexName | RemoteIndex<IndexPart> | undefined): Promise<void> {
    const index =
      stored === undefined || "index" in stored ? stored?.index : await this.#read(stored);
    // One that was replaced may have put a later index, which counts no more: what is here takes its place.
    this.#storedLsn = minLsn(
      index?.diskConsistentLsn ?? INVALID,
      this.#timeline.index.diskConsistentLsn,
    );
    this.#storedAncestor = index?.ancestor?.timelineId;
    this.#isReady = true;
    const named = new Set(index?.layers.map(({ maker, fileName }) => `${maker}/${fileName}`));
    for (const { file, maker } of this.#timeline.ownedLayers) {
      file.isStored ||= named.has(`${maker}/${file.fileName}`);
    }
    const isOpen = index?.detachedFrom !== undefined;
    if (index === undefined || isOpen || !isSame(index, this.#timeline.index)) {
      void this.#put();
    }
  }

  #queueNow(): UploadQueue {
    const { tenantId, timelineId } = this.#timeline;
    const { generation, storage } = this.#tenant;
    this.#queue ??= new UploadQueue({
      tenantId,
      timelineId,
      generation,
      remoteConsistentLsn: this.#storedLsn,
      uploads: storage.uploads,
    });
    if (this.#closed) {
      this.#queue.stop();
    }
    return this.#queue;
  }

  /** After a put: nothing is on its way, so nothing has to be remembered of it. */
  #letGoIfIdle(queue: UploadQueue): void {
    const { layers, indexes } = queue.pending;
    if (this.#queue === queue && layers === 0 && indexes === 0) {
      queue.stop();
      this.#queue = undefined;
    }
  }

  /** Undefined where it is damaged: what is here takes its place. Tried until the process ends. */
  async #read(name: IndexName): Promise<IndexPart | undefined> {
    const { access } = this.#tenant.storage;
    const { tenantId, timelineId } = this.#timeline;
    const { slots } = this.#tenant.storage.uploads.resources;
    // Thousands do so at a start, and nobody waits for it.
    const slot = { tenantId, isUrgent: () => false, signal: access.signal };
    const read = await this.#tenant.storage.comparisons.run(() =>
      retrying({ ...access, doing: `read ${name.key}` }, () =>
        slots.run(slot, () => this.#tenant.read(new Map([[timelineId, name]]))),
      ),
    );
    const damage = read.damaged.get(timelineId);
    if (damage !== undefined && !this.#closed) {
      access.logger.error({ error: damage }, "the index in the object store is put anew");
    }
    return read.timelines[0]?.index;
  }

  /** Puts what the timeline is now. Resolves when that, or something later, is durable in the store. */
  async commit(): Promise<void> {
    if (!this.#isReady) {
      // The comparison finds the difference.
      await this.ready;
      return this.#last;
    }
    return this.#put();
  }

  #put(): Promise<void> {
    if (this.#isDeleted) {
      return this.#last!;
    }
    const queue = this.#queueNow();
    const { index, ownedLayers } = this.#timeline;
    const keys: string[] = [];
    for (const layer of ownedLayers) {
      if (!layer.file.isStored) {
        const key = this.#tenant.keyOf(layer);
        keys.push(key);
        void this.#upload(queue, layer.file, key);
      }
    }
    // Or what a replaced pageserver still puts could make the ancestor's count no more, and leave its branch.
    const after = this.#hasIndex ? undefined : this.#timeline.holdAncestor?.();
    after?.catch(() => undefined);
    return this.#putIndex(queue, index, index.diskConsistentLsn, keys, after);
  }

  /** An index of another timeline may say meanwhile that the store has it: the file stays until it is read. */
  async #upload(queue: UploadQueue, file: StoredLayer["file"], key: string): Promise<void> {
    file.pins++;
    try {
      await queue.uploadLayer(file.path, key, file.sizeBytes);
      file.isStored = true;
    } catch {
      // The queue tells.
    } finally {
      file.pins--;
    }
  }

  #putIndex(
    queue: UploadQueue,
    index: IndexPart,
    lsn: Lsn,
    keys: readonly string[],
    after?: Promise<void>,
  ): Promise<void> {
    const bytes = Buffer.from(encodeIndexPart(index));
    const durable = queue.uploadIndex(bytes, lsn, keys, after);
    this.#last = durable;
    this.#underWay = durable;
    this.#tenant.indexUnderWay(durable);
    const ended = () => {
      if (this.#underWay === durable) {
        this.#underWay = undefined;
      }
    };
    durable.then(() => {
      ended();
      this.#storedAncestor = index.ancestor?.timelineId;
      this.#storedLsn = queue.remoteConsistentLsn;
      this.#hasIndex = true;
      this.#letGoIfIdle(queue);
      void this.#confirm(index, queue.remoteConsistentLsn);
    }, ended);
    return durable;
  }

  /** The store has the index, which has everything up to `lsn`: does it count? */
  async #confirm(index: IndexPart, lsn: Lsn): Promise<void> {
    try {
      const isNews = index.detachedFrom !== undefined || lsn > this.#consistentLsn;
      if (isNews && (await this.#tenant.storage.isCurrent())) {
        this.#consistentLsn = lsn > this.#consistentLsn ? lsn : this.#consistentLsn;
        this.#timeline.indexCounts?.(index);
      }
    } catch (error) {
      const { signal, logger } = this.#tenant.storage.access;
      if (!signal.aborted) {
        const { timelineId } = this.#timeline;
        const reason = errorMessage(error);
        // The next index asks again.
        logger.warn({ timeline: timelineId, reason }, "whether an index counts is not known");
      }
    }
  }

  /** Of the keys of layers that the store has lost, those whose files are here: they are put, and the index once more. */
  putAgain(missing: ReadonlySet<string>): string[] {
    const found = this.#timeline.ownedLayers.filter(
      (layer) => layer.file.isResident && missing.has(this.#tenant.keyOf(layer)),
    );
    for (const { file } of found) {
      file.isStored = false;
    }
    if (found.length > 0) {
      // The queue tells.
      this.commit().catch(() => undefined);
    }
    return found.map((layer) => this.#tenant.keyOf(layer));
  }

  /** Resolves when the store has an index of this generation; makes sure that it will. */
  async putInGeneration(): Promise<void> {
    await this.ready;
    if (!this.#hasIndex) {
      // A new timeline's first one is on its way already.
      await (this.#underWay ?? this.#put());
    }
  }

  /**
   * Resolves when an index of this generation is in the store: those of lower generations, which a pageserver that was
   * replaced may still put, count no more. `unavailable` after a while.
   */
  async hold(): Promise<void> {
    if (!this.#hasIndex) {
      await withTimeout(this.putInGeneration(), this.#timeline.timelineId);
    }
  }

  /** Resolves when no timeline counts any more that a pageserver which was replaced has made of this one. Errors as `hold`. */
  async settle(): Promise<void> {
    await withTimeout(this.#tenant.settle(), this.#timeline.timelineId);
  }

  /** Resolves when whoever takes over sees that it does not read on in `ancestor` any more. Errors as `makeDurable`. */
  async whenDetachedFrom(ancestor: TimelineId): Promise<void> {
    const { timelineId } = this.#timeline;
    if (!this.#isReady) {
      await withTimeout(this.ready, timelineId);
    }
    const { detachedFrom } = this.#timeline.index;
    const isOpen = this.#storedAncestor === ancestor || detachedFrom?.timelineId === ancestor;
    if (isOpen && this.#last !== undefined) {
      await withTimeout(this.#last, timelineId);
      await this.#expectCurrent("is detached");
      this.#timeline.indexCounts?.(this.#timeline.index);
    }
  }

  /**
   * Whatever is answered after it outlives this machine: the store has the timeline as it is now, and that counts.
   * `unavailable` where another pageserver has taken over, or the store does not answer.
   */
  async makeDurable(): Promise<void> {
    const durable = this.putInGeneration()
      .then(() => this.#last)
      .then(() => this.#expectCurrent("is made"));
    await withTimeout(durable, this.#timeline.timelineId);
  }

  #expectCurrent(what: string): Promise<void> {
    const { timelineId } = this.#timeline;
    return this.#tenant.storage.requireCurrent(
      `whether timeline ${timelineId} ${what} is not known here`,
    );
  }

  /** Puts an index that says so. Errors as `makeDurable`'s. */
  async markDeleted(index: IndexPart): Promise<void> {
    await withTimeout(this.ready, this.#timeline.timelineId);
    const queue = this.#queueNow();
    // Of the queue's indexes the last one stays, whatever its LSN.
    const put = this.#putIndex(queue, index, queue.lastLsn, []);
    this.#isDeleted = true;
    const durable = put.then(() => this.#expectCurrent("is deleted"));
    await withTimeout(durable, this.#timeline.timelineId);
  }

  /** Ends what it does; `flush`: what is on its way has a while to arrive. */
  async close(flush: boolean): Promise<void> {
    this.#closed = true;
    await this.#queue?.shutdown(flush ? SHUTDOWN_MS : 0);
  }
}

/** It goes on after that; to ask again waits for the same. */
async function withTimeout(durable: Promise<void>, timelineId: TimelineId): Promise<void> {
  const waited = new AbortController();
  // Nobody may be left to hear of it.
  durable.catch(() => undefined);
  const late = sleep(ANSWER_MS, waited.signal).then(() => {
    const message = `the object store has not taken timeline ${timelineId} within ${ANSWER_MS / 1000} s: what was asked goes on, ask again`;
    throw new StorageError("unavailable", "object-store-away", message);
  });
  late.catch(() => undefined);
  try {
    await Promise.race([durable, late]);
  } finally {
    waited.abort();
  }
}

/** Whether nothing has to be put, whatever generation wrote it. */
function isSame(a: IndexPart, b: IndexPart): boolean {
  const text = (part: IndexPart) => encodeIndexPart({ ...part, generation: 1 });
  return text(a) === text(b);
}
