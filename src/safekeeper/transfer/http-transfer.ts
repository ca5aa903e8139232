// HTTP routes that bring timelines from one place to another, and look inside them.

import { createHash } from "node:crypto";
import { Readable } from "node:stream";
import type { FastifyInstance, FastifyRequest } from "fastify";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../../base/lsn.ts";
import {
  debugDumpQuerySchema,
  digestQuerySchema,
  type MembershipSwitchResponse,
  membershipRequestSchema,
  type PullTimelineResponse,
  pullTimelineRequestSchema,
  type TimelineDigest,
  timelineCopyRequestSchema,
} from "../api.ts";
import type { SafekeeperHttpOptions } from "../http.ts";
import { findTimeline, parseBody } from "../http-request.ts";
import {
  checkMembership,
  isMember,
  type MembershipConfiguration,
  membershipFromJson,
  membershipToJson,
} from "../membership.ts";
import type { Timeline } from "../timeline.ts";
import { copyTimeline } from "./copy-timeline.ts";
import { debugDump } from "./debug-dump.ts";
import { pullTimeline } from "./pull-timeline.ts";
import { snapshot } from "./snapshot.ts";
import { TimelineWal } from "./timeline-wal.ts";

const TIMELINE = "/v1/tenant/:tenant/timeline/:timeline";

export function addTransferRoutes(server: FastifyInstance, options: SafekeeperHttpOptions): void {
  const { timelines, nodeId } = options;
  server.post("/v1/pull_timeline", async (request): Promise<PullTimelineResponse> => {
    const body = parseBody(pullTimelineRequestSchema, request.body);
    const mconf = body.mconf == null ? undefined : membershipFromJson(body.mconf);
    if (mconf !== undefined) {
      checkMembership(mconf);
    }
    const host = await pullTimeline(timelines, nodeId, {
      tenantId: parseTenantId(body.tenant_id),
      timelineId: parseTimelineId(body.timeline_id),
      httpHosts: body.http_hosts,
      mconf,
    });
    return { safekeeper_host: host ?? null };
  });
  server.get(`${TIMELINE}/snapshot/:destination`, async (request, reply) => {
    const timeline = findTimeline(timelines, request);
    await timeline.wake();
    void reply.type("application/x-tar");
    return Readable.from(snapshot(timeline), { objectMode: false });
  });
  server.post(`${TIMELINE}/copy`, async (request) => {
    const body = parseBody(timelineCopyRequestSchema, request.body);
    const target = parseTimelineId(body.target_timeline_id);
    const untilLsn = parseLsn(body.until_lsn) as Lsn;
    await copyTimeline(timelines, findTimeline(timelines, request), target, untilLsn);
    return {};
  });
  server.get(`${TIMELINE}/digest`, async (request): Promise<TimelineDigest> => {
    const query = parseBody(digestQuerySchema, request.query);
    const timeline = findTimeline(timelines, request);
    const from = parseLsn(query.from_lsn) as Lsn;
    const until = parseLsn(query.until_lsn) as Lsn;
    return { sha256: await digest(timeline, from, until) };
  });
  server.post(`${TIMELINE}/checkpoint`, async (request) => {
    findTimeline(timelines, request).checkpoint();
    return {};
  });
  server.put(`${TIMELINE}/membership`, (request) => switchMembership(options, request));
  server.put(`${TIMELINE}/exclude`, async (request) => exclude(options, request));
  server.get("/v1/debug_dump", async (request) =>
    debugDump(options, parseBody(debugDumpQuerySchema, request.query)),
  );
}

async function digest(timeline: Timeline, from: Lsn, until: Lsn): Promise<string> {
  const { state } = timeline;
  if (from > until || from < state.persistent.timelineStartLsn || until > state.flushLsn) {
    const message =
      `[${formatLsn(from)}, ${formatLsn(until)}) is not in the timeline's WAL, ` +
      `${formatLsn(state.persistent.timelineStartLsn)} to ${formatLsn(state.flushLsn)}`;
    throw new StorageError("invalid", "bad-lsn-range", message);
  }
  const source = await TimelineWal.open(timeline);
  try {
    const hash = createHash("sha256");
    for await (const { bytes } of source.read(from, until)) {
      hash.update(bytes);
    }
    return hash.digest("hex");
  } finally {
    source.close();
  }
}

async function switchMembership(
  options: SafekeeperHttpOptions,
  request: FastifyRequest,
): Promise<MembershipSwitchResponse> {
  const timeline = findTimeline(options.timelines, request);
  const mconf = parseMembership(request);
  await timeline.wake();
  const previous = timeline.state.persistent.mconf;
  const position = timeline.switchMembership(mconf);
  timeline.logger.info(
    { from: previous.generation, to: position.generation, term: position.term },
    "membership switched",
  );
  return {
    previous_conf: membershipToJson(previous),
    current_conf: membershipToJson(mconf),
    term: position.term,
    last_log_term: position.lastLogTerm,
    flush_lsn: formatLsn(position.flushLsn),
  };
}

function parseMembership(request: FastifyRequest): MembershipConfiguration {
  const mconf = membershipFromJson(parseBody(membershipRequestSchema, request.body).mconf);
  checkMembership(mconf);
  return mconf;
}

/** Lets go of a timeline whose newer membership does not have this safekeeper; its objects stay. */
function exclude(
  options: SafekeeperHttpOptions,
  request: FastifyRequest,
): { dir_existed: boolean } {
  const timeline = findTimeline(options.timelines, request);
  const mconf = parseMembership(request);
  const own = timeline.state.persistent.mconf.generation;
  if (mconf.generation <= own || isMember(mconf, options.nodeId)) {
    const message =
      `generation ${mconf.generation} does not exclude node ${options.nodeId}, ` +
      `which is in generation ${own}`;
    throw new StorageError("conflict", "not-excluded", message);
  }
  const { tenantId, timelineId } = timeline;
  return { dir_existed: options.timelines.delete(tenantId, timelineId, true) };
}
