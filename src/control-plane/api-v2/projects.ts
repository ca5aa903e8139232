// /projects: a project is a tenant with a name, made with its first branch, endpoint, role and database.

import { StorageError, withContext } from "../../base/errors.ts";
import { generateTenantId, generateTimelineId, parseTenantId } from "../../base/ids.ts";
import { type Route, route } from "../../http/route.ts";
import { checkBranchName, DEFAULT_BRANCH_NAME } from "../../local/branches.ts";
import { pgBinOf } from "../../local/config.ts";
import { controllerOf } from "../../local/controller.ts";
import { findInstallation } from "../../postgres/installation.ts";
import { accessHolds } from "../access-answers.ts";
import { DEFAULT_RETENTION_SECONDS, newBranchRow, newEndpointRow, nowText } from "../inventory.ts";
import { noteDatabase, noteRole } from "../operations/compute-kinds.ts";
import { planned } from "../operations/state-machine.ts";
import { newBranchId, newEndpointId, newProjectId } from "../public-ids.ts";
import { serialized } from "../state/database.ts";
import type { ProjectRow } from "../state/tables.ts";
import { defaultTimeout, postgresSettings, replicatesLogically } from "./endpoint-settings.ts";
import {
  callerOf,
  findEndpointRow,
  findProject,
  notFound,
  operationsOf,
  type Parts,
} from "./lookup.ts";
import { checkName, newPassword, sealed } from "./names.ts";
import { page } from "./pages.ts";
import {
  activeTimes,
  readBranch,
  readEndpoints,
  readProject,
  rolesAndDatabases,
  urisOf,
} from "./read.ts";
import {
  createdProjectAnswer,
  projectAnswer,
  projectCreateBody,
  projectOperationsAnswer,
  projectParams,
  projectsAnswer,
  projectsQuery,
  projectUpdateBody,
  sharedProjectsAnswer,
} from "./schemas.ts";
import { deletionView, projectListItem } from "./views.ts";

const BASE = "/api/v2/projects";
const DEFAULT_ROLE = "neondb_owner";
const DEFAULT_DATABASE = "neondb";

export function projectRoutes(parts: Parts): Route[] {
  return [...listRoutes(parts), ...changeRoutes(parts)];
}

function listRoutes(parts: Parts): Route[] {
  const { db, front } = parts;
  return [
    route(
      {
        method: "GET",
        path: BASE,
        summary: "Projects, newest first.",
        scope: "admin",
        query: projectsQuery,
        answer: projectsAnswer,
      },
      async (request) => {
        await parts.inventory.refresh();
        const { search, limit, cursor, tenant_id: tenantId } = request.query;
        const isDeleted = request.query.recoverable === "true";
        const { deletedTenants } = parts.home.config();
        const own = callerOf(request).projectId;
        const all = await db.selectFrom("projects").selectAll().execute();
        const seen = all.filter(
          (row) =>
            deletedTenants.has(row.tenant_id) === isDeleted &&
            (own === null || row.id === own) &&
            (tenantId === undefined || row.tenant_id === tenantId) &&
            (search === undefined || row.name.includes(search) || row.id.includes(search)),
        );
        const order = {
          by: (row: ProjectRow) => [row.created_at, row.id],
          descending: true,
        };
        const { rows, cursor: next = cursor } = page(seen, order, { limit, cursor });
        const ids = rows.map(({ id }) => id);
        const times = await activeTimes(parts, ids);
        return {
          projects: rows.map((row) => ({
            ...projectListItem(row, front, times.get(row.id) ?? 0),
            ...deletionView(deletedTenants.get(row.tenant_id)),
          })),
          // As Neon's: clients stop at a page that is not full.
          ...(next ? { pagination: { cursor: next } } : {}),
          applications: {},
          integrations: {},
        };
      },
    ),
    route(
      {
        method: "GET",
        path: `${BASE}/shared`,
        summary: "Projects of others: there are none.",
        scope: "admin",
        query: projectsQuery,
        answer: sharedProjectsAnswer,
      },
      () => ({ projects: [] }),
    ),
    route(
      {
        method: "GET",
        path: `${BASE}/{project_id}`,
        summary: "One project.",
        scope: "tenant",
        params: projectParams,
        answer: projectAnswer,
      },
      async ({ params }) => ({
        project: await readProject(parts, await findProject(parts, params.project_id)),
      }),
    ),
  ];
}

function changeRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "POST",
        path: BASE,
        summary: "A new tenant with branch, endpoint, role and database.",
        scope: "admin",
        status: 201,
        body: projectCreateBody,
        answer: createdProjectAnswer,
      },
      ({ body }) => createProject(parts, body.project),
    ),
    route(
      {
        method: "PATCH",
        path: `${BASE}/{project_id}`,
        summary: "Changes name and settings.",
        scope: "tenant",
        params: projectParams,
        body: projectUpdateBody,
        answer: projectOperationsAnswer,
      },
      async ({ params, body }) => {
        await updateProject(parts, await findProject(parts, params.project_id), body.project);
        const row = await findProject(parts, params.project_id);
        return { project: await readProject(parts, row), operations: [] };
      },
    ),
  ];
}

interface WantedProject {
  readonly name?: string | undefined;
  readonly branch?:
    | {
        readonly name?: string | undefined;
        readonly role_name?: string | undefined;
        readonly database_name?: string | undefined;
      }
    | undefined;
  readonly pg_version?: number | undefined;
  readonly history_retention_seconds?: number | undefined;
  readonly settings?: Record<string, unknown> | undefined;
  readonly default_endpoint_settings?: Record<string, unknown> | undefined;
}

async function createProject(parts: Parts, wanted: WantedProject) {
  const { kinds } = parts;
  const config = parts.home.config();
  const pgVersion = wanted.pg_version ?? config.pgVersion;
  findInstallation(pgVersion, { pgBin: pgBinOf(config, pgVersion) });
  const branchName = wanted.branch?.name ?? DEFAULT_BRANCH_NAME;
  checkBranchName(branchName);
  const role = checkName("role", wanted.branch?.role_name ?? DEFAULT_ROLE);
  const database = checkName("database", wanted.branch?.database_name ?? DEFAULT_DATABASE);
  const password = newPassword();
  const project = newProjectRow(wanted, pgVersion);
  const defaults = wanted.default_endpoint_settings ?? {};
  const branch = {
    ...newBranchRow({
      id: newBranchId(),
      projectId: project.id,
      timelineId: generateTimelineId(),
      name: branchName,
    }),
    is_default: 1,
    creating: 1,
    // The endpoint's first start brings them in.
    needs_configure: 1,
  };
  const endpoint = {
    ...newEndpointRow(newEndpointId(), branch, "read_write"),
    suspend_timeout_seconds: defaultTimeout(defaults),
    settings: JSON.stringify(
      defaults["pg_settings"] ? { pg_settings: defaults["pg_settings"] } : {},
    ),
    creating: 1,
  };
  const operations = [
    planned(kinds.createProject, {
      action: "create_timeline",
      branchId: branch.id,
      args: {
        projectId: project.id,
        branchId: branch.id,
        tenantId: project.tenant_id,
        timelineId: branch.timeline_id,
        branchName,
        pgVersion,
        retentionSeconds: project.history_retention_seconds,
      },
    }),
    planned(kinds.createEndpoint, {
      action: "start_compute",
      branchId: branch.id,
      endpointId: endpoint.id,
      args: {
        endpointId: endpoint.id,
        tenantId: project.tenant_id,
        branchId: branch.id,
        staticLsn: null,
        settings: postgresSettings(endpoint.settings, project),
        start: true,
      },
    }),
  ];
  const job = await parts.operations.submit(project.id, operations, async (transaction) => {
    await transaction.insertInto("projects").values(project).execute();
    await transaction.insertInto("branches").values(branch).execute();
    await transaction.insertInto("endpoints").values(endpoint).execute();
    await noteRole(transaction, branch.id, {
      name: role,
      ...sealed(parts, role, password),
      noLogin: false,
    });
    await noteDatabase(transaction, branch.id, { name: database, owner: role });
  });
  const done = await operationsOf(parts, job);
  const of = { project_id: project.id, branch_id: branch.id };
  return {
    project: await readProject(parts, await findProject(parts, project.id)),
    connection_uris: await urisOf(parts, branch.id),
    ...(await rolesAndDatabases(parts, branch.id, password)),
    operations: done,
    branch: await readBranch(parts, of),
    endpoints: await readEndpoints(parts, branch.id),
  };
}

