// What a start takes from the object store, where others have had the tenant since this disk had it.

import type { Disk } from "../../base/disk.ts";
import type { StorageError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { type OffloadedTimeline, offloadedTimeline } from "../archive/offloaded-list.ts";
import { type IndexPart, writeIndexPart } from "../storage/index-part.ts";
import { strayBranches } from "../storage/stray-branches.ts";
import { someAtOnce, type TimelineDirectories } from "../storage/timeline-directories.ts";
import type { RemoteIndex } from "./load-tenant.ts";
import type { IndexName } from "./remote-paths.ts";
import type { RemoteListing, TenantRemote } from "./tenant-remote.ts";

export interface TakeOptions {
  readonly remote: TenantRemote;
  readonly directories: TimelineDirectories;
  readonly disk: Disk;
  readonly logger: Logger;
  /** The disk's timelines: what is taken is put among them, what is gone is removed. */
  readonly parts: Map<TimelineId, IndexPart>;
  readonly listing: RemoteListing;
  /** What was known of timelines that were only in the store. */
  readonly offloaded: ReadonlyMap<TimelineId, OffloadedTimeline>;
}

export interface StoredTimelines {
  /** What the store has, where the disk had nothing newer; or only its name, where the disk's is as new. */
  readonly indexes: ReadonlyMap<TimelineId, IndexName | RemoteIndex<IndexPart>>;
  /** Those that are the store's now. */
  readonly taken: readonly TimelineId[];
  /** Those that are gone here. */
  readonly forgotten: readonly TimelineId[];
  /** Whose objects are to be deleted. */
  readonly deleted: readonly TimelineId[];
  /** Those that stay in the store, as nobody uses them. */
  readonly offloaded: ReadonlyMap<TimelineId, OffloadedTimeline>;
  /** Those whose index in the store cannot be read. */
  readonly damaged: ReadonlyMap<TimelineId, StorageError>;
}

export const NOTHING_STORED: StoredTimelines = {
  indexes: new Map(),
  taken: [],
  forgotten: [],
  deleted: [],
  offloaded: new Map(),
  damaged: new Map(),
};

/**
 * Where the store has a timeline of a later generation than the disk, others have had the tenant in between: theirs counts.
 * Of the same generation or a later one, the disk's is as new. WAL above what is taken comes again.
 */
export async function takeStored(options: TakeOptions): Promise<StoredTimelines> {
  return await new Taking(options).all();
}

class Taking {
  readonly #options: TakeOptions;
  readonly #indexes: Map<TimelineId, IndexName | RemoteIndex<IndexPart>>;
  readonly #taken: TimelineId[] = [];
  readonly #forgotten: TimelineId[] = [];
  readonly #offloaded = new Map<TimelineId, OffloadedTimeline>();
  readonly #damaged = new Map<TimelineId, StorageError>();
  /** The generation of each deletion. */
  readonly #deleted = new Map<TimelineId, number>();
  /** Of these nothing is left in the store. */
  readonly #gone = new Map<TimelineId, number>();

  constructor(options: TakeOptions) {
    this.#options = options;
    this.#indexes = new Map(options.listing.indexes);
  }

  async all(): Promise<StoredTimelines> {
    const { directories, disk, listing, parts } = this.#options;
    for (const [timelineId, { generation }] of parts) {
      if (!listing.indexes.has(timelineId) && generation < listing.settled) {
        await this.#forget(timelineId);
      }
    }
    await this.#takeNewer();
    await this.#forgetStrays();
    await this.#takeNeeded();
    await disk.background.fsyncDirectory(directories.path);
    return {
      indexes: this.#indexes,
      taken: this.#taken,
      forgotten: this.#forgotten,
      deleted: [...this.#deleted.keys()],
      offloaded: this.#offloaded,
      damaged: this.#damaged,
    };
  }

  /** The store says that it is gone, or it stays there; its layers go with the sweep. */
  async #forget(timelineId: TimelineId): Promise<void> {
    this.#options.parts.delete(timelineId);
    this.#forgotten.push(timelineId);
    await this.#options.directories.markDeleted(timelineId);
  }

  async #takeNewer(): Promise<void> {
    const { listing, offloaded, parts, remote } = this.#options;
    const isNewer = ({ timelineId, generation }: IndexName) =>
      generation > (parts.get(timelineId)?.generation ?? 0);
    const newer = new Map([...listing.indexes].filter(([, name]) => isNewer(name)));
    for (const [timelineId, { generation }] of newer) {
      const known = offloaded.get(timelineId);
      if (known?.generation === generation && !parts.has(timelineId)) {
        this.#offloaded.set(timelineId, known);
        newer.delete(timelineId);
      }
    }
    const found = await remote.read(newer);
    await someAtOnce(found.timelines.map((stored) => () => this.#take(stored)));
    for (const [timelineId, error] of found.damaged) {
      this.#damaged.set(timelineId, error);
    }
    const readable = new Set(found.timelines.map((one) => one.timelineId));
    for (const { timelineId, generation } of newer.values()) {
      if (!readable.has(timelineId) && !found.damaged.has(timelineId)) {
        this.#gone.set(timelineId, generation);
        await this.#forget(timelineId);
      }
    }
  }

  async #take(stored: RemoteIndex<IndexPart>): Promise<void> {
    const { index, timelineId } = stored;
    if (index.deleted) {
      this.#deleted.set(timelineId, index.generation);
      await this.#forget(timelineId);
    } else if (index.archivedAtMs !== undefined) {
      this.#offloaded.set(timelineId, offloadedTimeline(index));
      await this.#forget(timelineId);
    } else {
      await this.#bring(stored);
    }
  }

  async #bring(stored: RemoteIndex<IndexPart>): Promise<void> {
    const { directories, disk, logger, parts } = this.#options;
    const { index, timelineId } = stored;
    const directory = directories.of(timelineId);
    await disk.background.makeDirectory(directory);
    await writeIndexPart(directory, index, disk);
    parts.set(timelineId, index);
    this.#indexes.set(timelineId, stored);
    this.#taken.push(timelineId);
    const { generation } = index;
    logger.info({ timeline: timelineId, generation }, "timeline taken from the object store");
  }

  async #forgetStrays(): Promise<void> {
    const { logger, parts } = this.#options;
    const all = [...parts.values(), ...this.#offloaded.values()];
    const deleted = new Map([...this.#gone, ...this.#deleted]);
    for (const timelineId of strayBranches(all, deleted)) {
      logger.info({ timeline: timelineId }, "a replaced pageserver made it, of what is deleted");
      this.#offloaded.delete(timelineId);
      await this.#forget(timelineId);
    }
  }

  /** One that is loaded needs its ancestors, archived or not: a process may have ended when it had offloaded only these. */
  async #takeNeeded(): Promise<void> {
    const { listing, parts, remote } = this.#options;
    for (;;) {
      const ancestors = [...parts.values()].flatMap(({ ancestor }) => ancestor?.timelineId ?? []);
      const needed = new Set(ancestors.filter((timelineId) => this.#offloaded.has(timelineId)));
      if (needed.size === 0) {
        return;
      }
      const names = new Map([...listing.indexes].filter(([timelineId]) => needed.has(timelineId)));
      const found = await remote.read(names);
      for (const timelineId of needed) {
        this.#offloaded.delete(timelineId);
      }
      for (const [timelineId, error] of found.damaged) {
        this.#damaged.set(timelineId, error);
      }
      for (const stored of found.timelines.filter(({ index }) => !index.deleted)) {
        await this.#bring(stored);
      }
    }
  }
}
