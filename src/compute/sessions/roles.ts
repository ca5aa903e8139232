// Roles of users: made, changed, renamed, dropped; each step may be done again.

import { StorageError } from "../../base/errors.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import type { DeltaOperation, GenericOption, RoleSpec } from "../api.ts";
import { USERS_GROUP } from "./configuration.ts";
import { type PostgresAddress, sessionUnlessDropped } from "./maintenance-session.ts";
import { renameEach } from "./renames.ts";
import { quoteName, quoteText } from "./sql-text.ts";

const CREATE_SUBSCRIPTION_MAJOR = 16;
/** From this one on. Such rights are the bootstrap superuser's to give (BOOTSTRAP_SUPERUSERID, 10). */
const PARAMETER_GRANTS_MAJOR = 15;

/** As Neon makes them: a superuser's rights, as far as attributes go. They are not inherited, so each role has them. */
const USER_ATTRIBUTES = "inherit createrole createdb bypassrls replication";
/** Words of CREATE ROLE that stand alone, and those with a value. SUPERUSER is not among them. */
const FLAG_OPTION = /^(NO)?(LOGIN|CREATEDB|CREATEROLE|INHERIT|REPLICATION|BYPASSRLS)$/;
const VALUE_OPTION: Readonly<Record<string, (value: string) => string>> = {
  "CONNECTION LIMIT": (value) => String(Math.trunc(Number(value) || 0)),
  "VALID UNTIL": quoteText,
};

/** The group of users' roles, with what Postgres has for it. */
export async function requireUsersGroup(session: WireConnection, pgVersion: number): Promise<void> {
  await session.query(usersGroupStatements(pgVersion).join(";"));
}

/** They may be run again. */
export function usersGroupStatements(pgVersion: number): string[] {
  const create = `create role ${USERS_GROUP} createdb createrole nologin replication bypassrls`;
  return [
    `do 'begin ${create}; exception when duplicate_object then null; end'`,
    `grant pg_read_all_data, pg_write_all_data to ${USERS_GROUP}`,
    `grant pg_monitor, pg_signal_backend to ${USERS_GROUP} with admin option`,
    ...(pgVersion >= CREATE_SUBSCRIPTION_MAJOR
      ? [`grant pg_create_subscription to ${USERS_GROUP}`]
      : []),
  ];
}

export function renameRoles(
  session: WireConnection,
  operations: readonly DeltaOperation[],
): Promise<void> {
  return renameEach(operations, {
    what: "role",
    existing: (names) => existing(session, names),
    rename: async (name, newName) => {
      await session.query(`alter role ${quoteName(name)} rename to ${quoteName(newName)}`);
    },
  });
}

/** Those that are there keep their attributes: only the password is made the one that is asked for. */
export async function requireRoles(
  session: WireConnection,
  roles: readonly RoleSpec[],
): Promise<void> {
  const present = await existing(
    session,
    roles.map(({ name }) => name),
  );
  for (const { name, encrypted_password: secret, options } of roles) {
    // A secret has nothing that needs quotes (SCRAM_SECRET).
    const password = secret === null ? "null" : `'${secret}'`;
    if (!present.has(name)) {
      const own = options?.map(roleOption).join(" ") ?? "";
      const login = options?.some(({ name: word }) => /^(no)?login$/i.test(word)) ? "" : "login";
      const withPassword = secret === undefined ? "" : `password ${password}`;
      // What stands last does not win (a word that comes twice is an error), so theirs replace ours.
      const attributes = attributesBut(options ?? []);
      await session.query(
        `create role ${quoteName(name)} ${attributes} ${own} ${login} ${withPassword} in role ${USERS_GROUP}`,
      );
    } else if (secret !== undefined && present.get(name)?.secret !== secret) {
      await session.query(`alter role ${quoteName(name)} password ${password}`);
    }
  }
}

function attributesBut(options: readonly GenericOption[]): string {
  const given = new Set(options.map(({ name }) => name.toLowerCase().replace(/^no/, "")));
  return USER_ATTRIBUTES.split(" ")
    .filter((attribute) => !given.has(attribute))
    .join(" ");
}

function roleOption({ name, value }: GenericOption): string {
  const word = name.toUpperCase();
  const withValue = VALUE_OPTION[word];
  if (withValue !== undefined && typeof value === "string") {
    return `${word} ${withValue(value)}`;
  }
  if (!FLAG_OPTION.test(word)) {
    throw new StorageError("invalid", "bad-role-option", `a role cannot be made with '${name}'`);
  }
  return word;
}

/**
 * What they own in each database goes to its owner, and what they were granted is revoked; then they go,
 * and their sessions with them. StorageError `conflict` for one that owns a database.
 */
