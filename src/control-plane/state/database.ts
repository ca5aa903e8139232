// Opens the control plane's database and brings its tables to this version.

import { type Dialect, Kysely } from "kysely";
import { StorageError } from "../../base/errors.ts";
import { MIGRATIONS } from "./migrations.ts";
import type { Tables } from "./tables.ts";

export type Database = Kysely<Tables>;

/** With the table that says which version its tables are of. */
export type VersionedDatabase = Kysely<Tables & VersionTable>;

interface VersionTable {
  strata_schema_version: { version: number };
}

/** StorageError `unsupported` where a newer version of Strata has used it; it is left alone then. */
export async function openDatabase(dialect: Dialect): Promise<Database> {
  const db = new Kysely<Tables & VersionTable>({ dialect });
  try {
    await migrate(db, MIGRATIONS.length);
  } catch (error) {
    await db.destroy();
    throw error;
  }
  return db as unknown as Database;
}

/**
 * A transaction that no other one of the kind runs beside, of whatever control plane: it may look first and write then. All
 * that do so go through here.
 */
export function serialized<T>(db: Database, body: (db: Database) => Promise<T>): Promise<T> {
  return db.transaction().execute(async (transaction) => {
    // The one row of that table is the lock.
    await (transaction as unknown as VersionedDatabase)
      .updateTable("strata_schema_version")
      .set((eb) => ({ version: eb.ref("version") }))
      .execute();
    return body(transaction);
  });
}

/** To version `to`, one transaction a step. */
export async function migrate(db: VersionedDatabase, to: number): Promise<void> {
  await db.schema
    .createTable("strata_schema_version")
    .ifNotExists()
    .addColumn("version", "integer", (column) => column.notNull())
    .execute();
  const row = await db.selectFrom("strata_schema_version").select("version").executeTakeFirst();
  if (row === undefined) {
    await db.insertInto("strata_schema_version").values({ version: 0 }).execute();
  }
  const from = row?.version ?? 0;
  if (from > MIGRATIONS.length) {
    throw new StorageError(
      "unsupported",
      "newer-state",
      `the control plane's state is of version ${from}, and this Strata knows ${MIGRATIONS.length}: a newer one has used it`,
    );
  }
  for (let version = from; version < to; version++) {
    await db.transaction().execute(async (transaction) => {
      await MIGRATIONS[version]!.up(transaction as unknown as Kysely<unknown>);
      await transaction
        .updateTable("strata_schema_version")
        .set({ version: version + 1 })
        .execute();
    });
  }
}
