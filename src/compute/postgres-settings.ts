// The configuration a compute's Postgres runs with, and which of it is not the user's to change.

import { StorageError } from "../base/errors.ts";
import type { ControlParameters } from "../postgres/control-file.ts";
import { DEFAULT_MAX_WRITE_LAG, isPrewarmed, localCacheBytes, MAX_WRITE_LAG } from "./api.ts";
import { checkSetting, PROTECTED_SETTINGS } from "./protected-settings.ts";

const WAL_BUFFERS = "wal_buffers";

const DEFAULTS: Readonly<Record<string, string>> = {
  max_connections: "100",
  max_worker_processes: "8",
  max_locks_per_transaction: "64",
  shared_buffers: "128MB",
  // Half of what Postgres takes by itself: its WAL writer clears all of it ahead, so all of it is in memory of an idle endpoint, too.
  [WAL_BUFFERS]: "2MB",
  wal_level: "replica",
  max_wal_senders: "10",
  max_replication_slots: "10",
  // Prepared transactions of earlier runs come back, and Postgres refuses to start without room.
  max_prepared_transactions: "64",
  // A safekeeper that was away for a moment is caught up from here, from another one where this is too little.
  wal_keep_size: "64MB",
  max_wal_size: "1GB",
  min_wal_size: "80MB",
  // Each block that is not here yet costs a round trip: ask for many at once.
  effective_io_concurrency: "16",
  maintenance_io_concurrency: "16",
  hot_standby: "on",
  log_line_prefix: "%m [%p] ",
  timezone: "UTC",
  log_timezone: "UTC",
  [MAX_WRITE_LAG]: DEFAULT_MAX_WRITE_LAG,
};

/** Of a replica, where they differ. */
const REPLICA_DEFAULTS: Readonly<Record<string, string>> = {
  // Its long queries hold back VACUUM on the primary, or they would be cancelled.
  hot_standby_feedback: "on",
  wal_receiver_status_interval: "1s",
  // The agent, which is asked for WAL, is always near.
  wal_retrieve_retry_interval: "200ms",
  wal_keep_size: "0",
};

/** Settings that exist from some major on. */
const DEFAULTS_FROM_MAJOR: readonly [number, Readonly<Record<string, string>>][] = [
  [17, { io_combine_limit: "256kB" }],
  // io_uring would read past the shim; with workers a session that ends waits for their reads of its blocks.
  [18, { io_method: "sync", max_active_replication_origins: "10" }],
];

/** Names the unix socket of a Postgres that is closed to users. */
export const MAINTENANCE_PORT = 1;

export interface PostgresSettings {
  /** Text of postgresql.conf. */
  readonly configuration: string;
  /** Text of pg_hba.conf. */
  readonly hba: string;
  /** Arguments for the postmaster's command line: `-c name=value`. */
  readonly commandLine: readonly string[];
  readonly controlParameters: ControlParameters;
}

export interface ReplicaSettings {
  /** Where its WAL comes from. */
  readonly primaryConnInfo: string;
  /** What its primary had and has; it must have as much room for transactions and locks. */
  readonly primary: readonly ControlParameters[];
}

export interface SettingsInput {
  readonly pgVersion: number;
  readonly host: string;
  readonly port: number;
  /** Where its unix socket is. */
  readonly socketDirectory: string;
  /** No worker starts for a subscription. */
  readonly subscriptionsRest?: boolean;
  /** Only on the unix socket, and there on MAINTENANCE_PORT, so that nobody comes in who does not mean to. */
  readonly closedToUsers?: boolean;
  /** The endpoint's own GUCs. */
  readonly settings: Readonly<Record<string, string>>;
  /** Of earlier runs: Postgres refuses to start without room for them. */
  readonly preparedTransactions: number;
  readonly replicationOrigins: number;
  /** Of earlier runs: Postgres refuses to start without room for them, or with a wal_level that decodes nothing. */
  readonly logicalSlots?: number;
  /** Of one that follows the head. */
  readonly replica?: ReplicaSettings | undefined;
  /** For a standby over a tablespace in place: recovery takes one for damage where none may be made. */
  readonly allowInPlaceTablespaces?: boolean;
}

