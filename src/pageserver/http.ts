// The pageserver's management API: Neon's routes and fields, those that are real here.

import { z } from "zod";
import { errorKind, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { formatLsn, INVALID_LSN, MAX_LSN, parseLsn } from "../base/lsn.ts";
import { formatTimestamp, parseTimestamp } from "../base/timestamp.ts";
import { type Route, route } from "../http/route.ts";
import { lsnText, tenantParams, timelineParams } from "../http/schemas.ts";
import {
  archivalConfigSchema,
  detachAncestorSchema,
  importRequestSchema,
  importStatusSchema,
  type LayerMapInfo,
  layerMapInfoSchema,
  lsnByTimestampSchema,
  pageserverStatusSchema,
  type TenantInfo,
  type TimelineInfo,
  tenantCreateSchema,
  tenantInfoSchema,
  timelineCreateSchema,
  timelineInfoSchema,
  timelinesAndOffloadedSchema,
  timestampOfLsnSchema,
} from "./api.ts";
import type { TimelineImports } from "./import/timeline-imports.ts";
import { formatKey } from "./layers/key.ts";
import { findLsnByTimestamp, timestampOfLsn } from "./lsn-by-timestamp.ts";
import { scrubRoutes } from "./scrub-routes.ts";
import { exclusiveBytes, type LogicalSizes, physicalBytes } from "./sizes/timeline-sizes.ts";
import type { Tenant } from "./storage/tenant.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";
import type { Timeline } from "./storage/timeline.ts";
import type { TimelineCreation } from "./timeline-creation.ts";
import type { WalReceivers } from "./wal-receivers.ts";

export interface PageserverRouteOptions {
  readonly id: number;
  /** Of root timelines whose request names none. */
  readonly pgVersion: number;
  readonly tenants: TenantManager;
  readonly receivers: WalReceivers;
  readonly creation: TimelineCreation;
  readonly imports: TimelineImports;
  readonly sizes: LogicalSizes;
}

/** For WAL that is on its way. */
const WAIT_LSN_MS = 10_000;

const TENANT = "/v1/tenant/{tenant}";
const TIMELINE = `${TENANT}/timeline/{timeline}`;

export function pageserverRoutes(options: PageserverRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/v1/status",
        summary: "Which pageserver this is.",
        scope: "public",
        answer: pageserverStatusSchema,
      },
      () => ({ id: options.id }),
    ),
    ...tenantRoutes(options),
    ...timelineRoutes(options),
    ...archiveRoutes(options),
    ...importRoutes(options),
    ...timelineStorageRoutes(options),
    ...timeTravelRoutes(options),
    ...scrubRoutes(options.tenants),
  ];
}

function tenantRoutes({ tenants, creation, imports }: PageserverRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/v1/tenant",
        summary: "All tenants.",
        scope: "admin",
        answer: z.array(tenantInfoSchema),
      },
      () => tenants.tenants.map((tenant) => describeTenant(tenant)),
    ),
    route(
      {
        method: "POST",
        path: "/v1/tenant",
        summary: "Creates a tenant; one that exists is fine.",
        scope: "admin",
        status: 201,
        body: tenantCreateSchema,
        answer: z.string(),
      },
      async ({ body }) => {
        const tenant = await tenants.createTenant(parseTenantId(body.new_tenant_id));
        return tenant.tenantId;
      },
    ),
    route(
      {
        method: "GET",
        path: TENANT,
        summary: "One tenant.",
        scope: "tenant",
        params: tenantParams,
        answer: tenantInfoSchema,
      },
      ({ params }) => describeTenant(tenants.tenant(params.tenant)),
    ),
    route(
      {
        method: "DELETE",
        path: TENANT,
        summary:
          "Deletes a tenant with all its timelines, for good; one that is not there is fine. The work is done when it is answered, and to ask again after a failure goes on with it.",
        scope: "admin",
        params: tenantParams,
      },
      ({ params }) => {
        imports.requireNoneOf(params.tenant);
        return creation.deleteTenant(params.tenant);
      },
    ),
  ];
}

function describeTenant(tenant: Tenant): TenantInfo {
  return {
    id: tenant.tenantId,
    state: { slug: "Active" },
    timelines: [
      ...tenant.timelines.map((timeline) => timeline.timelineId),
      ...tenant.brokenTimelines.keys(),
    ],
  };
}

