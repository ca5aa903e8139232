// Counts what projects use, every 15 seconds: time of endpoints, their processor time, WAL, and what the storage holds.
//
// - One look is one transaction: what was used since the last one is added, and the cursors move. kill -9 in front of its
//   commit leaves both as they were, so the next look, of the next process, counts it.
// - Each hour, day and month of a project has a row, as long as it is told of: so many rows a project, and no more.
// - What was not looked at has no row: an hour in which no control plane ran is absent, unless an endpoint ran through it.
// - A project that is deleted and kept costs what it stores, and counts. One that is gone for good keeps its rows.

import { nowMs } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import { parseTenantId } from "../../base/ids.ts";
import { type Lsn, parseLsn } from "../../base/lsn.ts";
import { ProcessTable } from "../../local/agents/endpoint-runs.ts";
import { controllerOf } from "../../local/controller.ts";
import { allEndpoints, lastWordMs } from "../../local/endpoints.ts";
import type { Context } from "../context.ts";
import type { Inventory } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";
import type { ProjectRow } from "../state/tables.ts";
import { countEndpoint, countWal, type EndpointReading } from "./counting.ts";
import { frameStart, GRANULARITIES, oldestFrame } from "./frames.ts";
import { timeText, Uses } from "./uses.ts";

/** The pageserver has an ended endpoint's WAL by then. */
const WAL_GRACE_MS = 60_000;
/** How often the size of a project that writes is asked for; of the others once an hour. */
const SIZE_INTERVAL_MS = 300_000;
/** A report of before that a proxy sends again comes long before. */
const PROXY_FORGOTTEN_MS = 7 * 86_400_000;
/** In one look: a size can take the storage a while. */
const MAX_SIZES = 20;

interface SeenEndpoint extends EndpointReading {
  readonly id: string;
  readonly projectId: string;
}

interface SeenTimeline {
  readonly projectId: string;
  readonly timelineId: string;
  readonly startLsn: Lsn;
  readonly lastLsn: Lsn;
}

export interface Seen {
  readonly endpoints: readonly SeenEndpoint[];
  readonly timelines: readonly SeenTimeline[];
  /** By project, in bytes. */
  readonly sizes: ReadonlyMap<string, number>;
}

type MeterParts = Context & { readonly inventory: Inventory };

export class Meter {
  readonly #parts: MeterParts;
  #last: Promise<void> = Promise.resolve();
  /** One that has not begun: whoever asks meanwhile has it too. */
  #next: Promise<void> | undefined;
  #lookedAtMs = 0;
  /** By project: when its size was asked for, and whether it has written since. */
  readonly #sizes = new Map<string, { readonly atMs: number; hasWritten: boolean }>();
  #cleanedHour = 0;

  constructor(parts: MeterParts) {
    this.#parts = parts;
  }

