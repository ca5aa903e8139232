// Which transactions of a Postgres may still run.

import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";

/**
 * All transactions before it have ended; prepared ones run until they are finished. Undefined where Postgres does not answer.
 * Of GetSnapshotData(): what only VACUUM runs does not count, and writes no rows.
 */
export async function oldestRunningXid(address: PostgresAddress): Promise<number | undefined> {
  try {
    const session = await maintenanceSession(address);
    try {
      const { rows } = await session.query("select pg_snapshot_xmin(pg_current_snapshot())");
      return Number(BigInt.asUintN(32, BigInt(rows[0]![0]!)));
    } finally {
      session.close();
    }
  } catch {
    // No room for a session, or Postgres is about to end.
    return undefined;
  }
}
