// Deletes the objects that no index names any more, once it is sure that nobody else may still need them.

import assert from "node:assert/strict";
import { setIdleTimer, type Timer } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { TenantId } from "../../base/ids.ts";
import { MAX_PAGE } from "../../object-store/object-store.ts";
import type { LayerUploads } from "../transfers/layer-uploads.ts";
import { retrying, SMALL_CALL_MS, withDeadline } from "../transfers/store-calls.ts";
import { DeletionLists, type StoredDeletionList, type TenantDeletions } from "./deletion-list.ts";
import { newestIndexes, parseRemoteKey } from "./remote-paths.ts";

/*
 * The way of a key: the index that does not name it is durable; a list on the local disk names it; the
 * generation of that index is found to be still current; the object is deleted; the list is removed.
 *
 * Whoever attaches the tenant later, in a higher generation, begins with the newest index of a lower one. Had
 * he come before our index was durable, our generation would not be current any more when it is asked after that:
 * then he may name the object, and it is left where it is ("leaked", for the scrubber). So after a good answer the
 * deletion is right however late it is carried out. After a restart on the same disk, a list of the generation
 * right before the current one is as good: nobody has had the tenant in between.
 */

/** In which generation this process says to have a tenant. */
export interface GenerationClaim {
  readonly tenantId: TenantId;
  readonly generation: number;
}

export interface DeletionQueueOptions {
  /** Of the lists. */
  readonly directory: string;
  /** Of the whole process: what is still being uploaded is deleted afterwards. */
  readonly uploads: LayerUploads;
  /** In which generation this process has a tenant. */
  readonly attached: Pick<ReadonlyMap<TenantId, number>, "get">;
  /** Whether each claim still holds: one answer a claim, in their order. */
  readonly validate: (claims: readonly GenerationClaim[]) => Promise<readonly boolean[]>;
}

export interface DeletionCounts {
  /** Keys on lists, or on their way there. */
  readonly pending: number;
  readonly deleted: number;
  /** Left in the store because the generation was no longer current. */
  readonly leaked: number;
}

/** So that many deletions share a question and a call. */
const EXECUTE_AFTER_MS = 10_000;

interface Incoming extends TenantDeletions {
  readonly listed: PromiseWithResolvers<void>;
}

export class DeletionQueue {
  readonly #options: DeletionQueueOptions;
  readonly #lists: DeletionLists;
  readonly #stopping = new AbortController();
  /** Not on a list yet. */
  #incoming: Incoming[] = [];
  #stored: StoredDeletionList[];
  #writing: Promise<void> | undefined;
  #executing: Promise<void> | undefined;
  #timer: Timer | undefined;
  #deleted = 0;
  #leaked = 0;
  #roundEnded = Promise.withResolvers<void>();

  private constructor(
    options: DeletionQueueOptions,
    lists: DeletionLists,
    stored: StoredDeletionList[],
  ) {
    this.#options = options;
    this.#lists = lists;
    this.#stored = stored;
  }

  /** Goes on with what former lives left in the directory. What the disk throws. */
  static async open(options: DeletionQueueOptions): Promise<DeletionQueue> {
    const { directory, uploads, attached } = options;
    const { disk, logger } = uploads.resources;
    const lists = new DeletionLists(directory, disk);
    const stored = lists.load((error) => {
      logger.error({ error }, "a deletion list is damaged; its objects stay in the object store");
    });
    const adopted = stored.map((list) => {
      const tenants = list.tenants.map((one) => adopt(one, attached.get(one.tenantId)));
      return { ...list, tenants };
    });
    await storeAdopted(options, lists, stored, adopted);
    const queue = new DeletionQueue(options, lists, adopted);
    queue.#executeSoon();
    return queue;
  }

