// A tenant's archived timelines: nobody uses them, and where there is an object store nothing of them is kept but there.

import { nowMs, sleep } from "../../base/clock.ts";
import type { Disk } from "../../base/disk.ts";
import { errorKind, errorMessage, StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, INVALID_LSN, maxLsn } from "../../base/lsn.ts";
import type { RemoteIndex } from "../remote/load-tenant.ts";
import { type IndexName, indexKey } from "../remote/remote-paths.ts";
import type { TenantRemote } from "../remote/tenant-remote.ts";
import { encodeIndexPart, type IndexPart, writeIndexPart } from "../storage/index-part.ts";
import type { SetLayer } from "../storage/layer-set.ts";
import type { TenantLayers } from "../storage/tenant-layers.ts";
import type { Timeline } from "../storage/timeline.ts";
import type { TimelineDirectories } from "../storage/timeline-directories.ts";
import { retrying } from "../transfers/store-calls.ts";
import { OffloadedList, type OffloadedTimeline, offloadedTimeline } from "./offloaded-list.ts";

/** Until what keeps a timeline from being offloaded may be over: a put on its way, a disk that is full. */
const OFFLOAD_RETRY_MS = 1000;
/** Indexes that are read and put at once. */
const HELD_AT_ONCE = 16;

/**
 * `open`: not offloaded yet, or loaded once more. `line`: all that is known of one that is only in the store; its ancestor
 * keeps the branch point where that one is loaded (`heldIn`).
 */
type Archived =
  | { readonly open: Timeline; readonly line?: undefined }
  | { readonly line: OffloadedTimeline; readonly heldIn: Timeline | undefined; open?: undefined };

/** The tenant, to its archived timelines. */
export interface ArchiveOptions {
  readonly tenantId: TenantId;
  readonly tenantDirectory: string;
  readonly directories: TimelineDirectories;
  readonly layers: TenantLayers;
  readonly disk: Disk;
  readonly logger: Logger;
  /** Absent: an archived timeline stays on the disk, which is all there is. */
  readonly remote: TenantRemote | undefined;
  /** Those in use. */
  readonly timelines: Map<TimelineId, Timeline>;
  /** One of those in use. Errors as Tenant.timeline's. */
  readonly timeline: (timelineId: TimelineId) => Timeline;
  /** It is being made or deleted, or branches of it are being made. */
  readonly isBusy: (timelineId: TimelineId) => boolean;
  readonly load: (
    part: IndexPart,
    ancestor: Timeline | undefined,
    stored: RemoteIndex<IndexPart>,
  ) => Timeline;
}

/** What is shown of one. */
export type ArchivedInfo = Pick<OffloadedTimeline, "timelineId" | "ancestor" | "archivedAtMs">;

export class ArchivedTimelines {
  readonly list: OffloadedList;
  readonly #options: ArchiveOptions;
  readonly #archived = new Map<TimelineId, Archived>();
  /** Put in this generation, and not answered yet: it may be in the store, and count, whatever becomes of the one before. */
  readonly #unanswered = new Map<TimelineId, IndexPart>();
  readonly #closing = new AbortController();
  #lastWork: Promise<unknown> = Promise.resolve();
  /** Of timelines that are only in the store from now on: what has yet to leave the disk. */
  readonly #leftovers = new Map<TimelineId, readonly SetLayer[]>();
  #offloading: Promise<void> | undefined;

