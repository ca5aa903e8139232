// Rows for what the home has: whatever the command line makes, renames or deletes is seen by the API at its next call.
//
// The home is the truth for names, timelines and endpoints; a row holds a public id and what the home has no place for.
// - A timeline without a row takes over the row of its name: a reset or a restore gives a name another timeline, and
//   the branch stays the same branch. Else it gets a new row, with the roles and databases of its parent's.
// - A row whose timeline has no name goes, and so does one of an endpoint that is not there any more. One whose endpoint.json
//   cannot be read is there: its row stays as it is.
// - Rows that an operation is making are its own.

import { nowMs } from "../base/clock.ts";
import { parseTenantId } from "../base/ids.ts";
import type { StrataConfig } from "../local/config.ts";
import { controllerOf } from "../local/controller.ts";
import { allEndpoints, type DamagedEndpoint, type Endpoint } from "../local/endpoints.ts";
import type { TimelinesAndOffloaded } from "../pageserver/api.ts";
import { type Context, newNumber } from "./context.ts";
import { branchIdOf, projectIdOf } from "./public-ids.ts";
import { type Database, serialized } from "./state/database.ts";
import type { BranchRow, EndpointRow, ProjectRow } from "./state/tables.ts";

/** Seven days, as tenants have it where nobody says otherwise. */
export const DEFAULT_RETENTION_SECONDS = 604_800;
/** Sizes mean nothing on one machine; clients want to see some. */
export const DEFAULT_COMPUTE_UNITS = 1;

interface Rows {
  readonly projects: ProjectRow[];
  readonly branches: BranchRow[];
  readonly endpoints: EndpointRow[];
}

/** In the home. */
type EndpointThere = Endpoint | DamagedEndpoint;

type Ancestors = ReadonlyMap<string, TimelinesAndOffloaded>;

export class Inventory {
  readonly #context: Context;
  #last: Promise<void> = Promise.resolve();
  /** Of the home as it was when all of it had rows. */
  #seen = "";
  /** The endpoints that had rows then. Whoever deletes one and makes it again leaves the home as it was, without its row. */
  #seenRows = "";

  constructor(context: Context) {
    this.#context = context;
  }

  /** StorageError `unavailable` where a new timeline is there and no pageserver to tell whose branch it is. */
  refresh(): Promise<void> {
    const next = this.#last.then(() => this.#refresh());
    this.#last = next.catch(() => undefined);
    return next;
  }

  async #refresh(): Promise<void> {
    const { home, db } = this.#context;
    const config = home.config();
    const now = pictureOf(config, allEndpoints(home));
    if (now === this.#seen && (await endpointRows(db)) === this.#seenRows) {
      return;
    }
    const known = new Set(
      (await db.selectFrom("branches").select("timeline_id").execute()).map(
        (row) => row.timeline_id,
      ),
    );
    const ancestors = new Map<string, TimelinesAndOffloaded>();
    for (const [tenantId, names] of config.branchNameMappings) {
      if ([...names.values()].some((timelineId) => !known.has(timelineId))) {
        const id = parseTenantId(tenantId);
        ancestors.set(tenantId, await controllerOf(home).timelinesAndOffloaded(id));
      }
    }
    const rows = await serialized(db, async (transaction) => {
      await this.#settle(transaction, ancestors);
      return endpointRows(transaction);
    });
    if (await this.#isWhole(config)) {
      this.#seen = now;
      this.#seenRows = rows;
    }
  }

  /** Not where the pageserver had not told of a new timeline yet. */
  async #isWhole({ branchNameMappings }: StrataConfig): Promise<boolean> {
    const rows = await this.#context.db.selectFrom("branches").select("timeline_id").execute();
    const known = new Set(rows.map((row) => row.timeline_id));
    return [...branchNameMappings.values()].every((names) =>
      [...names.values()].every((timelineId) => known.has(timelineId)),
    );
  }

  /** The home is read behind the rows: what an operation makes has its row before. */
  async #settle(db: Database, ancestors: Ancestors): Promise<void> {
    const rows: Rows = {
      projects: await db.selectFrom("projects").selectAll().execute(),
      branches: await db.selectFrom("branches").selectAll().execute(),
      endpoints: await db.selectFrom("endpoints").selectAll().execute(),
    };
    const config = this.#context.home.config();
    const endpoints = allEndpoints(this.#context.home);
    await this.#settleProjects(db, rows, config, ancestors);
    for (const project of rows.projects) {
      const names = config.branchNameMappings.get(project.tenant_id) ?? new Map<string, string>();
      const branches = rows.branches.filter((branch) => branch.project_id === project.id);
      await settleBranches(db, project, branches, names, ancestors.get(project.tenant_id));
      await settleDefault(db, project.id);
    }
    await this.#settleEndpoints(db, rows, endpoints);
  }

  async #settleProjects(
    db: Database,
    rows: Rows,
    config: StrataConfig,
    ancestors: Ancestors,
  ): Promise<void> {
    for (const project of rows.projects.filter((one) => one.creating === 0)) {
      if (!config.branchNameMappings.has(project.tenant_id)) {
        await db.deleteFrom("projects").where("id", "=", project.id).execute();
        rows.projects.splice(rows.projects.indexOf(project), 1);
      }
    }
    for (const [tenantId, timelines] of ancestors) {
      const isNew = !rows.projects.some((project) => project.tenant_id === tenantId);
      if (isNew && config.branchNameMappings.has(tenantId)) {
        const row = projectRow(tenantId, timelines, rows.projects, config);
        await db.insertInto("projects").values(row).execute();
        rows.projects.push(row);
      }
    }
  }

  async #settleEndpoints(
    db: Database,
    rows: Rows,
    endpoints: readonly EndpointThere[],
  ): Promise<void> {
    const projects = new Map(rows.projects.map((project) => [project.tenant_id, project.id]));
    const branches = await db.selectFrom("branches").selectAll().execute();
    const there = new Set(endpoints.map(({ id }) => id));
    for (const row of rows.endpoints) {
      if (row.creating === 0 && !there.has(row.id)) {
        await db.deleteFrom("endpoints").where("id", "=", row.id).execute();
      }
    }
    const branchOf = new Map(branches.map((one) => [`${one.project_id} ${one.timeline_id}`, one]));
    const rowOf = new Map(rows.endpoints.map((row) => [row.id, row]));
    for (const { id, spec } of endpoints.filter((one) => "spec" in one)) {
      const branch = branchOf.get(`${projects.get(spec.tenantId)} ${spec.timelineId}`);
      const row = rowOf.get(id);
      if (branch !== undefined && row === undefined) {
        await db
          .insertInto("endpoints")
          .values(endpointRow(id, spec.mode, branch))
          .execute();
      } else if (branch !== undefined && row !== undefined && row.branch_id !== branch.id) {
        await db
          .updateTable("endpoints")
          .set({ branch_id: branch.id, project_id: branch.project_id })
          .where("id", "=", id)
          .execute();
      }
      const type = endpointType(spec.mode);
      if (row !== undefined && row.creating === 0 && row.type !== type) {
        // It was promoted, or another one in its place.
        await db.updateTable("endpoints").set({ type }).where("id", "=", id).execute();
      }
    }
  }
}

