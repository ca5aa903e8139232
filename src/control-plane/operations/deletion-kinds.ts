// Operations by which a project goes and comes back: deleted but kept, recovered, removed for good.

import { nowMs } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId } from "../../base/ids.ts";
import { markDeleted, unmarkDeleted } from "../../local/branches/deleted-tenants.ts";
import { deleteTenant } from "../../local/branches.ts";
import { withHomeLocked } from "../../local/lock.ts";
import { nowText } from "../inventory.ts";
import type { OperationKind } from "./state-machine.ts";
import { destroyEndpoints, endpointsOf, type StorageParts } from "./storage-kinds.ts";

export interface ProjectArgs {
  readonly projectId: string;
  readonly tenantId: string;
}

export interface DeleteArgs extends ProjectArgs {
  /** Milliseconds since 1970. */
  readonly deletedAtMs: number;
  readonly recoverableUntilMs: number;
}

export interface DeletionKinds {
  /** Nothing runs on it any more; all of it is kept. */
  readonly deleteProject: OperationKind<DeleteArgs>;
  readonly recoverProject: OperationKind<ProjectArgs>;
  /** For good. */
  readonly purgeProject: OperationKind<ProjectArgs>;
}

export function deletionKinds(parts: StorageParts): DeletionKinds {
  return {
    deleteProject: deleteKind(parts),
    recoverProject: recoverKind(parts),
    purgeProject: purgeKind(parts),
  };
}

function deleteKind(parts: StorageParts): OperationKind<DeleteArgs> {
  const { home, db, computes } = parts;
  return {
    name: "delete_project_softly",
    steps: [
      {
        // First: what is started after it sees it, what was started before it is stopped by the next step.
        name: "mark",
        run: ({ tenantId, deletedAtMs, recoverableUntilMs }) =>
          withHomeLocked(home, async () =>
            markDeleted(home, parseTenantId(tenantId), { deletedAtMs, recoverableUntilMs }),
          ),
      },
      {
        name: "endpoints",
        run: async ({ projectId, tenantId }) => {
          for (const id of await endpointsOf(parts, tenantId)) {
            await computes.suspend(id, { isNoted: true });
            // Also one whose start had only begun.
            await computes.provider.stop(id);
          }
          await forgetPointEndpoints({ db, computes }, projectId);
        },
      },
    ],
    undo: ({ tenantId }) =>
      withHomeLocked(home, async () => unmarkDeleted(home, parseTenantId(tenantId))),
  };
}

/** Whoever asks for a point again gets another one. */
async function forgetPointEndpoints(
  { db, computes }: Pick<StorageParts, "db" | "computes">,
  projectId: string,
): Promise<void> {
  const rows = await db
    .selectFrom("endpoints")
    .select("id")
    .where("project_id", "=", projectId)
    .where("ephemeral", "=", 1)
    .execute();
  for (const { id } of rows) {
    await computes.destroy(id);
    await db.deleteFrom("endpoints").where("id", "=", id).execute();
  }
}

function recoverKind({ home, db }: StorageParts): OperationKind<ProjectArgs> {
  return {
    name: "recover_project",
    steps: [
      {
        // As Neon's: a branch that comes back does not go again at once, because its time was over meanwhile.
        name: "expiry",
        run: async ({ projectId }) => {
          await db
            .updateTable("branches")
            .set({ expires_at: null, updated_at: nowText() })
            .where("project_id", "=", projectId)
            .where("expires_at", "<=", nowText())
            .execute();
        },
      },
      {
        name: "unmark",
        run: ({ tenantId }) =>
          withHomeLocked(home, async () => unmarkDeleted(home, parseTenantId(tenantId))),
      },
    ],
  };
}

/** `delete_project`, as versions before called it: one of theirs that was cut short is gone on with. */
function purgeKind(parts: StorageParts): OperationKind<ProjectArgs> {
  const { home, db } = parts;
  return {
    name: "delete_project",
    steps: [
      { name: "endpoints", run: ({ tenantId }) => destroyEndpoints(parts, tenantId) },
      {
        name: "tenant",
        run: ({ tenantId }) =>
          withHomeLocked(home, () => deleteTenant(home, parseTenantId(tenantId))),
      },
      {
        name: "rows",
        run: async ({ projectId }) => {
          await db.deleteFrom("projects").where("id", "=", projectId).execute();
        },
      },
    ],
  };
}

/** StorageError `not-found` where it is not deleted, or its time is over. */
export function requireRecoverable(
  { home }: Pick<StorageParts, "home">,
  of: { readonly id: string; readonly tenant_id: string },
): void {
  const deleted = home.config().deletedTenants.get(of.tenant_id);
  if (deleted === undefined) {
    const message = `project ${of.id} is not deleted`;
    throw new StorageError("invalid", "not-deleted", message);
  }
  if (nowMs() >= deleted.recoverableUntilMs) {
    const until = new Date(deleted.recoverableUntilMs).toISOString();
    const message = `project ${of.id} is deleted and could be recovered until ${until}`;
    throw new StorageError("not-found", "no-project", message);
  }
}