  constructor(options: ArchiveOptions) {
    this.#options = options;
    this.list = new OffloadedList({ ...options, lines: () => this.#lines() });
    if (options.remote !== undefined) {
      options.remote.holdOffloaded = () => this.#holdAll();
    }
  }

  *#lines(): Iterable<OffloadedTimeline> {
    for (const { line } of this.#archived.values()) {
      if (line !== undefined) {
        yield line;
      }
    }
  }

  has(timelineId: TimelineId): boolean {
    return this.#archived.has(timelineId);
  }

  /** `conflict` for an archived one. */
  refuse(timelineId: TimelineId): void {
    if (this.has(timelineId)) {
      const message = `timeline ${timelineId} is archived: 'strata branch unarchive NAME' brings it back`;
      throw new StorageError("conflict", "timeline-archived", message);
    }
  }

  get all(): ArchivedInfo[] {
    return [...this.#archived.values()].map(
      ({ open, line }) => line ?? offloadedTimeline(open.index),
    );
  }

  childrenOf(timelineId: TimelineId): ArchivedInfo[] {
    return this.all.filter(({ ancestor }) => ancestor?.timelineId === timelineId);
  }

  /** Whether one that is only in the store reads a layer that another timeline made. */
  borrows(maker: TimelineId, fileName: string): boolean {
    return this.#options.layers.isBorrowed(maker, fileName);
  }

  /** Undefined where it is not archived, or offloaded. */
  opened(timelineId: TimelineId): Timeline | undefined {
    return this.#archived.get(timelineId)?.open;
  }

  get openedTimelines(): Timeline[] {
    return [...this.#archived.values()].flatMap(({ open }) => open ?? []);
  }

  /** At a start: a timeline whose index says so, from the disk or because another that is loaded needs it. */
  adopt(timeline: Timeline): void {
    this.#options.timelines.delete(timeline.timelineId);
    this.#archived.set(timeline.timelineId, { open: timeline });
  }

  /** At a start, when all that is loaded is there: those that are only in the store. */
  adoptOffloaded(lines: Iterable<OffloadedTimeline>): void {
    for (const line of lines) {
      this.#place(line);
    }
    this.offloadSoon();
  }

  /** From here on nothing is known of it but this. */
  #place(line: OffloadedTimeline): void {
    const { layers } = this.#options;
    // Nothing looks at either in between.
    this.#release(this.#archived.get(line.timelineId));
    const heldIn = line.ancestor && this.#loaded(line.ancestor.timelineId);
    heldIn?.branchPoints.add(line.ancestor!.lsn);
    layers.addOffloaded(line);
    this.#archived.set(line.timelineId, { line, heldIn });
    this.list.changed();
  }

  #release(archived: Archived | undefined): void {
    if (archived?.line !== undefined) {
      const { heldIn, line } = archived;
      heldIn?.branchPoints.remove(line.ancestor!.lsn);
      this.#options.layers.removeOffloaded(line);
    }
  }

