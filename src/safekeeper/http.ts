// The safekeeper's HTTP API: create, inspect and delete timelines; metrics.

import fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from "fastify";
import { z } from "zod";
import { errorKind, errorMessage, HTTP_STATUS, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import {
  type TenantTimelineJson,
  type TermBumpResponse,
  termBumpRequestSchema,
  timelineCreateRequestSchema,
} from "./api.ts";
import { findTimeline, parseBody, pathIds } from "./http-request.ts";
import { membershipFromJson, NO_MEMBERSHIP } from "./membership.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";
import { timelineStatus } from "./timeline-status.ts";
import { addTransferRoutes } from "./transfer/http-transfer.ts";
import type { WalBackup } from "./wal-backup/wal-backup.ts";
import type { WalPusher } from "./wal-push.ts";

export interface SafekeeperHttpOptions {
  readonly nodeId: number;
  readonly timelines: TimelineManager;
  readonly metrics: SafekeeperMetrics;
  readonly backup: WalBackup;
  receiversOf(timeline: Timeline): ReadonlySet<WalPusher>;
}

/** Errors are answered as `{msg, code}` under the status of their kind. */
export function createHttpServer(options: SafekeeperHttpOptions): FastifyInstance {
  const server = fastify({
    logger: false,
    bodyLimit: 1024 * 1024,
    forceCloseConnections: true,
    // A path that cannot be decoded never reaches the error handler.
    frameworkErrors(error: FastifyError, _request: FastifyRequest, reply: FastifyReply) {
      void reply.status(error.statusCode ?? 400).send({ msg: error.message, code: "http-error" });
    },
  });
  server.setErrorHandler((error, _request, reply) => {
    const status =
      error instanceof StorageError
        ? HTTP_STATUS[errorKind(error)]
        : ((error as { statusCode?: number }).statusCode ?? 500);
    const code = error instanceof StorageError ? error.code : "http-error";
    void reply.status(status).send({ msg: errorMessage(error), code });
  });
  server.setNotFoundHandler((request, reply) => {
    const msg = `no route ${request.method} ${request.url}`;
    void reply.status(404).send({ msg, code: "no-route" });
  });
  // Requests are few. A connection kept open would only fail its next request after a restart.
  server.addHook("onSend", async (_request, reply) => {
    reply.header("connection", "close");
  });
  const { timelines, metrics } = options;
  server.get("/v1/status", () => ({ id: options.nodeId }));
  server.get("/metrics", async (_request, reply) => {
    collect(options);
    void reply.type(metrics.registry.contentType);
    return metrics.text();
  });
  server.post("/v1/tenant/timeline", (request) => {
    const timeline = timelines.create(parseCreateRequest(request.body));
    return timelineStatus(timeline, options);
  });
  server.get("/v1/tenant/timeline", (): TenantTimelineJson[] =>
    timelines.list().map((entry) => ({
      tenant_id: entry.tenantId,
      timeline_id: entry.timelineId,
    })),
  );
  server.get("/v1/tenant/:tenant/timeline/:timeline", (request) => {
    const timeline = findTimeline(timelines, request);
    return timelineStatus(timeline, options);
  });
  server.delete("/v1/tenant/:tenant/timeline/:timeline", (request) => {
    const { tenantId, timelineId } = pathIds(request);
    return { dir_existed: timelines.delete(tenantId, timelineId, isOnlyLocal(request)) };
  });
  server.delete("/v1/tenant/:tenant", (request) => {
    const { tenant } = request.params as { tenant: string };
    const answer: Record<string, { dir_existed: boolean }> = {};
    for (const { tenantId, timelineId } of timelines.list(parseTenantId(tenant))) {
      answer[timelineId] = {
        dir_existed: timelines.delete(tenantId, timelineId, isOnlyLocal(request)),
      };
    }
    return answer;
  });
  server.post(
    "/v1/tenant/:tenant/timeline/:timeline/term_bump",
    async (request): Promise<TermBumpResponse> => {
      const { term } = parseBody(termBumpRequestSchema, request.body ?? {});
      const bumped = findTimeline(timelines, request).bumpTerm(term ?? undefined);
      return { previous_term: bumped.previous, current_term: bumped.current };
    },
  );
  addTransferRoutes(server, options);
  return server;
}

function isOnlyLocal(request: FastifyRequest): boolean {
  const schema = z.object({ only_local: z.stringbool().optional() });
  return parseBody(schema, request.query).only_local ?? false;
}

function parseCreateRequest(body: unknown) {
  const request = parseBody(timelineCreateRequestSchema, body);
  const systemId = BigInt(request.system_id ?? 0);
  if (systemId >= 1n << 64n) {
    throw new StorageError("invalid", "bad-request", `system_id ${systemId} has over 64 bits`);
  }
  return {
    tenantId: parseTenantId(request.tenant_id),
    timelineId: parseTimelineId(request.timeline_id),
    mconf: request.mconf == null ? NO_MEMBERSHIP : membershipFromJson(request.mconf),
    pgVersion: request.pg_version,
    systemId,
    walSegSize: request.wal_seg_size ?? undefined,
    // The schema has checked both.
    startLsn: parseLsn(request.start_lsn) as Lsn,
    commitLsn: request.commit_lsn == null ? undefined : parseLsn(request.commit_lsn),
  };
}

/** Gauges are filled when they are asked for. */
function collect(options: SafekeeperHttpOptions): void {
  const { metrics, timelines } = options;
  const { active, broken } = timelines.counts;
  let evicted = 0;
  metrics.timelines.set({ state: "broken" }, broken);
  metrics.lsn.reset();
  for (const timeline of timelines.timelines) {
    const labels = { tenant_id: timeline.tenantId, timeline_id: timeline.timelineId };
    const { flushLsn, commitLsn, remoteConsistentLsn, persistent } = timeline.state;
    evicted += timeline.placement.evicted ? 1 : 0;
    metrics.lsn.set({ ...labels, kind: "flush" }, flushLsn);
    metrics.lsn.set({ ...labels, kind: "commit" }, commitLsn);
    metrics.lsn.set({ ...labels, kind: "remote_consistent" }, remoteConsistentLsn);
    metrics.lsn.set({ ...labels, kind: "backup" }, persistent.backupLsn);
    metrics.lsn.set({ ...labels, kind: "local_wal_start" }, timeline.localWalStartLsn);
  }
  metrics.timelines.set({ state: "active" }, active - evicted);
  metrics.timelines.set({ state: "evicted" }, evicted);
}
