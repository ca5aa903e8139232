// What a start takes from the object store, where others have had the tenant since this disk had it.

import type { Disk } from "../../base/disk.ts";
import type { StorageError } from "../../base/errors.ts";
import type { TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
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
  /** Those whose index in the store cannot be read. */
  readonly damaged: ReadonlyMap<TimelineId, StorageError>;
}

export const NOTHING_STORED: StoredTimelines = {
  indexes: new Map(),
  taken: [],
  forgotten: [],
  deleted: [],
  damaged: new Map(),
};

/**
 * Where the store has a timeline of a later generation than the disk, others have had the tenant in between: theirs counts.
 * Of the same generation or a later one, the disk's is as new. WAL above what is taken comes again.
 */
export async function takeStored(options: TakeOptions): Promise<StoredTimelines> {
  const { remote, directories, disk, logger, parts, listing } = options;
  const { indexes: names, settled } = listing;
  const indexes = new Map<TimelineId, IndexName | RemoteIndex<IndexPart>>(names);
  const taken: TimelineId[] = [];
  const forgotten: TimelineId[] = [];
  const deleted = new Map<TimelineId, number>();
  /** Of these nothing is left in the store. */
  const gone = new Map<TimelineId, number>();
  /** The store says that it is gone; its layers go with the sweep. */
  const forget = async (timelineId: TimelineId) => {
    parts.delete(timelineId);
    forgotten.push(timelineId);
    await directories.markDeleted(timelineId);
  };
  const isNewer = ({ timelineId, generation }: IndexName) =>
    generation > (parts.get(timelineId)?.generation ?? 0);
  const newer = new Map([...names].filter(([, name]) => isNewer(name)));
  for (const [timelineId, { generation }] of parts) {
    if (!names.has(timelineId) && generation < settled) {
      await forget(timelineId);
    }
  }
  const { timelines, damaged } = await remote.read(newer);
  const found = new Set([...timelines.map((one) => one.timelineId), ...damaged.keys()]);
  for (const { timelineId, generation } of newer.values()) {
    if (!found.has(timelineId)) {
      gone.set(timelineId, generation);
      await forget(timelineId);
    }
  }
  const take = async (stored: RemoteIndex<IndexPart>) => {
    const { index, timelineId } = stored;
    if (index.deleted) {
      deleted.set(timelineId, index.generation);
      await forget(timelineId);
      return;
    }
    const directory = directories.of(timelineId);
    await disk.background.makeDirectory(directory);
    await writeIndexPart(directory, index, disk);
    parts.set(timelineId, index);
    indexes.set(timelineId, stored);
    taken.push(timelineId);
    const { generation } = index;
    logger.info({ timeline: timelineId, generation }, "timeline taken from the object store");
  };
  await someAtOnce(timelines.map((stored) => () => take(stored)));
  for (const timelineId of strayBranches(parts.values(), new Map([...gone, ...deleted]))) {
    logger.info({ timeline: timelineId }, "a replaced pageserver made it, of what is deleted");
    await forget(timelineId);
  }
  await disk.background.fsyncDirectory(directories.path);
  return { indexes, taken, forgotten, deleted: [...deleted.keys()], damaged };
}
