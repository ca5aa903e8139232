// Settings of a Postgres that runs: checked by Postgres itself, then loaded.

import { monotonicMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";

const RELOAD_POLL_MS = 10;
const RELOAD_PATIENCE_MS = 5000;

/**
 * `write` puts the new postgresql.conf in place, `restore` the one before it. Returns the names of settings
 * that need a restart to become what the file says. StorageError `invalid` where Postgres refuses one: then
 * nothing is changed.
 */
export async function applySettings(
  address: PostgresAddress,
  { write, restore }: { write(): void; restore(): void },
): Promise<string[]> {
  const session = await maintenanceSession(address);
  try {
    const { rows: before } = await session.query("select pg_conf_load_time()");
    write();
    // Postgres checks the file without taking it. What must wait for a restart has an error, too.
    const { rows: refused } = await session.query(
      `select f.name, f.error from pg_file_settings f left join pg_settings s on s.name = lower(f.name)
        where f.error is not null and s.context is distinct from 'postmaster'`,
    );
    if (refused.length > 0) {
      restore();
      const problems = refused.map(([name, error]) => `${name ?? "a setting"}: ${error}`);
      throw new StorageError("invalid", "bad-setting", problems.join("; "));
    }
    await session.query("select pg_reload_conf()");
    for (const deadline = monotonicMs() + RELOAD_PATIENCE_MS; ; await sleep(RELOAD_POLL_MS)) {
      const { rows } = await session.query("select pg_conf_load_time()");
      if (rows[0]?.[0] !== before[0]?.[0]) {
        break;
      }
      if (monotonicMs() > deadline) {
        throw new StorageError("unavailable", "no-reload", "Postgres does not load its settings");
      }
    }
    const { rows: pending } = await session.query(
      "select name from pg_settings where pending_restart order by name",
    );
    return pending.map(([name]) => name!);
  } finally {
    session.close();
  }
}
