// /consumption_history: what the meter has counted, by hours, days or months.

import { createHash } from "node:crypto";
import type { z } from "zod";
import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { POSTGRES_EPOCH_MS, parseTimestamp } from "../../base/timestamp.ts";
import { type Route, route } from "../../http/route.ts";
import { frameEnd, frameStart, type Granularity, oldestFrame } from "../consumption/frames.ts";
import type { ConsumptionRow } from "../state/tables.ts";
import { callerOf, type Parts } from "./lookup.ts";
import { page } from "./pages.ts";
import {
  accountConsumptionAnswer,
  type consumptionFrameSchema,
  consumptionQuery,
  projectsConsumptionAnswer,
  projectsConsumptionQuery,
} from "./schemas.ts";

const BASE = "/api/v2/consumption_history";
const PLAN = "strata";

type Frame = z.infer<typeof consumptionFrameSchema>;
type Query = z.infer<typeof consumptionQuery>;

/** Starts of frames: `[fromMs, toMs)`. */
interface Range {
  readonly granularity: Granularity;
  readonly fromMs: number;
  readonly toMs: number;
}

export function consumptionRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: `${BASE}/projects`,
        summary: "What each project has used, newest project first.",
        scope: "admin",
        query: projectsConsumptionQuery,
        answer: projectsConsumptionAnswer,
      },
      async (request) => {
        const range = rangeOf(request.query);
        await parts.inventory.refresh();
        const own = callerOf(request).projectId;
        const wanted = request.query.project_ids;
        const projects = (
          await parts.db.selectFrom("projects").select(["id", "created_at"]).execute()
        ).filter(
          ({ id }) => (own === null || id === own) && (wanted === undefined || wanted.includes(id)),
        );
        const { rows, cursor = request.query.cursor } = page(
          projects,
          { by: ({ created_at, id }) => [created_at, id], descending: true },
          request.query,
        );
        const used = await rowsOf(
          parts,
          range,
          rows.map(({ id }) => id),
        );
        return {
          projects: rows.map(({ id }) => ({
            project_id: id,
            periods: periodsOf(id, used.get(id) ?? [], range.granularity),
          })),
          ...(cursor ? { pagination: { cursor } } : {}),
        };
      },
    ),
    route(
      {
        method: "GET",
        path: `${BASE}/account`,
        summary: "What all projects have used, those that are gone too; as Neon's API had it.",
        scope: "admin",
        query: consumptionQuery,
        answer: accountConsumptionAnswer,
      },
      async ({ query }) => {
        const range = rangeOf(query);
        const rows = [...(await rowsOf(parts, range)).values()].flat();
        const frames = [...Map.groupBy(rows, (row) => row.frame_start).values()].map(sum);
        const sorted = frames.toSorted((a, b) => (a.frame_start < b.frame_start ? -1 : 1));
        return { periods: periodsOf("account", sorted, range.granularity) };
      },
    ),
  ];
}

/** StorageError `invalid` with the status that Neon has for each. */
function rangeOf({ from, to, granularity, org_id: organization }: Query): Range {
  if (organization !== undefined) {
    const message = `organization ${organization} not found: there are none`;
    throw new StorageError("not-found", "no-organization", message);
  }
  const fromMs = frameStart(granularity, timeOf("from", from));
  const toMs = frameStart(granularity, timeOf("to", to));
  if (toMs < fromMs) {
    throw new StorageError("invalid", "bad-range", `'from' ${from} is behind 'to' ${to}`);
  }
  const oldest = oldestFrame(granularity, nowMs());
  if (fromMs < oldest) {
    throw new StorageError(
      "invalid",
      "consumption-range",
      `${granularity} consumption is kept from ${new Date(oldest).toISOString()} on: 'from' ${from} is before that; take a later one, or another granularity`,
    );
  }
  return { granularity, fromMs, toMs };
}

function timeOf(name: string, text: string): number {
  const parsed = parseTimestamp(text);
  if (parsed?.hasZone !== true) {
    throw new StorageError(
      "invalid",
      "bad-time",
      `'${name}' ${text} is no time as RFC 3339 has it`,
    );
  }
  return POSTGRES_EPOCH_MS + Math.floor(parsed.timeUs / 1000);
}

/** By project, oldest first. `projectIds`: absent for all, also of those that are gone. */
async function rowsOf(
  { db }: Parts,
  { granularity, fromMs, toMs }: Range,
  projectIds?: readonly string[],
): Promise<Map<string, ConsumptionRow[]>> {
  if (projectIds?.length === 0) {
    return new Map();
  }
  const all = db
    .selectFrom("consumption")
    .selectAll()
    .where("granularity", "=", granularity)
    .where("frame_start", ">=", new Date(fromMs).toISOString())
    .where("frame_start", "<", new Date(toMs).toISOString())
    .orderBy("frame_start");
  const rows = await (projectIds === undefined
    ? all
    : all.where("project_id", "in", projectIds)
  ).execute();
  return Map.groupBy(rows, (row) => row.project_id);
}

/** Of one frame. A size is that of the projects whose size was seen. */
function sum(rows: readonly ConsumptionRow[]): ConsumptionRow {
  const total = (field: "active_ms" | "cpu_ms" | "written_bytes" | "transfer_bytes") =>
    rows.reduce((so, row) => so + row[field], 0);
  const sizes = rows.flatMap(({ size_bytes: bytes }) => bytes ?? []);
  return {
    ...rows[0]!,
    active_ms: total("active_ms"),
    cpu_ms: total("cpu_ms"),
    written_bytes: total("written_bytes"),
    transfer_bytes: total("transfer_bytes"),
    size_bytes: sizes.length === 0 ? null : sizes.reduce((so, bytes) => so + bytes, 0),
  };
}

/** Of billing nothing is here: a period is a month. */
function periodsOf(whose: string, rows: readonly ConsumptionRow[], granularity: Granularity) {
  const monthOf = (row: ConsumptionRow) => frameStart("monthly", Date.parse(row.frame_start));
  return [...Map.groupBy(rows, monthOf)].map(([month, frames]) => {
    const start = new Date(month).toISOString();
    const endMs = frameEnd("monthly", month);
    return {
      period_id: periodId(`${whose} ${start}`),
      period_plan: PLAN,
      period_start: start,
      ...(endMs <= nowMs() ? { period_end: new Date(endMs).toISOString() } : {}),
      consumption: frames.map((row) => frameView(row, granularity)),
    };
  });
}

/** A UUID of RFC 9562's version 8: the same for the same period. */
function periodId(text: string): string {
  const bytes = createHash("sha256").update(text).digest().subarray(0, 16);
  bytes[6] = (bytes[6]! & 0x0f) | 0x80;
  bytes[8] = (bytes[8]! & 0x3f) | 0x80;
  return bytes.toString("hex").replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

/** Whole seconds that have passed. A size that nobody has seen is absent. */
function frameView(row: ConsumptionRow, granularity: Granularity): Frame {
  const startMs = Date.parse(row.frame_start);
  return {
    timeframe_start: row.frame_start,
    timeframe_end: new Date(frameEnd(granularity, startMs)).toISOString(),
    active_time_seconds: Math.floor(row.active_ms / 1000),
    compute_time_seconds: Math.floor(row.cpu_ms / 1000),
    written_data_bytes: row.written_bytes,
    data_transfer_bytes: row.transfer_bytes,
    ...(row.size_bytes === null ? {} : { synthetic_storage_size_bytes: row.size_bytes }),
  };
}
