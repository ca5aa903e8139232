// Settings of a Postgres that runs: checked by Postgres itself, then loaded.

import { monotonicMs, sleep } from "../../base/clock.ts";
import { StorageError } from "../../base/errors.ts";
import type { WireConnection } from "../../postgres/wire/wire-client.ts";
import { maintenanceSession, type PostgresAddress } from "./maintenance-session.ts";

const RELOAD_POLL_MS = 10;
const RELOAD_PATIENCE_MS = 5000;

/** Of postgresql.conf. */
export interface SettingsFile {
  /** Puts the new one in place. */
  write(): void;
  /** Puts the one before it in place. */
  restore(): void;
}

/**
 * Returns the names of settings that need a restart to become what the file says. StorageError `invalid` where Postgres refuses one. Whatever
 * fails, the file is again what it was: whoever asked takes the settings of before for those that hold.
 */
export async function applySettings(
  address: PostgresAddress,
  file: SettingsFile,
): Promise<string[]> {
  const session = await maintenanceSession(address);
  try {
    return await loadSettings(session, file);
  } finally {
    session.close();
  }
}

/** As applySettings, in a session of the superuser's. */
export async function loadSettings(
  session: Pick<WireConnection, "query">,
  { write, restore }: SettingsFile,
): Promise<string[]> {
  const { rows: before } = await session.query("select pg_conf_load_time()");
  let mayBeLoaded = false;
  try {
    write();
    await requireValid(session);
    mayBeLoaded = true;
    await session.query("select pg_reload_conf()");
    await reloaded(session, before[0]?.[0]);
    const { rows: pending } = await session.query(
      "select name from pg_settings where pending_restart order by name",
    );
    return pending.map(([name]) => name!);
  } catch (error) {
    try {
      restore();
      if (mayBeLoaded) {
        await session.query("select pg_reload_conf()");
      }
    } catch {
      // Postgres is gone, and the next one gets a file of its own; why the settings are not changed is what was there first.
    }
    throw error;
  }
}

/**
 * Postgres checks the file without taking it. What must wait for a restart has an error, too, but then this session has it among
 * what waits; what Postgres would not start with is not. (One that waits already, and gets such a value now, is not noticed.)
 */
async function requireValid(session: Pick<WireConnection, "query">): Promise<void> {
  const { rows: refused } = await session.query(
    `select f.name, f.error from pg_file_settings f left join pg_settings s on s.name = lower(f.name)
      where f.error is not null and s.context is distinct from 'postmaster'`,
  );
  // The check has to be over before anybody looks what waits, so this is a query of its own.
  const { rows: unfit } = await session.query(
    `select f.name, 'Postgres does not take ' || quote_literal(f.setting)
       from pg_file_settings f join pg_settings s on s.name = lower(f.name)
      where f.error is not null and s.context = 'postmaster' and not s.pending_restart`,
  );
  if (refused.length + unfit.length > 0) {
    const problems = [...refused, ...unfit].map(
      ([name, error]) => `${name ?? "a setting"}: ${error}`,
    );
    throw new StorageError("invalid", "bad-setting", problems.join("; "));
  }
}

async function reloaded(
  session: Pick<WireConnection, "query">,
  before: string | null | undefined,
): Promise<void> {
  for (const deadline = monotonicMs() + RELOAD_PATIENCE_MS; ; await sleep(RELOAD_POLL_MS)) {
    const { rows } = await session.query("select pg_conf_load_time()");
    if (rows[0]?.[0] !== before) {
      return;
    }
    if (monotonicMs() > deadline) {
      throw new StorageError("unavailable", "no-reload", "Postgres does not load its settings");
    }
  }
}
