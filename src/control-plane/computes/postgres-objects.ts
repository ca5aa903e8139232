// Brings roles and databases into a running Postgres, and tells which are there; as its superuser, over the unix socket.

import pg from "pg";
import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { SCRAM_SECRET } from "../../postgres/scram.ts";
import type { HostPort } from "./provider.ts";

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

/** In this order; what is so already stays. */
export interface PostgresChanges {
  readonly roles?: readonly WantedRole[];
  readonly databases?: readonly WantedDatabase[];
  readonly renamedDatabase?: { readonly from: string; readonly to: string } | undefined;
  readonly droppedDatabases?: readonly string[];
  readonly droppedRoles?: readonly string[];
}

export interface RoleSeen {
  readonly name: string;
  readonly canLogin: boolean;
  /** Null: it has no SCRAM secret. */
  readonly verifier: string | null;
}

export interface PostgresObjects {
  readonly roles: readonly RoleSeen[];
  readonly databases: readonly WantedDatabase[];
}

/** What roles of users are members of, as at Neon's: all that a superuser may, short of the machine. */
const USERS_GROUP = "neon_superuser";
const USER_RIGHTS = "CREATEDB CREATEROLE BYPASSRLS REPLICATION";

/** Names that are not users': the bootstrap superuser, Postgres's own, the group. */
export function isSystemRole(name: string): boolean {
  return name === SUPERUSER || name === USERS_GROUP || name.startsWith("pg_");
}

/** Idempotent. StorageError `invalid` with Postgres's own words where it refuses. */
export async function applyChanges(at: HostPort, changes: PostgresChanges): Promise<void> {
  await withSuperuser(at, "postgres", async (client) => {
    await client.query("SELECT pg_advisory_lock(hashtext('strata configure'))");
    await ensureGroup(client);
    for (const role of changes.roles ?? []) {
      await ensureRole(client, role);
    }
    const renamed = changes.renamedDatabase;
    if (renamed !== undefined && (await hasDatabase(client, renamed.from))) {
      await client.query(`ALTER DATABASE ${quote(renamed.from)} RENAME TO ${quote(renamed.to)}`);
    }
    for (const database of changes.databases ?? []) {
      await ensureDatabase(client, database);
    }
    for (const name of changes.droppedDatabases ?? []) {
      await client.query(`DROP DATABASE IF EXISTS ${quote(name)} WITH (FORCE)`);
    }
    for (const name of changes.droppedRoles ?? []) {
      await dropRole(client, at, name);
    }
  });
}

/** Those that users made, or that were made for them. */
export async function readObjects(at: HostPort): Promise<PostgresObjects> {
  return withSuperuser(at, "postgres", async (client) => {
    const roles = await client.query<{ name: string; can_login: boolean; secret: string | null }>(
      `SELECT rolname AS name, rolcanlogin AS can_login, rolpassword AS secret
         FROM pg_authid ORDER BY rolname`,
    );
    const databases = await client.query<{ name: string; owner: string }>(
      `SELECT datname AS name, pg_get_userbyid(datdba) AS owner FROM pg_database
        WHERE NOT datistemplate AND datname <> 'postgres' ORDER BY datname`,
    );
    return {
      roles: roles.rows
        .filter(({ name }) => !isSystemRole(name))
        .map(({ name, can_login, secret }) => ({
          name,
          canLogin: can_login,
          verifier: SCRAM_SECRET.test(secret ?? "") ? secret : null,
        })),
      databases: databases.rows,
    };
  });
}

/** What pg_authid has of a role; undefined for one that is not there or has no SCRAM secret. */
export async function readVerifier(at: HostPort, role: string): Promise<string | undefined> {
  return withSuperuser(at, "postgres", async (client) => {
    const found = await client.query<{ rolpassword: string | null }>(
      "SELECT rolpassword FROM pg_authid WHERE rolname = $1 AND rolcanlogin",
      [role],
    );
    const secret = found.rows[0]?.rolpassword ?? "";
    return SCRAM_SECRET.test(secret) ? secret : undefined;
  });
}

async function withSuperuser<T>(
  { host, port }: HostPort,
  database: string,
  body: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = new pg.Client({
    host,
    port,
    database,
    user: SUPERUSER,
    application_name: "control_plane",
  });
  // One that breaks while nobody waits for it would end the process.
  client.on("error", () => undefined);
  await client.connect();
  try {
    return await body(client);
  } catch (cause) {
    if (cause instanceof pg.DatabaseError) {
      const message = `Postgres: ${cause.message}`;
      throw new StorageError("invalid", "postgres-refuses", message, { cause });
    }
    throw cause;
  } finally {
    await client.end();
  }
}

async function ensureGroup(client: pg.Client): Promise<void> {
  if (!(await hasRole(client, USERS_GROUP))) {
    await client.query(
      `CREATE ROLE ${USERS_GROUP} ${USER_RIGHTS} NOLOGIN IN ROLE pg_read_all_data, pg_write_all_data`,
    );
  }
}

async function ensureRole(client: pg.Client, { name, verifier, noLogin }: WantedRole) {
  const login = noLogin ? "NOLOGIN" : "LOGIN";
  if (!(await hasRole(client, name))) {
    await client.query(
      `CREATE ROLE ${quote(name)} ${login} INHERIT ${USER_RIGHTS} IN ROLE ${USERS_GROUP}`,
    );
  }
  if (verifier !== null) {
    if (!SCRAM_SECRET.test(verifier)) {
      throw new StorageError("internal", "bad-verifier", `role ${name}: no SCRAM secret`);
    }
    await client.query(`ALTER ROLE ${quote(name)} ${login} PASSWORD '${verifier}'`);
  }
}

async function ensureDatabase(client: pg.Client, { name, owner }: WantedDatabase): Promise<void> {
  if (!(await hasDatabase(client, name))) {
    await client.query(`CREATE DATABASE ${quote(name)} OWNER ${quote(owner)}`);
    return;
  }
  await client.query(`ALTER DATABASE ${quote(name)} OWNER TO ${quote(owner)}`);
}

/** What it owns goes to the superuser's, as at Neon's, so that nothing is lost by it. */
async function dropRole(client: pg.Client, at: HostPort, name: string): Promise<void> {
  if (!(await hasRole(client, name))) {
    return;
  }
  const databases = await client.query<{ datname: string }>(
    "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname",
  );
  for (const { datname } of databases.rows) {
    await withSuperuser(at, datname, async (inside) => {
      await inside.query(`REASSIGN OWNED BY ${quote(name)} TO ${SUPERUSER}`);
      await inside.query(`DROP OWNED BY ${quote(name)}`);
    });
  }
  await client.query(`DROP ROLE IF EXISTS ${quote(name)}`);
}

async function hasRole(client: pg.Client, name: string): Promise<boolean> {
  const found = await client.query("SELECT 1 FROM pg_roles WHERE rolname = $1", [name]);
  return found.rows.length > 0;
}

async function hasDatabase(client: pg.Client, name: string): Promise<boolean> {
  const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [name]);
  return found.rows.length > 0;
}

function quote(name: string): string {
  return pg.escapeIdentifier(name);
}