export async function dropRoles(
  address: PostgresAddress,
  session: WireConnection,
  names: readonly string[],
): Promise<void> {
  const found = await existing(session, names);
  const present = [...found.keys()];
  if (present.length === 0) {
    return;
  }
  const { rows: owned } = await session.query(
    `select datname, pg_get_userbyid(datdba) from pg_database
      where pg_get_userbyid(datdba) in (${present.map(quoteText).join(", ")})`,
  );
  if (owned[0] !== undefined) {
    const [database, role] = owned[0];
    const message = `role '${role}' owns database '${database}': give it to another role first`;
    throw new StorageError("conflict", "role-owns-database", message);
  }
  const { rows: databases } = await session.query(
    `select datname, pg_get_userbyid(datdba) from pg_database where datallowconn and datconnlimit <> -2`,
  );
  for (const [database, owner] of databases) {
    const inDatabase = await sessionUnlessDropped(address, database!);
    if (inDatabase === undefined) {
      continue;
    }
    try {
      for (const name of present) {
        await inDatabase.query(forgetRole(name, owner ?? SUPERUSER, address.pgVersion));
      }
    } finally {
      inDatabase.close();
    }
  }
  for (const name of present) {
    await session.query(`drop role if exists ${quoteName(name)}`);
  }
  // By OID: the name of a session's role is null once that is gone. Before that, another one could begin.
  const oids = [...found.values()].map(({ oid }) => oid);
  await session.query(
    `select pg_terminate_backend(pid) from pg_stat_activity where usesysid in (${oids.join(", ")})`,
  );
}

/**
 * REVOKE takes away what the current role has granted, so whoever granted must do it (DROP OWNED does not). What was granted by
 * the owner of a thing is left to that.
 */
function forgetRole(name: string, newOwner: string, pgVersion: number): string {
  const body = `
    declare g record;
    begin
      for g in
        select o.columns, o.kind, o.name, a.grantor::regrole::text as grantor
          from pg_shdepend d
         cross join lateral (${grantables(pgVersion).join(" union all ")}) as o (kind, name, owner, acl, columns)
         cross join aclexplode(o.acl) a
         where d.refclassid = 'pg_authid'::regclass and d.deptype = 'a'
           and d.dbid in (0, (select oid from pg_database where datname = current_database()))
           and d.refobjid = (select oid from pg_roles where rolname = ${quoteText(name)})
           and a.grantee = d.refobjid
           and a.grantor not in (o.owner, a.grantee)
      loop
        execute format('set local role %s', g.grantor);
        execute format('revoke all privileges %s on %s %s from %I cascade', g.columns, g.kind, g.name, ${quoteText(name)});
        reset role;
      end loop;
    end`;
  return [
    `do ${quoteText(body)}`,
    `reassign owned by ${quoteName(name)} to ${quoteName(newOwner)}`,
    `drop owned by ${quoteName(name)}`,
  ].join(";");
}

/** What `d` of pg_shdepend may be: its kind and name as REVOKE has them, its owner, the rights on it, and of which columns. */
function grantables(pgVersion: number): string[] {
  const of = (catalog: string, kind: string, name: string, prefix: string, dependent = catalog) =>
    `select ${kind}, ${name}, ${prefix}owner, ${prefix}acl, '' from ${catalog}
      where d.classid = '${dependent}'::regclass and oid = d.objid`;
  const named = (catalog: string, kind: string, prefix: string) =>
    of(catalog, `'${kind}'`, `quote_ident(${prefix}name)`, prefix);
  const tableKind = "case relkind when 'S' then 'sequence' else 'table' end";
  return [
    of("pg_class", tableKind, "oid::regclass::text", "rel"),
    `select 'table', attrelid::regclass::text, relowner, attacl, format('(%I)', attname)
       from pg_attribute join pg_class c on c.oid = attrelid
      where d.classid = 'pg_class'::regclass and attrelid = d.objid and attnum = d.objsubid`,
    of("pg_proc", "'routine'", "oid::regprocedure::text", "pro"),
    of("pg_type", "'type'", "format_type(oid, null)", "typ"),
    of("pg_largeobject_metadata", "'large object'", "oid::text", "lom", "pg_largeobject"),
    `select 'database', quote_ident(datname), datdba, datacl, '' from pg_database
      where d.classid = 'pg_database'::regclass and oid = d.objid`,
    named("pg_namespace", "schema", "nsp"),
    named("pg_tablespace", "tablespace", "spc"),
    named("pg_foreign_data_wrapper", "foreign data wrapper", "fdw"),
    named("pg_foreign_server", "foreign server", "srv"),
    named("pg_language", "language", "lan"),
    ...(pgVersion >= PARAMETER_GRANTS_MAJOR
      ? [
          `select 'parameter', parname, 10::oid, paracl, '' from pg_parameter_acl
            where d.classid = 'pg_parameter_acl'::regclass and oid = d.objid`,
        ]
      : []),
  ];
}

interface ExistingRole {
  readonly oid: number;
  /** Its password's. */
  readonly secret: string | null;
}

/** Which of them there are. */
async function existing(
  session: WireConnection,
  names: readonly string[],
): Promise<Map<string, ExistingRole>> {
  if (names.length === 0) {
    return new Map();
  }
  const { rows } = await session.query(
    `select rolname, oid, rolpassword from pg_authid where rolname in (${names.map(quoteText).join(", ")})`,
  );
  return new Map(
    rows.map(([name, oid, secret]) => [name!, { oid: Number(oid), secret: secret ?? null }]),
  );
}
