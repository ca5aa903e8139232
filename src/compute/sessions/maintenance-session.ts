// The agent's own sessions with its Postgres: as its superuser, over the unix socket, with settings of their own.

import { type ErrorKind, errorMessage, StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { connectWire, type WireConnection } from "../../postgres/wire/wire-client.ts";

/** Shared catalogs can be reached from each: one is there unless both were dropped. */
export const MAINTENANCE_DATABASES = ["postgres", "template1"];
/** Row locks of a prepared transaction outlive everything. */
const LOCK_TIMEOUT = "5s";
/** Sessions of the superuser with such names are ours: they do not count as use (activity.ts). */
export const AGENT_NAME_PREFIX = "strata_";
/** For one statement. The pages it reads may have to come from far. */
const QUERY_TIMEOUT_MS = 60_000;
/** From this one on there are `event_triggers` and `transaction_timeout`. */
const SETTINGS_MAJOR = 17;
/** SQLSTATE invalid_catalog_name. */
const NO_SUCH_DATABASE = "3D000";
const NO_DATABASE = "no-database";
/**
 * What a caller does about what Postgres refuses, by SQLSTATE or its class. Our services' own states mean other things: 55000 is
 * `fenced` there, and here a database that takes no connections.
 */
const KIND_OF_STATE: Readonly<Record<string, ErrorKind>> = {
  "42501": "forbidden",
  "42704": "not-found",
  "3D000": "not-found",
  "3F000": "not-found",
  "42710": "conflict",
  "42P04": "conflict",
  "42P06": "conflict",
  "55P03": "unavailable",
  XX001: "corrupt",
  XX002: "corrupt",
  "0A": "unsupported",
  "22": "invalid",
  "23": "conflict",
  "2B": "conflict",
  "40": "unavailable",
  "42": "invalid",
  "53": "unavailable",
  "54": "invalid",
  "55": "conflict",
  "57": "unavailable",
};

export interface PostgresAddress {
  /** Directory of the unix socket. */
  readonly host: string;
  readonly port: number;
  readonly pgVersion: number;
}

/** Into whichever database there is, for what all share. */
export async function maintenanceSession(
  address: PostgresAddress,
  user = SUPERUSER,
  timeoutMs = QUERY_TIMEOUT_MS,
): Promise<WireConnection> {
  const problems: string[] = [];
  for (const database of MAINTENANCE_DATABASES) {
    try {
      return await maintenanceSessionIn(address, database, user, timeoutMs);
    } catch (error) {
      problems.push(errorMessage(error));
    }
  }
  throw new StorageError("unavailable", "no-maintenance-database", problems.join("; "));
}

/**
 * Whatever roles, databases or triggers set for every session: this one writes, and waits for it. `timeoutMs`: for one
 * statement; 0 waits for ever. StorageError `not-found` where there is no such database.
 */
export async function maintenanceSessionIn(
  address: PostgresAddress,
  database: string,
  user = SUPERUSER,
  timeoutMs = QUERY_TIMEOUT_MS,
): Promise<WireConnection> {
  const { host, port, pgVersion } = address;
  try {
    return await connectWire({
      host,
      port,
      parameters: {
        user,
        database,
        application_name: `${AGENT_NAME_PREFIX}agent`,
        options: sessionOptions(pgVersion),
        // As the database has them, so that names all databases share are the same in each.
        client_encoding: "SQL_ASCII",
      },
      timeoutMs,
      kindOfState,
    });
  } catch (error) {
    if (sqlStateOf(error) === NO_SUCH_DATABASE) {
      const message = `there is no database '${database}'`;
      throw new StorageError("not-found", NO_DATABASE, message, { cause: error });
    }
    throw error;
  }
}

/**
 * For libpq's `options`. These beat what `ALTER ROLE` and `ALTER DATABASE ... SET` say, which the owner of a database may:
 * nothing that is set there is to keep us from what we are asked for, or to make it another thing.
 */
export function sessionOptions(pgVersion: number): string {
  const settings = [
    // Nobody's operators and functions are called in the place of Postgres's own.
    "search_path=pg_catalog,pg_temp",
    // Nor does it count as use of the compute.
    "track_activities=off",
    "role=none",
    "local_preload_libraries=",
    "standard_conforming_strings=on",
    "DateStyle=ISO",
    "default_transaction_read_only=off",
    "idle_in_transaction_session_timeout=0",
    "synchronous_commit=on",
    "statement_timeout=0",
    `lock_timeout=${LOCK_TIMEOUT}`,
    // Nothing that is said here, a password's secret for one, belongs into a log.
    "log_statement=none",
    "log_min_duration_statement=-1",
    "log_min_error_statement=panic",
    ...(pgVersion >= SETTINGS_MAJOR ? ["event_triggers=off", "transaction_timeout=0"] : []),
  ];
  return settings.map((setting) => `-c ${setting}`).join(" ");
}

function kindOfState(sqlState: string): ErrorKind | undefined {
  return KIND_OF_STATE[sqlState] ?? KIND_OF_STATE[sqlState.slice(0, 2)];
}

/** Undefined: the database has gone since somebody asked which there are. */
export async function sessionUnlessDropped(
  address: PostgresAddress,
  database: string,
): Promise<WireConnection | undefined> {
  try {
    return await maintenanceSessionIn(address, database);
  } catch (error) {
    if (error instanceof StorageError && error.code === NO_DATABASE) {
      return undefined;
    }
    throw error;
  }
}

/** Names by OID of those that one can connect to, in the order of their OIDs: Postgres's own first. */
export async function connectableDatabases(address: PostgresAddress): Promise<Map<number, string>> {
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query(
      "select oid, datname from pg_database where datallowconn and datconnlimit <> -2 order by oid",
    );
    return new Map(rows.map(([oid, name]) => [Number(oid), name!]));
  } finally {
    session.close();
  }
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

/** Of what Postgres itself has refused. */
export function sqlStateOf(error: unknown): unknown {
  return error instanceof StorageError ? error.fields["sqlstate"] : undefined;
}
