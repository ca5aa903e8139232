// Finds what a request names, and what the storage knows of it.

import { sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId } from "../../base/ids.ts";
import { controllerOf } from "../../local/controller.ts";
import type { AccessAnswers } from "../access-answers.ts";
import type { Caller } from "../accounts.ts";
import type { Computes } from "../computes/computes.ts";
import type { Context } from "../context.ts";
import type { Inventory } from "../inventory.ts";
import type { ComputeKinds } from "../operations/compute-kinds.ts";
import type { DeletionKinds } from "../operations/deletion-kinds.ts";
import type { Job, Operations } from "../operations/operations.ts";
import type { SchemaKinds } from "../operations/schema-branch.ts";
import type { StorageKinds } from "../operations/storage-kinds.ts";
import type { BranchRow, EndpointRow, ProjectRow } from "../state/tables.ts";
import type { NewBranchRoles } from "./new-branch-roles.ts";
import { type FrontAddress, operationView, type Parent } from "./views.ts";

/** What the routes stand on. */
export interface Parts extends Context {
  readonly inventory: Inventory;
  readonly computes: Computes;
  readonly operations: Operations;
  readonly access: AccessAnswers;
  readonly newBranchRoles: NewBranchRoles;
  readonly kinds: StorageKinds & DeletionKinds & SchemaKinds & ComputeKinds;
  readonly front: FrontAddress;
}

/** An answer waits so long for its operations: on one machine most are done by then. */
const ANSWER_PATIENCE_MS = 20_000;

export function notFound(what: string, name: string): StorageError {
  return new StorageError("not-found", `no-${what}`, `${what} ${name} not found`);
}

export function callerOf(request: { readonly caller: unknown }): Caller {
  return request.caller as Caller;
}

/** As the home has it now. StorageError `not-found`, also of one that is deleted. */
export async function findProject(parts: Parts, id: string): Promise<ProjectRow> {
  const row = await findEvenDeleted(parts, id);
  const deleted = parts.home.config().deletedTenants.get(row.tenant_id);
  if (deleted !== undefined) {
    const until = new Date(deleted.recoverableUntilMs).toISOString();
    const message = `project ${id} not found: it is deleted, and can be recovered until ${until}`;
    throw new StorageError("not-found", "no-project", message);
  }
  return row;
}

/** Also one that is deleted and kept for a time. StorageError `not-found`. */
export async function findEvenDeleted(parts: Parts, id: string): Promise<ProjectRow> {
  await parts.inventory.refresh();
  const row = await parts.db
    .selectFrom("projects")
    .selectAll()
    .where("id", "=", id)
    .executeTakeFirst();
  if (row === undefined) {
    throw notFound("project", id);
  }
  return row;
}

export interface ProjectBranch {
  readonly project: ProjectRow;
  readonly branch: BranchRow;
}

export async function findBranch(
  parts: Parts,
  of: { readonly project_id: string; readonly branch_id: string },
): Promise<ProjectBranch> {
  const project = await findProject(parts, of.project_id);
  const branch = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("project_id", "=", project.id)
    .where("id", "=", of.branch_id)
    .executeTakeFirst();
  if (branch === undefined) {
    throw notFound("branch", of.branch_id);
  }
  return { project, branch };
}

export async function defaultBranch(parts: Parts, project: ProjectRow): Promise<BranchRow> {
  const branch = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("project_id", "=", project.id)
    .where("is_default", "=", 1)
    .executeTakeFirst();
  if (branch === undefined) {
    throw notFound("branch", "that is the default");
  }
  return branch;
}

export async function findEndpointRow(
  parts: Parts,
  of: { readonly project_id: string; readonly endpoint_id: string },
): Promise<{ readonly project: ProjectRow; readonly endpoint: EndpointRow }> {
  const project = await findProject(parts, of.project_id);
  const endpoint = await parts.db
    .selectFrom("endpoints")
    .selectAll()
    .where("project_id", "=", project.id)
    .where("id", "=", of.endpoint_id)
    .executeTakeFirst();
  if (endpoint === undefined) {
    throw notFound("endpoint", of.endpoint_id);
  }
  return { project, endpoint };
}

/** The one that writes; undefined where there is none. */
export async function writerOf(
  parts: Pick<Parts, "db">,
  branch: BranchRow,
): Promise<EndpointRow | undefined> {
  return parts.db
    .selectFrom("endpoints")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .where("type", "=", "read_write")
    .where("ephemeral", "=", 0)
    .orderBy("created_at")
    .orderBy("id")
    .executeTakeFirst();
}

export interface StorageView {
  parentOf(branch: BranchRow): Parent | undefined;
  isArchived(branch: BranchRow): boolean;
}

/** What the pageserver knows of a project's branches. StorageError `unavailable`. */
export async function storageView(parts: Parts, project: ProjectRow): Promise<StorageView> {
  const rows = await parts.db
    .selectFrom("branches")
    .select(["id", "timeline_id"])
    .where("project_id", "=", project.id)
    .execute();
  const idOf = new Map(rows.map((row) => [row.timeline_id, row.id]));
  const { timelines, offloaded } =
    project.creating === 1
      ? { timelines: [], offloaded: [] }
      : await controllerOf(parts.home).timelinesAndOffloaded(parseTenantId(project.tenant_id));
  const starts = new Map(
    [
      ...timelines.map((info) => ({ ...info, lsn: info.ancestor_lsn })),
      ...offloaded.map((info) => ({ ...info, lsn: info.ancestor_retain_lsn })),
    ].map((info) => [info.timeline_id, { ancestor: info.ancestor_timeline_id, lsn: info.lsn }]),
  );
  const archived = new Set(offloaded.map((info) => info.timeline_id));
  return {
    parentOf: (branch) => {
      const start = starts.get(branch.timeline_id);
      const id = idOf.get(start?.ancestor ?? "");
      return id === undefined || start?.lsn == null ? undefined : { id, lsn: start.lsn };
    },
    isArchived: (branch) => archived.has(branch.timeline_id),
  };
}

/**
 * Its operations as they are when all have ended, or after some time; throws why one failed. `nearly`: what is for later
 * may be under way.
 */
export async function operationsOf(parts: Parts, job: Job, { nearly = false } = {}) {
  const patience = new AbortController();
  const tired = sleep(ANSWER_PATIENCE_MS, patience.signal).catch(() => undefined);
  try {
    await Promise.race([job.done, tired, ...(nearly ? [job.nearlyDone] : [])]);
  } finally {
    patience.abort();
  }
  const ids = job.operations.map(({ id }) => id);
  const rows = await parts.db
    .selectFrom("operations")
    .selectAll()
    .where("id", "in", ids)
    .orderBy("position")
    .execute();
  return rows.map(operationView);
}
