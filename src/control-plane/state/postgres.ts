// The control plane's state in a Postgres, which several control planes share.

import { PostgresDialect } from "kysely";
import pg from "pg";
import { errorMessage, StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { type Database, openDatabase } from "./database.ts";

const CONNECT_TIMEOUT_MS = 10_000;
const MAX_CONNECTIONS = 8;
/** Who brings the tables to another version holds this advisory lock: "Strata" in ASCII. */
const MIGRATION_LOCK = "0x537472617461";

/**
 * `url`: `postgresql://...`, with TLS and host as libpq has them; a password may come from $PGPASSWORD or ~/.pgpass.
 * StorageError `unavailable` where nobody answers there.
 */
export async function openPostgres(url: string, logger: Logger): Promise<Database> {
  const settings = { connectionString: url, connectionTimeoutMillis: CONNECT_TIMEOUT_MS };
  const pool = new pg.Pool({ ...settings, max: MAX_CONNECTIONS });
  // Of connections that nobody uses: the next query takes another one, or fails by itself.
  pool.on("error", (error) => logger.warn({ reason: errorMessage(error) }, "database connection"));
  const migrating = new pg.Client(settings);
  migrating.on("error", () => {});
  try {
    await migrating.connect();
    await migrating.query(`select pg_advisory_lock(${Number(MIGRATION_LOCK)})`);
    return await openDatabase(new PostgresDialect({ pool }));
  } catch (error) {
    await pool.end();
    if (error instanceof StorageError) {
      throw error;
    }
    throw new StorageError(
      "unavailable",
      "no-database",
      `the control plane's database: ${errorMessage(error)}`,
      { cause: error },
    );
  } finally {
    await migrating.end().catch(() => undefined);
  }
}