function endpointType(mode: Endpoint["spec"]["mode"]): EndpointRow["type"] {
  return mode === "primary" ? "read_write" : "read_only";
}

/** The same text as long as there is nothing to do. */
function pictureOf(config: StrataConfig, endpoints: readonly EndpointThere[]): string {
  return JSON.stringify([
    [...config.branchNameMappings].map(([tenantId, names]) => [tenantId, ...names]),
    endpoints.map((one) =>
      "spec" in one ? [one.id, one.spec.tenantId, one.spec.timelineId, one.spec.mode] : [one.id],
    ),
  ]);
}

async function endpointRows(db: Database): Promise<string> {
  const rows = await db.selectFrom("endpoints").select("id").orderBy("id").execute();
  return rows.map(({ id }) => id).join(" ");
}

async function settleBranches(
  db: Database,
  project: ProjectRow,
  rows: BranchRow[],
  names: ReadonlyMap<string, string>,
  timelines: TimelinesAndOffloaded | undefined,
): Promise<void> {
  const change = (id: string, values: Partial<BranchRow>) =>
    db.updateTable("branches").set(values).where("id", "=", id).execute();
  const known = new Set(rows.map((row) => row.timeline_id));
  const byName = new Map(rows.filter((row) => row.creating === 0).map((row) => [row.name, row]));
  for (const [name, timelineId] of names) {
    const ofName = byName.get(name);
    if (!known.has(timelineId) && ofName !== undefined) {
      ofName.timeline_id = timelineId;
      await change(ofName.id, { timeline_id: timelineId, needs_configure: 1 });
    }
  }
  const nameOf = new Map([...names].map(([name, timelineId]) => [timelineId, name]));
  const gone = rows.filter((row) => row.creating === 0 && !nameOf.has(row.timeline_id));
  for (const { id } of gone) {
    await db.deleteFrom("branches").where("id", "=", id).execute();
  }
  const left = rows.filter((row) => !gone.includes(row));
  for (const row of left.filter((one) => one.creating === 0)) {
    const name = nameOf.get(row.timeline_id)!;
    if (name !== row.name) {
      await change(row.id, { name, updated_at: nowText() });
    }
  }
  await addBranches(db, project, left, names, timelines);
}

