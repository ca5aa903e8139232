// /projects/{project_id}/branches: made at the head, an LSN or a time of another; renamed, restored, deleted.

import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { generateTimelineId, parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn } from "../../base/lsn.ts";
import { type Route, route } from "../../http/route.ts";
import { newestLsn, requireOnBranch, resolvePoint } from "../../local/branches/point-in-time.ts";
import { majorOf, renameBranch, requireFreeBranchName } from "../../local/branches.ts";
import { withHomeLocked } from "../../local/lock.ts";
import { copyRolesAndDatabases, newBranchRow, newEndpointRow, nowText } from "../inventory.ts";
import { type PlannedOperation, planned } from "../operations/state-machine.ts";
import { newBranchId, newEndpointId } from "../public-ids.ts";
import { serialized } from "../state/database.ts";
import type { BranchRow, EndpointRow, ProjectRow } from "../state/tables.ts";
import { defaultTimeout, postgresSettings } from "./endpoint-settings.ts";
import {
  defaultBranch,
  findBranch,
  findProject,
  operationsOf,
  type Parts,
  storageView,
  writerOf,
} from "./lookup.ts";
import { page } from "./pages.ts";
import { readBranch, readEndpoints, rolesAndDatabases, urisOf } from "./read.ts";
import {
  branchAnswer,
  branchCreateBody,
  branchesAnswer,
  branchesQuery,
  branchOperationsAnswer,
  branchParams,
  branchRestoreBody,
  branchUpdateBody,
  countAnswer,
  createdBranchAnswer,
  projectParams,
} from "./schemas.ts";
import { branchView } from "./views.ts";

const BASE = "/api/v2/projects/{project_id}/branches";
const ONE = `${BASE}/{branch_id}`;

export function branchRoutes(parts: Parts): Route[] {
  return [...listRoutes(parts), ...changeRoutes(parts)];
}

function listRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: BASE,
        summary: "Branches of a project.",
        scope: "tenant",
        params: projectParams,
        query: branchesQuery,
        answer: branchesAnswer,
      },
      async ({ params, query }) => {
        const project = await findProject(parts, params.project_id);
        const found = (await branchesOf(parts, project)).filter(
          ({ id, name }) =>
            query.search === undefined || name.includes(query.search) || id.includes(query.search),
        );
        const { sort_by, sort_order } = query;
        const order = {
          by: (row: BranchRow) => [row[sort_by], row.id],
          descending: sort_order === "desc",
        };
        const { rows, cursor, isLast } = page(found, order, query);
        const storage = await storageView(parts, project);
        return {
          branches: rows.map((row) => view(row, storage)),
          annotations: {},
          pagination: {
            ...(isLast || cursor === undefined ? {} : { next: cursor }),
            sort_by,
            sort_order: sort_order.toUpperCase(),
          },
        };
      },
    ),
    route(
      {
        method: "GET",
        path: `${BASE}/count`,
        summary: "How many there are.",
        scope: "tenant",
        params: projectParams,
        answer: countAnswer,
      },
      async ({ params }) => {
        const project = await findProject(parts, params.project_id);
        return { count: (await branchesOf(parts, project)).length };
      },
    ),
    route(
      {
        method: "GET",
        path: ONE,
        summary: "One branch.",
        scope: "tenant",
        params: branchParams,
        answer: branchAnswer,
      },
      async ({ params }) => {
        const { project, branch } = await findBranch(parts, params);
        return {
          branch: view(branch, await storageView(parts, project)),
          annotation: { object: { type: "console/branch", id: branch.id }, value: {} },
        };
      },
    ),
  ];
}