function newProjectRow(wanted: WantedProject, pgVersion: number): ProjectRow {
  const id = newProjectId();
  const now = nowText();
  return {
    id,
    tenant_id: generateTenantId(),
    name: wanted.name ?? id,
    pg_version: pgVersion,
    history_retention_seconds: wanted.history_retention_seconds ?? DEFAULT_RETENTION_SECONDS,
    settings: JSON.stringify(wanted.settings ?? {}),
    default_endpoint_settings: JSON.stringify(wanted.default_endpoint_settings ?? {}),
    creating: 1,
    created_at: now,
    updated_at: now,
  };
}

type ProjectChange = Omit<WantedProject, "branch" | "pg_version">;

async function updateProject(parts: Parts, row: ProjectRow, change: ProjectChange): Promise<void> {
  const retention = change.history_retention_seconds;
  if (retention !== undefined) {
    const tenantId = parseTenantId(row.tenant_id);
    await controllerOf(parts.home).patchTenantConfig(tenantId, { pitr_interval: `${retention}s` });
  }
  const merged = (before: string, with_: Record<string, unknown> | undefined) =>
    JSON.stringify({ ...JSON.parse(before), ...with_ });
  const settings = await serialized(parts.db, async (db) => {
    // As it is by now: others may have changed it since it was found.
    const query = db.selectFrom("projects").selectAll().where("id", "=", row.id);
    const now = await query.executeTakeFirstOrThrow(() => notFound("project", row.id));
    const settings = merged(now.settings, change.settings);
    if (replicatesLogically(now.settings) && !replicatesLogically(settings)) {
      const message = "logical replication stays: slots would be lost without it";
      throw new StorageError("invalid", "logical-replication-stays", message);
    }
    const values = {
      // What is undefined Kysely leaves out.
      name: change.name,
      history_retention_seconds: retention,
      settings,
      default_endpoint_settings: merged(
        now.default_endpoint_settings,
        change.default_endpoint_settings,
      ),
      updated_at: nowText(),
    };
    await db.updateTable("projects").set(values).where("id", "=", row.id).execute();
    return settings;
  });
  if (change.settings?.["allowed_ips"] !== undefined) {
    await accessHolds(parts, { projectId: row.id });
  }
  if (replicatesLogically(settings) && change.settings !== undefined) {
    await replicateLogically(parts, row.id);
  }
}

/**
 * Endpoints that there are; those that run are suspended, as at Neon, because Postgres takes it at its start only. One that cannot
 * have it, as its endpoint.json is damaged, say, keeps no other from it; why is thrown then, and the same call again tries it again.
 */
async function replicateLogically(parts: Parts, projectId: string): Promise<void> {
  const { db, computes } = parts;
  const endpoints = await db
    .selectFrom("endpoints")
    .select("id")
    .where("project_id", "=", projectId)
    .execute();
  const { provider } = computes;
  const failures: unknown[] = [];
  for (const { id } of endpoints) {
    try {
      if (provider.exists(id) && provider.settings(id)["wal_level"] !== "logical") {
        await provider.changeSettings(id, async (set) => {
          const of = { project_id: projectId, endpoint_id: id };
          const { project, endpoint } = await findEndpointRow(parts, of);
          set(postgresSettings(endpoint.settings, project));
        });
        await computes.suspend(id);
      }
    } catch (error) {
      failures.push(withContext(error, `endpoint ${id}`));
    }
  }
  if (failures.length > 0) {
    throw failures[0];
  }
}
