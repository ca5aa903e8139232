// Databases and their extensions: made, given to an owner, renamed, dropped; each step may be done again.

import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import type { DatabaseSpec, DeltaOperation, ExtensionSpec } from "../api.ts";
import { OWN_EXTENSION } from "../extensions/strata-extension.ts";
import { USERS_GROUP } from "./configuration.ts";
import {
  MAINTENANCE_DATABASES,
  maintenanceSessionIn,
  type PostgresAddress,
} from "./maintenance-session.ts";
import { renameEach } from "./renames.ts";
import { quoteName, quoteText } from "./sql-text.ts";

interface Present {
  readonly owner: string;
  readonly allowsConnections: boolean;
  /** What a DROP DATABASE left that did not end: good for nothing but to be dropped. */
  readonly invalid: boolean;
  /** The users' group has its rights in it: they are given last. */
  readonly complete: boolean;
}

export function renameDatabases(
  session: WireConnection,
  operations: readonly DeltaOperation[],
): Promise<void> {
  return renameEach(operations, {
    what: "database",
    existing: (names) => existing(session, names),
    rename: async (name, newName) => {
      await endSessions(session, name);
      await session.query(`alter database ${quoteName(name)} rename to ${quoteName(newName)}`);
    },
  });
}

/** Postgres renames a database only while nobody is in it. */
async function endSessions(session: WireConnection, database: string): Promise<void> {
  await session.query(
    `select pg_terminate_backend(pid) from pg_stat_activity
      where datname = ${quoteText(database)} and pid <> pg_backend_pid()`,
  );
}

/** With the sessions in them; subscriptions go without their slots, which are the publisher's. */
export async function dropDatabases(
  address: PostgresAddress,
  session: WireConnection,
  names: readonly string[],
): Promise<void> {
  const needed = names.find((name) => MAINTENANCE_DATABASES.includes(name));
  if (needed !== undefined) {
    const message = `database '${needed}' is needed for maintenance`;
    throw new StorageError("invalid", "maintenance-database", message);
  }
  for (const [name, { allowsConnections, invalid }] of await existing(session, names)) {
    if (allowsConnections && !invalid) {
      await dropSubscriptions(address, name);
    }
    if (!invalid) {
      await session.query(`alter database ${quoteName(name)} is_template false`);
    }
    await session.query(`drop database if exists ${quoteName(name)} with (force)`);
  }
}

async function dropSubscriptions(address: PostgresAddress, database: string): Promise<void> {
  const session = await maintenanceSessionIn(address, database);
  try {
    const { rows } = await session.query(
      `select subname from pg_subscription s join pg_database d on d.oid = s.subdbid
        where d.datname = current_database()`,
    );
    for (const [name] of rows) {
      const subscription = quoteName(name!);
      await session.query(`alter subscription ${subscription} disable`);
      await session.query(`alter subscription ${subscription} set (slot_name = none)`);
      await session.query(`drop subscription ${subscription}`);
    }
  } finally {
    session.close();
  }
}

/** Made by whoever is not there, with their owners; owned by others: given to them. */
export async function requireDatabases(
  address: PostgresAddress,
  session: WireConnection,
  databases: readonly DatabaseSpec[],
): Promise<void> {
  const present = await existing(
    session,
    databases.map(({ name }) => name),
  );
  for (const { name, owner } of databases) {
    let found = present.get(name);
    if (found?.invalid === true) {
      await session.query(`drop database if exists ${quoteName(name)}`);
      found = undefined;
    }
    if (found === undefined) {
      await session.query(`create database ${quoteName(name)} owner ${quoteName(owner)}`);
    } else if (found.owner !== owner) {
      await session.query(`alter database ${quoteName(name)} owner to ${quoteName(owner)}`);
    }
    if (found?.complete !== true && found?.allowsConnections !== false) {
      await openToUsers(address, name, owner);
      await session.query(`grant all on database ${quoteName(name)} to ${USERS_GROUP}`);
    }
  }
}

