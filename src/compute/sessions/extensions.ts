// Extensions: which are there, in how many databases; and one more, in one database.

import { errorKind, StorageError } from "../../base/errors.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import type { ExtensionInstallAnswer, InstalledExtension, InstalledExtensions } from "../api.ts";
import { requireExtensions } from "./databases.ts";
import {
  maintenanceSession,
  maintenanceSessionIn,
  type PostgresAddress,
} from "./maintenance-session.ts";
import { checkName } from "./sql-text.ts";

/** Those that one can connect to, Postgres's own two first. */
export async function userDatabases(address: PostgresAddress): Promise<string[]> {
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query(
      `select datname from pg_database where datallowconn and datconnlimit <> -2 order by oid`,
    );
    return rows.map(([name]) => name!);
  } finally {
    session.close();
  }
}

/** One entry for each version of one, as the superuser owns it or another one. */
export async function installedExtensions(address: PostgresAddress): Promise<InstalledExtensions> {
  const found = new Map<string, InstalledExtension>();
  for (const database of await userDatabases(address)) {
    const session = await sessionUnlessDropped(address, database);
    if (session === undefined) {
      continue;
    }
    try {
      const { rows } = await session.query(
        `select extname, extversion, case when r.rolsuper then '1' else '0' end
           from pg_extension e join pg_roles r on r.oid = e.extowner`,
      );
      for (const row of rows) {
        const [extname, version, owned_by_superuser] = row as string[];
        const key = JSON.stringify(row);
        const n_databases = (found.get(key)?.n_databases ?? 0) + 1;
        found.set(key, {
          extname: extname!,
          version: version!,
          n_databases,
          owned_by_superuser: owned_by_superuser!,
        });
      }
    } finally {
      session.close();
    }
  }
  const extensions = [...found.values()].sort(
    (a, b) => compare(a.extname, b.extname) || compare(a.version, b.version),
  );
  return { extensions };
}

/** Undefined: the database has gone since somebody asked which there are. */
export async function sessionUnlessDropped(
  address: PostgresAddress,
  database: string,
): Promise<WireConnection | undefined> {
  try {
    return await maintenanceSessionIn(address, database);
  } catch (error) {
    if (errorKind(error) === "not-found") {
      return undefined;
    }
    throw error;
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * Makes it, or brings it to that version, as the superuser. StorageError `invalid` for what is no name; else as Postgres
 * says; `unsupported` where Postgres only reads.
 */
export async function installExtension(
  address: PostgresAddress,
  body: unknown,
): Promise<ExtensionInstallAnswer> {
  const { extension, database, version } = body as Readonly<Record<string, unknown>>;
  const wanted = {
    name: checkName(extension, "extension"),
    database: checkName(database, "database"),
    version: checkName(version, "version"),
  };
  await refuseReadOnly(address, "extensions of a read-only endpoint cannot be changed");
  await requireExtensions(address, [wanted]);
  return { extension: wanted.name, version: wanted.version };
}

/** StorageError `unsupported` with `message` where Postgres is in recovery. */
export async function refuseReadOnly(address: PostgresAddress, message: string): Promise<void> {
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query("select pg_is_in_recovery()");
    if (rows[0]?.[0] === "t") {
      throw new StorageError("unsupported", "read-only", message);
    }
  } finally {
    session.close();
  }
}