async function addBranches(
  db: Database,
  project: ProjectRow,
  rows: readonly BranchRow[],
  names: ReadonlyMap<string, string>,
  timelines: TimelinesAndOffloaded | undefined,
): Promise<void> {
  const infos = [...(timelines?.timelines ?? []), ...(timelines?.offloaded ?? [])];
  const ancestors = new Map(infos.map((info) => [info.timeline_id, info.ancestor_timeline_id]));
  const byTimeline = new Map(rows.map((row) => [row.timeline_id, row]));
  const ids = new Set(rows.map((row) => row.id));
  for (const [name, timelineId] of names) {
    // What the pageserver did not tell of yet, the next look sees.
    if (byTimeline.has(timelineId) || !ancestors.has(timelineId)) {
      continue;
    }
    const row = branchRow(project, name, timelineId, ids);
    await db.insertInto("branches").values(row).execute();
    const parent = byTimeline.get(ancestors.get(timelineId) ?? "");
    if (parent !== undefined) {
      await copyRolesAndDatabases(db, parent.id, row.id);
    }
    byTimeline.set(timelineId, row);
    ids.add(row.id);
  }
}

/** One branch of a project is the default: `main`, where the one that was is gone. */
async function settleDefault(db: Database, projectId: string): Promise<void> {
  const rows = await db
    .selectFrom("branches")
    .select(["id", "name", "is_default"])
    .where("project_id", "=", projectId)
    .orderBy("created_at")
    .orderBy("id")
    .execute();
  if (rows.length > 0 && !rows.some((row) => row.is_default === 1)) {
    const chosen = rows.find((row) => row.name === "main") ?? rows[0]!;
    await db.updateTable("branches").set({ is_default: 1 }).where("id", "=", chosen.id).execute();
  }
}

/** The new branch has none yet. */
export async function copyRolesAndDatabases(db: Database, from: string, to: string): Promise<void> {
  const roles = await db.selectFrom("roles").selectAll().where("branch_id", "=", from).execute();
  for (const role of roles) {
    await db
      .insertInto("roles")
      .values({ ...role, branch_id: to })
      .execute();
  }
  const databases = await db
    .selectFrom("databases")
    .selectAll()
    .where("branch_id", "=", from)
    .execute();
  for (const database of databases) {
    await db
      .insertInto("databases")
      .values({ ...database, id: newNumber(), branch_id: to })
      .execute();
  }
}

/** ISO 8601 in UTC with milliseconds. */
export function nowText(): string {
  return new Date(nowMs()).toISOString();
}

function projectRow(
  tenantId: string,
  timelines: TimelinesAndOffloaded,
  others: readonly ProjectRow[],
  config: StrataConfig,
): ProjectRow {
  let id = projectIdOf(tenantId);
  for (let attempt = 1; others.some((one) => one.id === id); attempt++) {
    id = projectIdOf(tenantId, attempt);
  }
  const now = nowText();
  return {
    id,
    tenant_id: tenantId,
    name: id,
    pg_version: timelines.timelines[0]?.pg_version ?? config.pgVersion,
    history_retention_seconds: DEFAULT_RETENTION_SECONDS,
    settings: "{}",
    default_endpoint_settings: "{}",
    creating: 0,
    created_at: now,
    updated_at: now,
  };
}

function branchRow(
  project: ProjectRow,
  name: string,
  timelineId: string,
  taken: ReadonlySet<string>,
): BranchRow {
  let id = branchIdOf(project.tenant_id, timelineId);
  for (let attempt = 1; taken.has(id); attempt++) {
    id = branchIdOf(project.tenant_id, timelineId, attempt);
  }
  return newBranchRow({ id, projectId: project.id, timelineId, name });
}

export function newBranchRow(of: {
  readonly id: string;
  readonly projectId: string;
  readonly timelineId: string;
  readonly name: string;
}): BranchRow {
  const now = nowText();
  return {
    id: of.id,
    project_id: of.projectId,
    timeline_id: of.timelineId,
    name: of.name,
    is_default: 0,
    protected: 0,
    expires_at: null,
    last_reset_at: null,
    init_source: "parent-data",
    creating: 0,
    needs_configure: 0,
    created_at: now,
    updated_at: now,
  };
}

/** Made by the command line: it is not suspended, as it never was. */
function endpointRow(id: string, mode: Endpoint["spec"]["mode"], branch: BranchRow): EndpointRow {
  return { ...newEndpointRow(id, branch, endpointType(mode)), suspend_timeout_seconds: -1 };
}

export function newEndpointRow(
  id: string,
  branch: Pick<BranchRow, "id" | "project_id">,
  type: EndpointRow["type"],
): EndpointRow {
  const now = nowText();
  return {
    id,
    project_id: branch.project_id,
    branch_id: branch.id,
    name: null,
    type,
    suspend_timeout_seconds: 0,
    autoscaling_limit_min_cu: DEFAULT_COMPUTE_UNITS,
    autoscaling_limit_max_cu: DEFAULT_COMPUTE_UNITS,
    settings: "{}",
    disabled: 0,
    ephemeral: 0,
    creating: 0,
    last_active: null,
    started_at: null,
    suspended_at: null,
    created_at: now,
    updated_at: now,
  };
}