function changeRoutes(parts: Parts): Route[] {
  const answer = async (of: { project_id: string; branch_id: string }) => ({
    branch: await readBranch(parts, of),
  });
  return [
    route(
      {
        method: "POST",
        path: BASE,
        summary: "A branch, with endpoints where they are asked for.",
        scope: "tenant",
        status: 201,
        params: projectParams,
        body: branchCreateBody,
        answer: createdBranchAnswer,
      },
      async ({ params, body }) => createBranch(parts, params.project_id, body),
    ),
    route(
      {
        method: "PATCH",
        path: ONE,
        summary: "Renames, protects, lets expire.",
        scope: "tenant",
        params: branchParams,
        body: branchUpdateBody,
        answer: branchOperationsAnswer,
      },
      async ({ params, body }) => {
        await updateBranch(parts, await findBranch(parts, params), body.branch);
        return { ...(await answer(params)), operations: [] };
      },
    ),
    route(
      {
        method: "DELETE",
        path: ONE,
        summary: "Deletes it with its endpoints; branches of it stay as they are.",
        scope: "tenant",
        params: branchParams,
        answer: branchOperationsAnswer,
      },
      async ({ params }) => {
        const found = await findBranch(parts, params);
        const branch = view(found.branch, await storageView(parts, found.project));
        const operations = await deleteBranch(parts, found.project, found.branch);
        return { branch, operations };
      },
    ),
    route(
      {
        method: "POST",
        path: `${ONE}/restore`,
        summary: "Makes it what a branch, maybe itself, is or was.",
        scope: "tenant",
        params: branchParams,
        body: branchRestoreBody,
        answer: branchOperationsAnswer,
      },
      async ({ params, body }) => {
        const operations = await restoreBranch(parts, await findBranch(parts, params), body);
        return { ...(await answer(params)), operations };
      },
    ),
    route(
      {
        method: "POST",
        path: `${ONE}/set_as_default`,
        summary: "The branch that counts where none is named.",
        scope: "tenant",
        params: branchParams,
        answer: branchOperationsAnswer,
      },
      async ({ params }) => {
        const { project, branch } = await findBranch(parts, params);
        await serialized(parts.db, async (db) => {
          const change = db.updateTable("branches").where("project_id", "=", project.id);
          await change.set({ is_default: 0 }).execute();
          await change.set({ is_default: 1 }).where("id", "=", branch.id).execute();
        });
        return { ...(await answer(params)), operations: [] };
      },
    ),
  ];
}

function view(row: BranchRow, storage: Awaited<ReturnType<typeof storageView>>) {
  return branchView(row, { parent: storage.parentOf(row), isArchived: storage.isArchived(row) });
}

function branchesOf(parts: Parts, project: ProjectRow): Promise<BranchRow[]> {
  return parts.db.selectFrom("branches").selectAll().where("project_id", "=", project.id).execute();
}

interface NewBranchRequest {
  readonly branch?:
    | {
        readonly parent_id?: string | undefined;
        readonly name?: string | undefined;
        readonly parent_lsn?: string | undefined;
        readonly parent_timestamp?: string | undefined;
        readonly protected?: boolean | undefined;
        readonly init_source?: string | undefined;
        readonly expires_at?: string | undefined;
      }
    | undefined;
  readonly endpoints?:
    | readonly {
        readonly type: EndpointRow["type"];
        readonly suspend_timeout_seconds?: number | undefined;
        readonly autoscaling_limit_min_cu?: number | undefined;
        readonly autoscaling_limit_max_cu?: number | undefined;
        readonly settings?: Record<string, unknown> | undefined;
      }[]
    | undefined;
}

async function createBranch(parts: Parts, projectId: string, body: NewBranchRequest) {
  const wanted = body.branch ?? {};
  const initSource = initSourceOf(wanted.init_source);
  const project = await findProject(parts, projectId);
  const parent =
    wanted.parent_id === undefined
      ? await defaultBranch(parts, project)
      : (await findBranch(parts, { project_id: projectId, branch_id: wanted.parent_id })).branch;
  const at = wanted.parent_lsn ?? wanted.parent_timestamp;
  const lsn = await pointOf(parts, project, parent, at);
  const id = newBranchId();
  const branch: BranchRow = {
    ...newBranchRow({
      id,
      projectId,
      timelineId: generateTimelineId(),
      name: wanted.name ?? id,
    }),
    protected: wanted.protected === true ? 1 : 0,
    expires_at: checkExpiry(wanted.expires_at),
    init_source: initSource,
    creating: 1,
  };
  requireFreeBranchName(parts.home.config(), project.tenant_id, branch.name);
  if (initSource === "schema-only" && body.endpoints?.some(({ type }) => type === "read_only")) {
    const message =
      "a schema-only branch is made without read-only endpoints: add them when it is there";
    throw new StorageError("unsupported", "schema-only-endpoints", message);
  }
  const endpoints = (body.endpoints ?? []).map((each) => newEndpoint(project, branch, each));
  const operations = [
    await plannedBranch(parts, project, branch, { parent, lsn }),
    ...endpoints.map((endpoint) => plannedEndpoint(parts, project, endpoint)),
  ];
  const job = await parts.operations.submit(projectId, operations, async (db) => {
    await db.insertInto("branches").values(branch).execute();
    await copyRolesAndDatabases(db, parent.id, branch.id);
    for (const endpoint of endpoints) {
      await db.insertInto("endpoints").values(endpoint).execute();
    }
  });
  for (const { id: endpointId, disabled } of endpoints) {
    if (disabled === 0) {
      parts.computes.provider.expectStart(endpointId, job.done);
    }
  }
  prepareWriter(parts, { project, branch, parent, endpoints }, job.done);
  // Who connects waits for the start; what kept the endpoint from being made is told here.
  const learned =
    at === undefined && initSource === "parent-data" && endpoints.length > 0
      ? parts.newBranchRoles.learn(
          parts,
          { branch, parent, writer: await writerOf(parts, parent) },
          job.done,
        )
      : undefined;
  const done = await operationsOf(parts, job, { nearly: true });
  await learned;
  return {
    branch: await readBranch(parts, { project_id: projectId, branch_id: branch.id }),
    endpoints: await readEndpoints(parts, branch.id),
    operations: done,
    ...(await rolesAndDatabases(parts, branch.id)),
    connection_uris: await urisOf(parts, branch.id),
  };
}

