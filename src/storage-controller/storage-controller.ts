// Which nodes hold which tenants and timelines: places them, makes and removes them, tells how far they are.

import { sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import {
  formatTenantShardId,
  type TenantId,
  type TenantShardId,
  type TimelineId,
  unshardedId,
} from "../base/ids.ts";
import { formatLsn, INVALID_LSN, type Lsn, maxLsn, parseLsn, XLOG_BLCKSZ } from "../base/lsn.ts";
import type { ComputeStatus } from "../compute/api.ts";
import type {
  ArchivalState,
  GcResult,
  ImportStatusJson,
  LayerMapInfo,
  LsnByTimestamp,
  ScrubReportWire,
  ScrubRequest,
  SyntheticSize,
  TenantConfigInfo,
  TenantConfigPatch,
  TenantInfo,
  TimelineCreateRequest,
  TimelineInfo,
  TimelinesAndOffloaded,
} from "../pageserver/api.ts";
import { PageserverHttpClient } from "../pageserver/client.ts";
import { LONG_PAGE_HEADER_SIZE } from "../postgres/wal-page.ts";
import type { Computes } from "./computes.ts";
import type { ControllerStore, StorageNode } from "./controller-state.ts";
import { KnownTimelines } from "./known-timelines.ts";
import {
  createOnSafekeepers,
  deleteFromSafekeepers,
  deleteTenantFromSafekeepers,
  FIRST_GENERATION,
  ignoreMissing,
  newestCommitLsn,
  type SafekeeperTimeline,
} from "./safekeepers.ts";

/** Millions of objects are listed, a thousand a call. */
const SCRUB_TIMEOUT_MS = 3_600_000;

/** Where one shard of a tenant is served. */
export interface ShardLocation {
  readonly shardId: TenantShardId;
  readonly node: StorageNode;
}

export interface TimelinePlacement {
  readonly pageserver: StorageNode;
  /** Those that hold it, new members included while they change. */
  readonly safekeepers: readonly StorageNode[];
  /** False: its safekeepers are all that there were at its creation. */
  readonly isRecorded: boolean;
}

export interface NewTimeline {
  readonly tenantId: TenantId;
  /** Never used before. */
  readonly timelineId: TimelineId;
  /** Absent: a root timeline, made by initdb. */
  readonly ancestor?: { readonly timelineId: TimelineId; readonly lsn: Lsn } | undefined;
  /** Major of a root timeline; a branch has its ancestor's. */
  readonly pgVersion: number;
  /** Of a root timeline. */
  readonly dataChecksums: boolean;
  /** Ids of the safekeepers that are to have it; absent: all. */
  readonly safekeepers?: readonly number[] | undefined;
  /** Postgres's PG_VERSION_NUM of a major (17.10 is 170010), which safekeepers are told. */
  readonly versionNumber: (major: number) => number;
}

export interface ImportedTimeline
  extends Pick<NewTimeline, "tenantId" | "timelineId" | "safekeepers" | "versionNumber"> {
  /** Absolute, on the pageserver's machine: a data directory or an unpacked base backup. */
  readonly path: string;
  readonly onProgress: (status: ImportStatusJson) => void;
}

/** How far a timeline's WAL is; ascending. */
export interface NewestLsn {
  /** End of the last record that is committed. */
  readonly lsn: Lsn;
  /** End of the last whole record. */
  readonly flushLsn: Lsn;
  /** Up to here the state is that of `flushLsn`: a record goes on that is not whole. */
  readonly insideLsn: Lsn;
}

/** How often it is asked how far an import is. */
const IMPORT_POLL_MS = 500;

export class StorageController {
  readonly store: ControllerStore;
  readonly computes: Computes;
  readonly #known: KnownTimelines;

  /** `known`: what others of this process have heard. */
  constructor(store: ControllerStore, computes: Computes, known = new KnownTimelines()) {
    this.store = store;
    this.computes = computes;
    this.#known = known;
  }

  /** The shards of a tenant, each with its pageserver; whether or not the tenant exists. */
  locate(tenantId: TenantId): readonly ShardLocation[] {
    // No tenant is split yet.
    const shardId = unshardedId(tenantId);
    return [{ shardId, node: this.pageserverOf(shardId) }];
  }

  /** StorageError `not-found` where no pageserver is there for it. */
  pageserverOf(shardId: TenantShardId): StorageNode {
    const [node, ...others] = this.store.read().pageservers;
    if (node === undefined || others.length > 0) {
      throw new StorageError(
        "not-found",
        "no-placement",
        `tenant ${formatTenantShardId(shardId)} is placed on none of the pageservers`,
      );
    }
    return node;
  }

  /** What a compute of a timeline talks to. */
  placementOf(tenantId: TenantId, timelineId: TimelineId): TimelinePlacement {
    const { safekeepers, memberships } = this.store.read();
    const record = memberships.get(tenantId)?.get(timelineId);
    const ids = record && [...record.members, ...(record.newMembers ?? [])];
    return {
      pageserver: this.pageserverOf(unshardedId(tenantId)),
      safekeepers: safekeepers.filter(({ id }) => ids === undefined || ids.includes(id)),
      isRecorded: record !== undefined,
    };
  }

  async tenants(): Promise<TenantInfo[]> {
    const nodes = this.store.read().pageservers;
    return (await Promise.all(nodes.map((node) => clientOf(node).listTenants()))).flat();
  }

  /** Idempotent. */
  async createTenant(tenantId: TenantId): Promise<void> {
    await Promise.all(
      this.locate(tenantId).map(({ node }) => clientOf(node).createTenant(tenantId)),
    );
  }

  /** From wherever it is, however much of it is there. Where that fails it is to be asked again. */
  async deleteTenant(tenantId: TenantId): Promise<void> {
    for (const { node } of this.locate(tenantId)) {
      await clientOf(node).deleteTenant(tenantId);
    }
    const { safekeepers, memberships } = this.store.read();
    await deleteTenantFromSafekeepers(safekeepers, tenantId);
    for (const timelineId of memberships.get(tenantId)?.keys() ?? []) {
      await this.store.setMembership(tenantId, timelineId, undefined);
    }
  }

  timelines(tenantId: TenantId, options?: { withSizes: boolean }): Promise<TimelineInfo[]> {
    return this.#firstShard(tenantId).listTimelines(tenantId, options);
  }

  /** Its archived ones too. */
  timelinesAndOffloaded(
    tenantId: TenantId,
    options?: { withSizes: boolean },
  ): Promise<TimelinesAndOffloaded> {
    return this.#firstShard(tenantId).listTimelinesAndOffloaded(tenantId, options);
  }

  /** Idempotent; where it fails it is to be asked again. Errors as PageserverHttpClient.setArchival. */
  async setArchival(
    tenantId: TenantId,
    timelineId: TimelineId,
    state: ArchivalState,
  ): Promise<void> {
    for (const { node } of this.locate(tenantId)) {
      await clientOf(node).setArchival(tenantId, timelineId, state);
    }
  }

  async timeline(
    tenantId: TenantId,
    timelineId: TimelineId,
    options?: { withSizes: boolean },
  ): Promise<TimelineInfo> {
    const info = await this.#firstShard(tenantId).getTimeline(tenantId, timelineId, options);
    this.#known.note(info);
    return info;
  }

  syntheticSize(tenantId: TenantId): Promise<SyntheticSize> {
    return this.#firstShard(tenantId).syntheticSize(tenantId);
  }

  /** Where recovery to `time` (RFC 3339 with its zone) stops; the timeline has WAL up to `waitLsn` then. */
  lsnByTimestamp(
    tenantId: TenantId,
    timelineId: TimelineId,
    at: { readonly time: string; readonly waitLsn: Lsn },
  ): Promise<LsnByTimestamp> {
    return this.#firstShard(tenantId).getLsnByTimestamp(tenantId, timelineId, at);
  }

  /** Of the last commit at or below an LSN, as RFC 3339. */
  timestampOfLsn(tenantId: TenantId, timelineId: TimelineId, lsn: Lsn): Promise<string> {
    return this.#firstShard(tenantId).getTimestampOfLsn(tenantId, timelineId, lsn);
  }

  /** What the object store has of a tenant, beside what its indexes name. */
  async scrub(tenantId: TenantId, request: ScrubRequest): Promise<ScrubReportWire> {
    const node = this.pageserverOf(unshardedId(tenantId));
    const client = new PageserverHttpClient(node.listenHttpAddr, { timeoutMs: SCRUB_TIMEOUT_MS });
    return client.scrub(tenantId, request);
  }

  tenantConfig(tenantId: TenantId): Promise<TenantConfigInfo> {
    return this.#firstShard(tenantId).getTenantConfig(tenantId);
  }

  /** On all of its shards; null: back to the default. */
  async patchTenantConfig(tenantId: TenantId, patch: TenantConfigPatch): Promise<void> {
    for (const { node } of this.locate(tenantId)) {
      await clientOf(node).patchTenantConfig(tenantId, patch);
    }
  }

  /** Of a timeline's old history; see PageserverHttpClient.doGc. */
  collectGarbage(
    tenantId: TenantId,
    timelineId: TimelineId,
    request: {
      readonly dryRun: boolean;
      readonly force: boolean;
      readonly pitrInterval?: string;
    },
  ): Promise<GcResult> {
    return this.#firstShard(tenantId).doGc(tenantId, timelineId, request);
  }

  /** What is at the LSN stays readable for a while; `invalid` where it is not any more. */
  async leaseLsn(tenantId: TenantId, timelineId: TimelineId, lsn: Lsn): Promise<void> {
    for (const { node } of this.locate(tenantId)) {
      await clientOf(node).leaseLsn(tenantId, timelineId, lsn);
    }
  }

  /** Shard 0 knows what is not a relation's block: what a timeline is, and how far. */
  #firstShard(tenantId: TenantId): PageserverHttpClient {
    return clientOf(this.pageserverOf(unshardedId(tenantId)));
  }

  /**
   * On the pageserver and on safekeepers: at the same time where what the latter are told is known, else one after the other.
   * What fails may have been made in part, of which nothing is under way any more: `deleteTimeline` removes all of it, and
   * its caller must remember that it began.
   */
  async createTimeline(wanted: NewTimeline): Promise<TimelineInfo> {
    const { tenantId, timelineId, ancestor } = wanted;
    const members = this.#chosenSafekeepers(wanted.safekeepers);
    const request: TimelineCreateRequest = {
      new_timeline_id: timelineId,
      ...(ancestor === undefined
        ? { pg_version: wanted.pgVersion, data_checksums: wanted.dataChecksums }
        : {
            ancestor_timeline_id: ancestor.timelineId,
            ancestor_start_lsn: formatLsn(ancestor.lsn),
          }),
    };
    await this.#recordFirstMembers(wanted);
    const hold = (timeline: SafekeeperTimeline) =>
      createOnSafekeepers(members, timeline, wanted.versionNumber(timeline.pg_version));
    const expected = this.#expectedOf(wanted);
    const [made, held] = await Promise.allSettled([
      this.#createOnPageservers(tenantId, request),
      expected && hold(expected),
    ]);
    if (made.status === "rejected") {
      throw made.reason;
    }
    if (held.status === "rejected") {
      throw held.reason;
    }
    const info = made.value;
    if (info.start_lsn !== expected?.start_lsn) {
      await hold(info);
    }
    return info;
  }

  async #createOnPageservers(
    tenantId: TenantId,
    request: TimelineCreateRequest,
  ): Promise<TimelineInfo> {
    const infos: TimelineInfo[] = [];
    for (const { node } of this.locate(tenantId)) {
      infos.push(await clientOf(node).createTimeline(tenantId, request));
    }
    const [info] = infos as [TimelineInfo];
    this.#known.note(info);
    return info;
  }

  /** What the pageserver will say of a branch; undefined where only it can tell. */
  #expectedOf({ tenantId, timelineId, ancestor }: NewTimeline): SafekeeperTimeline | undefined {
    const facts = ancestor && this.#known.of(ancestor.timelineId);
    // At other LSNs no record ends: it takes the one before.
    if (
      ancestor === undefined ||
      facts === undefined ||
      ancestor.lsn % 8 !== 0 ||
      ancestor.lsn % XLOG_BLCKSZ < LONG_PAGE_HEADER_SIZE
    ) {
      return undefined;
    }
    const start_lsn = formatLsn(ancestor.lsn);
    return { ...facts, tenant_id: tenantId, timeline_id: timelineId, start_lsn };
  }

  async #recordFirstMembers({
    tenantId,
    timelineId,
    safekeepers: members,
  }: Pick<NewTimeline, "tenantId" | "timelineId" | "safekeepers">): Promise<void> {
    if (members !== undefined) {
      const record = { generation: FIRST_GENERATION, members };
      await this.store.setMembership(tenantId, timelineId, record);
    }
  }

  /**
   * A root timeline of a stock cluster, on the pageserver and then on safekeepers, which have its WAL from where the source
   * ends. As `createTimeline` but that it takes long: until `releaseImport` it cannot be deleted. A failure, and to ask no
   * more, leaves nothing on the pageserver.
   */
  async importTimeline(wanted: ImportedTimeline): Promise<TimelineInfo> {
    const { tenantId, timelineId, path } = wanted;
    const members = this.#chosenSafekeepers(wanted.safekeepers);
    await this.#recordFirstMembers(wanted);
    const client = this.#firstShard(tenantId);
    for (;;) {
      const status = await client.importPgdata(tenantId, timelineId, path);
      wanted.onProgress(status);
      if (status.timeline !== null) {
        const { timeline } = status;
        await createOnSafekeepers(members, timeline, wanted.versionNumber(timeline.pg_version));
        return timeline;
      }
      await sleep(IMPORT_POLL_MS);
    }
  }

  layers(tenantId: TenantId, timelineId: TimelineId): Promise<LayerMapInfo> {
    return this.#firstShard(tenantId).listLayers(tenantId, timelineId);
  }

  /** Breaks an import off, or lets go of the timeline that it made: it has a name now. */
  releaseImport(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    return this.#firstShard(tenantId).releaseImport(tenantId, timelineId);
  }

  /** StorageError `not-found` where one of them is not there. */
  #chosenSafekeepers(ids: readonly number[] | undefined): readonly StorageNode[] {
    const { safekeepers } = this.store.read();
    return ids?.map((id) => findNode(safekeepers, id, "safekeeper")) ?? safekeepers;
  }

  /** From wherever it is, however much of it is there. Where that fails it is to be asked again. */
  async deleteTimeline(tenantId: TenantId, timelineId: TimelineId): Promise<void> {
    for (const { node } of this.locate(tenantId)) {
      await ignoreMissing(clientOf(node).deleteTimeline(tenantId, timelineId));
    }
    // Also from those that are no members: they may have been.
    await deleteFromSafekeepers(this.store.read().safekeepers, tenantId, timelineId);
    if (this.store.read().memberships.get(tenantId)?.has(timelineId) === true) {
      await this.store.setMembership(tenantId, timelineId, undefined);
    }
  }

  /** The end of a timeline, as far as anyone running knows it. */
  async newestLsn(tenantId: TenantId, timelineId: TimelineId): Promise<NewestLsn> {
    const [info, committed, running] = await Promise.all([
      this.timeline(tenantId, timelineId),
      newestCommitLsn(this.store.read().safekeepers, tenantId, timelineId),
      this.#runningComputes(tenantId, timelineId),
    ]);
    const newest = (text: (status: ComputeStatus) => string | null, least: Lsn) =>
      running.map((status) => lsnOf(text(status))).reduce(maxLsn, least);
    const stored = maxLsn(lsnOf(info.last_record_lsn), committed);
    const lsn = newest(({ commitLsn }) => commitLsn, stored);
    const flushLsn = newest((status) => status.flushLsn, lsn);
    return { lsn, flushLsn, insideLsn: newest((status) => status.insideLsn, flushLsn) };
  }

  /** Those that answer. */
  async #runningComputes(tenantId: TenantId, timelineId: TimelineId): Promise<ComputeStatus[]> {
    const answers = await Promise.allSettled(
      this.computes.runningPrimaries(tenantId, timelineId).map((compute) => compute.status()),
    );
    return answers.flatMap((answer) => (answer.status === "fulfilled" ? [answer.value] : []));
  }
}

/** 0 where `text` is none. */
function lsnOf(text: string | null): Lsn {
  return parseLsn(text ?? "") ?? INVALID_LSN;
}

export function findNode(nodes: readonly StorageNode[], id: number, kind: string): StorageNode {
  const node = nodes.find((candidate) => candidate.id === id);
  if (node === undefined) {
    throw new StorageError("not-found", "no-node", `could not find ${kind} ${id}`);
  }
  return node;
}

function clientOf(node: StorageNode): PageserverHttpClient {
  return new PageserverHttpClient(node.listenHttpAddr);
}
