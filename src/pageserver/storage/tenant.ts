// One tenant: its timelines on disk and in memory; creation, branching and deletion of timelines.

import { basename, join } from "node:path";
import { turn } from "../../base/clock.ts";
import { type BackgroundDisk, diskError } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import { randomBytes } from "../../base/random.ts";
import { ArchivedTimelines } from "../archive/archived-timelines.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { TEMPORARY_SUFFIX } from "../layers/layer-writer.ts";
import type { RemoteIndex } from "../remote/load-tenant.ts";
import type { IndexName } from "../remote/remote-paths.ts";
import type { ScrubReport } from "../remote/scrub.ts";
import { NOTHING_STORED, type StoredTimelines, takeStored } from "../remote/take-stored.ts";
import { type RemoteListing, TenantRemote } from "../remote/tenant-remote.ts";
import { TenantSettings } from "../retention/tenant-config.ts";
import {
  branchIndex,
  type IndexPart,
  type RootTimelineParameters,
  rootIndex,
  writeIndexPart,
} from "./index-part.ts";
import { recordBoundary } from "./retention.ts";
import type { StorageResources } from "./storage-resources.ts";
import { TenantLayers } from "./tenant-layers.ts";
import { Timeline } from "./timeline.ts";
import { TimelineDirectories } from "./timeline-directories.ts";

/** Directories that are looked into before others have their turn. */
const SWEPT_AT_ONCE = 16;

/** A root timeline in the making, in a directory that nobody else looks into. */
export interface StagedRoot {
  /** For its layers. */
  readonly directory: string;
  /** What there is so far, to take in WAL. To be closed before `build` resolves. */
  open(part: IndexPart): Timeline;
}

export interface BranchParameters {
  readonly timelineId: TimelineId;
  readonly ancestorTimelineId: TimelineId;
  /** Default: the ancestor's lastRecordLsn. */
  readonly ancestorLsn?: Lsn;
}

/** One that does not load, or whose deletion failed half-way. */
interface BrokenTimeline {
  readonly error: StorageError;
  /** Where it is known. */
  readonly ancestorId: TimelineId | undefined;
  /** It is not served, and holds what it needs of its ancestors; undefined where it did not load. */
  readonly halfDeleted: Timeline | undefined;
}

/**
 * Layout: `<directory>/{tenant_config.json, timelines/<timeline id>/{index_part.json, layers}}`. A timeline's directory is
 * made under a temporary name and renamed, so it exists as a whole or not at all. Whether a timeline exists is
 * decided by its index; layers lie with the timeline that made them, and go when no index names them.
 */
export class Tenant {
  readonly tenantId: TenantId;
  readonly settings: TenantSettings;
  readonly #directories: TimelineDirectories;
  readonly #resources: StorageResources;
  readonly #disk: BackgroundDisk;
  readonly #layers: TenantLayers;
  readonly #remote: TenantRemote | undefined;
  readonly #logger: Logger;
  /** Those that are loaded and in use. */
  readonly #timelines = new Map<TimelineId, Timeline>();
  readonly #archived: ArchivedTimelines;
  /** Timelines that are on disk and cannot be used. */
  readonly #broken = new Map<TimelineId, BrokenTimeline>();
  /** Being created or deleted. */
  readonly #busy = new Set<TimelineId>();
  /** Those that are being made, and what they begin in. */
  readonly #making = new Map<Promise<Timeline>, TimelineId | undefined>();
  #isClosed = false;
  #lacksLeases = false;
  /** Resolves when nothing is left on the disk of what a crash has left. */
  swept: Promise<void> = Promise.resolve();
  /** Whose objects in the store are on their way out: their names cannot be used again. */
  readonly #deletedIds = new Set<TimelineId>();