/** The endpoint that writes, where it is to start: made while its timeline is. */
function prepareWriter(
  { home, computes }: Parts,
  of: {
    readonly project: ProjectRow;
    readonly branch: BranchRow;
    readonly parent: BranchRow;
    readonly endpoints: readonly EndpointRow[];
  },
  done: Promise<void>,
): void {
  const { project, branch, parent, endpoints } = of;
  const writer = endpoints.find(({ type, disabled }) => type === "read_write" && disabled === 0);
  const facts = home.knownTimelines.of(parseTimelineId(parent.timeline_id));
  if (writer === undefined || facts === undefined || branch.init_source !== "parent-data") {
    return;
  }
  const compute = {
    id: writer.id,
    tenantId: parseTenantId(project.tenant_id),
    timelineId: parseTimelineId(branch.timeline_id),
    settings: postgresSettings(writer.settings, project),
  };
  computes.prepared.add(compute, facts.pg_version, done);
}

function initSourceOf(wanted: string | undefined): "parent-data" | "schema-only" {
  if (wanted === undefined || wanted === "parent-data" || wanted === "schema-only") {
    return wanted ?? "parent-data";
  }
  const message = `init_source '${wanted}' is not supported: it is parent-data or schema-only`;
  throw new StorageError("unsupported", "no-init-source", message);
}

/** With the parent's data, or a root of its own with the parent's schema. */
async function plannedBranch(
  parts: Parts,
  project: ProjectRow,
  branch: BranchRow,
  { parent, lsn }: { readonly parent: BranchRow; readonly lsn: string },
): Promise<PlannedOperation> {
  const of = { action: "create_branch", branchId: branch.id };
  const made = {
    branchId: branch.id,
    tenantId: project.tenant_id,
    timelineId: branch.timeline_id,
    name: branch.name,
  };
  if (branch.init_source === "parent-data") {
    const args = { ...made, parent: { timelineId: parent.timeline_id, lsn } };
    return planned(parts.kinds.createBranch, { ...of, args });
  }
  const [tenantId, timelineId] = [
    parseTenantId(project.tenant_id),
    parseTimelineId(parent.timeline_id),
  ];
  const pgVersion = await majorOf(parts.home, tenantId, timelineId);
  const source = { branchId: parent.id, lsn };
  const args = { ...made, projectId: project.id, pgVersion, source };
  return planned(parts.kinds.createSchemaBranch, { ...of, args });
}

type EndpointOptions = NonNullable<NewBranchRequest["endpoints"]>[number];

export function newEndpoint(
  project: ProjectRow,
  branch: BranchRow,
  options: EndpointOptions & {
    readonly name?: string | undefined;
    readonly disabled?: boolean | undefined;
  },
): EndpointRow {
  const row = newEndpointRow(newEndpointId(), branch, options.type);
  const defaults = JSON.parse(project.default_endpoint_settings) as Record<string, unknown>;
  const settings = options.settings ?? {};
  return {
    ...row,
    name: options.name ?? null,
    disabled: options.disabled === true ? 1 : 0,
    suspend_timeout_seconds: options.suspend_timeout_seconds ?? defaultTimeout(defaults),
    autoscaling_limit_min_cu: options.autoscaling_limit_min_cu ?? row.autoscaling_limit_min_cu,
    autoscaling_limit_max_cu: options.autoscaling_limit_max_cu ?? row.autoscaling_limit_max_cu,
    settings: JSON.stringify(
      defaults["pg_settings"] && settings["pg_settings"] === undefined
        ? { ...settings, pg_settings: defaults["pg_settings"] }
        : settings,
    ),
    creating: 1,
  };
}

/** A read-only one is a replica, as Neon's are. */
export function plannedEndpoint(
  parts: Parts,
  project: ProjectRow,
  endpoint: EndpointRow,
): PlannedOperation {
  return planned(parts.kinds.createEndpoint, {
    action: "start_compute",
    branchId: endpoint.branch_id,
    endpointId: endpoint.id,
    args: {
      endpointId: endpoint.id,
      tenantId: project.tenant_id,
      branchId: endpoint.branch_id,
      staticLsn: null,
      replica: endpoint.type === "read_only",
      settings: postgresSettings(endpoint.settings, project),
      start: endpoint.disabled === 0,
    },
  });
}