  /** One after the other. What does not answer is counted the next time. `withSizes`: it may take a while. */
  look({ withSizes = true } = {}): Promise<void> {
    const before = this.#last;
    this.#next ??= before.then(() => {
      this.#next = undefined;
      return this.#look(withSizes);
    });
    const next = this.#next;
    this.#last = next.catch(() => undefined);
    return next;
  }

  async #look(withSizes: boolean): Promise<void> {
    const { db, inventory } = this.#parts;
    await inventory.refresh();
    const projects = await db
      .selectFrom("projects")
      .selectAll()
      .where("creating", "=", 0)
      .execute();
    const isFirst = (await db.selectFrom("meter").select("since").executeTakeFirst()) === undefined;
    const now = nowMs();
    const endpoints = await this.#seeEndpoints(projects);
    const awake = new Set(
      endpoints.filter((one) => this.#mayHaveWritten(one)).map((one) => one.projectId),
    );
    const isAll = isFirst || this.#lookedAtMs === 0;
    const timelines: SeenTimeline[] = [];
    for (const project of projects.filter(({ id }) => isAll || awake.has(id))) {
      timelines.push(...(await this.#seeTimelines(project, isFirst)));
    }
    const sizes = withSizes ? await this.#seeSizes(projects, awake) : new Map<string, number>();
    const seen = { endpoints, timelines, sizes };
    if (isFirst || !(await this.#isQuiet(seen))) {
      await serialized(db, (transaction) => settle(transaction, seen, { nowMs: now, isFirst }));
    }
    this.#lookedAtMs = now;
    await this.#clean(now);
  }

  /** Nothing runs, and all that ran is counted: then nothing is written either. */
  async #isQuiet({ endpoints, timelines, sizes }: Seen): Promise<boolean> {
    const open = await this.#parts.db
      .selectFrom("meter_endpoints")
      .select("endpoint_id")
      .where("has_ended", "=", 0)
      .limit(1)
      .executeTakeFirst();
    const isAsleep = endpoints.every(({ run }) => run === undefined);
    return open === undefined && isAsleep && timelines.length === 0 && sizes.size === 0;
  }

  /** Also those whose endpoint.json cannot be read: they may run, and who forgot up to where they are counted would do so again. */
  async #seeEndpoints(projects: readonly ProjectRow[]): Promise<SeenEndpoint[]> {
    const projectOf = new Map(projects.map((project) => [project.tenant_id, project.id]));
    const all = allEndpoints(this.#parts.home);
    const projectOfDamaged = await this.#projectsOf(
      all.flatMap((one) => ("spec" in one ? [] : [one.id])),
    );
    const table = new ProcessTable();
    return all.flatMap((endpoint) => {
      const projectId =
        "spec" in endpoint
          ? projectOf.get(endpoint.spec.tenantId)
          : projectOfDamaged.get(endpoint.id);
      const reading = { ...table.runOf(endpoint), lastWordMs: lastWordMs(endpoint) };
      return projectId === undefined ? [] : [{ id: endpoint.id, projectId, ...reading }];
    });
  }

  /** As it was known when their files could be read. */
  async #projectsOf(ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
    if (ids.length === 0) {
      return new Map();
    }
    const rows = await this.#parts.db
      .selectFrom("endpoints")
      .select(["id", "project_id"])
      .where("id", "in", ids)
      .execute();
    return new Map(rows.map((row) => [row.id, row.project_id]));
  }

  #mayHaveWritten({ run, lastWordMs: wordMs = 0 }: SeenEndpoint): boolean {
    return run !== undefined || wordMs >= this.#lookedAtMs - WAL_GRACE_MS;
  }

  /** Throws where it must know: what is not there at the first look counts as new later on. */
  async #seeTimelines({ id, tenant_id }: ProjectRow, isNeeded: boolean): Promise<SeenTimeline[]> {
    try {
      const { db, home } = this.#parts;
      const infos = await controllerOf(home).timelines(parseTenantId(tenant_id));
      const rows = await db
        .selectFrom("branches")
        .select("timeline_id")
        .where("project_id", "=", id)
        .execute();
      // One that is on its way to its name or to its end is not anybody's.
      const named = new Set(rows.map((row) => row.timeline_id));
      return infos.flatMap(({ timeline_id: timelineId, start_lsn, last_record_lsn }) => {
        const [startLsn, lastLsn] = [parseLsn(start_lsn), parseLsn(last_record_lsn)];
        return startLsn === undefined || lastLsn === undefined || !named.has(timelineId)
          ? []
          : [{ projectId: id, timelineId, startLsn, lastLsn }];
      });
    } catch (error) {
      if (isNeeded) {
        throw error;
      }
      this.#parts.logger.debug({ project: id, reason: errorMessage(error) }, "WAL not counted now");
      return [];
    }
  }

  async #seeSizes(
    projects: readonly ProjectRow[],
    awake: ReadonlySet<string>,
  ): Promise<ReadonlyMap<string, number>> {
    const sizes = new Map<string, number>();
    for (const { id, tenant_id } of projects) {
      const known = this.#sizes.get(id);
      if (known !== undefined && awake.has(id)) {
        known.hasWritten = true;
      }
      if (sizes.size >= MAX_SIZES || !isDue(known)) {
        continue;
      }
      this.#sizes.set(id, { atMs: nowMs(), hasWritten: false });
      try {
        const answer = await controllerOf(this.#parts.home).syntheticSize(parseTenantId(tenant_id));
        sizes.set(id, answer.size);
      } catch (error) {
        this.#sizes.delete(id);
        const reason = errorMessage(error);
        this.#parts.logger.debug({ project: id, reason }, "size not asked for now");
      }
    }
    return sizes;
  }

  /** Once an hour: rows that are not told of any more, and cursors of what is gone. */
  async #clean(now: number): Promise<void> {
    const hour = frameStart("hourly", now);
    if (hour === this.#cleanedHour) {
      return;
    }
    const { db } = this.#parts;
    for (const granularity of GRANULARITIES) {
      await db
        .deleteFrom("consumption")
        .where("granularity", "=", granularity)
        .where("frame_start", "<", timeText(oldestFrame(granularity, now)))
        .execute();
    }
    await db
      .deleteFrom("meter_proxies")
      .where("seen_at", "<", timeText(now - PROXY_FORGOTTEN_MS))
      .execute();
    await db
      .deleteFrom("meter_timelines")
      .where("timeline_id", "not in", db.selectFrom("branches").select("timeline_id"))
      .execute();
    this.#cleanedHour = hour;
  }
}