  get counts(): DeletionCounts {
    const count = (sum: number, { keys }: TenantDeletions) => sum + keys.length;
    const stored = this.#stored.flatMap(({ tenants }) => tenants);
    const pending = [...this.#incoming, ...stored].reduce(count, 0);
    return { pending, deleted: this.#deleted, leaked: this.#leaked };
  }

  /**
   * `indexDurable` resolves when no index in the store names the keys any more, in the tenant's current
   * `generation`; where it rejects, nothing is deleted. Indexes of a timeline that is deleted may be among the keys: those
   * of all generations, once the newest names no layers and says that the timeline is gone. Resolves when the keys are on a list on the disk;
   * rejects as `indexDurable` does, or `unavailable` (`deletion-stopped`). Nobody needs to wait for it.
   */
  push(
    { tenantId, generation, keys }: TenantDeletions,
    indexDurable: Promise<unknown>,
  ): Promise<void> {
    for (const key of keys) {
      assert(parseRemoteKey(key)?.tenantId === tenantId, `${key} of tenant ${tenantId}`);
    }
    const listed = indexDurable
      .then(() => this.#options.uploads.settled(keys))
      .then(() => this.#accept({ tenantId, generation, keys }));
    listed.catch(() => undefined);
    return listed;
  }

  #accept(deletions: TenantDeletions): Promise<void> {
    this.#stopping.signal.throwIfAborted();
    const listed = Promise.withResolvers<void>();
    this.#incoming.push({ ...deletions, listed });
    this.#write();
    return listed.promise;
  }

  /** What has come while a list was written is the next one. */
  #write(): void {
    if (this.#writing !== undefined || this.#incoming.length === 0 || this.#isStopped) {
      return;
    }
    this.#writing = this.#writeList().finally(() => {
      this.#writing = undefined;
      this.#write();
    });
  }