  private constructor(tenantId: TenantId, directory: string, resources: StorageResources) {
    this.tenantId = tenantId;
    this.#logger = resources.logger.child({ tenant: tenantId });
    const timelines = join(directory, "timelines");
    this.#directories = new TimelineDirectories(timelines, tenantId, resources.disk, this.#logger);
    this.#resources = resources;
    this.#disk = resources.disk.background;
    this.#remote =
      resources.remote && new TenantRemote(resources.remote, tenantId, () => this.requireWhole());
    this.#layers = new TenantLayers({
      timelinesDirectory: timelines,
      resources,
      remote: this.#remote,
      mayRemove: () => this.#mayRemove,
    });
    this.#archived = new ArchivedTimelines({
      tenantId,
      tenantDirectory: directory,
      directories: this.#directories,
      layers: this.#layers,
      disk: resources.disk,
      logger: this.#logger,
      remote: this.#remote,
      timelines: this.#timelines,
      timeline: (timelineId) => this.timeline(timelineId),
      isBusy: (timelineId) =>
        this.#busy.has(timelineId) || [...this.#making.values()].includes(timelineId),
      load: (part, ancestor, stored) => this.#openTimeline(part, ancestor, stored),
    });
    this.settings = new TenantSettings({
      tenantDirectory: directory,
      disk: resources.disk,
      generation: resources.generation.number,
      put: async (text) => this.#remote?.putConfig(text),
    });
  }

  /** Loads the tenant, making its directory where it is new; clears what a crash left. */
  static async open(
    tenantId: TenantId,
    directory: string,
    resources: StorageResources,
  ): Promise<Tenant> {
    const tenant = new Tenant(tenantId, directory, resources);
    await tenant.#directories.make();
    await tenant.#load();
    if (tenant.settings.damage !== undefined) {
      tenant.#logger.error(
        { error: tenant.settings.damage },
        "no history of the tenant is collected",
      );
    }
    return tenant;
  }

  async #load(): Promise<void> {
    const listing = await this.#remote?.list();
    if (listing?.config !== undefined && listing.config.generation > this.settings.generation) {
      const { key } = listing.config;
      await this.settings.takeStored(await this.#remote!.readConfig(key), key);
    }
    // Where there is an object store, that one says which timelines there are.
    const { parts, broken } = await this.#directories.load(this.#remote !== undefined);
    for (const [timelineId, error] of broken) {
      this.#markBroken(timelineId, error);
    }
    const stored = listing === undefined ? NOTHING_STORED : await this.#takeStored(parts, listing);
    this.#lacksLeases =
      stored.taken.length > 0 || parts.values().some(({ leases }) => leases === undefined);
    const areAll = this.#broken.size === 0;
    const { absent, left } = await this.#directories.sweep(parts, areAll);
    this.#layers.setAbsent(absent);
    for (const part of parts.values()) {
      this.#loadTimeline(part, parts, stored.indexes);
    }
    for (const timeline of this.#timelines.values()) {
      const { detachedFrom } = timeline;
      const ancestor = detachedFrom && this.#timelines.get(detachedFrom.timelineId);
      if (ancestor !== undefined) {
        timeline.holdIn(ancestor);
      }
    }
    for (const timeline of this.timelines.filter((one) => one.archivedAtMs !== undefined)) {
      this.#archived.adopt(timeline);
    }
    this.#archived.adoptOffloaded(stored.offloaded.values());
    this.swept = areAll ? this.#sweepLeft(left) : Promise.resolve();
    for (const timelineId of stored.deleted) {
      this.#deleteObjects(timelineId);
    }
  }

  async #takeStored(
    parts: Map<TimelineId, IndexPart>,
    listing: RemoteListing,
  ): Promise<StoredTimelines> {
    const stored = await takeStored({
      remote: this.#remote!,
      directories: this.#directories,
      disk: this.#resources.disk,
      logger: this.#logger,
      parts,
      listing,
      offloaded: this.#archived.list.read(),
    });
    for (const timelineId of [...stored.taken, ...stored.forgotten]) {
      this.#broken.delete(timelineId);
    }
    for (const [timelineId, error] of stored.damaged) {
      parts.delete(timelineId);
      this.#markBroken(timelineId, error);
    }
    return stored;
  }

  /** A start does not wait for it. */
  async #sweepLeft(timelineIds: readonly TimelineId[]): Promise<void> {
    for (const [at, timelineId] of timelineIds.entries()) {
      if (at % SWEPT_AT_ONCE === 0) {
        await turn();
      }
      if (this.#isClosed) {
        return;
      }
      if (this.#timelines.get(timelineId)?.hasNoFiles === true) {
        await this.#directories
          .removeLeftovers(timelineId, this.#layers)
          .catch((error: unknown) => {
            this.#logger.warn({ timeline: timelineId, error }, "what a crash has left stays");
          });
      }
    }
  }

  /** In the background: what is left is found at the next load. */
  #deleteObjects(timelineId: TimelineId): void {
    this.#deletedIds.add(timelineId);
    this.#remote
      ?.deleteTimeline(timelineId, (maker, fileName) => this.#isUsed(maker, fileName))
      .then(() => void this.#deletedIds.delete(timelineId))
      .catch((error: unknown) => {
        if (this.#resources.remote?.access.signal.aborted === false) {
          this.#logger.warn({ timeline: timelineId, error }, "objects of a deleted timeline stay");
        }
      });
  }

  #markBroken(timelineId: TimelineId, cause: unknown, ancestorId?: TimelineId): void {
    const error =
      cause instanceof StorageError
        ? cause
        : new StorageError("internal", "load-failed", errorMessage(cause), { cause });
    this.#broken.set(timelineId, { error, ancestorId, halfDeleted: undefined });
    this.#logger.error({ timeline: timelineId, error }, "timeline does not load");
  }

  /** Ancestors first. The walk up is a loop: branches can be thousands deep. */
  #loadTimeline(
    part: IndexPart,
    parts: ReadonlyMap<TimelineId, IndexPart>,
    stored: StoredTimelines["indexes"],
  ): void {
    const chain: IndexPart[] = [];
    const seen = new Set<TimelineId>();
    for (let next: IndexPart | undefined = part; next !== undefined; ) {
      if (this.#timelines.has(next.timelineId) || seen.has(next.timelineId)) {
        break;
      }
      seen.add(next.timelineId);
      chain.push(next);
      next = next.ancestor && parts.get(next.ancestor.timelineId);
    }
    for (let i = chain.length - 1; i >= 0; i--) {
      const { timelineId, ancestor } = chain[i]!;
      const parent = ancestor && this.#timelines.get(ancestor.timelineId);
      if (this.#broken.has(timelineId)) {
        continue;
      }
      if (ancestor !== undefined && parent === undefined) {
        const message = `ancestor ${ancestor.timelineId} is missing or does not load`;
        const error = new StorageError("corrupt", "ancestor-missing", message);
        this.#markBroken(timelineId, error, ancestor.timelineId);
        continue;
      }
      const timeline = this.#openTimeline(chain[i]!, parent, stored.get(timelineId));
      this.#timelines.set(timelineId, timeline);
    }
  }

  #openTimeline(
    part: IndexPart,
    ancestor: Timeline | undefined,
    stored: IndexName | RemoteIndex<IndexPart> | undefined,
  ): Timeline {
    const timeline = new Timeline(this.#resources, this.#layers, part, ancestor);
    if (this.#remote !== undefined) {
      timeline.storeIn(this.#remote.attach(timeline, stored));
    }
    return timeline;
  }

  /** A timeline that does not load may have any layer; what others have is not known any more when they are closed. */
  get #mayRemove(): boolean {
    return this.#broken.size === 0 && !this.#isClosed;
  }

  /** Somebody may hold a lease of the life before that is not known here: it was given on another disk, or by an earlier version. */
  get mayLackLeases(): boolean {
    return this.#lacksLeases || !this.#resources.generation.followsOwn;
  }

  /** Those that loaded and are in use. */
  get timelines(): readonly Timeline[] {
    return [...this.#timelines.values()];
  }

  /** Those that did not, and why. */
  get brokenTimelines(): ReadonlyMap<TimelineId, StorageError> {
    return new Map([...this.#broken].map(([timelineId, { error }]) => [timelineId, error]));
  }

  /** `conflict` while a timeline does not load: it may be a branch of any, and nobody knows what it reads. */
  requireWhole(): void {
    for (const [timelineId, { halfDeleted }] of this.#broken) {
      if (halfDeleted === undefined) {
        throw maybeBranch(timelineId);
      }
    }
  }

  /** Those that are not in use. */
  get archived(): ArchivedTimelines {
    return this.#archived;
  }

  /** `not-found`; `conflict` where it is archived; or why it does not load. */
  timeline(timelineId: TimelineId): Timeline {
    this.#archived.refuse(timelineId);
    const timeline = this.#timelines.get(timelineId);
    if (timeline !== undefined) {
      return timeline;
    }
    const broken = this.#broken.get(timelineId);
    if (broken !== undefined) {
      throw broken.error;
    }
    throw new StorageError("not-found", "timeline-not-found", `timeline ${timelineId} not found`);
  }

  hasTimeline(timelineId: TimelineId): boolean {
    return this.#timelines.has(timelineId);
  }

  /**
   * Idempotent: where a root of the same kind exists, that one is returned (its system
   * identifier, chosen at random by the first creation, stays). `conflict` where it differs or is
   * being created right now.
   */
  async createRoot(parameters: RootTimelineParameters): Promise<Timeline> {
    const timeline = await this.#createRoot(parameters);
    await timeline.makeDurable();
    return timeline;
  }

  async #createRoot(parameters: RootTimelineParameters): Promise<Timeline> {
    const { timelineId } = parameters;
    const existing = this.#existing(timelineId);
    if (existing !== undefined) {
      const same =
        existing.ancestor === undefined &&
        existing.pgVersion === parameters.pgVersion &&
        existing.dataChecksums === parameters.dataChecksums;
      return same ? existing : this.#refuseDuplicate(timelineId);
    }
    const part = rootIndex(this.tenantId, parameters, this.#resources.generation.number);
    return this.#create(timelineId, undefined, async (directory) => {
      for (const { path } of parameters.layerPaths) {
        // Layer files are immutable and name no timeline, so one file can serve many.
        await this.#disk.linkOrCopy(path, join(directory, basename(path)));
      }
      await writeIndexPart(directory, part, this.#resources.disk);
      return { part, directory };
    });
  }

  /**
   * A root that `build` writes out of sight, however long that takes: there is nothing of it before, and nothing is left
   * where it fails. It resolves with the index, whose layers are in `directory` and durable. `conflict` where there is
   * such a timeline, or one is being made.
   */
  async buildRoot(
    timelineId: TimelineId,
    build: (staged: StagedRoot) => Promise<IndexPart>,
  ): Promise<Timeline> {
    if (this.#existing(timelineId) !== undefined) {
      this.#refuseDuplicate(timelineId);
    }
    const timeline = await this.#create(timelineId, undefined, async (temporary) => {
      const directory = join(temporary, timelineId);
      await this.#disk.makeDirectory(directory);
      const layers = new TenantLayers({
        timelinesDirectory: temporary,
        resources: this.#resources,
      });
      const open = (part: IndexPart) => new Timeline(this.#resources, layers, part, undefined);
      const part = await build({ directory, open });
      await writeIndexPart(directory, part, this.#resources.disk);
      return { part, directory };
    });
    await timeline.makeDurable();
    return timeline;
  }

  /**
   * Costs the same at any size. The caller has waited until the ancestor reached the LSN;
   * `unavailable` where it has not. An LSN is cut down to where a record can end, which names the
   * same state; one below the ancestor's own start branches from the ancestor's ancestor, where that
   * state lies; one below the root's start is `invalid`. Idempotent for the same ancestor and LSN,
   * else `conflict`.
   */
  async createBranch(parameters: BranchParameters): Promise<Timeline> {
    // Nobody has a branch without the ancestors that it reads.
    await this.timeline(parameters.ancestorTimelineId).holdInStore();
    const timeline = await this.#createBranch(parameters);
    await timeline.makeDurable();
    return timeline;
  }

  async #createBranch(parameters: BranchParameters): Promise<Timeline> {
    const { timelineId, ancestorTimelineId } = parameters;
    const requested = this.timeline(ancestorTimelineId);
    const wanted = parameters.ancestorLsn ?? requested.lastRecordLsn;
    const lsn = recordBoundary(wanted, requested.walSegmentSize);
    let ancestor = requested;
    while (ancestor.ancestor !== undefined && lsn < ancestor.startLsn) {
      ancestor = ancestor.ancestor;
    }
    const existing = this.#existing(timelineId);
    if (existing !== undefined) {
      const sameLsn = parameters.ancestorLsn === undefined || existing.ancestorLsn === lsn;
      const sameAncestor =
        existing.ancestor === ancestor ||
        (parameters.ancestorLsn === undefined && existing.ancestor === requested);
      return sameAncestor && sameLsn ? existing : this.#refuseDuplicate(timelineId);
    }
    try {
      ancestor.checkKept(lsn);
    } catch (error) {
      throw new StorageError(
        "invalid",
        "branch-lsn-too-old",
        `invalid start lsn ${formatLsn(wanted)} for ancestor timeline ${ancestorTimelineId}: ` +
          errorMessage(error),
      );
    }
    if (lsn > ancestor.lastRecordLsn) {
      throw new StorageError(
        "unavailable",
        "branch-lsn-not-reached",
        `timeline ${ancestorTimelineId} has not reached ${formatLsn(lsn)}, ` +
          `last record is at ${formatLsn(ancestor.lastRecordLsn)}`,
      );
    }
    const part = branchIndex(ancestor.index, timelineId, lsn);
    return this.#create(timelineId, { timeline: ancestor, lsn }, async (directory) => {
      await writeIndexPart(directory, part, this.#resources.disk);
      return { part, directory };
    });
  }

  #existing(timelineId: TimelineId): Timeline | undefined {
    if (this.#busy.has(timelineId)) {
      const message = `timeline ${timelineId} is being created or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    this.#archived.refuse(timelineId);
    const broken = this.#broken.get(timelineId);
    if (broken !== undefined) {
      throw broken.error;
    }
    return this.#timelines.get(timelineId);
  }

  #refuseDuplicate(timelineId: TimelineId): never {
    const message = `timeline ${timelineId} already exists with different parameters`;
    throw new StorageError("conflict", "timeline-exists", message);
  }

  #create(
    timelineId: TimelineId,
    ancestor: BranchPoint | undefined,
    fill: Fill,
  ): Promise<Timeline> {
    const making = this.#createNow(timelineId, ancestor, fill);
    this.#making.set(making, ancestor?.timeline.timelineId);
    const made = () => void this.#making.delete(making);
    making.then(made, made);
    return making;
  }

  async #createNow(
    timelineId: TimelineId,
    ancestor: BranchPoint | undefined,
    fill: Fill,
  ): Promise<Timeline> {
    this.#checkOpen();
    if (
      this.#deletedIds.has(timelineId) ||
      this.#resources.disk.exists(this.#directories.of(timelineId))
    ) {
      const message = this.#deletedIds.has(timelineId)
        ? `timeline ${timelineId} was deleted, and its objects are on their way out: try again in a minute`
        : `timeline ${timelineId} was deleted, and its layers are in use`;
      throw new StorageError("conflict", "timeline-deleted", message);
    }
    this.#busy.add(timelineId);
    // From here on the ancestor keeps the branch point, and is not deleted.
    ancestor?.timeline.branchPoints.add(ancestor.lsn);
    const temporary = `${this.#directories.of(timelineId)}-${randomBytes(4).toString("hex")}${TEMPORARY_SUFFIX}`;
    // What a failure takes away again; under its final name a later try could not replace it.
    const made = [temporary];
    try {
      await this.#disk.makeDirectory(temporary);
      const { part, directory } = await fill(temporary);
      await this.#disk.rename(directory, this.#directories.of(timelineId));
      made.push(this.#directories.of(timelineId));
      await this.#disk.fsyncDirectory(this.#directories.path);
      if (directory !== temporary) {
        await this.#disk.removeTree(temporary);
      }
      const timeline = this.#openTimeline(part, ancestor?.timeline, undefined);
      this.#timelines.set(timelineId, timeline);
      this.#logger.info(
        {
          timeline: timelineId,
          ancestor: ancestor?.timeline.timelineId,
          startLsn: formatLsn(part.startLsn),
        },
        "timeline created",
      );
      return timeline;
    } catch (error) {
      for (const path of made) {
        await this.#disk.removeTree(path).catch(() => undefined);
      }
      throw diskError(error, `create timeline ${timelineId}`);
    } finally {
      ancestor?.timeline.branchPoints.remove(ancestor.lsn);
      this.#busy.delete(timelineId);
    }
  }

  /** Branches of it are detached first, so that they stay as they are. Readers of it get errors from here on. */
  async deleteTimeline(timelineId: TimelineId): Promise<void> {
    const archived = this.#archived;
    if (!archived.has(timelineId) && archived.childrenOf(timelineId).length === 0) {
      return await this.#deleteTimeline(timelineId);
    }
    await archived.exclusive(async () => {
      try {
        await archived.openForDeletion(timelineId);
        await this.#deleteTimeline(timelineId);
      } finally {
        archived.offloadSoon();
      }
    });
  }

  async #deleteTimeline(timelineId: TimelineId): Promise<void> {
    if (this.#busy.has(timelineId)) {
      const message = `timeline ${timelineId} is being created or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    const isUnreadable = this.#broken.has(timelineId) || this.#archived.has(timelineId);
    const loaded = () => this.#archived.opened(timelineId) ?? this.#timelines.get(timelineId);
    const timeline = loaded() ?? (isUnreadable ? undefined : this.timeline(timelineId));
    this.#refuseToLose(timelineId);
    for (const child of this.#childrenOf(timelineId)) {
      await child.detachFromAncestor();
    }
    // Or the store would have a branch of nothing.
    await this.#remote?.whenWithoutBranches(timelineId);
    // Meanwhile a branch may have been begun, or the timeline archived or deleted.
    const hasBranches = timeline !== undefined && [...timeline.branchPoints.lsns].length > 0;
    if (this.#busy.has(timelineId) || hasBranches || loaded() !== timeline) {
      const message = `timeline ${timelineId} is being branched, archived or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    this.#busy.add(timelineId);
    this.#timelines.delete(timelineId);
    this.#archived.remove(timelineId);
    const before = this.#broken.get(timelineId);
    const doomed = timeline ?? before?.halfDeleted;
    const layers = doomed?.ownedLayers ?? [];
    // A start may bring it back until it is marked: whoever else lets go of what it names must not be the last.
    for (const { file } of timeline === undefined ? [] : layers) {
      this.#layers.share(file);
    }
    try {
      await timeline?.close();
      // First here: the next start on this disk takes the store's index then, whether it says that it is deleted or does not yet.
      await this.#directories.markDeleted(timelineId);
      // What is closed puts nothing any more that would take this back.
      await this.#remote?.markDeleted(timelineId);
      this.#broken.delete(timelineId);
      doomed?.leaveAncestor();
      for (const { file } of layers) {
        this.#layers.leave(file);
      }
      await this.#layers.removeUnused(layers);
      await this.#directories.empty(timelineId, this.#layers, this.#mayRemove);
      this.#deleteObjects(timelineId);
      this.#logger.info({ timeline: timelineId }, "timeline deleted");
    } catch (error) {
      // Its readers are gone, its directory may be there: it is neither, until it is deleted again.
      const unfinished = diskError(error, `delete timeline ${timelineId}`);
      const ancestorId = doomed?.ancestor?.timelineId ?? before?.ancestorId;
      this.#broken.set(timelineId, { error: unfinished, ancestorId, halfDeleted: doomed });
      throw unfinished;
    } finally {
      this.#busy.delete(timelineId);
    }
  }

  /**
   * Compares the store with what its indexes name; with `fix`, orphans go, and layers that are missing there and still on
   * this disk are put again. `unsupported` without an object store; errors as scrubTenant's.
   */
  async scrub(options: {
    readonly fix: boolean;
    readonly minAgeMs: number;
  }): Promise<{ report: ScrubReport; putAgain: readonly string[] }> {
    if (this.#remote === undefined) {
      const message = "this pageserver has no object store to look into";
      throw new StorageError("unsupported", "no-object-store", message);
    }
    const report = await this.#remote.scrub({
      ...options,
      isUsed: (maker, fileName) => this.#isUsed(maker, fileName),
    });
    // What a deletion of the tenant has taken meanwhile is not missing.
    this.#checkOpen();
    const missing = new Set(options.fix ? report.missing.map(({ key }) => key) : []);
    const putAgain = this.timelines.flatMap((timeline) => timeline.putAgain(missing));
    return { report, putAgain: [...new Set(putAgain)] };
  }

  #checkOpen(): void {
    if (this.#isClosed) {
      throw new StorageError("unavailable", "shutting-down", "the tenant is closed");
    }
  }

  /**
   * Whether a timeline may read the layer: what of one that does not load nobody knows. `unavailable` once the tenant is closed, as its
   * timelines have let go of their layers then.
   */
  #isUsed(maker: TimelineId, fileName: string): boolean {
    this.#checkOpen();
    return this.#broken.size > 0 || this.#layers.isNamed(maker, fileName);
  }

  /** Of all its timelines, each once. */
  get layerFiles(): Iterable<LayerFile> {
    return this.#layers.files;
  }

  /** Takes a layer that the object store has from the disk. */
  evict(file: LayerFile): Promise<void> {
    return this.#layers.evict(file);
  }

  /** Resolves when the object store has the tenant, if only its name. */
  async makeDurable(): Promise<void> {
    await this.#remote?.settle();
  }

  #childrenOf(timelineId: TimelineId): Timeline[] {
    return [...this.timelines, ...this.#archived.openedTimelines].filter(
      (other) => other.ancestor?.timelineId === timelineId,
    );
  }

  /** Branches that do not load may be repaired: `conflict`. One whose index cannot be read may be any's; what does not load itself may go. */
  #refuseToLose(timelineId: TimelineId): void {
    for (const [broken, { ancestorId, halfDeleted }] of this.#broken) {
      if (ancestorId === timelineId) {
        const message = `timeline ${timelineId} has branches that do not load`;
        throw new StorageError("conflict", "timeline-has-children", message);
      }
      const isUnknown = ancestorId === undefined && halfDeleted === undefined;
      if (isUnknown && !this.#broken.has(timelineId)) {
        throw maybeBranch(broken);
      }
    }
  }

  /** `flush`: first everything goes to disk, as far as that works. */
  async close(flush: boolean): Promise<void> {
    this.#isClosed = true;
    this.#archived.stop();
    await Promise.allSettled([...this.#making.keys(), this.swept]);
    for (const timeline of this.#timelines.values()) {
      if (flush) {
        // The flush loop has logged the failure; the safekeepers still have the WAL.
        await timeline.checkpoint().catch(() => undefined);
      }
    }
    await Promise.all(
      [...this.timelines, ...this.#archived.openedTimelines].map(async (timeline) => {
        await timeline.close();
        await timeline.leaveStore(flush);
      }),
    );
    await this.#archived.close(flush);
    await this.#remote?.close();
    this.#timelines.clear();
  }
}

function maybeBranch(broken: TimelineId): StorageError {
  const message = `timeline ${broken} does not load, and may be a branch of any: until it is repaired or deleted, no history is collected and no other timeline is deleted`;
  return new StorageError("conflict", "timeline-broken", message);
}

interface BranchPoint {
  readonly timeline: Timeline;
  readonly lsn: Lsn;
}

/** Writes layers and index into the directory that it is given, or one in it. */
type Fill = (temporary: string) => Promise<{ part: IndexPart; directory: string }>;
