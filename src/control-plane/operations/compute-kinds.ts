// Operations on endpoints, and on what is in their Postgres.

import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { parseLsn } from "../../base/lsn.ts";
import { type AccessAnswers, accessHolds } from "../access-answers.ts";
import type { Computes } from "../computes/computes.ts";
import { applyChanges, type PostgresChanges } from "../computes/postgres-objects.ts";
import { type Context, newNumber } from "../context.ts";
import { nowText } from "../inventory.ts";
import { type Database, serialized } from "../state/database.ts";
import type { OperationKind } from "./state-machine.ts";

export interface EndpointArgs {
  readonly endpointId: string;
}

export interface CreateEndpointArgs extends EndpointArgs {
  readonly tenantId: string;
  readonly branchId: string;
  /** Of a read-only one at a point; null: at the head. */
  readonly staticLsn: string | null;
  /** Absent in operations of earlier versions: not one. */
  readonly replica?: boolean;
  readonly settings: Readonly<Record<string, string>>;
  readonly start: boolean;
}

/** Roles and databases of a branch: first Postgres has them, then the API. */
export interface ApplyArgs extends EndpointArgs {
  readonly branchId: string;
  readonly role?: NewRole;
  readonly droppedRole?: string;
  readonly database?: { readonly name: string; readonly owner: string };
  readonly renamedDatabase?: { readonly from: string; readonly to: string };
  readonly droppedDatabase?: string;
}

export interface NewRole {
  readonly name: string;
  readonly sealedPassword: string | null;
  readonly verifier: string | null;
  readonly noLogin: boolean;
}

export interface ComputeKinds {
  readonly createEndpoint: OperationKind<CreateEndpointArgs>;
  readonly startEndpoint: OperationKind<EndpointArgs>;
  readonly suspendEndpoint: OperationKind<EndpointArgs>;
  readonly deleteEndpoint: OperationKind<EndpointArgs>;
  readonly apply: OperationKind<ApplyArgs>;
}

interface Parts extends Context {
  readonly computes: Computes;
  readonly access: AccessAnswers;
}

export function computeKinds({ db, computes, access }: Parts): ComputeKinds {
  return {
    createEndpoint: createEndpointKind(db, computes),
    startEndpoint: {
      name: "start_endpoint",
      steps: [
        {
          name: "start",
          run: async ({ endpointId }) => {
            await computes.wake(endpointId, { isNoted: true });
          },
        },
      ],
    },
    suspendEndpoint: {
      name: "suspend_endpoint",
      steps: [
        {
          name: "stop",
          run: async ({ endpointId }) => {
            await computes.suspend(endpointId, { isNoted: true });
          },
        },
      ],
    },
    deleteEndpoint: {
      name: "delete_endpoint",
      steps: [
        { name: "destroy", run: ({ endpointId }) => computes.destroy(endpointId) },
        { name: "rows", run: ({ endpointId }) => forgetEndpoint(db, endpointId) },
      ],
    },
    apply: applyKind({ db, computes, access }),
  };
}

function createEndpointKind(db: Database, computes: Computes): OperationKind<CreateEndpointArgs> {
  return {
    name: "create_endpoint",
    steps: [
      {
        name: "create",
        isSeen: true,
        run: async ({ endpointId, tenantId, branchId, staticLsn, replica, settings }) => {
          // Of now: an operation before this one in the same job may have made the timeline.
          const { timeline_id } = await db
            .selectFrom("branches")
            .select("timeline_id")
            .where("id", "=", branchId)
            .executeTakeFirstOrThrow();
          await computes.provider.create({
            id: endpointId,
            tenantId: parseTenantId(tenantId),
            timelineId: parseTimelineId(timeline_id),
            staticLsn: staticLsn === null ? undefined : parseLsn(staticLsn),
            replica,
            settings,
          });
        },
      },
      {
        name: "rows",
        isSeen: true,
        run: async ({ endpointId }) => {
          await db
            .updateTable("endpoints")
            .set({ creating: 0 })
            .where("id", "=", endpointId)
            .execute();
        },
      },
      {
        name: "start",
        isForLater: true,
        run: async ({ endpointId, start }, _keep, underWay) => {
          if (start) {
            await computes.wake(endpointId, { isNoted: true, underWay });
          }
        },
      },
    ],
    undo: async ({ endpointId }) => {
      await computes.destroy(endpointId);
      await forgetEndpoint(db, endpointId);
    },
  };
}

