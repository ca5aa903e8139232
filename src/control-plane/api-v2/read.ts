// Reads again what a request changed, for its answer.

import { nowMs } from "../../base/clock.ts";
import { frameEnd, frameStart } from "../consumption/frames.ts";
import type { ProjectRow } from "../state/tables.ts";
import { findBranch, notFound, type Parts, storageView, writerOf } from "./lookup.ts";
import { opened } from "./names.ts";
import {
  branchView,
  connectionDetails,
  databaseView,
  endpointView,
  projectView,
  roleView,
} from "./views.ts";

/** With what it has used this month. */
export async function readProject({ db, front }: Parts, project: ProjectRow) {
  const startMs = frameStart("monthly", nowMs());
  const start = new Date(startMs).toISOString();
  const row = await db
    .selectFrom("consumption")
    .selectAll()
    .where("project_id", "=", project.id)
    .where("granularity", "=", "monthly")
    .where("frame_start", "=", start)
    .executeTakeFirst();
  const end = new Date(frameEnd("monthly", startMs)).toISOString();
  return projectView(project, front, { start, end, row });
}

/** By project: how long their endpoints have run, as far back as is known; milliseconds. */
export async function activeTimes(
  { db }: Parts,
  projectIds: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const times = new Map<string, number>();
  const rows = await db
    .selectFrom("consumption")
    .select(["project_id", "active_ms"])
    .where("project_id", "in", ["", ...projectIds])
    .where("granularity", "=", "monthly")
    .execute();
  for (const { project_id: id, active_ms: ms } of rows) {
    times.set(id, (times.get(id) ?? 0) + ms);
  }
  return times;
}

export async function readBranch(
  parts: Parts,
  of: { readonly project_id: string; readonly branch_id: string },
) {
  const { project, branch } = await findBranch(parts, of);
  const storage = await storageView(parts, project);
  return branchView(branch, {
    parent: storage.parentOf(branch),
    isArchived: storage.isArchived(branch),
  });
}

export async function readEndpoint({ db, computes, front }: Parts, id: string) {
  const row = await db.selectFrom("endpoints").selectAll().where("id", "=", id).executeTakeFirst();
  if (row === undefined) {
    throw notFound("endpoint", id);
  }
  return endpointView(row, computes.stateOf(id), front);
}

export async function readEndpoints({ db, computes, front }: Parts, branchId: string) {
  const rows = await db
    .selectFrom("endpoints")
    .selectAll()
    .where("branch_id", "=", branchId)
    .where("ephemeral", "=", 0)
    .orderBy("created_at")
    .orderBy("id")
    .execute();
  return rows.map((row) => endpointView(row, computes.stateOf(row.id), front));
}

/** `password`: of the only role, which has just been made. */
export async function rolesAndDatabases({ db }: Parts, branchId: string, password?: string) {
  const roles = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branchId)
    .orderBy("name")
    .execute();
  const databases = await db
    .selectFrom("databases")
    .selectAll()
    .where("branch_id", "=", branchId)
    .orderBy("name")
    .execute();
  return {
    roles: roles.map((row) => roleView(row, password)),
    databases: databases.map(databaseView),
  };
}

/** Of each role with a known password and each database, by the endpoint that writes. */
export async function urisOf(parts: Parts, branchId: string) {
  const { db, front } = parts;
  const branch = await db
    .selectFrom("branches")
    .selectAll()
    .where("id", "=", branchId)
    .executeTakeFirstOrThrow();
  const endpoint = await writerOf(parts, branch);
  if (endpoint === undefined) {
    return [];
  }
  const roles = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branchId)
    .execute();
  const databases = await db
    .selectFrom("databases")
    .selectAll()
    .where("branch_id", "=", branchId)
    .execute();
  return databases.flatMap((database) => {
    const role = roles.find(({ name }) => name === database.owner_name);
    const password = role && opened(parts, role);
    return role === undefined || password === undefined
      ? []
      : [
          connectionDetails(
            { endpointId: endpoint.id, role: role.name, password, database: database.name },
            front,
          ),
        ];
  });
}
