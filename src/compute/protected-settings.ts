// Settings of Postgres that are not the user's to change, whoever sends them.

import { StorageError } from "../base/errors.ts";

/**
 * What correctness rests on; given on the command line, which beats postgresql.conf, ALTER SYSTEM
 * and a superuser's edits.
 * - fsync, wal_sync_method: the shim makes `fdatasync` of a WAL segment mean "on a quorum"; with
 *   fsync off, Postgres would not call it at all, and commits would be acknowledged unsent.
 * - full_page_writes, wal_log_hints: storage has no torn pages, and no page checksums.
 * - restart_after_crash: an in-place restart would replay WAL that no quorum has; we build anew.
 * - wal_init_zero, wal_recycle: the local segments are a cache, so cheap ones do.
 */
export const PROTECTED_SETTINGS: Readonly<Record<string, string>> = {
  fsync: "on",
  wal_sync_method: "fdatasync",
  full_page_writes: "off",
  wal_log_hints: "off",
  restart_after_crash: "off",
  wal_init_zero: "off",
  wal_recycle: "off",
  archive_mode: "off",
};

/** Decided by the endpoint's specification, or would let Postgres find files that are not ours. */
const REFUSED = new Set([
  ...Object.keys(PROTECTED_SETTINGS),
  "port",
  "listen_addresses",
  "unix_socket_directories",
  "unix_socket_permissions",
  "unix_socket_group",
  "data_directory",
  "hba_file",
  "ident_file",
  "config_file",
  "external_pid_file",
  "archive_command",
  "archive_library",
  "primary_conninfo",
  "primary_slot_name",
  "promote_trigger_file",
  "restore_command",
  "recovery_target",
  "recovery_target_lsn",
  "recovery_target_name",
  "recovery_target_time",
  "recovery_target_timeline",
  "recovery_target_xid",
  "ignore_system_indexes",
  "zero_damaged_pages",
  "synchronous_standby_names",
  // What Postgres would have a shell do. Who chooses an endpoint's settings is not to be who runs commands on its machine.
  "archive_cleanup_command",
  "recovery_end_command",
  "ssl_passphrase_command",
]);
/** In postgresql.conf these are no settings: another file is read in their place, whatever is in it (guc-file.l). */
const DIRECTIVES = new Set(["include", "include_if_exists", "include_dir"]);

/**
 * The setting's name as Postgres takes it. StorageError `invalid` for what is none, and for one that an endpoint may not set:
 * the message has its name.
 */
export function checkSetting(name: string, value: string): string {
  const lower = name.toLowerCase();
  const isName = /^[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_$]*)*$/.test(lower) && !DIRECTIVES.has(lower);
  if (!isName || value.includes("\0")) {
    throw new StorageError("invalid", "bad-setting", `not a setting: '${name}'`);
  }
  if (REFUSED.has(lower) || (lower === "io_method" && value.trim().toLowerCase() === "io_uring")) {
    const message = `setting '${name}' cannot be changed: what is durable, where files are, or who runs commands rests on it`;
    throw new StorageError("invalid", "protected-setting", message);
  }
  return lower;
}
