// Extensions: which are there, in how many databases; and one more, in one database.

import type { ExtensionInstallAnswer, InstalledExtension, InstalledExtensions } from "../api.ts";
import { requireExtensions } from "./databases.ts";
import {
  connectableDatabases,
  type PostgresAddress,
  refuseReadOnly,
  sessionUnlessDropped,
} from "./maintenance-session.ts";
import { checkName } from "./sql-text.ts";

/** One entry for each version of one, as the superuser owns it or another one. */
export async function installedExtensions(address: PostgresAddress): Promise<InstalledExtensions> {
  const found = new Map<string, InstalledExtension>();
  for (const database of (await connectableDatabases(address)).values()) {
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
  const { extension, database, version } = (body ?? {}) as Readonly<Record<string, unknown>>;
  const wanted = {
    name: checkName(extension, "extension"),
    database: checkName(database, "database"),
    version: checkName(version, "version"),
  };
  await refuseReadOnly(address, "extensions of a read-only endpoint cannot be changed");
  await requireExtensions(address, [wanted]);
  return { extension: wanted.name, version: wanted.version };
}