function isDue(
  known: { readonly atMs: number; readonly hasWritten: boolean } | undefined,
): boolean {
  if (known === undefined) {
    return true;
  }
  const isOtherHour = frameStart("hourly", known.atMs) !== frameStart("hourly", nowMs());
  return isOtherHour || (known.hasWritten && nowMs() - known.atMs >= SIZE_INTERVAL_MS);
}

interface LookTime {
  readonly nowMs: number;
  readonly isFirst: boolean;
}

/** All of a look, in a transaction that no other look runs beside. */
export async function settle(db: Database, seen: Seen, at: LookTime): Promise<void> {
  if (at.isFirst) {
    const begun = await db.selectFrom("meter").select("since").executeTakeFirst();
    if (begun !== undefined) {
      // Another control plane was first: the next look counts.
      return;
    }
    await db
      .insertInto("meter")
      .values({ since: timeText(at.nowMs) })
      .execute();
  }
  const uses = new Uses();
  await settleEndpoints(db, seen.endpoints, at, uses);
  await settleTimelines(db, seen.timelines, at, uses);
  for (const [projectId, bytes] of seen.sizes) {
    uses.add(projectId, at.nowMs, { sizeBytes: bytes });
  }
  await uses.write(db);
}

async function settleEndpoints(
  db: Database,
  endpoints: readonly SeenEndpoint[],
  at: LookTime,
  uses: Uses,
): Promise<void> {
  const rows = await db.selectFrom("meter_endpoints").selectAll().execute();
  const cursors = new Map(rows.map((row) => [row.endpoint_id, row]));
  const seen = new Map(endpoints.map((one) => [one.id, one]));
  for (const row of rows.filter(({ endpoint_id: id }) => !seen.has(id))) {
    await db.deleteFrom("meter_endpoints").where("endpoint_id", "=", row.endpoint_id).execute();
  }
  for (const reading of endpoints) {
    const row = cursors.get(reading.id);
    const before = row && {
      run: row.run,
      activeUntilMs: row.active_until_ms,
      cpuMs: row.cpu_ms,
      hasEnded: row.has_ended === 1,
    };
    const use = countEndpoint(before, reading, at);
    uses.addActive(reading.projectId, use.active);
    uses.add(reading.projectId, at.nowMs, { cpuMs: use.cpuMs });
    const { cursor } = use;
    if (cursor === undefined || cursor === before) {
      continue;
    }
    const values = {
      run: cursor.run,
      active_until_ms: cursor.activeUntilMs,
      cpu_ms: cursor.cpuMs,
      has_ended: Number(cursor.hasEnded),
    };
    await db
      .insertInto("meter_endpoints")
      .values({ endpoint_id: reading.id, ...values })
      .onConflict((conflict) => conflict.column("endpoint_id").doUpdateSet(values))
      .execute();
  }
}

async function settleTimelines(
  db: Database,
  timelines: readonly SeenTimeline[],
  at: LookTime,
  uses: Uses,
): Promise<void> {
  const rows = await db.selectFrom("meter_timelines").selectAll().execute();
  const cursors = new Map(rows.map((row) => [`${row.project_id} ${row.timeline_id}`, row]));
  for (const timeline of timelines) {
    const { projectId, timelineId } = timeline;
    const before = cursors.get(`${projectId} ${timelineId}`)?.counted_lsn;
    const { counted, bytes } = countWal(before as Lsn | undefined, timeline, at.isFirst);
    if (counted === before) {
      continue;
    }
    uses.add(projectId, at.nowMs, { writtenBytes: bytes });
    await db
      .insertInto("meter_timelines")
      .values({ project_id: projectId, timeline_id: timelineId, counted_lsn: counted })
      .onConflict((conflict) =>
        conflict.columns(["project_id", "timeline_id"]).doUpdateSet({ counted_lsn: counted }),
      )
      .execute();
  }
}