function timelineRoutes(options: PageserverRouteOptions): Route[] {
  const { tenants } = options;
  return [
    route(
      {
        method: "GET",
        path: `${TENANT}/timeline`,
        summary: "The tenant's timelines.",
        scope: "tenant",
        params: tenantParams,
        query: sizesQuery,
        answer: z.array(timelineInfoSchema),
      },
      ({ params, query }) => {
        const tenant = tenants.tenant(params.tenant);
        return describeTimelines(options, tenant, tenant.timelines, query);
      },
    ),
    route(
      {
        method: "GET",
        path: TIMELINE,
        summary: "One timeline.",
        scope: "tenant",
        params: timelineParams,
        query: sizesQuery,
        answer: timelineInfoSchema,
      },
      async ({ params, query }) => {
        const tenant = tenants.tenant(params.tenant);
        const timelines = [tenant.timeline(params.timeline)];
        return (await describeTimelines(options, tenant, timelines, query))[0]!;
      },
    ),
    ...timelineChangeRoutes(options),
  ];
}

const sizesQuery = z.object({
  "force-await-initial-logical-size": z
    .enum(["true", "false"])
    .optional()
    .describe("true: with current_logical_size and exclusive_size"),
});

async function describeTimelines(
  { receivers, sizes }: PageserverRouteOptions,
  tenant: Tenant,
  timelines: readonly Timeline[],
  query: z.infer<typeof sizesQuery>,
): Promise<TimelineInfo[]> {
  if (query["force-await-initial-logical-size"] !== "true") {
    return timelines.map((timeline) => describeTimeline(timeline, receivers));
  }
  const infos: TimelineInfo[] = [];
  for (const timeline of timelines) {
    const logical = await sizes.at(timeline, timeline.lastRecordLsn).catch((error: unknown) => {
      // Its ancestor has to catch up first, or it has just been deleted.
      if (errorKind(error) !== "unavailable") {
        throw error;
      }
      return null;
    });
    infos.push({ ...describeTimeline(timeline, receivers), current_logical_size: logical });
  }
  const exclusive = exclusiveBytes(tenant);
  return infos.map((info, i) => ({
    ...info,
    exclusive_size: exclusive.get(timelines[i]!) ?? null,
  }));
}

function timelineChangeRoutes(options: PageserverRouteOptions): Route[] {
  const { receivers } = options;
  return [
    route(
      {
        method: "POST",
        path: `${TENANT}/timeline`,
        summary: "Creates a timeline: a root, or a branch of another at an LSN.",
        scope: "tenant",
        status: 201,
        params: tenantParams,
        body: timelineCreateSchema,
        answer: timelineInfoSchema,
      },
      async ({ params, body }) => {
        const timeline = await options.creation.create(params.tenant, {
          timelineId: parseTimelineId(body.new_timeline_id),
          ancestorTimelineId:
            body.ancestor_timeline_id == null
              ? undefined
              : parseTimelineId(body.ancestor_timeline_id),
          ancestorLsn:
            body.ancestor_start_lsn == null ? undefined : parseLsn(body.ancestor_start_lsn),
          pgVersion: body.pg_version ?? options.pgVersion,
          dataChecksums: body.data_checksums ?? false,
        });
        return describeTimeline(timeline, receivers);
      },
    ),
    route(
      {
        method: "DELETE",
        path: TIMELINE,
        summary:
          "Deletes a timeline; branches of it are detached and stay. The work is done when it is answered.",
        scope: "tenant",
        // Neon's answer, where the work goes on after it.
        status: 202,
        params: timelineParams,
      },
      ({ params }) => {
        options.imports.requireReleased(params.tenant, params.timeline);
        return options.creation.delete(params.tenant, params.timeline);
      },
    ),
  ];
}

