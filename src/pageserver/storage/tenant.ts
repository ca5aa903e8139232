// One tenant: its timelines on disk and in memory; creation, branching and deletion of timelines.

import { basename, join } from "node:path";
import { type BackgroundDisk, diskError } from "../../base/disk.ts";
import { errorMessage, StorageError } from "../../base/errors.ts";
import { parseTimelineId, type TenantId, type TimelineId } from "../../base/ids.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn, MAX_LSN } from "../../base/lsn.ts";
import { randomBytes } from "../../base/random.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { parseLayerFileName } from "../layers/layer-format.ts";
import { TEMPORARY_SUFFIX } from "../layers/layer-writer.ts";
import type { RemoteIndex } from "../remote/load-tenant.ts";
import type { IndexName } from "../remote/remote-paths.ts";
import type { ScrubReport } from "../remote/scrub.ts";
import { type RemoteListing, TenantRemote } from "../remote/tenant-remote.ts";
import { TenantSettings } from "../retention/tenant-config.ts";
import { INDEX_PART_NAME, type IndexPart, readIndexPart, writeIndexPart } from "./index-part.ts";
import { recordBoundary } from "./retention.ts";
import type { StorageResources } from "./storage-resources.ts";
import { strayBranches } from "./stray-branches.ts";
import { DELETED_INDEX_NAME, DELETED_SUFFIX, TenantLayers } from "./tenant-layers.ts";
import { Timeline } from "./timeline.ts";

/** Index parts that are read and made durable at the same time. */
const LOADS_AT_ONCE = 16;

export interface RootTimelineParameters {
  readonly timelineId: TimelineId;
  readonly pgVersion: number;
  readonly dataChecksums: boolean;
  /** Unsigned 64 bits. */
  readonly systemId: bigint;
  readonly walSegmentSize: number;
  /** The LSN of the imported layers: the end of initdb's WAL. */
  readonly startLsn: Lsn;
  /** Start of the last record before startLsn; 0 where unknown. */
  readonly prevRecordLsn: Lsn;
  /** Image layer files at startLsn; hard-linked (or copied), so the originals stay. */
  readonly layerPaths: readonly { readonly path: string; readonly sizeBytes: number }[];
}

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

/**
 * Layout: `<directory>/{tenant_config.json, timelines/<timeline id>/{index_part.json, layers}}`. A timeline's directory is
 * made under a temporary name and renamed, so it exists as a whole or not at all. Whether a timeline exists is
 * decided by its index; layers lie with the timeline that made them, and go when no index names them.
 */
export class Tenant {
  readonly tenantId: TenantId;
  readonly settings: TenantSettings;
  readonly #timelinesDirectory: string;
  readonly #resources: StorageResources;
  readonly #disk: BackgroundDisk;
  readonly #layers: TenantLayers;
  readonly #remote: TenantRemote | undefined;
  readonly #logger: Logger;
  readonly #timelines = new Map<TimelineId, Timeline>();
  /** Timelines that are on disk and cannot be loaded, and why. */
  readonly #broken = new Map<TimelineId, StorageError>();
  /** Their ancestors, where the index could be read. */
  readonly #ancestorOfBroken = new Map<TimelineId, TimelineId>();
  /** Of these, those whose deletion failed half-way: they hold what they need of their ancestors. */
  readonly #halfDeleted = new Map<TimelineId, Timeline>();
  /** Being created or deleted. */
  readonly #busy = new Set<TimelineId>();
  /** Whose objects in the store are on their way out: their names cannot be used again. */
  readonly #deletedIds = new Set<TimelineId>();

