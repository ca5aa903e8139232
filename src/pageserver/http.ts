// The pageserver's management API: Neon's routes and fields, those that are real here.

import Fastify, { type FastifyInstance } from "fastify";
import type { Registry } from "prom-client";
import type { z } from "zod";
import { errorKind, errorMessage, HTTP_STATUS, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId, type TimelineId } from "../base/ids.ts";
import type { Logger } from "../base/log.ts";
import { formatLsn, INVALID_LSN, parseLsn } from "../base/lsn.ts";
import {
  type LayerMapInfo,
  type TenantInfo,
  type TimelineInfo,
  tenantCreateSchema,
  timelineCreateSchema,
} from "./api.ts";
import type { Tenant } from "./storage/tenant.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";
import type { Timeline } from "./storage/timeline.ts";
import type { TimelineCreation } from "./timeline-creation.ts";
import type { WalReceivers } from "./wal-receivers.ts";

export interface HttpOptions {
  readonly id: number;
  /** Of root timelines whose request names none. */
  readonly pgVersion: number;
  readonly tenants: TenantManager;
  readonly receivers: WalReceivers;
  readonly creation: TimelineCreation;
  readonly registry: Registry;
  readonly logger: Logger;
}

interface TenantParams {
  tenant: string;
}

interface TimelineParams extends TenantParams {
  timeline: string;
}

/** Routes only; the caller listens. Errors are `{"msg": ...}` with the status of their kind. */
export function createHttpApi(options: HttpOptions): FastifyInstance {
  const app = Fastify({ logger: false, bodyLimit: 1 << 20 });
  app.setErrorHandler((error, request, reply) => {
    const status = statusOf(error);
    if (status >= 500 && errorKind(error) !== "unavailable") {
      options.logger.error({ error, method: request.method, url: request.url }, "request failed");
    }
    void reply.status(status).send({ msg: errorMessage(error) });
  });
  app.setNotFoundHandler((request, reply) => {
    void reply.status(404).send({ msg: `no route ${request.method} ${request.url}` });
  });
  app.get("/v1/status", () => ({ id: options.id }));
  app.get("/metrics", async (_request, reply) => {
    void reply.type(options.registry.contentType);
    return options.registry.metrics();
  });
  addTenantRoutes(app, options);
  addTimelineRoutes(app, options);
  return app;
}

function statusOf(error: unknown): number {
  if (error instanceof StorageError) {
    return HTTP_STATUS[error.kind];
  }
  // Fastify's own: a body that is not JSON, too large, of another type.
  const { statusCode } = error as { statusCode?: unknown };
  return typeof statusCode === "number" && statusCode >= 400 && statusCode < 500 ? statusCode : 500;
}

function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (!result.success) {
    const problems = result.error.issues.map((issue) =>
      issue.path.length === 0 ? issue.message : `${issue.path.join(".")}: ${issue.message}`,
    );
    throw new StorageError("invalid", "bad-request", `bad request: ${problems.join("; ")}`);
  }
  return result.data;
}

function addTenantRoutes(app: FastifyInstance, { tenants }: HttpOptions): void {
  app.get("/v1/tenant", () => tenants.tenants.map((tenant) => describeTenant(tenant)));
  app.post("/v1/tenant", async (request, reply) => {
    const body = parseBody(tenantCreateSchema, request.body);
    const tenant = await tenants.createTenant(parseTenantId(body.new_tenant_id));
    void reply.status(201);
    return JSON.stringify(tenant.tenantId);
  });
  app.get<{ Params: TenantParams }>("/v1/tenant/:tenant", (request) =>
    describeTenant(tenants.tenant(parseTenantId(request.params.tenant))),
  );
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

function addTimelineRoutes(app: FastifyInstance, options: HttpOptions): void {
  const { tenants, receivers } = options;
  const ids = (params: TimelineParams): [TenantId, TimelineId] => [
    parseTenantId(params.tenant),
    parseTimelineId(params.timeline),
  ];
  const prefix = "/v1/tenant/:tenant/timeline";
  app.get<{ Params: TenantParams }>(prefix, (request) =>
    tenants
      .tenant(parseTenantId(request.params.tenant))
      .timelines.map((timeline) => describeTimeline(timeline, receivers)),
  );
  app.post<{ Params: TenantParams }>(prefix, async (request, reply) => {
    const body = parseBody(timelineCreateSchema, request.body);
    const timeline = await options.creation.create(parseTenantId(request.params.tenant), {
      timelineId: parseTimelineId(body.new_timeline_id),
      ancestorTimelineId:
        body.ancestor_timeline_id == null ? undefined : parseTimelineId(body.ancestor_timeline_id),
      ancestorLsn: body.ancestor_start_lsn == null ? undefined : parseLsn(body.ancestor_start_lsn),
      pgVersion: body.pg_version ?? options.pgVersion,
      dataChecksums: body.data_checksums ?? false,
    });
    void reply.status(201);
    return describeTimeline(timeline, receivers);
  });
  app.get<{ Params: TimelineParams }>(`${prefix}/:timeline`, (request) =>
    describeTimeline(tenants.timeline(...ids(request.params)), receivers),
  );
  app.delete<{ Params: TimelineParams }>(`${prefix}/:timeline`, async (request, reply) => {
    const [tenantId, timelineId] = ids(request.params);
    await options.creation.delete(tenantId, timelineId);
    // Neon's answer; here the work is done when it is sent.
    return reply.status(202).send();
  });
  app.get<{ Params: TimelineParams }>(`${prefix}/:timeline/layer`, (request) =>
    describeLayers(tenants.timeline(...ids(request.params))),
  );
  app.put<{ Params: TimelineParams }>(`${prefix}/:timeline/checkpoint`, async (request, reply) => {
    await tenants.timeline(...ids(request.params)).checkpoint();
    return reply.status(200).send();
  });
}

function describeLayers(timeline: Timeline): LayerMapInfo {
  return {
    in_memory_layers:
      timeline.diskConsistentLsn < timeline.lastRecordLsn
        ? [{ kind: "Open", lsn_start: formatLsn(timeline.diskConsistentLsn) }]
        : [],
    historic_layers: timeline.layers.map((layer) => ({
      layer_file_name: layer.fileName,
      layer_file_size: layer.sizeBytes,
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
    remote_consistent_lsn: formatLsn(timeline.diskConsistentLsn),
    min_readable_lsn: formatLsn(timeline.minReadableLsn),
    current_physical_size: timeline.physicalSizeBytes,
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
