// node:sqlite as kysely's SQLite dialect wants a database.

import { SqliteDialect } from "kysely";
import { REAL_DISK } from "../../base/disk.ts";
import { errnoCode } from "../../base/errors.ts";

/**
 * A committed transaction is on disk (synchronous=FULL), in a file that only its owner may read. One process uses it
 * at a time.
 */
export function sqliteDialect(path: string): SqliteDialect {
  makePrivateFile(path);
  // As file-lock.ts does.
  const { DatabaseSync } = process.getBuiltinModule("node:sqlite");
  const database = new DatabaseSync(path);
  database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON");
  return new SqliteDialect({
    database: {
      close: () => database.close(),
      prepare: (sql) => {
        const statement = database.prepare(sql);
        const values = (parameters: readonly unknown[]) => parameters as (string | number | null)[];
        return {
          reader: statement.columns().length > 0,
          all: (parameters) => statement.all(...values(parameters)),
          run: (parameters) => statement.run(...values(parameters)),
          iterate: (parameters) =>
            statement.iterate(...values(parameters)) as IterableIterator<unknown>,
        };
      },
    },
  });
}

/** SQLite makes its other files as private as this one. */
function makePrivateFile(path: string): void {
  try {
    REAL_DISK.close(REAL_DISK.open(path, "wx+"));
  } catch (error) {
    if (errnoCode(error) !== "EEXIST") {
      throw error;
    }
  }
}