  private constructor(tenantId: TenantId, directory: string, resources: StorageResources) {
    this.tenantId = tenantId;
    this.#timelinesDirectory = join(directory, "timelines");
    this.#resources = resources;
    this.#disk = resources.disk.background;
    this.#remote = resources.remote && new TenantRemote(resources.remote, tenantId);
    this.#layers = new TenantLayers({
      timelinesDirectory: this.#timelinesDirectory,
      resources,
      remote: this.#remote,
      mayRemove: () => this.#broken.size === 0,
    });
    this.#logger = resources.logger.child({ tenant: tenantId });
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
    try {
      await tenant.#disk.makeDirectory(tenant.#timelinesDirectory);
      await tenant.#disk.fsyncDirectory(directory);
      // A killed process may have left renames, of creations and deletions, that nobody synced.
      await tenant.#disk.fsyncDirectory(tenant.#timelinesDirectory);
    } catch (error) {
      throw diskError(error, `create tenant directory ${directory}`);
    }
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
    const parts = new Map<TimelineId, IndexPart>();
    const { disk } = this.#resources;
    const loads: (() => Promise<void>)[] = [];
    for (const name of disk.list(this.#timelinesDirectory)) {
      const path = join(this.#timelinesDirectory, name);
      if (name.endsWith(TEMPORARY_SUFFIX) || name.endsWith(DELETED_SUFFIX)) {
        await this.#disk.removeTree(path);
      } else if (/^[0-9a-f]{32}$/.test(name) && disk.isDirectory(path)) {
        loads.push(() => this.#loadIndexPart(parseTimelineId(name), path, parts));
      } else {
        this.#logger.warn({ path }, "not a timeline directory, left alone");
      }
    }
    await someAtOnce(loads);
    const stored: StoredTimelines =
      listing === undefined ? NOTHING_STORED : await this.#takeStored(parts, listing);
    this.#layers.setAbsent(await this.#sweep([...parts.values()]));
    for (const part of parts.values()) {
      this.#loadTimeline(part, parts, stored.indexes);
    }
    for (const timelineId of stored.deleted) {
      this.#deleteObjects(timelineId);
    }
  }

  /**
   * Where the store has a timeline of a later generation than the disk, others have had the tenant in between: theirs counts.
   * Of the same generation or a later one, the disk's is as new. WAL above what is taken comes again.
   */
  async #takeStored(
    parts: Map<TimelineId, IndexPart>,
    { indexes: names, settled }: RemoteListing,
  ): Promise<StoredTimelines> {
    const indexes = new Map<TimelineId, IndexName | RemoteIndex<IndexPart>>(names);
    const deleted = new Map<TimelineId, number>();
    const isNewer = ({ timelineId, generation }: IndexName) =>
      generation > (parts.get(timelineId)?.generation ?? 0);
    const newer = new Map([...names].filter(([, name]) => isNewer(name)));
    for (const [timelineId, { generation }] of parts) {
      if (!names.has(timelineId) && generation < settled) {
        await this.#forgetLocal(timelineId, parts);
      }
    }
    const { timelines, damaged } = await this.#remote!.read(newer);
    const taken = timelines.map((stored) => async () => {
      const { index, timelineId } = stored;
      if (index.deleted) {
        deleted.set(timelineId, index.generation);
        await this.#forgetLocal(timelineId, parts);
        return;
      }
      const directory = this.#directoryOf(timelineId);
      await this.#disk.makeDirectory(directory);
      await writeIndexPart(directory, index, this.#resources.disk);
      parts.set(timelineId, index);
      indexes.set(timelineId, stored);
      this.#broken.delete(timelineId);
      const { generation } = index;
      this.#logger.info(
        { timeline: timelineId, generation },
        "timeline taken from the object store",
      );
    });
    await someAtOnce(taken);
    for (const timelineId of strayBranches(parts.values(), deleted)) {
      this.#logger.info(
        { timeline: timelineId },
        "a replaced pageserver made it, of what is deleted",
      );
      await this.#forgetLocal(timelineId, parts);
    }
    await this.#disk.fsyncDirectory(this.#timelinesDirectory);
    for (const [timelineId, error] of damaged) {
      parts.delete(timelineId);
      this.#markBroken(timelineId, error);
    }
    return { indexes, deleted: [...deleted.keys()] };
  }

  /** The store says that it is gone; its layers go with the sweep. */
  async #forgetLocal(timelineId: TimelineId, parts: Map<TimelineId, IndexPart>): Promise<void> {
    parts.delete(timelineId);
    this.#broken.delete(timelineId);
    await this.#markDeleted(timelineId);
  }

  async #markDeleted(timelineId: TimelineId): Promise<void> {
    const directory = this.#directoryOf(timelineId);
    const index = join(directory, INDEX_PART_NAME);
    // Not there where a try before this one came as far as here, or where this machine never had it.
    if (this.#resources.disk.exists(index)) {
      await this.#disk.rename(index, join(directory, DELETED_INDEX_NAME));
    }
    if (this.#resources.disk.isDirectory(directory)) {
      await this.#disk.fsyncDirectory(directory);
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

  async #loadIndexPart(
    timelineId: TimelineId,
    directory: string,
    parts: Map<TimelineId, IndexPart>,
  ): Promise<void> {
    try {
      // Safekeepers are told how far its index is, and forget that WAL: the index's rename must not vanish.
      await this.#disk.fsyncDirectory(directory);
      const { disk } = this.#resources;
      const part = readIndexPart(directory, disk);
      // Where there is an object store, that one says which timelines there are.
      const isNone = this.#remote !== undefined || isDeleted(disk.list(directory));
      if (part === undefined && isNone) {
        return;
      }
      if (part === undefined || part.timelineId !== timelineId) {
        throw new StorageError("corrupt", "corrupt-index", `no index of its own in ${directory}`, {
          fields: { path: directory },
        });
      }
      if (part.tenantId !== this.tenantId) {
        const message = `the index in ${directory} belongs to tenant ${part.tenantId}`;
        throw new StorageError("corrupt", "corrupt-index", message);
      }
      parts.set(timelineId, part);
    } catch (error) {
      this.#markBroken(timelineId, error);
    }
  }

  #markBroken(timelineId: TimelineId, error: unknown): void {
    const kept =
      error instanceof StorageError
        ? error
        : new StorageError("internal", "load-failed", errorMessage(error), { cause: error });
    this.#broken.set(timelineId, kept);
    this.#logger.error({ timeline: timelineId, error: kept }, "timeline does not load");
  }

  /**
   * Removes what a crash has left: unfinished files; layers without an index, whose WAL comes again; directories of
   * deleted timelines that nobody needs. Returns the paths of layers that are named and not on the disk.
   */
  async #sweep(parts: readonly IndexPart[]): Promise<Set<string>> {
    const { disk } = this.#resources;
    const named = new Set<string>();
    for (const { layers } of parts) {
      for (const { maker, fileName } of layers) {
        named.add(join(this.#layers.directoryOf(maker), fileName));
      }
    }
    const absent = new Set(named);
    for (const timelineId of disk.list(this.#timelinesDirectory)) {
      const directory = join(this.#timelinesDirectory, timelineId);
      if (disk.isDirectory(directory)) {
        await this.#emptyDirectory(directory, (path) => {
          absent.delete(path);
          return named.has(path);
        });
      }
    }
    return absent;
  }

  /** An index that cannot be read may name any layer: while there is one, all layers stay. */
  async #emptyDirectory(directory: string, isUsed: (path: string) => boolean): Promise<void> {
    let kept = 0;
    const { disk } = this.#resources;
    for (const name of disk.isDirectory(directory) ? disk.list(directory) : []) {
      const path = join(directory, name);
      const isLayer = parseLayerFileName(name) !== undefined;
      const isLeftover = isLayer ? this.#broken.size === 0 && !isUsed(path) : isTemporary(name);
      if (isLeftover) {
        await this.#disk.removeTree(path);
      } else if (name !== DELETED_INDEX_NAME) {
        kept++;
        if (!isLayer && name !== INDEX_PART_NAME) {
          this.#logger.warn({ path }, "not a file of a timeline, left alone");
        }
      }
    }
    if (kept === 0) {
      await this.#disk.removeTree(directory);
    }
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
        this.#ancestorOfBroken.set(timelineId, ancestor.timelineId);
        const message = `ancestor ${ancestor.timelineId} is missing or does not load`;
        this.#markBroken(timelineId, new StorageError("corrupt", "ancestor-missing", message));
        continue;
      }
      const timeline = this.#openTimeline(chain[i]!, parent, stored.get(timelineId));
      this.#timelines.set(timelineId, timeline);
    }
  }

  #directoryOf(timelineId: TimelineId): string {
    return join(this.#timelinesDirectory, timelineId);
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

  /** Those that loaded. */
  get timelines(): readonly Timeline[] {
    return [...this.#timelines.values()];
  }

  /** Those that did not, and why. */
  get brokenTimelines(): ReadonlyMap<TimelineId, StorageError> {
    return this.#broken;
  }

  /** `not-found`; or why it does not load. */
  timeline(timelineId: TimelineId): Timeline {
    const timeline = this.#timelines.get(timelineId);
    if (timeline !== undefined) {
      return timeline;
    }
    const broken = this.#broken.get(timelineId);
    if (broken !== undefined) {
      throw broken;
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
    const part: IndexPart = {
      tenantId: this.tenantId,
      timelineId,
      ancestor: undefined,
      pgVersion: parameters.pgVersion,
      dataChecksums: parameters.dataChecksums,
      systemId: parameters.systemId,
      walSegmentSize: parameters.walSegmentSize,
      startLsn: parameters.startLsn,
      diskConsistentLsn: parameters.startLsn,
      prevRecordLsn: parameters.prevRecordLsn,
      gcCutoffLsn: parameters.startLsn,
      generation: this.#resources.generation.number,
      deleted: false,
      layers: parameters.layerPaths.map(({ path, sizeBytes }) => ({
        fileName: basename(path),
        sizeBytes,
        maker: parameters.timelineId,
        capLsn: MAX_LSN,
      })),
    };
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
    const part: IndexPart = {
      tenantId: this.tenantId,
      timelineId,
      ancestor: { timelineId: ancestor.timelineId, lsn },
      pgVersion: ancestor.pgVersion,
      dataChecksums: ancestor.dataChecksums,
      systemId: ancestor.systemId,
      walSegmentSize: ancestor.walSegmentSize,
      startLsn: lsn,
      diskConsistentLsn: lsn,
      // The record that ends there is the ancestor's; on the branch nothing precedes the first.
      prevRecordLsn: 0 as Lsn,
      gcCutoffLsn: lsn,
      generation: this.#resources.generation.number,
      deleted: false,
      layers: [],
    };
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
    const broken = this.#broken.get(timelineId);
    if (broken !== undefined) {
      throw broken;
    }
    return this.#timelines.get(timelineId);
  }

  #refuseDuplicate(timelineId: TimelineId): never {
    const message = `timeline ${timelineId} already exists with different parameters`;
    throw new StorageError("conflict", "timeline-exists", message);
  }

  /** `fill` writes layers and index into the directory that it is given, or one in it. */
  async #create(
    timelineId: TimelineId,
    ancestor: { readonly timeline: Timeline; readonly lsn: Lsn } | undefined,
    fill: (temporary: string) => Promise<{ part: IndexPart; directory: string }>,
  ): Promise<Timeline> {
    if (
      this.#deletedIds.has(timelineId) ||
      this.#resources.disk.exists(this.#directoryOf(timelineId))
    ) {
      const message = this.#deletedIds.has(timelineId)
        ? `timeline ${timelineId} was deleted, and its objects are on their way out: try again in a minute`
        : `timeline ${timelineId} was deleted, and its layers are in use`;
      throw new StorageError("conflict", "timeline-deleted", message);
    }
    this.#busy.add(timelineId);
    // From here on the ancestor keeps the branch point, and is not deleted.
    ancestor?.timeline.branchPoints.add(ancestor.lsn);
    const temporary = `${this.#directoryOf(timelineId)}-${randomBytes(4).toString("hex")}${TEMPORARY_SUFFIX}`;
    // What a failure takes away again; under its final name a later try could not replace it.
    const made = [temporary];
    try {
      await this.#disk.makeDirectory(temporary);
      const { part, directory } = await fill(temporary);
      await this.#disk.rename(directory, this.#directoryOf(timelineId));
      made.push(this.#directoryOf(timelineId));
      await this.#disk.fsyncDirectory(this.#timelinesDirectory);
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
    if (this.#busy.has(timelineId)) {
      const message = `timeline ${timelineId} is being created or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    const timeline = this.#broken.has(timelineId) ? undefined : this.timeline(timelineId);
    this.#refuseToLose(timelineId);
    for (const child of this.#childrenOf(timelineId)) {
      await child.detachFromAncestor();
    }
    // Or the store would have a branch of nothing.
    await this.#remote?.whenWithoutBranches(timelineId);
    // Meanwhile a branch may have been begun, or the timeline deleted.
    const hasBranches = timeline !== undefined && [...timeline.branchPoints.lsns].length > 0;
    if (this.#busy.has(timelineId) || hasBranches) {
      const message = `timeline ${timelineId} is being branched or deleted`;
      throw new StorageError("conflict", "timeline-busy", message);
    }
    this.#busy.add(timelineId);
    this.#timelines.delete(timelineId);
    const doomed = timeline ?? this.#halfDeleted.get(timelineId);
    try {
      const layers = doomed?.ownedLayers ?? [];
      await timeline?.close();
      // What is closed puts nothing any more that would take this back.
      await this.#remote?.markDeleted(timelineId);
      await this.#markDeleted(timelineId);
      this.#broken.delete(timelineId);
      this.#halfDeleted.delete(timelineId);
      doomed?.leaveAncestor();
      await this.#layers.removeUnused(layers);
      await this.#emptyDirectory(this.#directoryOf(timelineId), (path) =>
        this.#layers.isUsed(path),
      );
      this.#deleteObjects(timelineId);
      this.#logger.info({ timeline: timelineId }, "timeline deleted");
    } catch (error) {
      // Its readers are gone, its directory may be there: it is neither, until it is deleted again.
      const unfinished = diskError(error, `delete timeline ${timelineId}`);
      this.#broken.set(timelineId, unfinished);
      if (doomed !== undefined) {
        this.#halfDeleted.set(timelineId, doomed);
      }
      if (doomed?.ancestor !== undefined) {
        this.#ancestorOfBroken.set(timelineId, doomed.ancestor.timelineId);
      }
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
    const missing = new Set(options.fix ? report.missing.map(({ key }) => key) : []);
    const putAgain = this.timelines.flatMap((timeline) => timeline.putAgain(missing));
    return { report, putAgain: [...new Set(putAgain)] };
  }

  #isUsed(maker: TimelineId, fileName: string): boolean {
    return this.#layers.isUsed(join(this.#layers.directoryOf(maker), fileName));
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
    return this.timelines.filter((other) => other.ancestor?.timelineId === timelineId);
  }

  /**
   * Broken branches may be repaired: `conflict`. Indexes of these may be unreadable, so any that does not load for its own
   * fault is taken for a child of nobody.
   */
  #refuseToLose(timelineId: TimelineId): void {
    const isBrokenChild = (id: TimelineId) => this.#ancestorOfBroken.get(id) === timelineId;
    if ([...this.#broken.keys()].some(isBrokenChild)) {
      const message = `timeline ${timelineId} has branches that do not load`;
      throw new StorageError("conflict", "timeline-has-children", message);
    }
  }

  /** `flush`: first everything goes to disk, as far as that works. */
  async close(flush: boolean): Promise<void> {
    for (const timeline of this.#timelines.values()) {
      if (flush) {
        // The flush loop has logged the failure; the safekeepers still have the WAL.
        await timeline.checkpoint().catch(() => undefined);
      }
    }
    await Promise.all(
      this.timelines.map(async (timeline) => {
        await timeline.close();
        await timeline.leaveStore(flush);
      }),
    );
    this.#timelines.clear();
  }
}

/** What the store has, where the disk has nothing newer; or only its name, where the disk's is as new. */
interface StoredTimelines {
  readonly indexes: ReadonlyMap<TimelineId, IndexName | RemoteIndex<IndexPart>>;
  /** Whose objects are to be deleted. */
  readonly deleted: readonly TimelineId[];
}

const NOTHING_STORED: StoredTimelines = { indexes: new Map(), deleted: [] };

async function someAtOnce(works: readonly (() => Promise<void>)[]): Promise<void> {
  for (let i = 0; i < works.length; i += LOADS_AT_ONCE) {
    await Promise.all(works.slice(i, i + LOADS_AT_ONCE).map((work) => work()));
  }
}

function isTemporary(name: string): boolean {
  return name.endsWith(TEMPORARY_SUFFIX);
}

/** Nothing is left where the mark went and the process ended before the directory did. */
function isDeleted(names: readonly string[]): boolean {
  return names.length === 0 || names.includes(DELETED_INDEX_NAME);
}
