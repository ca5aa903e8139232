// What the console draws of a project's branches: where each begins, how far it goes, when that was.

import { nowMs } from "../../base/clock.ts";
import { errorKind } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId, type TenantId } from "../../base/ids.ts";
import { parseLsn } from "../../base/lsn.ts";
import { type Route, route } from "../../http/route.ts";
import { controllerOf } from "../../local/controller.ts";
import { findProject, type Parts } from "../api-v2/lookup.ts";
import { projectParams } from "../api-v2/schemas.ts";
import { branchView, endpointView } from "../api-v2/views.ts";
import type { BranchRow, ProjectRow } from "../state/tables.ts";
import { treeAnswer } from "./schemas.ts";

/** Times asked of the pageserver for one answer; the next one knows more. */
const MAX_ASKED = 64;
const ASKED_AT_ONCE = 8;
/** LSNs whose time is remembered: it never changes. */
const MAX_KNOWN = 20_000;

export function treeRoutes(parts: Parts): Route[] {
  const times = new LsnTimes(parts);
  return [
    route(
      {
        method: "GET",
        path: "/console/projects/{project_id}/tree",
        summary: "The branches of a project with their LSNs, times, sizes and endpoints.",
        scope: "tenant",
        params: projectParams,
        answer: treeAnswer,
      },
      async ({ params }) => readTree(parts, times, await findProject(parts, params.project_id)),
    ),
  ];
}

async function readTree(parts: Parts, times: LsnTimes, project: ProjectRow) {
  const { db, computes, front } = parts;
  const ofProject = ["project_id", "=", project.id] as const;
  const rows = await db
    .selectFrom("branches")
    .selectAll()
    .where(...ofProject)
    .execute();
  const endpoints = await db
    .selectFrom("endpoints")
    .selectAll()
    .where(...ofProject)
    .execute();
  const tenantId = parseTenantId(project.tenant_id);
  const { timelines, offloaded } =
    project.creating === 1
      ? { timelines: [], offloaded: [] }
      : await controllerOf(parts.home).timelinesAndOffloaded(tenantId);
  const infos = new Map(timelines.map((info) => [info.timeline_id, info]));
  const archived = new Map(offloaded.map((info) => [info.timeline_id, info]));
  const idOf = new Map(rows.map((row) => [row.timeline_id, row.id]));
  const startOf = (row: BranchRow) => {
    const info = infos.get(row.timeline_id);
    const old = archived.get(row.timeline_id);
    const ancestor = info?.ancestor_timeline_id ?? old?.ancestor_timeline_id;
    return { ancestor, lsn: info?.ancestor_lsn ?? old?.ancestor_retain_lsn };
  };
  await times.learn(tenantId, [
    ...rows.map((row) => ({ timelineId: startOf(row).ancestor, lsn: startOf(row).lsn })),
    ...timelines.map((info) => ({ timelineId: info.timeline_id, lsn: info.last_record_lsn })),
  ]);
  const branches = rows.map((row) => {
    const info = infos.get(row.timeline_id);
    const { ancestor, lsn } = startOf(row);
    const id = idOf.get(ancestor ?? "");
    const parent = id === undefined || lsn == null ? undefined : { id, lsn };
    return {
      branch: branchView(row, { parent, isArchived: archived.has(row.timeline_id) }),
      endpoints: endpoints
        .filter((one) => one.branch_id === row.id)
        .map((one) => endpointView(one, computes.stateOf(one.id), front)),
      ...known({
        begin_lsn: info?.start_lsn ?? lsn ?? undefined,
        begin_time: times.of(ancestor, lsn),
        head_lsn: info?.last_record_lsn,
        head_time: times.of(row.timeline_id, info?.last_record_lsn),
        readable_lsn: info?.min_readable_lsn,
        layers_bytes: info?.current_physical_size,
      }),
    };
  });
  return { now: new Date(nowMs()).toISOString(), branches };
}

type Known<T> = { [K in keyof T]?: NonNullable<T[K]> };

/** Without what is not known. */
function known<T extends object>(fields: T): Known<T> {
  return Object.fromEntries(
    Object.entries(fields).filter(([, value]) => value !== undefined && value !== null),
  ) as Known<T>;
}

interface Point {
  readonly timelineId: string | null | undefined;
  readonly lsn: string | null | undefined;
}

/** When the last transaction at or below an LSN committed. */
class LsnTimes {
  readonly #parts: Parts;
  /** Null: there is none. */
  readonly #known = new Map<string, string | null>();

  constructor(parts: Parts) {
    this.#parts = parts;
  }

  of(timelineId: string | null | undefined, lsn: string | null | undefined): string | undefined {
    return this.#known.get(`${timelineId} ${lsn}`) ?? undefined;
  }

  async learn(tenantId: TenantId, points: readonly Point[]): Promise<void> {
    if (this.#known.size > MAX_KNOWN) {
      this.#known.clear();
    }
    const unknown = new Map<string, { timelineId: string; lsn: string }>();
    for (const { timelineId, lsn } of points) {
      if (timelineId && lsn && !this.#known.has(`${timelineId} ${lsn}`)) {
        unknown.set(`${timelineId} ${lsn}`, { timelineId, lsn });
      }
    }
    const asked = [...unknown].slice(0, MAX_ASKED);
    for (let i = 0; i < asked.length; i += ASKED_AT_ONCE) {
      await Promise.all(
        asked.slice(i, i + ASKED_AT_ONCE).map(async ([key, point]) => {
          this.#known.set(key, await this.#ask(tenantId, point));
        }),
      );
    }
  }

  async #ask(tenantId: TenantId, of: { timelineId: string; lsn: string }): Promise<string | null> {
    const lsn = parseLsn(of.lsn);
    if (lsn === undefined) {
      return null;
    }
    const timelineId = parseTimelineId(of.timelineId);
    try {
      return await controllerOf(this.#parts.home).timestampOfLsn(tenantId, timelineId, lsn);
    } catch (error) {
      if (errorKind(error) !== "not-found" && errorKind(error) !== "invalid") {
        this.#parts.logger.info(
          { timeline: of.timelineId, lsn: of.lsn, error },
          "no time of an LSN",
        );
      }
      return null;
    }
  }
}
