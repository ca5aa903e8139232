// All roles of users as SQL that makes them in another cluster: attributes, passwords' secrets, memberships, settings.

import { SUPERUSER } from "../../postgres/installation.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import { USERS_GROUP } from "./configuration.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";
import { usersGroupStatements } from "./roles.ts";
import { quoteName, quoteText } from "./sql-text.ts";

/** From this major on a grant says for itself whether its rights are inherited. */
const GRANT_OPTIONS_MAJOR = 16;
/** Postgres's GUC_LIST_QUOTE: what is kept of them is a list whose words are quoted already. */
const LIST_SETTINGS = new Set([
  "local_preload_libraries",
  "search_path",
  "session_preload_libraries",
  "temp_tablespaces",
]);
const IS_USERS = `rolname !~ '^pg_' and rolname not in ('${SUPERUSER}', '${USERS_GROUP}')`;

/** May be run again, and by the superuser only. Postgres's own roles, the superuser and the group are not in it. */
export async function roleDefinitions(address: PostgresAddress): Promise<string> {
  const session = await maintenanceSession(address);
  try {
    const statements = [
      ...usersGroupStatements(address.pgVersion),
      ...(await roles(session)),
      ...(await memberships(session, address.pgVersion)),
      ...(await settings(session)),
    ];
    return statements.map((statement) => `${statement};\n`).join("");
  } finally {
    session.close();
  }
}

async function roles(session: WireConnection): Promise<string[]> {
  const flags = [
    ...["super superuser", "inherit inherit", "createrole createrole", "createdb createdb"],
    ...["canlogin login", "replication replication", "bypassrls bypassrls"],
  ].map((pair) => pair.split(" ") as [column: string, word: string]);
  const { rows } = await session.query(
    `select rolname, rolpassword, rolconnlimit, rolvaliduntil::text,
            ${flags.map(([column]) => `rol${column}`).join(", ")}
       from pg_authid where ${IS_USERS} order by oid`,
  );
  return rows.flatMap(([name, password, limit, validUntil, ...values]) => {
    const role = quoteName(name!);
    const words = flags.map(([, word], i) => (values[i] === "t" ? word : `no${word}`));
    const until = validUntil === null ? "" : ` valid until ${quoteText(validUntil!)}`;
    const secret = password === null ? "null" : quoteText(password!);
    return [
      createRole(name!),
      `alter role ${role} ${words.join(" ")} connection limit ${limit}${until} password ${secret}`,
    ];
  });
}

function createRole(name: string): string {
  const body = `begin create role ${quoteName(name)}; exception when duplicate_object then null; end`;
  return `do ${quoteText(body)}`;
}

async function memberships(session: WireConnection, pgVersion: number): Promise<string[]> {
  const hasOptions = pgVersion >= GRANT_OPTIONS_MAJOR;
  const { rows } = await session.query(
    `select of.rolname, u.rolname, bool_or(m.admin_option),
            ${hasOptions ? "bool_or(m.inherit_option), bool_or(m.set_option)" : "true, true"}
       from pg_auth_members m join pg_roles of on of.oid = m.roleid
       join (select oid, rolname from pg_roles where ${IS_USERS}) u on u.oid = m.member
      where of.rolname <> '${SUPERUSER}' group by of.rolname, u.rolname order by 1, 2`,
  );
  const word = (value: string | null | undefined) => (value === "t" ? "true" : "false");
  return rows.map(([group, member, admin, inherit, set]) => {
    const options = hasOptions
      ? ` with admin ${word(admin)}, inherit ${word(inherit)}, set ${word(set)}`
      : admin === "t"
        ? " with admin option"
        : "";
    return `grant ${quoteName(group!)} to ${quoteName(member!)}${options}`;
  });
}

/** Those that hold in every database. */
async function settings(session: WireConnection): Promise<string[]> {
  const { rows } = await session.query(
    `select r.rolname, unnest(s.setconfig)
       from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
      where s.setdatabase = 0 and ${IS_USERS} order by r.oid`,
  );
  return rows.map(([role, setting]) => {
    const at = setting!.indexOf("=");
    const name = setting!.slice(0, at);
    const value = setting!.slice(at + 1);
    const words = name.split(".").map(quoteName).join(".");
    const given = LIST_SETTINGS.has(name) && value !== "" ? value : quoteText(value);
    return `alter role ${quoteName(role!)} set ${words} to ${given}`;
  });
}