/** The LSN that `at`, an LSN or a time, means on a branch; absent: its newest. StorageError `invalid`. */
export async function pointOf(
  parts: Parts,
  project: ProjectRow,
  branch: BranchRow,
  at: string | undefined,
): Promise<string> {
  const named = {
    tenantId: parseTenantId(project.tenant_id),
    timelineId: parseTimelineId(branch.timeline_id),
    name: branch.name,
  };
  if (at === undefined) {
    return formatLsn(await newestLsn(parts.home, named));
  }
  const lsn = await resolvePoint(parts.home, named, at, () => {});
  await requireOnBranch(parts.home, named, lsn, at);
  return formatLsn(lsn);
}

function checkExpiry(text: string | null | undefined): string | null {
  if (text === undefined || text === null) {
    return null;
  }
  const time = Date.parse(text);
  if (Number.isNaN(time)) {
    throw new StorageError("invalid", "bad-time", `expires_at '${text}' is no time`);
  }
  if (time <= nowMs()) {
    throw new StorageError("invalid", "time-in-past", `expires_at ${text} is in the past`);
  }
  return new Date(time).toISOString();
}

async function updateBranch(
  parts: Parts,
  { project, branch }: { project: ProjectRow; branch: BranchRow },
  change: {
    readonly name?: string | undefined;
    readonly protected?: boolean | undefined;
    readonly expires_at?: string | null | undefined;
  },
): Promise<void> {
  const expires = change.expires_at;
  const values = {
    // Kysely leaves out what is undefined: what is changed at the same time is not taken back, a protection, say.
    protected: change.protected === undefined ? undefined : Number(change.protected),
    expires_at: expires === undefined ? undefined : checkExpiry(expires),
    updated_at: nowText(),
  };
  if (typeof values.expires_at === "string" && branch.is_default === 1) {
    const message = `branch ${branch.name} is the default branch and cannot expire`;
    throw new StorageError("invalid", "default-branch", message);
  }
  const { name } = change;
  if (name !== undefined && name !== branch.name) {
    const tenantId = parseTenantId(project.tenant_id);
    await withHomeLocked(parts.home, async () =>
      renameBranch(parts.home, tenantId, branch.name, name),
    );
  }
  await parts.db.updateTable("branches").set(values).where("id", "=", branch.id).execute();
}

export async function deleteBranch(parts: Parts, project: ProjectRow, branch: BranchRow) {
  const refuse = (code: string, why: string) =>
    new StorageError("invalid", code, `branch ${branch.name} ${why}`);
  if (branch.is_default === 1) {
    throw refuse("default-branch", "is the default branch and cannot be deleted");
  }
  if (branch.protected === 1) {
    throw refuse("protected-branch", "is protected and cannot be deleted");
  }
  const job = await parts.operations.submit(project.id, [
    planned(parts.kinds.deleteBranch, {
      action: "delete_timeline",
      branchId: branch.id,
      args: {
        branchId: branch.id,
        tenantId: project.tenant_id,
        timelineId: branch.timeline_id,
      },
    }),
  ]);
  return await operationsOf(parts, job);
}

async function restoreBranch(
  parts: Parts,
  { project, branch }: { project: ProjectRow; branch: BranchRow },
  wanted: {
    readonly source_branch_id: string;
    readonly source_lsn?: string | undefined;
    readonly source_timestamp?: string | undefined;
    readonly preserve_under_name?: string | undefined;
  },
) {
  const of = { project_id: project.id, branch_id: wanted.source_branch_id };
  const { branch: source } = await findBranch(parts, of);
  const at = wanted.source_lsn ?? wanted.source_timestamp;
  if (source.id === branch.id && at === undefined) {
    const message =
      "a branch is restored to its own past: source_lsn or source_timestamp is needed";
    throw new StorageError("invalid", "no-point-in-time", message);
  }
  const lsn = await pointOf(parts, project, source, at);
  const preserveUnder = wanted.preserve_under_name || null;
  if (preserveUnder !== null) {
    requireFreeBranchName(parts.home.config(), project.tenant_id, preserveUnder);
  }
  const job = await parts.operations.submit(project.id, [
    planned(parts.kinds.restoreBranch, {
      action: "create_branch",
      branchId: branch.id,
      args: {
        branchId: branch.id,
        tenantId: project.tenant_id,
        name: branch.name,
        fromTimelineId: branch.timeline_id,
        sourceBranchId: source.id,
        source: { timelineId: source.timeline_id, lsn },
        preserveUnder,
      },
    }),
  ]);
  return await operationsOf(parts, job);
}