function archiveRoutes(options: PageserverRouteOptions): Route[] {
  const { tenants, creation, imports } = options;
  return [
    route(
      {
        method: "GET",
        path: `${TENANT}/timeline_and_offloaded`,
        summary: "The tenant's timelines, and those that are archived.",
        scope: "tenant",
        params: tenantParams,
        query: sizesQuery,
        answer: timelinesAndOffloadedSchema,
      },
      async ({ params, query }) => {
        const tenant = tenants.tenant(params.tenant);
        const timelines = await describeTimelines(options, tenant, tenant.timelines, query);
        const offloaded = tenant.archived.all.map(({ timelineId, ancestor, archivedAtMs }) => ({
          tenant_id: tenant.tenantId,
          timeline_id: timelineId,
          ancestor_timeline_id: ancestor?.timelineId ?? null,
          ancestor_retain_lsn: ancestor === undefined ? null : formatLsn(ancestor.lsn),
          archived_at: new Date(archivedAtMs).toISOString(),
        }));
        return { timelines, offloaded };
      },
    ),
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/archival_config`,
        summary:
          "Archives a timeline that nobody uses, so that it takes nothing but its objects in the store, or brings it back.",
        scope: "tenant",
        params: timelineParams,
        body: archivalConfigSchema,
      },
      async ({ params: { tenant, timeline }, body }) => {
        if (body.state === "Archived") {
          imports.requireReleased(tenant, timeline);
          await creation.archive(tenant, timeline);
        } else {
          await creation.unarchive(tenant, timeline);
        }
      },
    ),
  ];
}

function importRoutes({ imports, receivers }: PageserverRouteOptions): Route[] {
  return [
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/import_pgdata`,
        summary:
          "Makes a root timeline of a stopped server's data directory or a base backup: begins it, or says how far it is. Broken off where nobody asks for a minute.",
        scope: "admin",
        params: timelineParams,
        body: importRequestSchema,
        answer: importStatusSchema,
      },
      async ({ params, body }) => {
        const status = await imports.request(params.tenant, params.timeline, body.path);
        const { progress, leftOut, timeline } = status;
        return {
          phase: progress.phase,
          done_bytes: progress.doneBytes,
          total_bytes: progress.totalBytes,
          left_out: [...leftOut],
          timeline: timeline === undefined ? null : describeTimeline(timeline, receivers),
        };
      },
    ),
    route(
      {
        method: "DELETE",
        path: `${TIMELINE}/import_pgdata`,
        summary:
          "Breaks an import off; of one that is done the timeline may be deleted from now on.",
        scope: "admin",
        params: timelineParams,
      },
      ({ params }) => imports.release(params.tenant, params.timeline),
    ),
  ];
}

function timelineStorageRoutes({ tenants }: PageserverRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: `${TIMELINE}/layer`,
        summary: "The timeline's layers.",
        scope: "tenant",
        params: timelineParams,
        answer: layerMapInfoSchema,
      },
      ({ params }) => describeLayers(tenants.timeline(params.tenant, params.timeline)),
    ),
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/checkpoint`,
        summary: "Writes everything in memory into layer files.",
        scope: "admin",
        params: timelineParams,
      },
      async ({ params }) => {
        await tenants.timeline(params.tenant, params.timeline).checkpoint();
      },
    ),
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/detach_ancestor`,
        summary:
          "Makes a branch independent of its ancestors: it names their layers itself. Nothing is copied.",
        scope: "admin",
        params: timelineParams,
        answer: detachAncestorSchema,
      },
      async ({ params }) => {
        await tenants.timeline(params.tenant, params.timeline).detachFromAncestor();
        return { reparented_timelines: [] };
      },
    ),
  ];
}

function timeTravelRoutes({ tenants }: PageserverRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: `${TIMELINE}/get_lsn_by_timestamp`,
        summary: "Where recovery to a time (recovery_target_time) stops.",
        scope: "tenant",
        params: timelineParams,
        query: z.object({
          timestamp: z.string().describe("RFC 3339, or as Postgres prints it, with its zone"),
          wait_lsn: lsnText.optional().describe("answer when WAL up to here has been taken in"),
        }),
        answer: lsnByTimestampSchema,
      },
      async ({ params, query }) => {
        const timeline = tenants.timeline(params.tenant, params.timeline);
        const timeUs = timestampOf(query.timestamp);
        await timeline.waitForLsn(parseLsn(query.wait_lsn ?? "") ?? INVALID_LSN, WAIT_LSN_MS);
        const { kind, lsn, commitUs } = await findLsnByTimestamp(timeline, timeUs);
        return {
          lsn: formatLsn(lsn),
          kind,
          commit_timestamp: commitUs === undefined ? null : formatTimestamp(commitUs),
        };
      },
    ),
    route(
      {
        method: "GET",
        path: `${TIMELINE}/get_timestamp_of_lsn`,
        summary: "When the last transaction at or below an LSN committed.",
        scope: "tenant",
        params: timelineParams,
        query: z.object({ lsn: lsnText }),
        answer: timestampOfLsnSchema,
      },
      async ({ params, query }) => {
        const timeline = tenants.timeline(params.tenant, params.timeline);
        const lsn = parseLsn(query.lsn) ?? INVALID_LSN;
        await timeline.waitForLsn(lsn, WAIT_LSN_MS);
        const commitUs = await timestampOfLsn(timeline, lsn);
        if (commitUs === undefined) {
          const message = `no commit at or below ${query.lsn} has a time that is known`;
          throw new StorageError("not-found", "no-commit-time", message);
        }
        return formatTimestamp(commitUs);
      },
    ),
  ];
}