  #loaded(timelineId: TimelineId): Timeline | undefined {
    return this.#options.timelines.get(timelineId) ?? this.opened(timelineId);
  }

  /** One after the other, as what one of them finds archived the next may change. */
  exclusive<T>(work: () => Promise<T>): Promise<T> {
    const done = this.#lastWork.then(work);
    this.#lastWork = done.catch(() => undefined);
    return done;
  }

  /**
   * From here on nobody uses it; the store says so, for good, when it resolves. Idempotent. `invalid` while branches of it are in use; `conflict`
   * while one is being made, or it is being deleted; `unavailable`, where it goes on: to be asked again; as TimelineRemote.makeDurable.
   */
  async archive(timelineId: TimelineId): Promise<void> {
    // Or the next start could find a branch of it that is in use.
    await this.#options.timelines.get(timelineId)?.settle();
    await this.exclusive(async () => {
      try {
        await this.#archive(timelineId);
      } finally {
        this.offloadSoon();
      }
    });
  }

  async #archive(timelineId: TimelineId): Promise<void> {
    const { timelines, isBusy } = this.#options;
    const before = this.#archived.get(timelineId);
    if (before !== undefined) {
      await this.#hold(timelineId);
      return;
    }
    const timeline = this.#options.timeline(timelineId);
    refuseUnarchivedChildren(timelineId, timelines.values());
    if (isBusy(timelineId)) {
      const message = `timeline ${timelineId} is being branched or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    refuseBehindBranches(timeline);
    timelines.delete(timelineId);
    this.#archived.set(timelineId, { open: timeline });
    try {
      // Or a pageserver that was replaced could bring one back, of a parent that is archived then.
      for (const child of this.childrenOf(timelineId)) {
        await this.#hold(child.timelineId);
      }
      await timeline.setArchived(nowMs());
    } catch (error) {
      this.#bringBack(timeline);
      throw error;
    }
    await timeline.makeDurable();
    this.#options.logger.info({ timeline: timelineId }, "timeline archived");
  }

  /**
   * It can be used again, as it was; the store says so when it resolves. Idempotent. `invalid` where its ancestor is archived; `corrupt`
   * where what the store has of it is damaged; else as `archive`.
   */
  unarchive(timelineId: TimelineId): Promise<Timeline> {
    return this.exclusive(async () => {
      try {
        return await this.#unarchive(timelineId);
      } finally {
        this.offloadSoon();
      }
    });
  }

  async #unarchive(timelineId: TimelineId): Promise<Timeline> {
    const archived = this.#archived.get(timelineId);
    const ancestorId = archived?.open?.ancestor?.timelineId ?? archived?.line?.ancestor?.timelineId;
    if (ancestorId !== undefined && this.has(ancestorId)) {
      const message = `ancestor is archived: ${ancestorId}`;
      throw new StorageError("invalid", "ancestor-archived", message);
    }
    const timeline =
      archived === undefined ? this.#options.timeline(timelineId) : await this.#open(timelineId);
    if (timeline.archivedAtMs !== undefined) {
      await timeline.setArchived(undefined);
    }
    // Its ancestors too: a pageserver that was replaced cannot archive one of them any more.
    await timeline.holdInStore();
    await timeline.makeDurable();
    if (archived !== undefined) {
      this.#bringBack(timeline);
      this.#options.logger.info({ timeline: timelineId }, "timeline unarchived");
    }
    return timeline;
  }

  /** `conflict` where it was deleted meanwhile: a deletion that began before it was archived has not waited for its turn. */
  #bringBack(timeline: Timeline): void {
    const { timelineId } = timeline;
    if (this.opened(timelineId) !== timeline) {
      const message = `timeline ${timelineId} is being deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    this.#archived.delete(timelineId);
    this.#options.timelines.set(timelineId, timeline);
  }

  /**
   * Of a timeline that is to be deleted: it and its archived branches are loaded, so that they can be detached from it. Within `exclusive`.
   * One whose index is damaged is left as it is.
   */
  async openForDeletion(timelineId: TimelineId): Promise<void> {
    for (const child of this.childrenOf(timelineId)) {
      await this.#open(child.timelineId);
    }
    if (this.has(timelineId)) {
      await this.#open(timelineId).catch((error: unknown) => {
        if (errorKind(error) !== "corrupt") {
          throw error;
        }
      });
    }
  }

  /** It is being deleted. */
  remove(timelineId: TimelineId): void {
    this.#release(this.#archived.get(timelineId));
    this.#archived.delete(timelineId);
    this.#unanswered.delete(timelineId);
  }

  /** Its ancestors first, as far as they are archived too. */
  async #open(timelineId: TimelineId): Promise<Timeline> {
    const { directories, disk, layers, load, timelines } = this.#options;
    const archived = this.#archived.get(timelineId)!;
    if (archived.open !== undefined) {
      return archived.open;
    }
    const stored = (await this.#read([archived.line])).get(timelineId);
    this.#checkOpen();
    if (stored === undefined) {
      this.#forgetDeleted(timelineId);
      const message = `timeline ${timelineId} not found: a pageserver that was replaced has deleted it`;
      throw new StorageError("not-found", "timeline-not-found", message);
    }
    const { index } = stored;
    const parentId = index.ancestor?.timelineId;
    const isArchived = parentId !== undefined && this.has(parentId);
    const parent = parentId && (isArchived ? await this.#open(parentId) : timelines.get(parentId));
    if (parentId !== undefined && parent === undefined) {
      const message = `ancestor ${parentId} of timeline ${timelineId} is missing or does not load`;
      throw new StorageError("corrupt", "ancestor-missing", message);
    }
    await this.list.forget();
    // A pageserver that was replaced may have put one that says otherwise.
    const part = { ...index, archivedAtMs: archived.line.archivedAtMs };
    const directory = directories.of(timelineId);
    await layers.writeIndex(timelineId, async () => {
      await disk.background.makeDirectory(directory);
      await writeIndexPart(directory, part, disk);
      await disk.background.fsyncDirectory(directories.path);
    });
    layers.expectStored(part.layers);
    const timeline = load(part, parent || undefined, stored);
    // Its ancestor, loaded meanwhile, may have another hold for it.
    this.#release(this.#archived.get(timelineId));
    this.#archived.set(timelineId, { open: timeline });
    this.#unanswered.delete(timelineId);
    this.#holdForBranches(timelineId);
    for (const other of [...timelines.values(), ...this.openedTimelines]) {
      if (other.detachedFrom?.timelineId === timelineId) {
        other.holdIn(timeline);
      }
    }
    return timeline;
  }

  /** Meanwhile the tenant may have been closed, for good: what others have of it is gone then. */
  #checkOpen(): void {
    if (this.#closing.signal.aborted) {
      throw new StorageError("unavailable", "shutting-down", "the tenant is closed");
    }
  }

  /** In a timeline that is loaded now, or no longer is: of branches that are only in the store. */
  #holdForBranches(timelineId: TimelineId): void {
    for (const line of [...this.#lines()]) {
      if (line.ancestor?.timelineId === timelineId) {
        this.#place(line);
      }
    }
  }

  /** Without those that a pageserver which was replaced has deleted. `corrupt` where one is damaged; else what the store throws. */
  async #read(
    lines: readonly OffloadedTimeline[],
  ): Promise<Map<TimelineId, RemoteIndex<IndexPart>>> {
    const { remote, tenantId } = this.#options;
    const found = new Map<TimelineId, RemoteIndex<IndexPart>>();
    const names = new Map<TimelineId, IndexName>();
    for (const { timelineId, generation } of lines) {
      const index = this.#unanswered.get(timelineId);
      const newest = index?.generation ?? generation;
      const name = { timelineId, generation: newest, key: indexKey(tenantId, timelineId, newest) };
      if (index === undefined) {
        names.set(timelineId, name);
      } else {
        found.set(timelineId, { ...name, index });
      }
    }
    const { timelines, damaged } = await remote!.read(names);
    for (const error of damaged.values()) {
      throw error;
    }
    for (const stored of timelines.filter(({ index }) => !index.deleted)) {
      found.set(stored.timelineId, stored);
    }
    return found;
  }

  /** The next start finds that out, too, and what is left of it in the store goes then. */
  #forgetDeleted(timelineId: TimelineId): void {
    this.#options.logger.info({ timeline: timelineId }, "a replaced pageserver has deleted it");
    this.remove(timelineId);
    this.list.changed();
  }

  /** Resolves when a pageserver that was replaced cannot bring it back any more. Errors as TimelineRemote.makeDurable. */
  async #hold(timelineId: TimelineId): Promise<void> {
    const archived = this.#archived.get(timelineId)!;
    if (archived.open === undefined) {
      await this.#holdSome([timelineId]);
      const consequence = `whether timeline ${timelineId} is archived is not known here`;
      await this.#options.remote!.storage.requireCurrent(consequence);
      return;
    }
    if (archived.open.archivedAtMs === undefined) {
      await archived.open.setArchived(nowMs());
    }
    await archived.open.makeDurable();
  }

  /** Before indexes of lower generations cease to count. Rejects where one is damaged. */
  async #holdAll(): Promise<void> {
    const { remote } = this.#options;
    const ids = [...this.#archived.keys()];
    for (let at = 0; at < ids.length; at += HELD_AT_ONCE) {
      const some = ids.slice(at, at + HELD_AT_ONCE);
      const doing = `put indexes of archived timelines`;
      await retrying({ ...remote!.storage.access, doing }, () =>
        this.exclusive(() => this.#holdSome(some)),
      );
    }
  }

  async #holdSome(timelineIds: readonly TimelineId[]): Promise<void> {
    const { remote } = this.#options;
    const lines: OffloadedTimeline[] = [];
    for (const timelineId of timelineIds) {
      const archived = this.#archived.get(timelineId);
      await archived?.open?.holdInStore();
      if (archived?.line !== undefined && archived.line.generation !== remote!.generation) {
        lines.push(archived.line);
      }
    }
    const stored = lines.length === 0 ? new Map() : await this.#read(lines);
    await Promise.all(
      lines.map((line) => this.#holdLine(line, stored.get(line.timelineId)?.index)),
    );
  }

  async #holdLine(line: OffloadedTimeline, index: IndexPart | undefined): Promise<void> {
    const { remote } = this.#options;
    const { timelineId, archivedAtMs } = line;
    if (index === undefined) {
      this.#forgetDeleted(timelineId);
      return;
    }
    // A pageserver that was replaced may have put one that says otherwise.
    const held = { ...index, archivedAtMs, generation: remote!.generation };
    this.#unanswered.set(timelineId, held);
    await remote!.putIndex(held);
    this.#unanswered.delete(timelineId);
    this.#place(offloadedTimeline(held));
  }

  /** In the background, branches before what they begin in; tried until it is done. */
  offloadSoon(): void {
    if (this.#options.remote !== undefined && !this.#closing.signal.aborted) {
      this.#offloading ??= this.#offloadAll().finally(() => {
        this.#offloading = undefined;
      });
    }
  }

  async #offloadAll(): Promise<void> {
    const { signal } = this.#closing;
    const { logger } = this.#options;
    const { promise: closing, reject } = Promise.withResolvers<never>();
    closing.catch(() => undefined);
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
    for (;;) {
      const [left] = this.#leftovers.keys();
      const next = this.openedTimelines.find((timeline) => this.#mayGo(timeline));
      const timelineId = left ?? next?.timelineId;
      if (timelineId === undefined || signal.aborted) {
        return;
      }
      try {
        if (left !== undefined) {
          await this.exclusive(() => this.#removeFiles(left));
          continue;
        }
        if (await Promise.race([this.#isStored(next!), closing])) {
          await this.exclusive(() => this.#offload(next!));
          continue;
        }
      } catch (error) {
        if (signal.aborted || errorKind(error) === "fenced") {
          return;
        }
        const reason = errorMessage(error);
        logger.info({ timeline: timelineId, reason }, "an archived timeline stays for now");
      }
      await sleep(OFFLOAD_RETRY_MS, signal).catch(() => undefined);
    }
  }

  /** It is archived, and nothing that is loaded reads on in it. */
  #mayGo(timeline: Timeline): boolean {
    const loaded = [...this.#options.timelines.values(), ...this.openedTimelines];
    return (
      timeline.archivedAtMs !== undefined && !loaded.some((other) => other.ancestor === timeline)
    );
  }

  /** Whether the store has its index as it is, and that counts. */
  async #isStored(timeline: Timeline): Promise<boolean> {
    const before = encodeIndexPart(timeline.index);
    await timeline.makeDurable();
    const { index } = timeline;
    return index.detachedFrom === undefined && encodeIndexPart(index) === before;
  }

  async #offload(timeline: Timeline): Promise<void> {
    const { remote, logger } = this.#options;
    const { timelineId } = timeline;
    const isStill = this.opened(timelineId) === timeline && this.#mayGo(timeline);
    if (!isStill || this.#closing.signal.aborted) {
      return;
    }
    const files = timeline.ownedLayers;
    this.#place(offloadedTimeline(timeline.index));
    await timeline.close();
    await remote!.leave(timelineId);
    timeline.leaveAncestor();
    this.#holdForBranches(timelineId);
    this.#leftovers.set(timelineId, files);
    logger.info({ timeline: timelineId }, "timeline offloaded");
    await this.#removeFiles(timelineId);
  }

  /** Where it fails, or the process ends, it is done once more: a start finds what is on the disk. */
  async #removeFiles(timelineId: TimelineId): Promise<void> {
    const { directories, layers } = this.#options;
    if (this.#archived.get(timelineId)?.line !== undefined) {
      await directories.markDeleted(timelineId);
      await layers.leaveDisk(this.#leftovers.get(timelineId)!);
      await directories.empty(timelineId, layers, true);
    }
    this.#leftovers.delete(timelineId);
  }

  /** Nothing is begun any more. Those that are loaded are closed by whoever has the others. */
  stop(): void {
    this.#closing.abort();
  }

  /** When those are closed. */
  async close(flush: boolean): Promise<void> {
    await this.#offloading;
    await this.list.close(flush);
  }
}

function refuseUnarchivedChildren(timelineId: TimelineId, timelines: Iterable<Timeline>): void {
  const children = [...timelines]
    .filter(({ ancestor }) => ancestor?.timelineId === timelineId)
    .map((child) => child.timelineId);
  if (children.length > 0) {
    const message = `Cannot archive timeline which has non-archived child timelines: [${children.join(", ")}]`;
    throw new StorageError("invalid", "has-unarchived-children", message);
  }
}

/** After a restart it may have to take in WAL that its branches begin behind: nobody could detach them from it. */
function refuseBehindBranches(timeline: Timeline): void {
  const last = [...timeline.branchPoints.lsns].reduce(maxLsn, INVALID_LSN);
  if (last > timeline.lastRecordLsn) {
    const message = `timeline ${timeline.timelineId} has not reached ${formatLsn(last)} again, where a branch of it begins`;
    throw new StorageError("unavailable", "ancestor-behind", message);
  }
}
