// What `settings` of an endpoint, and a project's defaults for them, mean here.

import { StorageError } from "../../base/errors.ts";

/**
 * `pg_settings` of an endpoint as Postgres's GUCs, with what its project's settings say for all of its endpoints. StorageError
 * `invalid` where a value is none.
 */
export function postgresSettings(
  settings: string,
  project: { readonly settings: string },
): Record<string, string> {
  const { pg_settings: given = {} } = JSON.parse(settings) as { pg_settings?: unknown };
  if (typeof given !== "object" || given === null || Array.isArray(given)) {
    throw new StorageError("invalid", "bad-settings", "pg_settings must be an object");
  }
  const own = Object.fromEntries(
    Object.entries(given).map(([name, value]) => {
      if (!/^[A-Za-z_][\w.]{0,62}$/.test(name) || !/^(string|number|boolean)$/.test(typeof value)) {
        throw new StorageError("invalid", "bad-settings", `pg_settings: '${name}' is no setting`);
      }
      return [name, String(value)];
    }),
  );
  return replicatesLogically(project.settings) ? { ...own, wal_level: "logical" } : own;
}

/** `enable_logical_replication` of a project's settings, as Neon's. */
export function replicatesLogically(projectSettings: string): boolean {
  const { enable_logical_replication: enabled } = JSON.parse(projectSettings);
  return enabled === true;
}

/** Of a project's new endpoints, as Neon counts: 0 is the default, -1 never. */
export function defaultTimeout(defaults: Readonly<Record<string, unknown>>): number {
  const timeout = defaults["suspend_timeout_seconds"];
  return typeof timeout === "number" && Number.isInteger(timeout) && timeout >= -1 ? timeout : 0;
}