function timestampOf(text: string): number {
  const parsed = parseTimestamp(text);
  if (parsed === undefined || !parsed.hasZone) {
    const problem =
      parsed === undefined ? "no time such as 2026-11-28T10:38:10Z" : "without a zone";
    throw new StorageError("invalid", "bad-timestamp", `timestamp '${text}' is ${problem}`);
  }
  return parsed.timeUs;
}

function describeLayers(timeline: Timeline): LayerMapInfo {
  return {
    in_memory_layers:
      timeline.diskConsistentLsn < timeline.lastRecordLsn
        ? [{ kind: "Open", lsn_start: formatLsn(timeline.diskConsistentLsn) }]
        : [],
    historic_layers: timeline.ownedLayers.map(({ file, maker, capLsn }) => ({
      layer_file_name: file.fileName,
      layer_file_size: file.sizeBytes,
      kind: file.isImage ? "Image" : "Delta",
      key_start: formatKey(file.name.keyStart.prefix, file.name.keyStart.index),
      key_end: formatKey(file.name.keyEnd.prefix, file.name.keyEnd.index),
      lsn_start: formatLsn(file.lsnStart),
      lsn_end: formatLsn(file.lsnEnd),
      timeline_id: maker,
      cap_lsn: capLsn === MAX_LSN ? null : formatLsn(capLsn),
      remote: !file.isResident,
    })),
  };
}

function describeTimeline(timeline: Timeline, receivers: WalReceivers): TimelineInfo {
  const receiver = receivers.get(timeline);
  const info = receiver?.info();
  const streaming = info?.address ?? null;
  return {
    tenant_id: timeline.tenantId,
    timeline_id: timeline.timelineId,
    ancestor_timeline_id: timeline.ancestor?.timelineId ?? null,
    ancestor_lsn: timeline.ancestor === undefined ? null : formatLsn(timeline.ancestorLsn),
    last_record_lsn: formatLsn(timeline.lastRecordLsn),
    prev_record_lsn: formatLsn(timeline.prevRecordLsn),
    disk_consistent_lsn: formatLsn(timeline.diskConsistentLsn),
    remote_consistent_lsn: formatLsn(timeline.remoteConsistentLsn),
    min_readable_lsn: formatLsn(timeline.minReadableLsn),
    current_physical_size: physicalBytes(timeline),
    current_logical_size: null,
    exclusive_size: null,
    pg_version: timeline.pgVersion,
    // One that stopped taking in WAL still serves what it has.
    state: "Active",
    walreceiver_status: info === undefined ? "waiting" : describeReceiver(info),
    walreceiver: {
      state: info?.state ?? "waiting",
      safekeeper_id: info?.safekeeper_id ?? null,
      error: info?.error ?? null,
    },
    wal_source_connstr: streaming,
    last_received_msg_lsn:
      receiver === undefined || receiver.lastReceivedLsn === INVALID_LSN
        ? null
        : formatLsn(receiver.lastReceivedLsn),
    last_received_msg_ts: receiver?.lastReceivedTimeMs || null,
    system_id: `${timeline.systemId}`,
    wal_seg_size: timeline.walSegmentSize,
    data_checksums: timeline.dataChecksums,
    start_lsn: formatLsn(timeline.startLsn),
    is_archived: false,
  };
}

function describeReceiver(info: {
  readonly state: string;
  readonly error: string | null;
  readonly address: string | null;
}): string {
  const from = info.address === null ? "" : ` from ${info.address}`;
  return info.error === null ? `${info.state}${from}` : `${info.state}: ${info.error}`;
}
