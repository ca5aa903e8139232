// The safekeeper's HTTP routes: create, inspect and delete timelines; gauges for the metrics.

import { z } from "zod";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import { type Route, route } from "../http/route.ts";
import { tenantParams, timelineParams } from "../http/schemas.ts";
import { NO_MEMBERSHIP } from "../safekeeper-protocol/membership.ts";
import {
  type DeleteResponse,
  deleteQuerySchema,
  deleteResponseSchema,
  membershipFromJson,
  safekeeperStatusSchema,
  safekeeperTimelineStatusSchema,
  type TimelineCreateRequest,
  tenantTimelineSchema,
  termBumpRequestSchema,
  termBumpResponseSchema,
  timelineCreateRequestSchema,
} from "./api.ts";
import type { SafekeeperRouteOptions } from "./route-options.ts";
import { timelineStatus } from "./timeline-status.ts";
import { debugRoutes, membershipRoutes, transferRoutes } from "./transfer/http-transfer.ts";

const TENANT = "/v1/tenant/{tenant}";
const TIMELINE = `${TENANT}/timeline/{timeline}`;

export function safekeeperRoutes(options: SafekeeperRouteOptions): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/v1/status",
        summary: "Which safekeeper this is.",
        scope: "public",
        answer: safekeeperStatusSchema,
      },
      () => ({ id: options.nodeId }),
    ),
    ...creationRoutes(options),
    ...timelineRoutes(options),
    ...transferRoutes(options),
    ...membershipRoutes(options),
    ...debugRoutes(options),
  ];
}

function creationRoutes(options: SafekeeperRouteOptions): Route[] {
  const { timelines } = options;
  return [
    route(
      {
        method: "POST",
        path: "/v1/tenant/timeline",
        summary: "Creates a timeline; one that exists with equal values is fine.",
        scope: "admin",
        body: timelineCreateRequestSchema,
        answer: safekeeperTimelineStatusSchema,
      },
      ({ body }) => timelineStatus(timelines.create(creationOf(body)), options),
    ),
    route(
      {
        method: "GET",
        path: "/v1/tenant/timeline",
        summary: "All timelines.",
        scope: "admin",
        answer: z.array(tenantTimelineSchema),
      },
      () =>
        timelines.list().map((entry) => ({
          tenant_id: entry.tenantId,
          timeline_id: entry.timelineId,
        })),
    ),
    route(
      {
        method: "DELETE",
        path: TENANT,
        summary: "Deletes all timelines of a tenant.",
        scope: "tenant",
        params: tenantParams,
        query: deleteQuerySchema,
        answer: z.record(z.string(), deleteResponseSchema),
      },
      ({ params, query }) => {
        const answer: Record<string, DeleteResponse> = {};
        for (const { tenantId, timelineId } of timelines.list(params.tenant)) {
          answer[timelineId] = {
            dir_existed: timelines.delete(tenantId, timelineId, query.only_local ?? false),
          };
        }
        return answer;
      },
    ),
  ];
}

function timelineRoutes(options: SafekeeperRouteOptions): Route[] {
  const { timelines } = options;
  return [
    route(
      {
        method: "GET",
        path: TIMELINE,
        summary: "How a timeline stands.",
        scope: "tenant",
        params: timelineParams,
        answer: safekeeperTimelineStatusSchema,
      },
      ({ params }) => timelineStatus(timelines.get(params.tenant, params.timeline), options),
    ),
    route(
      {
        method: "DELETE",
        path: TIMELINE,
        summary: "Deletes a timeline.",
        scope: "tenant",
        params: timelineParams,
        query: deleteQuerySchema,
        answer: deleteResponseSchema,
      },
      ({ params, query }) => ({
        dir_existed: timelines.delete(params.tenant, params.timeline, query.only_local ?? false),
      }),
    ),
    route(
      {
        method: "POST",
        path: `${TIMELINE}/term_bump`,
        summary: "Raises the term, so that a proposer of an older one is fenced.",
        scope: "admin",
        params: timelineParams,
        body: termBumpRequestSchema,
        answer: termBumpResponseSchema,
      },
      ({ params, body }) => {
        const timeline = timelines.get(params.tenant, params.timeline);
        const bumped = timeline.bumpTerm(body.term ?? undefined);
        return { previous_term: bumped.previous, current_term: bumped.current };
      },
    ),
  ];
}

function creationOf(request: TimelineCreateRequest) {
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
export function collectMetrics({ metrics, timelines }: SafekeeperRouteOptions): void {
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
