// The superuser's password, where its timeline was made without one or with another.

import type { Logger } from "../../base/log.ts";
import { SUPERUSER } from "../../postgres/installation.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";

/**
 * Makes `secret` (SCRAM_SECRET) what the superuser's password is checked against. Where nothing can
 * be written a wrong one stays, and the log says how to come in.
 */
export async function requirePassword(
  address: PostgresAddress,
  secret: string,
  logger: Logger,
): Promise<void> {
  const connection = await maintenanceSession(address);
  try {
    const { rows } = await connection.query(
      `select rolpassword is distinct from '${secret}', pg_catalog.pg_is_in_recovery()
         from pg_catalog.pg_authid where rolname = '${SUPERUSER}'`,
    );
    const [differs, readOnly] = rows[0] ?? [];
    if (differs !== "t") {
      return;
    }
    if (readOnly === "t") {
      logger.warn(
        { socket: address.host },
        "the superuser has another password at this LSN, or none: connect through the socket",
      );
      return;
    }
    await connection.query(`alter role ${SUPERUSER} password '${secret}'`);
    logger.info({}, "set the superuser's password");
  } finally {
    connection.close();
  }
}
