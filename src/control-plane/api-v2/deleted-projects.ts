// Deletion of projects: at first they are only out of sight and asleep, and come back whole until their time is over.

import { nowMs } from "../../base/clock.ts";
import { errorMessage } from "../../base/errors.ts";
import { parseTenantId } from "../../base/ids.ts";
import { type Route, route } from "../../http/route.ts";
import { DEFAULT_DELETED_PROJECT_RETENTION_SECONDS } from "../../local/config.ts";
import { controllerOf } from "../../local/controller.ts";
import type { DeletedTenant } from "../../local/state/home-state.ts";
import { requireRecoverable } from "../operations/deletion-kinds.ts";
import { planned } from "../operations/state-machine.ts";
import type { ProjectRow } from "../state/tables.ts";
import { findEvenDeleted, findProject, operationsOf, type Parts, storageView } from "./lookup.ts";
import { readProject } from "./read.ts";
import {
  deletedProjectAnswer,
  projectDeleteQuery,
  projectParams,
  recoveredProjectAnswer,
} from "./schemas.ts";
import { branchView, deletionView } from "./views.ts";

const ONE = "/api/v2/projects/{project_id}";

export function deletedProjectRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "DELETE",
        path: ONE,
        summary: "Deletes it: kept for a time and recoverable, or for good.",
        scope: "tenant",
        params: projectParams,
        query: projectDeleteQuery,
        answer: deletedProjectAnswer,
      },
      async ({ params, query }) => {
        const isForGood = query.hard_delete === "true";
        const row = isForGood
          ? await findEvenDeleted(parts, params.project_id)
          : await findProject(parts, params.project_id);
        const view = { ...(await readProject(parts, row)), ...(await sizeOf(parts, row)) };
        const deleted = isForGood ? undefined : await deleteSoftly(parts, row);
        if (deleted === undefined) {
          await operationsOf(parts, await purge(parts, row));
        }
        return { project: { ...view, ...deletionView(deleted) } };
      },
    ),
    route(
      {
        method: "POST",
        path: `${ONE}/recover`,
        summary: "Brings a deleted project back, whole.",
        scope: "tenant",
        params: projectParams,
        answer: recoveredProjectAnswer,
      },
      async ({ params }) => {
        const row = await findEvenDeleted(parts, params.project_id);
        requireRecoverable(parts, row);
        const operation = planned(parts.kinds.recoverProject, {
          action: "timeline_unarchive",
          args: { projectId: row.id, tenantId: row.tenant_id },
        });
        // Looked at again where nobody else can have begun to remove it.
        const job = await parts.operations.submit(row.id, [operation], async () =>
          requireRecoverable(parts, row),
        );
        await operationsOf(parts, job);
        return { project: await readProject(parts, row), branches: await branchesOf(parts, row) };
      },
    ),
  ];
}

/** What it takes in the storage; nothing where the storage does not tell: that keeps nobody from deleting. */
async function sizeOf(parts: Parts, { tenant_id }: ProjectRow) {
  try {
    const { size } = await controllerOf(parts.home).syntheticSize(parseTenantId(tenant_id));
    return { synthetic_storage_size: size };
  } catch (error) {
    parts.logger.info({ tenant: tenant_id, reason: errorMessage(error) }, "size is not known");
    return {};
  }
}

/** Undefined where nothing that is deleted is kept. */
async function deleteSoftly(parts: Parts, row: ProjectRow): Promise<DeletedTenant | undefined> {
  const { deletedProjectRetentionSeconds } = parts.home.config();
  const seconds = deletedProjectRetentionSeconds ?? DEFAULT_DELETED_PROJECT_RETENTION_SECONDS;
  if (seconds === 0) {
    return undefined;
  }
  const deletedAtMs = nowMs();
  const recoverableUntilMs = deletedAtMs + 1000 * seconds;
  const operation = planned(parts.kinds.deleteProject, {
    action: "timeline_mark_invisible",
    args: { projectId: row.id, tenantId: row.tenant_id, deletedAtMs, recoverableUntilMs },
  });
  await operationsOf(parts, await parts.operations.submit(row.id, [operation]));
  return { deletedAtMs, recoverableUntilMs, wasDefault: false };
}

function purge(parts: Parts, row: ProjectRow, mayStill: () => boolean = () => true) {
  const operation = planned(parts.kinds.purgeProject, {
    action: "delete_timeline",
    args: { projectId: row.id, tenantId: row.tenant_id },
  });
  return parts.operations.submit(row.id, [operation], async () => {
    if (!mayStill()) {
      throw new Recovered();
    }
  });
}

class Recovered extends Error {}

async function branchesOf(parts: Parts, project: ProjectRow) {
  const rows = await parts.db
    .selectFrom("branches")
    .selectAll()
    .where("project_id", "=", project.id)
    .orderBy("created_at")
    .orderBy("id")
    .execute();
  const storage = await storageView(parts, project);
  return rows.map((row) =>
    branchView(row, { parent: storage.parentOf(row), isArchived: storage.isArchived(row) }),
  );
}

/** Removes those whose time is over. One that cannot be removed now is looked at again the next time. */
export async function purgeDeletedProjects(parts: Parts): Promise<void> {
  const isOver = (tenantId: string) => {
    const deleted = parts.home.config().deletedTenants.get(tenantId);
    return deleted !== undefined && nowMs() >= deleted.recoverableUntilMs;
  };
  const tenants = [...parts.home.config().deletedTenants.keys()].filter(isOver);
  if (tenants.length === 0) {
    return;
  }
  // Of a control plane that has lost its state they have no row yet.
  await parts.inventory.refresh();
  const rows = await parts.db
    .selectFrom("projects")
    .selectAll()
    .where("tenant_id", "in", tenants)
    .execute();
  for (const row of rows) {
    try {
      await (await purge(parts, row, () => isOver(row.tenant_id))).done;
      parts.logger.info({ project: row.id }, "removed for good: its time was over");
    } catch (error) {
      if (!(error instanceof Recovered)) {
        const reason = errorMessage(error);
        parts.logger.info({ project: row.id, reason }, "deleted project is still there");
      }
    }
  }
}