  async #writeList(): Promise<void> {
    const { logger, randomInt } = this.#options.uploads.resources;
    const { signal } = this.#stopping;
    // A copy: more may come while it is written.
    const batch = [...this.#incoming];
    const doing = "write deletion list";
    try {
      const list = await retrying({ doing, logger, signal, randomInt }, () =>
        this.#lists.add(
          batch.map(({ tenantId, generation, keys }) => ({ tenantId, generation, keys })),
        ),
      );
      this.#incoming = this.#incoming.slice(batch.length);
      this.#stored.push(list);
      for (const { listed } of batch) {
        listed.resolve();
      }
      this.#executeSoon();
    } catch (error) {
      this.#fail(error);
    }
  }

  #executeSoon(): void {
    if (this.counts.pending >= MAX_PAGE) {
      this.#executeNow();
    } else {
      this.#executeLater();
    }
  }

  #executeNow(): void {
    this.#execute().catch(() => undefined);
  }

  #executeLater(): void {
    if (this.#stored.length > 0 && !this.#isStopped) {
      this.#timer ??= setIdleTimer(() => this.#executeNow(), EXECUTE_AFTER_MS);
    }
  }

  /** One round over all lists; those that are written meanwhile have the next one. */
  #execute(): Promise<void> {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#executing ??= this.#round().finally(() => {
      this.#executing = undefined;
      this.#roundEnded.resolve();
      this.#roundEnded = Promise.withResolvers();
      this.#executeLater();
    });
    return this.#executing;
  }

  async #round(): Promise<void> {
    const { logger, randomInt } = this.#options.uploads.resources;
    const { signal } = this.#stopping;
    const lists = [...this.#stored];
    const doing = "delete objects";
    try {
      // Asked again in each attempt: the answer before may have become old in a long wait.
      await retrying({ doing, logger, signal, randomInt }, () => this.#deleteListed(lists));
    } catch (error) {
      if (!this.#isStopped) {
        logger.error({ error }, "deletion of objects failed; tried again later");
      }
      throw error;
    }
  }

  async #deleteListed(lists: readonly StoredDeletionList[]): Promise<void> {
    const { logger } = this.#options.uploads.resources;
    const { valid, leaked } = await this.#validate(lists.flatMap(({ tenants }) => tenants));
    for (const keys of inOrder(valid)) {
      await this.#delete(keys);
    }
    for (const list of lists) {
      await this.#lists.remove(list);
    }
    this.#stored = this.#stored.filter((list) => !lists.includes(list));
    this.#deleted += valid.length;
    this.#leaked += leaked;
    if (leaked > 0) {
      logger.warn(
        { keys: leaked },
        "objects stay in the object store: others have their tenants now",
      );
    }
  }

  async #delete(keys: readonly string[]): Promise<void> {
    const { store } = this.#options.uploads.resources;
    const { signal } = this.#stopping;
    for (let at = 0; at < keys.length; at += MAX_PAGE) {
      const page = keys.slice(at, at + MAX_PAGE);
      await withDeadline("delete objects", SMALL_CALL_MS, signal, (callSignal) =>
        store.delete(page, { signal: callSignal }),
      );
    }
  }

  async #validate(
    deletions: readonly TenantDeletions[],
  ): Promise<{ valid: readonly string[]; leaked: number }> {
    const claims = new Map<string, GenerationClaim>();
    for (const { tenantId, generation } of deletions) {
      claims.set(claimName({ tenantId, generation }), { tenantId, generation });
    }
    const answers = await this.#options.validate([...claims.values()]);
    assert(answers.length === claims.size, `${answers.length} answers to ${claims.size} claims`);
    const holds = new Map([...claims.keys()].map((name, at) => [name, answers[at] === true]));
    const valid = deletions.filter((one) => holds.get(claimName(one)) === true);
    const count = (of: readonly TenantDeletions[]) =>
      of.reduce((sum, { keys }) => sum + keys.length, 0);
    return { valid: valid.flatMap(({ keys }) => keys), leaked: count(deletions) - count(valid) };
  }

  /** Resolves when no key that was accepted begins with `prefix` any more: it is deleted, or leaked. Rejects by `stop`. */
  async whenGone(prefix: string): Promise<void> {
    const isPending = () =>
      [...this.#incoming, ...this.#stored.flatMap(({ tenants }) => tenants)].some(({ keys }) =>
        keys.some((key) => key.startsWith(prefix)),
      );
    while (isPending()) {
      this.#stopping.signal.throwIfAborted();
      await this.#roundEnded.promise;
    }
  }

  /** Resolves when all that was accepted is deleted or leaked; rejects with what no retry changes, or by `stop`. */
  async flush(): Promise<void> {
    while (this.#writing !== undefined || this.#stored.length > 0) {
      this.#stopping.signal.throwIfAborted();
      await this.#writing;
      await this.#execute();
    }
  }

  /** What is on lists is done by the next life. Resolves when no list is written or removed any more. */
  async stop(): Promise<void> {
    if (!this.#isStopped) {
      const reason = new StorageError("unavailable", "deletion-stopped", "deletions have stopped");
      this.#timer?.cancel();
      this.#stopping.abort(reason);
      this.#fail(reason);
      this.#roundEnded.resolve();
    }
    await Promise.allSettled([this.#writing, this.#executing]);
  }

  get #isStopped(): boolean {
    return this.#stopping.signal.aborted;
  }

  #fail(error: unknown): void {
    for (const { listed } of this.#incoming.splice(0)) {
      listed.reject(error);
    }
  }
}

const claimName = ({ tenantId, generation }: GenerationClaim) => `${tenantId}-${generation}`;

/**
 * Of a timeline that goes, the newest index last: it says so, and those before it would bring back what it was.
 */
function inOrder(keys: readonly string[]): readonly (readonly string[])[] {
  const newest = new Set<string>();
  for (const { key } of newestIndexes(keys, Number.POSITIVE_INFINITY).values()) {
    newest.add(key);
  }
  return [keys.filter((key) => !newest.has(key)), [...newest]];
}

/** A list of the generation before counts as one of this generation. */
function adopt(deletions: TenantDeletions, generation: number | undefined): TenantDeletions {
  return generation === deletions.generation + 1 ? { ...deletions, generation } : deletions;
}

/** So that the life after this one, too, finds lists of the generation before its own. */
async function storeAdopted(
  { uploads }: DeletionQueueOptions,
  lists: DeletionLists,
  before: readonly StoredDeletionList[],
  adopted: readonly StoredDeletionList[],
): Promise<void> {
  try {
    for (const [at, list] of adopted.entries()) {
      if (list.tenants.some((one, number) => one !== before[at]!.tenants[number])) {
        await lists.replace(list, list.tenants);
      }
    }
  } catch (error) {
    // They are good in this life all the same.
    uploads.resources.logger.warn({ error }, "deletion lists could not be written again");
  }
}
