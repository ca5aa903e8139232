// Makes roles, databases and extensions of a running Postgres what a configuration says, in Neon's order.

import { StorageError } from "../../base/errors.ts";
import type { DeltaOperation } from "../api.ts";
import type { Configuration } from "./configuration.ts";
import {
  dropDatabases,
  renameDatabases,
  requireDatabases,
  requireExtensions,
} from "./databases.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";
import { dropRoles, renameRoles, requireRoles, requireUsersGroup } from "./roles.ts";

/**
 * Only one at a time. What is done when one step fails stays done, and asked for again it is found so.
 * StorageError `unsupported` where Postgres only reads, else as Postgres says; no message has a secret.
 */
export async function applyConfiguration(
  address: PostgresAddress,
  { roles, databases, extensions, operations }: Configuration,
): Promise<void> {
  if ([roles, databases, extensions, operations].every((list) => list.length === 0)) {
    return;
  }
  const of = (action: DeltaOperation["action"]) =>
    operations.filter((operation) => operation.action === action);
  const namesOf = (action: DeltaOperation["action"]) => of(action).map(({ name }) => name);
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query("select pg_is_in_recovery()");
    if (rows[0]?.[0] === "t") {
      const message = "roles, databases and extensions of a read-only endpoint cannot be changed";
      throw new StorageError("unsupported", "read-only", message);
    }
    await requireUsersGroup(session, address.pgVersion);
    await renameRoles(session, of("rename_role"));
    await requireRoles(session, roles);
    await renameDatabases(session, of("rename_db"));
    await dropDatabases(address, session, namesOf("delete_db"));
    await requireDatabases(address, session, databases);
    await requireExtensions(address, extensions);
    await dropRoles(address, session, namesOf("delete_role"));
  } finally {
    session.close();
  }
}
