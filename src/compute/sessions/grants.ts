// Rights of a role on a schema, as Neon's control plane asks for them.

import { errorMessage, StorageError } from "../../base/errors.ts";
import type { GrantsAnswer } from "../api.ts";
import {
  maintenanceSessionIn,
  type PostgresAddress,
  refuseReadOnly,
  sqlStateOf,
} from "./maintenance-session.ts";
import { checkName, quoteName } from "./sql-text.ts";

/** What GRANT ... ON SCHEMA takes. */
const PRIVILEGES = new Set(["CREATE", "USAGE", "ALL"]);
/** SQLSTATEs invalid_schema_name and undefined_object, a role here. */
const NOT_THERE = new Set(["3F000", "42704"]);

/**
 * StorageError `invalid` for what is no name or no privilege of a schema, `not-found` where role, schema or database is not
 * there, `unsupported` where Postgres only reads.
 */
export async function grantOnSchema(
  address: PostgresAddress,
  body: unknown,
): Promise<GrantsAnswer> {
  const { database, schema, role, privileges } = (body ?? {}) as Readonly<Record<string, unknown>>;
  const into = checkName(database, "database");
  const on = checkName(schema, "schema");
  const to = checkName(role, "role");
  if (!Array.isArray(privileges) || privileges.length === 0) {
    throw wrong("expected a list of at least one");
  }
  const words = privileges.map((word: unknown) => {
    const upper = typeof word === "string" ? word.toUpperCase() : "";
    if (!PRIVILEGES.has(upper)) {
      throw wrong(`a schema has ${[...PRIVILEGES].join(", ")}, not '${String(word)}'`);
    }
    return upper;
  });
  await refuseReadOnly(address, "rights in a read-only endpoint cannot be changed");
  const session = await maintenanceSessionIn(address, into);
  try {
    for (const word of words) {
      await session.query(`grant ${word} on schema ${quoteName(on)} to ${quoteName(to)}`);
    }
  } catch (error) {
    if (NOT_THERE.has(String(sqlStateOf(error)))) {
      throw new StorageError("not-found", "no-such-object", errorMessage(error), { cause: error });
    }
    throw error;
  } finally {
    session.close();
  }
  return { database: into, schema: on, privileges: words, role: to };
}

function wrong(problem: string): StorageError {
  return new StorageError("invalid", "bad-privilege", `privileges: ${problem}`);
}
