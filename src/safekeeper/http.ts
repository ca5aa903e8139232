// The safekeeper's HTTP API: create, inspect and delete timelines; metrics.

import fastify, { type FastifyInstance, type FastifyRequest } from "fastify";
import { z } from "zod";
import { errorKind, errorMessage, HTTP_STATUS, StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../base/lsn.ts";
import {
  type MembershipJson,
  type SafekeeperTimelineStatus,
  type TenantTimelineJson,
  type TermBumpResponse,
  termBumpRequestSchema,
  timelineCreateRequestSchema,
} from "./api.ts";
import { type MembershipConfiguration, NO_MEMBERSHIP, type SafekeeperId } from "./membership.ts";
import type { SafekeeperMetrics } from "./metrics.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";
import type { WalReceiver } from "./wal-push.ts";
import { WalSender } from "./wal-sender.ts";

export interface SafekeeperHttpOptions {
  readonly nodeId: number;
  readonly timelines: TimelineManager;
  readonly metrics: SafekeeperMetrics;
  receiversOf(timeline: Timeline): ReadonlySet<WalReceiver>;
}

/** Errors are answered as `{msg, code}` under the status of their kind. */
export function createHttpServer(options: SafekeeperHttpOptions): FastifyInstance {
  const server = fastify({ logger: false, bodyLimit: 1024 * 1024, forceCloseConnections: true });
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
    return metrics.registry.metrics();
  });
  server.post("/v1/tenant/timeline", (request) => {
    const timeline = timelines.create(parseCreateRequest(request.body));
    return timelineStatus(timeline, options.receiversOf(timeline));
  });
  server.get("/v1/tenant/timeline", (): TenantTimelineJson[] =>
    timelines.list().map((entry) => ({
      tenant_id: entry.tenantId,
      timeline_id: entry.timelineId,
    })),
  );
  server.get("/v1/tenant/:tenant/timeline/:timeline", (request) => {
    const timeline = findTimeline(timelines, request);
    return timelineStatus(timeline, options.receiversOf(timeline));
  });
  server.delete("/v1/tenant/:tenant/timeline/:timeline", (request) => {
    const { tenantId, timelineId } = pathIds(request);
    return { dir_existed: timelines.delete(tenantId, timelineId) };
  });
  server.delete("/v1/tenant/:tenant", (request) => {
    const { tenant } = request.params as { tenant: string };
    const answer: Record<string, { dir_existed: boolean }> = {};
    for (const { tenantId, timelineId } of timelines.list(parseTenantId(tenant))) {
      answer[timelineId] = { dir_existed: timelines.delete(tenantId, timelineId) };
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
  return server;
}

function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (!result.success) {
    throw new StorageError("invalid", "bad-request", z.prettifyError(result.error));
  }
  return result.data;
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

function pathIds(request: FastifyRequest) {
  const { tenant, timeline } = request.params as { tenant: string; timeline: string };
  return { tenantId: parseTenantId(tenant), timelineId: parseTimelineId(timeline) };
}

function findTimeline(timelines: TimelineManager, request: FastifyRequest): Timeline {
  const { tenantId, timelineId } = pathIds(request);
  return timelines.get(tenantId, timelineId);
}

function membershipFromJson(json: MembershipJson): MembershipConfiguration {
  const members = (set: MembershipJson["members"]): SafekeeperId[] =>
    set.map((member) => ({ id: member.id, host: member.host, pgPort: member.pg_port }));
  return {
    generation: json.generation,
    members: members(json.members),
    newMembers: json.new_members == null ? undefined : members(json.new_members),
  };
}

function membershipToJson(mconf: MembershipConfiguration): MembershipJson {
  const members = (set: readonly SafekeeperId[]) =>
    set.map((member) => ({ id: member.id, host: member.host, pg_port: member.pgPort }));
  return {
    generation: mconf.generation,
    members: members(mconf.members),
    new_members: mconf.newMembers === undefined ? null : members(mconf.newMembers),
  };
}

function timelineStatus(
  timeline: Timeline,
  receivers: ReadonlySet<WalReceiver>,
): SafekeeperTimelineStatus {
  const { state, lastLogTerm } = timeline;
  const { persistent } = state;
  const senders = [...timeline.consumers].filter((consumer) => consumer instanceof WalSender);
  return {
    tenant_id: persistent.tenantId,
    timeline_id: persistent.timelineId,
    mconf: membershipToJson(persistent.mconf),
    acceptor_state: {
      term: persistent.term,
      epoch: lastLogTerm,
      term_history: persistent.termHistory.map((entry) => ({
        term: entry.term,
        lsn: formatLsn(entry.lsn),
      })),
    },
    pg_info: {
      pg_version: persistent.pgVersion,
      system_id: persistent.systemId.toString(),
      wal_seg_size: persistent.walSegSize,
    },
    flush_lsn: formatLsn(state.flushLsn),
    timeline_start_lsn: formatLsn(persistent.timelineStartLsn),
    local_start_lsn: formatLsn(persistent.localStartLsn),
    commit_lsn: formatLsn(state.commitLsn),
    backup_lsn: formatLsn(persistent.backupLsn),
    peer_horizon_lsn: formatLsn(state.peerHorizonLsn),
    remote_consistent_lsn: formatLsn(state.remoteConsistentLsn),
    walsenders: senders.map((sender) => {
      const { standbyStatus, pageserverFeedback } = sender;
      const flush = pageserverFeedback?.diskConsistentLsn ?? standbyStatus?.flushLsn;
      const apply = pageserverFeedback?.lastReceivedLsn ?? standbyStatus?.applyLsn;
      return {
        remote: sender.remote,
        application_name: sender.applicationName,
        sent_lsn: formatLsn(sender.sentLsn),
        flush_lsn: flush === undefined ? null : formatLsn(flush),
        apply_lsn: apply === undefined ? null : formatLsn(apply),
      };
    }),
    walreceivers: [...receivers].map((receiver) => ({
      remote: receiver.remote,
      connected_at: new Date(receiver.connectedAtMs).toISOString(),
    })),
  };
}

/** Gauges are filled when they are asked for. */
function collect(options: SafekeeperHttpOptions): void {
  const { metrics, timelines } = options;
  const { active, broken } = timelines.counts;
  metrics.timelines.set({ state: "active" }, active);
  metrics.timelines.set({ state: "broken" }, broken);
  metrics.lsn.reset();
  for (const timeline of timelines.timelines) {
    const labels = { tenant_id: timeline.tenantId, timeline_id: timeline.timelineId };
    const { flushLsn, commitLsn, remoteConsistentLsn } = timeline.state;
    metrics.lsn.set({ ...labels, kind: "flush" }, flushLsn);
    metrics.lsn.set({ ...labels, kind: "commit" }, commitLsn);
    metrics.lsn.set({ ...labels, kind: "remote_consistent" }, remoteConsistentLsn);
  }
}
