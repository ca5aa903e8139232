// What the HTTP routes share: checked bodies and queries, and the timeline that a path names.

import type { FastifyRequest } from "fastify";
import { z } from "zod";
import { StorageError } from "../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import type { Timeline } from "./timeline.ts";
import type { TimelineManager } from "./timeline-manager.ts";

/** StorageError `invalid` says which field is wrong. */
export function parseBody<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (!result.success) {
    throw new StorageError("invalid", "bad-request", z.prettifyError(result.error));
  }
  return result.data;
}

/** Of a path with `:tenant` and `:timeline`. */
export function pathIds(request: FastifyRequest) {
  const { tenant, timeline } = request.params as { tenant: string; timeline: string };
  return { tenantId: parseTenantId(tenant), timelineId: parseTimelineId(timeline) };
}

export function findTimeline(timelines: TimelineManager, request: FastifyRequest): Timeline {
  const { tenantId, timelineId } = pathIds(request);
  return timelines.get(tenantId, timelineId);
}
