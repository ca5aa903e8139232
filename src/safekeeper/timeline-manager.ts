// All timelines of a safekeeper: load at start, create, find, delete.

import { join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { type Disk, diskError, REAL_DISK } from "../base/disk.ts";
import { errnoCode, errorMessage, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import {
  checkMembership,
  INVALID_GENERATION,
  isMember,
  type MembershipConfiguration,
} from "../safekeeper-protocol/membership.ts";
import { type AcceptorPersistentState, checkExcluded } from "./consensus/acceptor.ts";
import { CONTROL_FILE_NAME } from "./control-file.ts";
import { Timeline, type TimelineContext } from "./timeline.ts";
import { StoreCleaner } from "./wal-backup/store-cleaner.ts";
import { listSegments } from "./wal-storage.ts";

/*
 * <workdir>/<tenant>/<timeline>/ holds one timeline. A directory whose name ends so is
 * - deleted: its objects in the store, then it, are being removed;
 * - discarded: to be removed, the objects stay: other safekeepers have the timeline;
 * - incoming: not whole yet; begun anew by whoever wants it.
 *
 * What was told to be there is there after a power cut: a directory's files are synced, then itself,
 * then its parent up to the workdir, before a timeline is served. A process that was killed half-way
 * may have left entries that nobody synced, so a start syncs the workdir, and the loading of each timeline
 * the directories above and, where it matters, its own.
 */
const DELETED_SUFFIX = ".deleted";
const DISCARDED_SUFFIX = ".discarded";
const INCOMING_SUFFIX = ".incoming";
const ID = /^[0-9a-f]{32}$/;
const DEFAULT_SEGMENT_SIZE = 16 * 1024 * 1024;

export interface NewTimeline {
  readonly tenantId: TenantId;
  readonly timelineId: TimelineId;
  readonly mconf: MembershipConfiguration;
  readonly pgVersion: number;
  readonly systemId: bigint;
  readonly walSegSize: number | undefined;
  readonly startLsn: Lsn;
  readonly commitLsn: Lsn | undefined;
}

/** A timeline that is being brought here; meanwhile nobody can create it. */
export interface IncomingPlace {
  readonly disk: Disk;
  /** Where its files go; not there yet. */
  readonly directory: string;
  /** Puts the finished directory in place, durably, and loads it. */
  install(): Timeline;
  /** In any case, at the end. */
  release(): void;
}

export class TimelineManager {
  readonly #workdir: string;
  readonly #context: TimelineContext;
  readonly #timelines = new Map<string, Timeline>();
  /** Timelines that are there but cannot be trusted, with the reason. */
  readonly #broken = new Map<string, StorageError>();
  /** By key; `cancelled`: deleted before it was there. */
  readonly #incoming = new Map<string, { cancelled: boolean }>();
  readonly #cleaner: StoreCleaner | undefined;
  readonly #disk: Disk;

  constructor(workdir: string, context: TimelineContext) {
    this.#workdir = workdir;
    this.#context = context;
    this.#disk = context.disk ?? REAL_DISK;
    this.#cleaner = context.store && new StoreCleaner(context.store, context.logger);
  }

  get timelines(): Iterable<Timeline> {
    return this.#timelines.values();
  }

  get counts(): { active: number; broken: number } {
    return { active: this.#timelines.size, broken: this.#broken.size };
  }

  /** Loads every timeline of the work directory. One that is damaged is refused alone. */
  loadAll(): void {
    // The entries of tenants that a process before has made and nobody synced.
    this.#disk.fsyncDirectory(this.#workdir);
    for (const tenant of this.#disk.list(this.#workdir)) {
      const tenantDirectory = join(this.#workdir, tenant);
      const names = ID.test(tenant) ? this.#entries(tenantDirectory) : undefined;
      if (names?.length === 0) {
        // All its timelines were deleted.
        this.#disk.removeTree(tenantDirectory);
      }
      for (const name of names ?? []) {
        const path = join(tenantDirectory, name);
        const timeline = name.split(".")[0]!;
        if (name.endsWith(DELETED_SUFFIX) && ID.test(timeline)) {
          this.#finishDelete(parseTenantId(tenant), parseTimelineId(timeline), path);
        } else if (name.endsWith(DISCARDED_SUFFIX) || name.endsWith(INCOMING_SUFFIX)) {
          // Its rename first: perhaps nobody has synced it, and nobody will ask again for what is not here.
          this.#disk.fsyncDirectory(tenantDirectory);
          this.#disk.removeTree(path);
        } else if (ID.test(name)) {
          this.#load(parseTenantId(tenant), parseTimelineId(name));
        }
      }
    }
  }

  /** Undefined for what is no directory. */
  #entries(directory: string): string[] | undefined {
    try {
      return this.#disk.list(directory);
    } catch (error) {
      if (errnoCode(error) === "ENOTDIR") {
        return undefined;
      }
      throw error;
    }
  }

  /** StorageError `not-found`, or the reason why the timeline is refused. */
  get(tenantId: TenantId, timelineId: TimelineId): Timeline {
    const key = `${tenantId}/${timelineId}`;
    const timeline = this.#timelines.get(key);
    if (timeline?.closed === false) {
      return timeline;
    }
    throw (
      (timeline && halfRemoved(key)) ??
      this.#broken.get(key) ??
      new StorageError("not-found", "no-timeline", `timeline ${key} is not on this safekeeper`)
    );
  }

  /** As `get`, but undefined where there is none that can be served. */
  find(tenantId: TenantId, timelineId: TimelineId): Timeline | undefined {
    const timeline = this.#timelines.get(`${tenantId}/${timelineId}`);
    return timeline?.closed === false ? timeline : undefined;
  }

  /** Idempotent where all that is given is equal; else StorageError `conflict`. */
  create(request: NewTimeline): Timeline {
    const key = `${request.tenantId}/${request.timelineId}`;
    const broken = this.#broken.get(key);
    if (broken !== undefined) {
      throw broken;
    }
    const existing = this.#timelines.get(key);
    if (existing?.closed === true) {
      throw halfRemoved(key);
    }
    if (existing !== undefined) {
      checkSame(existing.state.persistent, request);
      return existing;
    }
    this.#checkFree(request.tenantId, request.timelineId);
    const persistent = initialState(request, this.#context.nodeId);
    const timeline = this.#createOnDisk(persistent);
    this.#timelines.set(key, timeline);
    timeline.logger.info({ pgVersion: request.pgVersion }, "timeline created");
    this.#context.onChange(timeline);
    return timeline;
  }

  #createOnDisk(persistent: AcceptorPersistentState): Timeline {
    const { tenantId, timelineId } = persistent;
    const tenantDirectory = join(this.#workdir, tenantId);
    try {
      if (!this.#disk.exists(tenantDirectory)) {
        this.#disk.makeDirectory(tenantDirectory);
        this.#disk.fsyncDirectory(this.#workdir);
      }
      return Timeline.create(this.#context, join(tenantDirectory, timelineId), persistent);
    } catch (error) {
      throw diskError(error, `create timeline ${timelineId}`);
    }
  }

  /** StorageError `conflict` where the timeline is here, damaged, on its way here or being deleted. */
  reserve(tenantId: TenantId, timelineId: TimelineId): IncomingPlace {
    const key = `${tenantId}/${timelineId}`;
    if (this.#timelines.has(key) || this.#broken.has(key)) {
      throw new StorageError("conflict", "timeline-exists", `timeline ${key} is here already`);
    }
    this.#checkFree(tenantId, timelineId);
    const reservation = { cancelled: false };
    this.#incoming.set(key, reservation);
    const place = join(this.#workdir, tenantId, timelineId);
    const directory = place + INCOMING_SUFFIX;
    return {
      disk: this.#disk,
      directory,
      install: () => {
        if (reservation.cancelled) {
          const message = `timeline ${key} was deleted while it was on its way here`;
          throw new StorageError("conflict", "timeline-deleted", message);
        }
        try {
          this.#disk.fsyncDirectory(this.#workdir);
          this.#disk.rename(directory, place);
        } catch (error) {
          throw diskError(error, `install timeline ${timelineId}`);
        }
        // Makes the new name durable; where that fails the timeline is refused until a restart.
        this.#load(tenantId, timelineId);
        const timeline = this.get(tenantId, timelineId);
        this.#context.onChange(timeline);
        return timeline;
      },
      release: () => {
        this.#incoming.delete(key);
        this.#disk.removeTree(directory);
      },
    };
  }

  /**
   * Whether there was one. Also removes one that is damaged, and lets none come that is on its way. With `onlyLocal` its objects in the store
   * stay; without, they are gone soon after.
   */
  delete(tenantId: TenantId, timelineId: TimelineId, onlyLocal: boolean): boolean {
    const key = `${tenantId}/${timelineId}`;
    const reservation = this.#incoming.get(key);
    if (reservation !== undefined) {
      reservation.cancelled = true;
    }
    this.#close(this.#timelines.get(key));
    const tenantDirectory = join(this.#workdir, tenantId);
    const directory = join(tenantDirectory, timelineId);
    const removed = directory + (onlyLocal ? DISCARDED_SUFFIX : DELETED_SUFFIX);
    try {
      // Renamed first: a crash in the middle must not leave half a timeline under its name.
      if (this.#disk.exists(directory)) {
        this.#disk.removeTree(removed);
        this.#disk.rename(directory, removed);
      }
      // In any case: perhaps a try before came as far as the rename, and what is not here must stay so.
      if (this.#disk.exists(tenantDirectory)) {
        this.#disk.fsyncDirectory(tenantDirectory);
      }
      // Until here whoever asks again finds it, closed, and does not take it for removed.
      this.#timelines.delete(key);
      this.#broken.delete(key);
      const existed = this.#disk.exists(removed);
      if (existed && onlyLocal) {
        this.#disk.removeTree(removed);
      } else if (existed) {
        this.#finishDelete(tenantId, timelineId, removed);
      }
      return existed;
    } catch (error) {
      throw diskError(error, `remove timeline ${timelineId}`);
    }
  }

  /**
   * Lets go of a timeline whose newer membership does not have this safekeeper; its objects stay.
   * StorageError `conflict` where the membership has it, or while a copy is on its way here.
   */
  exclude(tenantId: TenantId, timelineId: TimelineId, mconf: MembershipConfiguration): boolean {
    this.#checkNotIncoming(tenantId, timelineId);
    const perhapsClosed = this.#timelines.get(`${tenantId}/${timelineId}`);
    checkExcluded((perhapsClosed ?? this.get(tenantId, timelineId)).state, mconf);
    return this.delete(tenantId, timelineId, true);
  }

  #finishDelete(tenantId: TenantId, timelineId: TimelineId, directory: string): void {
    if (this.#cleaner === undefined) {
      this.#disk.removeTree(directory);
    } else {
      this.#cleaner.remove(tenantId, timelineId, directory);
    }
  }

  #checkNotIncoming(tenantId: TenantId, timelineId: TimelineId): void {
    const key = `${tenantId}/${timelineId}`;
    if (this.#incoming.has(key)) {
      const message = `timeline ${key} is on its way here`;
      throw new StorageError("conflict", "timeline-incoming", message);
    }
  }

  #checkFree(tenantId: TenantId, timelineId: TimelineId): void {
    const key = `${tenantId}/${timelineId}`;
    this.#checkNotIncoming(tenantId, timelineId);
    if (this.#cleaner?.isPending(tenantId, timelineId) === true) {
      const message = `timeline ${key} was deleted, and its objects are not all removed yet`;
      throw new StorageError("conflict", "timeline-deleting", message);
    }
  }

  /** Ids of the tenant's timelines, damaged ones included; of all tenants where none is given. */
  list(tenantId?: TenantId): { tenantId: TenantId; timelineId: TimelineId }[] {
    return [...this.#timelines.keys(), ...this.#broken.keys()]
      .map((key) => {
        const [tenant, timeline] = key.split("/") as [TenantId, TimelineId];
        return { tenantId: tenant, timelineId: timeline };
      })
      .filter((entry) => tenantId === undefined || entry.tenantId === tenantId);
  }

  maintain(): void {
    for (const timeline of this.#timelines.values()) {
      try {
        timeline.maintain();
      } catch (error) {
        timeline.logger.warn({ error }, "timeline maintenance failed; tried again later");
      }
    }
  }

  async close(): Promise<void> {
    await this.#cleaner?.stop();
    for (const timeline of this.#timelines.values()) {
      this.#close(timeline);
    }
  }

  /** Where its last positions cannot be written, on a full disk say, it is closed all the same. */
  #close(timeline: Timeline | undefined): void {
    try {
      timeline?.close();
    } catch (error) {
      timeline?.logger.error({ error }, "closing a timeline failed");
    }
  }

  #load(tenantId: TenantId, timelineId: TimelineId): void {
    const key = `${tenantId}/${timelineId}`;
    const directory = join(this.#workdir, tenantId, timelineId);
    if (
      !this.#disk.exists(join(directory, CONTROL_FILE_NAME)) &&
      listSegments(directory, DEFAULT_SEGMENT_SIZE, this.#disk).length === 0
    ) {
      // Its creation never finished, so nobody was told about it.
      this.#disk.removeTree(directory);
      return;
    }
    try {
      const timeline = Timeline.load(this.#context, directory);
      if (timeline.tenantId !== tenantId || timeline.timelineId !== timelineId) {
        timeline.close();
        throw new StorageError(
          "corrupt",
          "foreign-control-file",
          `control file in ${directory} is that of ${timeline.tenantId}/${timeline.timelineId}`,
        );
      }
      this.#timelines.set(key, timeline);
    } catch (error) {
      const reason =
        error instanceof StorageError
          ? error
          : new StorageError("internal", "load-failed", errorMessage(error), { cause: error });
      this.#broken.set(key, reason);
      this.#context.logger.error({ error, tenantId, timelineId }, "timeline refused");
    }
  }
}

function halfRemoved(key: string): StorageError {
  const message = `timeline ${key} is removed by half; ask for its removal again`;
  return new StorageError("unavailable", "timeline-half-removed", message);
}

function initialState(request: NewTimeline, nodeId: number): AcceptorPersistentState {
  const walSegSize = request.walSegSize ?? DEFAULT_SEGMENT_SIZE;
  const invalid = (message: string) => new StorageError("invalid", "bad-timeline", message);
  if (walSegSize < 2 ** 20 || walSegSize > 2 ** 30 || !Number.isInteger(Math.log2(walSegSize))) {
    throw invalid(`WAL segment size ${walSegSize} is not a power of two from 1 MiB to 1 GiB`);
  }
  if (request.startLsn === 0 || request.startLsn % 8 !== 0) {
    throw invalid("start_lsn must be the end of a WAL record");
  }
  if (request.commitLsn !== undefined && request.commitLsn !== request.startLsn) {
    throw invalid("commit_lsn other than start_lsn needs WAL, which a new timeline does not have");
  }
  checkMembership(request.mconf);
  if (request.mconf.generation > 0 && !isMember(request.mconf, nodeId)) {
    throw invalid(`node ${nodeId} is not a member of the given configuration`);
  }
  return {
    tenantId: request.tenantId,
    timelineId: request.timelineId,
    mconf: request.mconf,
    term: 0,
    termHistory: [],
    pgVersion: request.pgVersion,
    systemId: request.systemId,
    walSegSize,
    timelineStartLsn: request.startLsn,
    localStartLsn: request.startLsn,
    commitLsn: request.startLsn,
    backupLsn: request.startLsn,
    peerHorizonLsn: request.startLsn,
    remoteConsistentLsn: request.startLsn,
    flushedLsn: request.startLsn,
  };
}

/** StorageError `conflict` that names all that differs; what was not given agrees with anything. */
function checkSame(existing: AcceptorPersistentState, request: NewTimeline): void {
  const { startLsn, pgVersion, systemId, walSegSize, mconf } = request;
  const major = (version: number) => Math.floor(version / 10_000);
  const compared: [string, string | number | bigint, string | number | bigint | undefined][] = [
    ["start_lsn", formatLsn(existing.timelineStartLsn), formatLsn(startLsn)],
    ["Postgres", major(existing.pgVersion), major(pgVersion)],
    ["system_id", existing.systemId, existing.systemId === 0n ? 0n : systemId || undefined],
    ["wal_seg_size", existing.walSegSize, walSegSize],
  ];
  const differing = compared.flatMap(([what, has, wanted]) =>
    wanted === undefined || wanted === has ? [] : [`${what} ${has}, not ${wanted}`],
  );
  const { generation } = mconf;
  if (generation !== INVALID_GENERATION && !isDeepStrictEqual(existing.mconf, mconf)) {
    const own = existing.mconf.generation;
    differing.push(
      own === generation
        ? `other members in membership generation ${own}`
        : `membership generation ${own}, not ${generation}`,
    );
  }
  if (differing.length > 0) {
    throw new StorageError(
      "conflict",
      "timeline-exists",
      `timeline ${request.timelineId} exists with ${differing.join("; ")}`,
    );
  }
}
