// The schema of a database as SQL, made by pg_dump where the machine has one that is new enough; and brought into another one.

import { execFile } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { errnoCode, StorageError } from "../../base/errors.ts";
import { findInstallation, SUPERUSER } from "../../postgres/installation.ts";
import {
  maintenanceSessionIn,
  type PostgresAddress,
  sessionOptions,
} from "./maintenance-session.ts";
import { checkName } from "./sql-text.ts";

const run = promisify(execFile);
/** Where Debian's packages put the programs of each major. */
const DEBIAN_DIRECTORY = "/usr/lib/postgresql";
/** Of a schema, as it is printed and as it is brought in. */
export const MAX_SCHEMA_BYTES = 32 * 1024 * 1024;
const DUMP_TIMEOUT_MS = 120_000;
/** Of a schema that is brought in. */
const LOAD_TIMEOUT_MS = 300_000;

/**
 * StorageError `unsupported` where there is no pg_dump of its major or a newer one, `not-found` for an
 * unknown database, `invalid` for what is no name.
 */
export async function databaseSchema(
  address: PostgresAddress,
  database: unknown,
  pgBin: string | undefined,
): Promise<string> {
  const name = checkName(database, "database");
  const program = await findDump(address.pgVersion, pgBin);
  try {
    const { stdout } = await run(program, ["--schema-only", "--no-password", "--encoding=UTF8"], {
      // Not an argument: there `a=b` would be read as a connection string.
      env: {
        ...process.env,
        PGHOST: address.host,
        PGPORT: String(address.port),
        PGUSER: SUPERUSER,
        PGDATABASE: name,
        PGOPTIONS: sessionOptions(address.pgVersion),
        PGAPPNAME: "strata_pg_dump",
      },
      maxBuffer: MAX_SCHEMA_BYTES,
      timeout: DUMP_TIMEOUT_MS,
    });
    return withoutRestrict(stdout);
  } catch (error) {
    const said = String((error as { stderr?: unknown }).stderr ?? "").trim();
    if (said.includes(`database "${name}" does not exist`)) {
      throw new StorageError("not-found", "no-database", `there is no database '${name}'`);
    }
    const why = said === "" ? String(errnoCode(error) ?? error) : said.split("\n")[0];
    throw new StorageError("internal", "dump-failed", `pg_dump: ${why}`, { cause: error });
  }
}

/**
 * Runs SQL as the superuser in one transaction: all of it, or nothing. StorageError with Postgres's words where it refuses,
 * `invalid` for what is no name or no text.
 */
export async function loadSchema(
  address: PostgresAddress,
  database: unknown,
  sql: unknown,
): Promise<void> {
  const name = checkName(database, "database");
  if (typeof sql !== "string" || sql.includes("\0") || !sql.isWellFormed()) {
    throw new StorageError("invalid", "bad-sql", "sql: expected a text");
  }
  const session = await maintenanceSessionIn(address, name, SUPERUSER, LOAD_TIMEOUT_MS);
  try {
    // As a dump is, whatever its first statement says: a query is read before it runs.
    await session.query("set client_encoding = 'UTF8'");
    // Several statements in one query are one transaction.
    await session.query(sql);
  } finally {
    session.close();
  }
}

/**
 * Without the lines by which newer pg_dumps keep psql from obeying names: they are no SQL, and their key is another one at
 * each call, so that two schemas would never be the same.
 */
function withoutRestrict(dump: string): string {
  const key = /^\\restrict (\w+)$/m.exec(dump)?.[1];
  return key === undefined
    ? dump
    : dump.replace(`\\restrict ${key}\n`, "").replace(`\\unrestrict ${key}\n`, "");
}

async function findDump(major: number, pgBin: string | undefined): Promise<string> {
  const debian = existsSync(DEBIAN_DIRECTORY)
    ? readdirSync(DEBIAN_DIRECTORY).map((version) => join(DEBIAN_DIRECTORY, version, "bin"))
    : [];
  const directories = [
    findInstallation(major, { pgBin }).binDir,
    ...(process.env["PATH"] ?? "").split(delimiter),
    ...debian,
  ];
  for (const directory of directories) {
    const program = join(directory, "pg_dump");
    if (existsSync(program) && (await dumpMajor(program)) >= major) {
      return program;
    }
  }
  throw new StorageError(
    "unsupported",
    "no-pg-dump",
    `a schema is made by pg_dump of PostgreSQL ${major} or newer, which this machine does not have: install ` +
      `Debian's postgresql-client-${major}, or put its directory into PATH`,
  );
}

/** 0 where it cannot be run. */
async function dumpMajor(program: string): Promise<number> {
  try {
    const { stdout } = await run(program, ["--version"], { timeout: DUMP_TIMEOUT_MS });
    return Number(/\(PostgreSQL\) (\d+)/.exec(stdout)?.[1] ?? 0);
  } catch {
    return 0;
  }
}
