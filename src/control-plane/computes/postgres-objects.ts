// Roles and databases in a running Postgres, through its agent: brings them in, and tells which are there.

import { errorKind } from "../../base/errors.ts";
import type { ConfigureRequest, RoleSpec } from "../../compute/api.ts";
import type { ComputeClient } from "../../compute/client.ts";
import { SUPERUSER } from "../../postgres/installation.ts";

export interface WantedRole {
  readonly name: string;
  /** SCRAM secret; null: its password stays what it is. */
  readonly verifier: string | null;
  readonly noLogin: boolean;
}

export interface WantedDatabase {
  readonly name: string;
  readonly owner: string;
}

/** What is so already stays. */
export interface PostgresChanges {
  readonly roles?: readonly WantedRole[];
  readonly databases?: readonly WantedDatabase[];
  readonly renamedDatabase?: { readonly from: string; readonly to: string } | undefined;
  readonly droppedDatabases?: readonly string[];
  readonly droppedRoles?: readonly string[];
}

export interface PostgresObjects {
  readonly roles: readonly string[];
  readonly databases: readonly WantedDatabase[];
}

/** Of which the agent makes users' roles members. */
export const USERS_GROUP = "neon_superuser";
const SYSTEM_DATABASES = new Set(["postgres", "template0", "template1"]);

/** Names that are not users': the bootstrap superuser, Postgres's own, the group. */
export function isSystemRole(name: string): boolean {
  return name === SUPERUSER || name === USERS_GROUP || name.startsWith("pg_");
}

export function isSystemDatabase(name: string): boolean {
  return SYSTEM_DATABASES.has(name);
}

/** Idempotent. StorageError with Postgres's own words where it refuses. */
export async function applyChanges(agent: ComputeClient, changes: PostgresChanges): Promise<void> {
  const { roles = [], databases = [], renamedDatabase: renamed } = changes;
  const request: ConfigureRequest = {
    spec: {
      cluster: { roles: roles.map(roleSpec), databases },
      delta_operations: [
        ...(renamed === undefined
          ? []
          : [{ action: "rename_db" as const, name: renamed.from, new_name: renamed.to }]),
        ...(changes.droppedDatabases ?? []).map((name) => ({ action: "delete_db" as const, name })),
        ...(changes.droppedRoles ?? []).map((name) => ({ action: "delete_role" as const, name })),
      ],
    },
  };
  await agent.configure(request);
}

function roleSpec({ name, verifier, noLogin }: WantedRole): RoleSpec {
  return {
    name,
    ...(verifier === null ? {} : { encrypted_password: verifier }),
    ...(noLogin ? { options: [{ name: "NOLOGIN" }] } : {}),
  };
}

/** Those that users made, or that were made for them. */
export async function readObjects(agent: ComputeClient): Promise<PostgresObjects> {
  const { roles, databases } = await agent.catalogObjects();
  return {
    roles: roles.map(({ name }) => name).filter((name) => !isSystemRole(name)),
    databases: databases
      .filter(({ name, invalid }) => !isSystemDatabase(name) && !invalid)
      .map(({ name, owner }) => ({ name, owner })),
  };
}

/** What a password of the role is checked against; null where none lets anybody in. */
export async function readVerifier(agent: ComputeClient, role: string): Promise<string | null> {
  try {
    return (await agent.roleSecret(role)).role_secret;
  } catch (error) {
    if (errorKind(error) === "invalid") {
      // No name that a role can have.
      return null;
    }
    throw error;
  }
}