/**
 * Its owner has schema public, which is the superuser's up to 14; and what the superuser makes there, by
 * an extension say, users may use.
 */
async function openToUsers(
  address: PostgresAddress,
  database: string,
  owner: string,
): Promise<void> {
  const session = await maintenanceSessionIn(address, database);
  try {
    const { rows } = await session.query(
      `select pg_get_userbyid(nspowner) from pg_namespace where nspname = 'public'`,
    );
    const schemaOwner = rows[0]?.[0];
    if (schemaOwner === undefined) {
      return;
    }
    const statements = [
      ...(schemaOwner === SUPERUSER ? [`alter schema public owner to ${quoteName(owner)}`] : []),
      ...["tables", "sequences"].map(
        (kind) =>
          `alter default privileges in schema public grant all on ${kind} to ${USERS_GROUP} with grant option`,
      ),
    ];
    await session.query(statements.join(";"));
  } finally {
    session.close();
  }
}

/**
 * By the superuser, so also those that others may not make. StorageError `not-found` names an extension, or a version, that
 * Postgres does not have.
 */
export async function requireExtensions(
  address: PostgresAddress,
  extensions: readonly ExtensionSpec[],
): Promise<void> {
  for (const { name, database, schema, version } of extensions) {
    const session = await maintenanceSessionIn(address, database);
    try {
      await requireAvailable(session, name, version);
      await session.query("set search_path = public");
      const wanted = version === undefined ? "" : `version ${quoteName(version)}`;
      const place = schema === undefined ? "" : `schema ${quoteName(schema)}`;
      await session.query(
        `create extension if not exists ${quoteName(name)} ${place} ${wanted} cascade`,
      );
      const { rows } = await session.query(
        `select extversion from pg_catalog.pg_extension where extname = ${quoteText(name)}`,
      );
      if (version !== undefined && rows[0]?.[0] !== version) {
        await session.query(`alter extension ${quoteName(name)} update to ${quoteName(version)}`);
      }
    } finally {
      session.close();
    }
  }
}

/** Postgres says it in other words and with other SQLSTATEs in each major, and shows paths. */
async function requireAvailable(
  session: WireConnection,
  name: string,
  version: string | undefined,
): Promise<void> {
  const { rows } = await session.query(
    `select a.version, e.extversion
       from pg_extension e
       full join (select * from pg_available_extension_versions where name = ${quoteText(name)}) a
         on e.extname = a.name
      where coalesce(a.name, e.extname) = ${quoteText(name)}`,
  );
  const known = rows.flatMap((row) => row.filter((one) => one !== null));
  if (known.length === 0 && name === OWN_EXTENSION) {
    // The shim shows its files to who opens them, not to who lists a directory.
    return;
  }
  if (known.length === 0) {
    const message =
      `there is no extension '${name}' in this installation of Postgres: pg_available_extensions lists ` +
      "those that there are, and an endpoint's --extension-dir brings more";
    throw new StorageError("not-found", "no-extension", message);
  }
  if (version !== undefined && !known.includes(version)) {
    const message = `extension '${name}' has no version '${version}': there is ${[...new Set(known)].join(", ")}`;
    throw new StorageError("not-found", "no-extension-version", message);
  }
}

async function existing(
  session: WireConnection,
  names: readonly string[],
): Promise<Map<string, Present>> {
  if (names.length === 0) {
    return new Map();
  }
  const { rows } = await session.query(
    `select datname, pg_get_userbyid(datdba), datallowconn, datconnlimit = -2,
            exists (select from aclexplode(datacl) where grantee = to_regrole('${USERS_GROUP}')::oid)
       from pg_database where datname in (${names.map(quoteText).join(", ")})`,
  );
  return new Map(
    rows.map(([name, owner, allowsConnections, invalid, complete]) => [
      name!,
      {
        owner: owner!,
        allowsConnections: allowsConnections === "t",
        invalid: invalid === "t",
        complete: complete === "t",
      },
    ]),
  );
}
