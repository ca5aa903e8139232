// HTTP routes that bring timelines from one place to another, and look inside them.

import { createHash } from "node:crypto";
import { z } from "zod";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../../base/lsn.ts";
import { mediaRoute, type Route, route } from "../../http/route.ts";
import { timelineParams } from "../../http/schemas.ts";
import {
  checkMembership,
  type MembershipConfiguration,
} from "../../safekeeper-protocol/membership.ts";
import {
  debugDumpQuerySchema,
  debugDumpSchema,
  deleteResponseSchema,
  digestQuerySchema,
  type MembershipJson,
  type MembershipSwitchResponse,
  membershipFromJson,
  membershipRequestSchema,
  membershipSwitchResponseSchema,
  membershipToJson,
  pullTimelineRequestSchema,
  pullTimelineResponseSchema,
  timelineCopyRequestSchema,
  timelineDigestSchema,
} from "../api.ts";
import type { SafekeeperRouteOptions } from "../route-options.ts";
import type { Timeline } from "../timeline.ts";
import { copyTimeline } from "./copy-timeline.ts";
import { debugDump } from "./debug-dump.ts";
import { pullTimeline } from "./pull-timeline.ts";
import { snapshot } from "./snapshot.ts";
import { TimelineWal } from "./timeline-wal.ts";

const TIMELINE = "/v1/tenant/{tenant}/timeline/{timeline}";

export function transferRoutes({ timelines, nodeId }: SafekeeperRouteOptions): Route[] {
  return [
    route(
      {
        method: "POST",
        path: "/v1/pull_timeline",
        summary: "Copies a timeline here from another safekeeper.",
        scope: "admin",
        body: pullTimelineRequestSchema,
        answer: pullTimelineResponseSchema,
      },
      async ({ body }) => {
        const host = await pullTimeline(timelines, nodeId, {
          tenantId: parseTenantId(body.tenant_id),
          timelineId: parseTimelineId(body.timeline_id),
          httpHosts: body.http_hosts,
          mconf: body.mconf == null ? undefined : checkedMembership(body.mconf),
        });
        return { safekeeper_host: host ?? null };
      },
    ),
    mediaRoute(
      {
        method: "GET",
        path: `${TIMELINE}/snapshot/{destination}`,
        summary: "A tar of the timeline, for pull_timeline.",
        scope: "admin",
        params: timelineParams.extend({ destination: z.string() }),
        mediaType: "application/x-tar",
      },
      async ({ params }) => {
        const timeline = timelines.get(params.tenant, params.timeline);
        await timeline.wake();
        return snapshot(timeline);
      },
    ),
    route(
      {
        method: "POST",
        path: `${TIMELINE}/copy`,
        summary: "Makes a timeline of the WAL up to an LSN of this one.",
        scope: "admin",
        params: timelineParams,
        body: timelineCopyRequestSchema,
        answer: z.object({}),
      },
      async ({ params, body }) => {
        const target = parseTimelineId(body.target_timeline_id);
        const untilLsn = parseLsn(body.until_lsn) as Lsn;
        const source = timelines.get(params.tenant, params.timeline);
        await copyTimeline(timelines, source, target, untilLsn);
        return {};
      },
    ),
  ];
}

export function membershipRoutes({ timelines }: SafekeeperRouteOptions): Route[] {
  return [
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/membership`,
        summary: "Switches to a newer membership.",
        scope: "admin",
        params: timelineParams,
        body: membershipRequestSchema,
        answer: membershipSwitchResponseSchema,
      },
      ({ params, body }) =>
        switchMembership(
          timelines.get(params.tenant, params.timeline),
          checkedMembership(body.mconf),
        ),
    ),
    route(
      {
        method: "PUT",
        path: `${TIMELINE}/exclude`,
        summary: "Lets go of a timeline whose newer membership does not have this safekeeper.",
        scope: "admin",
        params: timelineParams,
        body: membershipRequestSchema,
        answer: deleteResponseSchema,
      },
      ({ params, body }) => {
        const mconf = checkedMembership(body.mconf);
        return { dir_existed: timelines.exclude(params.tenant, params.timeline, mconf) };
      },
    ),
  ];
}

export function debugRoutes(options: SafekeeperRouteOptions): Route[] {
  const { timelines } = options;
  return [
    route(
      {
        method: "GET",
        path: `${TIMELINE}/digest`,
        summary: "SHA-256 of a range of the timeline's WAL.",
        scope: "admin",
        params: timelineParams,
        query: digestQuerySchema,
        answer: timelineDigestSchema,
      },
      async ({ params, query }) => {
        const timeline = timelines.get(params.tenant, params.timeline);
        const from = parseLsn(query.from_lsn) as Lsn;
        const until = parseLsn(query.until_lsn) as Lsn;
        return { sha256: await digest(timeline, from, until) };
      },
    ),
    route(
      {
        method: "POST",
        path: `${TIMELINE}/checkpoint`,
        summary: "Writes the control file.",
        scope: "admin",
        params: timelineParams,
        answer: z.object({}),
      },
      ({ params }) => {
        timelines.get(params.tenant, params.timeline).checkpoint();
        return {};
      },
    ),
    route(
      {
        method: "GET",
        path: "/v1/debug_dump",
        summary: "Everything that a person may want to see.",
        scope: "admin",
        query: debugDumpQuerySchema,
        answer: debugDumpSchema,
      },
      ({ query }) => debugDump(options, query),
    ),
  ];
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
    for await (const bytes of source.read(from, until)) {
      hash.update(bytes);
    }
    return hash.digest("hex");
  } finally {
    source.close();
  }
}

async function switchMembership(
  timeline: Timeline,
  mconf: MembershipConfiguration,
): Promise<MembershipSwitchResponse> {
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

function checkedMembership(json: MembershipJson): MembershipConfiguration {
  const mconf = membershipFromJson(json);
  checkMembership(mconf);
  return mconf;
}