function applyKind({
  db,
  computes,
  access,
}: Pick<Parts, "db" | "computes" | "access">): OperationKind<ApplyArgs> {
  return {
    name: "apply_config",
    steps: [
      {
        name: "wake",
        run: async ({ endpointId }) => {
          await computes.wake(endpointId);
        },
      },
      {
        name: "postgres",
        run: async (args) => {
          // It may have fallen asleep since, or this is after a crash.
          await computes.wake(args.endpointId);
          await applyChanges(computes.provider.agent(args.endpointId), changesOf(args));
        },
      },
      {
        name: "rows",
        run: (args) => serialized(db, (transaction) => noteApplied(transaction, args)),
      },
      {
        // Who was told that it is done must not find an old password taken, or the new one refused.
        name: "proxies",
        run: async ({ branchId, role, droppedRole }) => {
          if (role !== undefined || droppedRole !== undefined) {
            await accessHolds({ db, access }, { branchId });
          }
        },
      },
    ],
  };
}

function changesOf(args: ApplyArgs): PostgresChanges {
  const { role, droppedRole, database, renamedDatabase, droppedDatabase } = args;
  return {
    roles: role === undefined ? [] : [role],
    databases: database === undefined ? [] : [database],
    renamedDatabase,
    droppedDatabases: droppedDatabase === undefined ? [] : [droppedDatabase],
    droppedRoles: droppedRole === undefined ? [] : [droppedRole],
  };
}

async function noteApplied(db: Database, args: ApplyArgs): Promise<void> {
  const { branchId, role, droppedRole, database, renamedDatabase, droppedDatabase } = args;
  if (role !== undefined) {
    await noteRole(db, branchId, role);
  }
  if (renamedDatabase !== undefined) {
    await db
      .updateTable("databases")
      .set({ name: renamedDatabase.to, updated_at: nowText() })
      .where("branch_id", "=", branchId)
      .where("name", "=", renamedDatabase.from)
      .execute();
  }
  if (database !== undefined) {
    await noteDatabase(db, branchId, database);
  }
  if (droppedDatabase !== undefined) {
    await db
      .deleteFrom("databases")
      .where("branch_id", "=", branchId)
      .where("name", "=", droppedDatabase)
      .execute();
  }
  if (droppedRole !== undefined) {
    await db
      .deleteFrom("roles")
      .where("branch_id", "=", branchId)
      .where("name", "=", droppedRole)
      .execute();
  }
}

export async function noteRole(db: Database, branchId: string, role: NewRole): Promise<void> {
  const now = nowText();
  const values = {
    sealed_password: role.sealedPassword,
    verifier: role.verifier,
    no_login: role.noLogin ? 1 : 0,
    updated_at: now,
  };
  await db
    .insertInto("roles")
    .values({ branch_id: branchId, name: role.name, ...values, created_at: now })
    .onConflict((conflict) => conflict.columns(["branch_id", "name"]).doUpdateSet(values))
    .execute();
}

export async function noteDatabase(
  db: Database,
  branchId: string,
  database: { readonly name: string; readonly owner: string },
): Promise<void> {
  const now = nowText();
  const values = { owner_name: database.owner, updated_at: now };
  await db
    .insertInto("databases")
    .values({
      id: newNumber(),
      branch_id: branchId,
      name: database.name,
      ...values,
      created_at: now,
    })
    .onConflict((conflict) => conflict.columns(["branch_id", "name"]).doUpdateSet(values))
    .execute();
}

async function forgetEndpoint(db: Database, id: string): Promise<void> {
  await db.deleteFrom("endpoints").where("id", "=", id).execute();
}