/** StorageError `invalid` where the endpoint sets what it may not, or what is no setting's name. */
export function postgresSettings(input: SettingsInput): PostgresSettings {
  const chosen = new Map(Object.entries(DEFAULTS));
  for (const [major, settings] of DEFAULTS_FROM_MAJOR) {
    if (input.pgVersion >= major) {
      for (const [name, value] of Object.entries(settings)) {
        chosen.set(name, value);
      }
    }
  }
  if (input.replica !== undefined) {
    for (const [name, value] of Object.entries(REPLICA_DEFAULTS)) {
      chosen.set(name, value);
    }
  }
  const cacheBytes = localCacheBytes(input.settings, Number.POSITIVE_INFINITY);
  if (cacheBytes !== undefined) {
    chosen.set("max_wal_size", walBesideCache(cacheBytes));
  }
  const own = new Map(
    Object.entries(input.settings).map(([name, value]) => [checkSetting(name, value), value]),
  );
  if (own.has("shared_buffers")) {
    // Postgres's own choice, a part of these.
    chosen.delete(WAL_BUFFERS);
  }
  for (const [name, value] of own) {
    chosen.set(name, value);
  }
  if (isPrewarmed(input.settings)) {
    preload(chosen, "pg_prewarm");
  }
  atLeast(chosen, "max_prepared_transactions", input.preparedTransactions);
  for (const primary of input.replica?.primary ?? []) {
    atLeast(chosen, "max_connections", primary.maxConnections);
    atLeast(chosen, "max_worker_processes", primary.maxWorkerProcesses);
    atLeast(chosen, "max_wal_senders", primary.maxWalSenders);
    atLeast(chosen, "max_prepared_transactions", primary.maxPreparedTransactions);
    atLeast(chosen, "max_locks_per_transaction", primary.maxLocksPerTransaction);
  }
  const originsSetting =
    input.pgVersion >= 18 ? "max_active_replication_origins" : "max_replication_slots";
  atLeast(chosen, originsSetting, input.replicationOrigins);
  if (input.logicalSlots !== undefined && input.logicalSlots > 0) {
    atLeast(chosen, "max_replication_slots", input.logicalSlots);
    chosen.set("wal_level", "logical");
  }
  if (input.allowInPlaceTablespaces === true) {
    chosen.set("allow_in_place_tablespaces", "on");
  }
  chosen.set("listen_addresses", input.host);
  chosen.set("port", String(input.port));
  chosen.set("unix_socket_directories", quoteListEntry(input.socketDirectory));
  chosen.set("unix_socket_permissions", "0700");
  const lines = [...chosen].map(([name, value]) => `${name} = ${quote(value)}`);
  return {
    configuration: `${lines.join("\n")}\n`,
    hba: HBA_CONFIGURATION,
    commandLine: Object.entries({
      ...PROTECTED_SETTINGS,
      ...(input.subscriptionsRest === true ? { max_logical_replication_workers: "0" } : {}),
      ...(input.replica === undefined ? {} : replicaCommandLine(input.replica, input.pgVersion)),
      ...(input.closedToUsers === true
        ? { listen_addresses: "", port: String(MAINTENANCE_PORT) }
        : {}),
    }).flatMap(([name, value]) => ["-c", `${name}=${value}`]),
    controlParameters: controlParameters(chosen),
  };
}

/** Who limits the disk means WAL, too. A checkpoint costs no full-page writes here, so what is near the cache's size does. */
function walBesideCache(cacheBytes: number): string {
  const [least, most] = [128, 1024];
  return `${Math.min(most, Math.max(least, Math.ceil(cacheBytes / 2 ** 20)))}MB`;
}

/** Also not to be changed by a superuser: what it follows, and that it does. */
function replicaCommandLine(
  { primaryConnInfo }: ReplicaSettings,
  pgVersion: number,
): Readonly<Record<string, string>> {
  return {
    primary_conninfo: primaryConnInfo,
    primary_slot_name: "",
    restore_command: "",
    hot_standby: "on",
    ...(pgVersion < 16 ? { promote_trigger_file: "" } : {}),
  };
}

function atLeast(chosen: Map<string, string>, name: string, least: number): void {
  if (Number(chosen.get(name) ?? "0") < least) {
    chosen.set(name, String(least));
  }
}

/** A library that Postgres loads at its start, with those that the user wants. */
function preload(chosen: Map<string, string>, library: string): void {
  const name = "shared_preload_libraries";
  const libraries = (chosen.get(name) ?? "").split(",").filter((one) => one.trim() !== "");
  if (!libraries.some((one) => one.trim() === library)) {
    chosen.set(name, [...libraries, library].join(","));
  }
}

const WAL_LEVELS = ["minimal", "replica", "logical"];

function controlParameters(chosen: ReadonlyMap<string, string>): ControlParameters {
  const number = (name: string) => {
    const text = chosen.get(name)!;
    if (!/^\d{1,9}$/.test(text)) {
      throw new StorageError("invalid", "bad-setting", `${name} must be a number, not '${text}'`);
    }
    return Number(text);
  };
  const walLevel = WAL_LEVELS.indexOf(chosen.get("wal_level")!);
  if (walLevel < 1) {
    throw new StorageError(
      "invalid",
      "bad-setting",
      `wal_level must be replica or logical, not '${chosen.get("wal_level")}'`,
    );
  }
  return {
    walLevel,
    maxConnections: number("max_connections"),
    maxWorkerProcesses: number("max_worker_processes"),
    maxWalSenders: number("max_wal_senders"),
    maxPreparedTransactions: number("max_prepared_transactions"),
    maxLocksPerTransaction: number("max_locks_per_transaction"),
  };
}

/** As SplitDirectoriesString reads it: a path with a comma or a space at its end in quotes. */
function quoteListEntry(path: string): string {
  return `"${path.replaceAll('"', '""')}"`;
}

/** As guc-file.l reads a quoted value: both quotes and backslashes doubled, newlines escaped. */
function quote(value: string): string {
  return `'${value.replaceAll("\\", "\\\\").replaceAll("'", "''").replaceAll("\n", "\\n")}'`;
}

/**
 * Who may enter the socket's directory is the owner of the endpoint, and needs no password. Over TCP, on
 * the loopback address only, everybody does: any user of the machine can come that way.
 */
export const HBA_CONFIGURATION = [
  "local all all trust",
  "local replication all trust",
  "host all all 127.0.0.1/32 scram-sha-256",
  "host all all ::1/128 scram-sha-256",
  "host replication all 127.0.0.1/32 scram-sha-256",
  "host replication all ::1/128 scram-sha-256",
  "",
].join("\n");
