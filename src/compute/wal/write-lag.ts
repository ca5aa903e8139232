// Back-pressure: how far the WAL of a compute may be ahead of what a pageserver has taken in.

import { StorageError } from "../../base/errors.ts";
import { parseSizeBytes } from "../../base/text/size.ts";

/**
 * Of an endpoint's settings, as Neon's `max_replication_write_lag`. Postgres keeps a parameter with a
 * prefix that it does not know, so that SHOW tells it. WAL that no pageserver has taken in stays on
 * the safekeepers' disks, and a start at the head has to wait for it: so there is a limit.
 */
export const MAX_WRITE_LAG = "strata.max_replication_write_lag";
/** Neon's. */
export const DEFAULT_MAX_WRITE_LAG = "500MB";

/**
 * Bytes; undefined without a limit (0). Units as Postgres's, MB where none is given.
 * StorageError `invalid`.
 */
export function maxWriteLagBytes(settings: Readonly<Record<string, string>>): number | undefined {
  const text = settings[MAX_WRITE_LAG] ?? DEFAULT_MAX_WRITE_LAG;
  const bytes = parseSizeBytes(text);
  if (bytes === undefined) {
    const message = `${MAX_WRITE_LAG} must be a size such as 500MB, not '${text}'`;
    throw new StorageError("invalid", "bad-setting", message);
  }
  return bytes === 0 ? undefined : bytes;
}
