// What Postgres itself says of its roles and databases.

import { SCRAM_SECRET } from "../../postgres/scram.ts";
import type { CatalogObjects, RoleSecretAnswer } from "../api.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";
import { checkName, quoteText } from "./sql-text.ts";

/** All of them, also Postgres's own. */
export async function catalogObjects(address: PostgresAddress): Promise<CatalogObjects> {
  const session = await maintenanceSession(address);
  try {
    const roles = await session.query("select rolname from pg_roles order by oid");
    const databases = await session.query(
      `select datname, pg_get_userbyid(datdba), not datallowconn, datconnlimit = -2
         from pg_database order by oid`,
    );
    return {
      roles: roles.rows.map(([name]) => ({ name: name!, options: null })),
      databases: databases.rows.map(([name, owner, restricted, invalid]) => ({
        name: name!,
        owner: owner!,
        options: null,
        restrict_conn: restricted === "t",
        invalid: invalid === "t",
      })),
    };
  } finally {
    session.close();
  }
}

/** What a password of `role` is checked against; StorageError `invalid` for what is no name. */
export async function roleSecret(
  address: PostgresAddress,
  role: unknown,
): Promise<RoleSecretAnswer> {
  const name = checkName(role, "role");
  const session = await maintenanceSession(address);
  try {
    const { rows } = await session.query(
      `select rolpassword from pg_authid
        where rolname = ${quoteText(name)} and rolcanlogin
          and (rolvaliduntil is null or rolvaliduntil > now())`,
    );
    const secret = rows[0]?.[0] ?? "";
    return { role_secret: SCRAM_SECRET.test(secret) ? secret : null };
  } finally {
    session.close();
  }
}
