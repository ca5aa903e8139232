// What a compute is told (endpoint.json) and what it tells over HTTP.

import { type ErrorKind, StorageError } from "../base/errors.ts";
import { type Lsn, parseLsn } from "../base/lsn.ts";
import type { ServiceTrust } from "../base/network/service-tls.ts";
import { parseSizeBytes } from "../base/text/size.ts";
import { SCRAM_SECRET } from "../postgres/scram.ts";
import { MAX_SAFEKEEPERS } from "../safekeeper-protocol/membership.ts";
import { checkSetting } from "./protected-settings.ts";

/** In a compute's work directory: what its last starts have read (pages/start-reads.ts). */
export const START_READS_NAME = "start-reads.json";
/** There as well, and in its data directory: which blocks Postgres had in memory (pages/hot-blocks.ts). */
export const HOT_BLOCKS_NAME = "autoprewarm.blocks";
/** There as well: which Postgres can be started with which shim (pages/lazy-files.ts). */
export const CHECKED_POSTGRES_NAME = "checked-postgres";
/** There as well: what Postgres writes. */
export const POSTGRES_LOG_NAME = "postgres.log";

/**
 * Of an endpoint's settings: how much of storage's files its data directory may hold, where it can be given back. A
 * size as Postgres writes them; `0`, or absent: all that was read stays.
 */
export const LOCAL_CACHE = "strata.local_cache";
/** With less a hundred sessions would take from each other what they are about to read. */
export const LEAST_LOCAL_CACHE_BYTES = 16 * 2 ** 20;

/**
 * Bytes that LOCAL_CACHE allows; undefined without a limit. `diskBytes` is the size of the disk that the data directory
 * is on. StorageError `invalid` for what is no size, too small, or larger than the disk.
 */
export function localCacheBytes(
  settings: Readonly<Record<string, string>>,
  diskBytes: number,
): number | undefined {
  const text = ownSetting(settings, LOCAL_CACHE) ?? "0";
  const bytes = parseSizeBytes(text);
  const mega = (size: number) => `${Math.floor(size / 2 ** 20)}MB`;
  const problem =
    bytes === undefined
      ? "must be a size such as 64MB, or 0 for no limit"
      : bytes === 0
        ? undefined
        : bytes < LEAST_LOCAL_CACHE_BYTES
          ? `must be at least ${mega(LEAST_LOCAL_CACHE_BYTES)}, or 0 for no limit`
          : bytes > diskBytes
            ? `must not be larger than the disk, which has ${mega(diskBytes)}`
            : undefined;
  if (problem !== undefined) {
    const message = `the limit of the local cache (${LOCAL_CACHE}) ${problem}; it is '${text}'`;
    throw new StorageError("invalid", "bad-local-cache", message);
  }
  return bytes === 0 ? undefined : bytes;
}

/** Of an endpoint's settings, a boolean: after a start Postgres reads again what it had in memory before (pages/hot-blocks.ts). */
export const PREWARM = "strata.prewarm";
const BOOLEANS = new Map([
  ...["on", "true", "yes", "1"].map((text) => [text, true] as const),
  ...["off", "false", "no", "0"].map((text) => [text, false] as const),
]);

/** StorageError `invalid` where PREWARM is no boolean; false where it is not set. */
export function isPrewarmed(settings: Readonly<Record<string, string>>): boolean {
  const text = ownSetting(settings, PREWARM) ?? "off";
  const value = BOOLEANS.get(text.trim().toLowerCase());
  if (value === undefined) {
    throw new StorageError("invalid", "bad-prewarm", `${PREWARM} must be on or off, not '${text}'`);
  }
  return value;
}

/**
 * Of an endpoint's settings, as Neon's `max_replication_write_lag`: how far its WAL may be ahead of what a pageserver has taken in.
 * WAL that none has stays on the safekeepers' disks, and a start at the head has to wait for it: so there is a limit.
 */
export const MAX_WRITE_LAG = "strata.max_replication_write_lag";
/** Neon's. */
export const DEFAULT_MAX_WRITE_LAG = "500MB";

/** Bytes; undefined without a limit (0). Units as Postgres's, MB where none is given. StorageError `invalid`. */
export function maxWriteLagBytes(settings: Readonly<Record<string, string>>): number | undefined {
  const text = ownSetting(settings, MAX_WRITE_LAG) ?? DEFAULT_MAX_WRITE_LAG;
  const bytes = parseSizeBytes(text);
  if (bytes === undefined) {
    const message = `${MAX_WRITE_LAG} must be a size such as 500MB, not '${text}'`;
    throw new StorageError("invalid", "bad-setting", message);
  }
  return bytes === 0 ? undefined : bytes;
}

/** Settings that name libraries to load before anybody asks for them. */
export const PRELOAD_SETTINGS: readonly string[] = [
  "shared_preload_libraries",
  "session_preload_libraries",
  "local_preload_libraries",
];

export function preloadsLibraries(settings: Readonly<Record<string, string>>): boolean {
  return Object.keys(settings).some((name) => PRELOAD_SETTINGS.includes(name.toLowerCase()));
}

/** StorageError `invalid` where an endpoint may not set one, or no agent would start with the settings of ours that are among them; `diskBytes` as of `localCacheBytes`. */
export function checkOwnSettings(
  settings: Readonly<Record<string, string>>,
  diskBytes: number,
): void {
  for (const [name, value] of Object.entries(settings)) {
    checkSetting(name, value);
  }
  localCacheBytes(settings, diskBytes);
  isPrewarmed(settings);
  maxWriteLagBytes(settings);
}

/** Those of ours that `now` has otherwise than `before`, with which Postgres was started: none is looked at again until the next start. */
export function changedOwnSettings(
  before: Readonly<Record<string, string>>,
  now: Readonly<Record<string, string>>,
): string[] {
  return [LOCAL_CACHE, PREWARM, MAX_WRITE_LAG].filter(
    (name) => ownSetting(before, name) !== ownSetting(now, name),
  );
}

/** Postgres knows no case in names of settings, and of two the later counts; it keeps one with a prefix that it does not know. */
function ownSetting(settings: Readonly<Record<string, string>>, name: string): string | undefined {
  return Object.entries(settings).findLast(([key]) => key.toLowerCase() === name)?.[1];
}

export const PORT_NAMES = ["pgPort", "internalHttpPort"] as const;
export type PortName = (typeof PORT_NAMES)[number];

/**
 * endpoint.json in a compute's work directory: written by whoever creates the endpoint, read once
 * at each start. Addresses are `host:port`.
 */
export interface EndpointSpec {
  readonly endpointId: string;
  /** 32 lower-case hex digits, as `timelineId`. */
  readonly tenantId: string;
  readonly timelineId: string;
  /** `replica`: read-only, follows the head. `static`: read-only at that LSN (`X/X`), without safekeepers. */
  readonly mode: "primary" | "replica" | { readonly static: string };
  /** Major version. */
  readonly pgVersion: number;
  readonly pgHost: string;
  readonly pgPort: number;
  /** On the loopback address. */
  readonly internalHttpPort: number;
  /**
   * Those that were chosen for it and that nobody asked for: a start may put others in their place. Absent where a version wrote it
   * that did not tell them apart: none.
   */
  readonly movablePorts?: readonly PortName[] | undefined;
  readonly pageserver: { readonly pgAddr: string; readonly httpAddr: string };
  readonly safekeepers: readonly {
    readonly id: number;
    readonly pgAddr: string;
    readonly httpAddr: string;
  }[];
  /**
   * SCRAM secret that the superuser's password is to be checked against; absent: its timeline has the
   * right one already.
   */
  readonly superuserSecret?: string | undefined;
  /** GUCs; those that durability rests on cannot be set (protected-settings.ts). */
  readonly settings: Readonly<Record<string, string>>;
  /** Directory of another unmodified installation's `postgres`; absent: the one that is shipped. */
  readonly pgBin?: string | undefined;
  /** Absolute: a directory with extensions of the user's own (extensions/extension-directory.ts). */
  readonly extensionDir?: string | undefined;
}

/**
 * Checks the text of endpoint.json; StorageError `invalid` names the field that is wrong. Written
 * out by hand, because loading zod would cost a third of the agent's own start.
 */
export function parseEndpointSpec(text: string): EndpointSpec {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new StorageError("invalid", "bad-endpoint-spec", "endpoint.json is not JSON", { cause });
  }
  const spec = fields(value, "");
  const mode = spec["mode"];
  const safekeepers = spec["safekeepers"];
  if (!Array.isArray(safekeepers) || safekeepers.length > MAX_SAFEKEEPERS) {
    throw wrong("safekeepers", `expected a list of at most ${MAX_SAFEKEEPERS}`);
  }
  const settings = Object.entries(fields(spec["settings"] ?? {}, "settings"));
  const pageserver = fields(spec["pageserver"], "pageserver");
  const parsed: EndpointSpec = {
    endpointId: string(spec, "endpointId", /^.{1,63}$/, "expected 1 to 63 characters"),
    tenantId: string(spec, "tenantId", HEX_32, "expected 32 hex digits"),
    timelineId: string(spec, "timelineId", HEX_32, "expected 32 hex digits"),
    mode: mode === "primary" || mode === "replica" ? mode : { static: staticLsn(mode) },
    pgVersion: integer(spec, "pgVersion", 14, 18),
    pgHost: string(spec, "pgHost", /^\S+$/, "expected a host"),
    pgPort: integer(spec, "pgPort", 1, 65535),
    internalHttpPort: integer(spec, "internalHttpPort", 1, 65535),
    movablePorts: portNames(spec["movablePorts"]),
    pageserver: {
      pgAddr: string(pageserver, "pgAddr", ADDRESS, "expected host:port"),
      httpAddr: string(pageserver, "httpAddr", ADDRESS, "expected host:port"),
    },
    safekeepers: safekeepers.map((entry: unknown, i) => {
      const safekeeper = fields(entry, `safekeepers.${i}`);
      return {
        id: integer(safekeeper, "id", 1, Number.MAX_SAFE_INTEGER),
        pgAddr: string(safekeeper, "pgAddr", ADDRESS, "expected host:port"),
        httpAddr: string(safekeeper, "httpAddr", ADDRESS, "expected host:port"),
      };
    }),
    settings: Object.fromEntries(
      settings.map(([name, setting]) => {
        if (typeof setting !== "string") {
          throw wrong(`settings.${name}`, "expected a string");
        }
        return [name, setting];
      }),
    ),
    superuserSecret:
      spec["superuserSecret"] === undefined
        ? undefined
        : string(spec, "superuserSecret", SCRAM_SECRET, "expected a SCRAM-SHA-256 secret"),
    pgBin: spec["pgBin"] === undefined ? undefined : string(spec, "pgBin", /./, "expected a path"),
    extensionDir:
      spec["extensionDir"] === undefined
        ? undefined
        : string(spec, "extensionDir", /^\//, "expected an absolute path"),
  };
  if (typeof parsed.mode === "string" && parsed.safekeepers.length === 0) {
    throw wrong("safekeepers", `a ${parsed.mode} needs at least one`);
  }
  if (new Set(parsed.safekeepers.map(({ id }) => id)).size < parsed.safekeepers.length) {
    throw wrong("safekeepers", "an id occurs twice");
  }
  return parsed;
}

function portNames(value: unknown): readonly PortName[] | undefined {
  if (value === undefined) {
    return undefined;
  }
  if (!Array.isArray(value) || value.some((name) => !PORT_NAMES.includes(name))) {
    throw wrong("movablePorts", `expected a list of ${PORT_NAMES.join(", ")}`);
  }
  return PORT_NAMES.filter((name) => value.includes(name));
}

const HEX_32 = /^[0-9a-f]{32}$/;
const ADDRESS = /^[^\s:]+:\d{1,5}$/;

function wrong(field: string, problem: string): StorageError {
  return new StorageError(
    "invalid",
    "bad-endpoint-spec",
    `endpoint.json is wrong: ${field}: ${problem}`,
  );
}

function fields(value: unknown, name: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrong(name, "expected an object");
  }
  return value as Record<string, unknown>;
}

function string(
  from: Record<string, unknown>,
  name: string,
  pattern: RegExp,
  problem: string,
): string {
  const value = from[name];
  if (typeof value !== "string" || !pattern.test(value)) {
    throw wrong(name, problem);
  }
  return value;
}

function integer(from: Record<string, unknown>, name: string, least: number, most: number): number {
  const value = from[name];
  if (typeof value !== "number" || !Number.isSafeInteger(value) || value < least || value > most) {
    throw wrong(name, `expected a whole number from ${least} to ${most}`);
  }
  return value;
}

function staticLsn(mode: unknown): string {
  const lsn =
    typeof mode === "object" && mode !== null && "static" in mode ? mode.static : undefined;
  const parsed: Lsn | undefined = typeof lsn === "string" ? parseLsn(lsn) : undefined;
  if (parsed === undefined || parsed === 0) {
    throw wrong("mode", "expected 'primary', 'replica' or { static: an LSN }");
  }
  return lsn as string;
}

/** Splits a checked `host:port`. */
export function splitAddress(address: string): { host: string; port: number } {
  const colon = address.lastIndexOf(":");
  return { host: address.slice(0, colon), port: Number(address.slice(colon + 1)) };
}

/**
 * - `init`: before the first row can be served, also while a crashed Postgres is built anew;
 * - `running`: Postgres accepts connections;
 * - `termination_pending`, `terminated`: a stop was asked for, is done;
 * - `failed`: it will not come back by itself (fenced, or a start that can never succeed).
 */
export type ComputeStatusName =
  | "init"
  | "running"
  | "termination_pending"
  | "terminated"
  | "failed";

/** GET /status. LSNs as `X/X`. */
export interface ComputeStatus {
  readonly endpointId: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly status: ComputeStatusName;
  readonly mode: "primary" | "replica" | "static";
  /** ISO time at which the agent started. */
  readonly startTime: string;
  /** Why it is `failed`, or what the last crash was. */
  readonly error: string | null;
  readonly postgresPid: number | null;
  /** How many times Postgres was built anew after an unexpected end. */
  readonly restarts: number;
  /** The term it won; null for a static endpoint and before an election. */
  readonly term: number | null;
  /** Of the safekeepers' membership that it campaigns or was elected in, or follows as a replica; null while it is not known. */
  readonly generation: number | null;
  /** Where this run of Postgres began. */
  readonly startLsn: string | null;
  /** Newest LSN on a quorum. */
  readonly commitLsn: string | null;
  /** End of the last whole record that Postgres wrote. */
  readonly flushLsn: string | null;
  /**
   * At least `flushLsn`: how far the pages reach that Postgres has written, where a record that is not
   * whole goes on. Up to here the state is that of `flushLsn`.
   */
  readonly insideLsn: string | null;
  /** Of a replica: end of the last record that it has replayed, as of a second ago. */
  readonly replayLsn: string | null;
  /** Of a replica: bytes of committed WAL that it has not replayed. */
  readonly replayLagBytes: number | null;
  /**
   * RFC 3339: when it was last used, as of a look at most 2 s ago. Null while it is used, does not run, or
   * cannot be looked at: that counts as now. What came and went between two questions counts as of the second.
   */
  readonly last_active: string | null;
}

/**
 * Body of POST /configure, in the words of Neon's compute_ctl (libs/compute_api/src/spec.rs): what is to
 * be there. What it does not name stays as it is. Roles and databases that were renamed or deleted are
 * `delta_operations`; all of it may be sent again.
 */
export interface ConfigureRequest {
  readonly spec: {
    readonly cluster: {
      readonly roles?: readonly RoleSpec[] | undefined;
      readonly databases?: readonly DatabaseSpec[] | undefined;
      /** All settings of the endpoint, in the place of those that it has. */
      readonly settings?: readonly GenericOption[] | undefined;
      /** Ours, not Neon's. */
      readonly extensions?: readonly ExtensionSpec[] | undefined;
    };
    readonly delta_operations?: readonly DeltaOperation[] | undefined;
  };
}

/** A setting, or a word of CREATE ROLE: `{name: "work_mem", value: "8MB", vartype: "string"}`. */
export interface GenericOption {
  readonly name: string;
  readonly value?: string | null | undefined;
  readonly vartype?: string | undefined;
}

export interface RoleSpec {
  readonly name: string;
  /** `SCRAM-SHA-256$...`; null: none; absent: as it is. */
  readonly encrypted_password?: string | null | undefined;
  /** Of a role that is made now: LOGIN where none says otherwise; never SUPERUSER. */
  readonly options?: readonly GenericOption[] | null | undefined;
}

export interface DatabaseSpec {
  readonly name: string;
  readonly owner: string;
}

export interface ExtensionSpec {
  readonly database: string;
  readonly name: string;
  /** Default: as the extension says, else `public`. */
  readonly schema?: string | undefined;
  /** Also of one that is there. */
  readonly version?: string | undefined;
}

export interface DeltaOperation {
  readonly action: "delete_role" | "rename_role" | "delete_db" | "rename_db";
  readonly name: string;
  /** Of the two that rename. */
  readonly new_name?: string | null | undefined;
}

export interface ConfigureAnswer {
  /** Settings that are other from the next start on only. */
  readonly restart_required: readonly string[];
}

/** GET /insights, as Neon's: rows of the view as Postgres's row_to_json has them, those with the longest mean times first. */
export interface Insights {
  readonly pg_stat_statements: readonly Readonly<Record<string, unknown>>[];
}

/** GET /installed_extensions, as Neon's. */
export interface InstalledExtensions {
  readonly extensions: readonly InstalledExtension[];
}

export interface InstalledExtension {
  readonly extname: string;
  readonly version: string;
  /** How many databases have it in that version, and of such an owner. */
  readonly n_databases: number;
  /** "1" or "0". */
  readonly owned_by_superuser: string;
}

/** Body of POST /extensions, as Neon's. */
export interface ExtensionInstallRequest {
  readonly extension: string;
  readonly database: string;
  readonly version: string;
}

export interface ExtensionInstallAnswer {
  readonly extension: string;
  readonly version: string;
}

/** Body of POST /grants, as Neon's, and its answer. */
export interface GrantsRequest {
  readonly database: string;
  readonly schema: string;
  /** CREATE, USAGE, ALL. */
  readonly privileges: readonly string[];
  readonly role: string;
}

export type GrantsAnswer = GrantsRequest;

/** Counts blocks of the list of hot blocks. */
export interface PrewarmCounts {
  readonly total: number;
  readonly prewarmed: number;
  /** Of relations or databases that are not there any more, are locked, or are shorter now. */
  readonly skipped: number;
}

/** GET /lfc/prewarm, as Neon's LfcPrewarmState: how the list of hot blocks is being read in. */
export type PrewarmState =
  | { readonly status: "not_prewarmed" }
  | ({ readonly status: "prewarming" } & PrewarmCounts)
  | ({ readonly status: "completed"; readonly prewarm_time_ms: number } & PrewarmCounts)
  | ({ readonly status: "cancelled" } & PrewarmCounts)
  /** There is no list. */
  | { readonly status: "skipped" }
  | { readonly status: "failed"; readonly error: string };

/** GET /lfc/offload, as Neon's LfcOffloadState: how the list is being written. */
export type OffloadState =
  | { readonly status: "not_offloaded" }
  | { readonly status: "offloading" }
  | { readonly status: "completed"; readonly blocks: number; readonly state_query_time_ms: number }
  | { readonly status: "failed"; readonly error: string };

/** GET /statistics: what Postgres has counted since it started, and what goes on now. */
export interface ComputeStatistics {
  /** Sessions of clients, ours not counted. */
  readonly connections: number;
  /** Those of them that are in a query or a transaction. */
  readonly active: number;
  readonly maxConnections: number;
  /** Of all databases but `postgres`, in which our own looks are; as are the next ones. */
  readonly commits: number;
  readonly rollbacks: number;
  readonly rowsRead: number;
  readonly rowsWritten: number;
  /** Blocks found in shared buffers. */
  readonly blocksHit: number;
  /** Blocks that were not. */
  readonly blocksRead: number;
}

/** GET /dbs_and_roles, as Neon's CatalogObjects; passwords are asked for one by one (RoleSecretAnswer). */
export interface CatalogObjects {
  readonly roles: readonly { readonly name: string; readonly options: null }[];
  readonly databases: readonly {
    readonly name: string;
    readonly owner: string;
    readonly options: null;
    /** It takes no connections. */
    readonly restrict_conn: boolean;
    /** What a DROP DATABASE left that did not end. */
    readonly invalid: boolean;
  }[];
}

/** GET /role_secret. */
export interface RoleSecretAnswer {
  /** `SCRAM-SHA-256$...`; null: nobody can log in by a password as that role, or there is none. */
  readonly role_secret: string | null;
}

/** To a process `compute/main.ts --warm`, once: whose agent it becomes. */
export interface WarmAgentWork {
  readonly workdir: string;
  /** Takes its standard output and error from then on. */
  readonly logFile: string;
  /** Of an agent's command line, after `--workdir DIR`. */
  readonly args: readonly string[];
}

/** From it: all is loaded; it is the agent of that directory, whoever ends. */
export type WarmAgentMessage = "ready" | "taken";

/** GET /metrics.json: how long the parts of the last start took; milliseconds. */
export interface StartMetrics {
  /** From the process's start, or a warm agent's being told whose it is, to the first line of its supervisor. */
  readonly process_ms: number;
  /** Election, and a majority brought up to the start LSN. */
  readonly sync_safekeepers_ms: number;
  /** Waiting for the pageserver to reach that LSN and to answer `compute_state`. */
  readonly basebackup_ms: number;
  readonly data_directory_ms: number;
  /** From when all else was there to Postgres's "ready to accept connections". */
  readonly start_postgres_ms: number;
  readonly total_startup_ms: number;
}

/** What POST /terminate answers: everything at or below `lsn` is on a quorum. */
export interface TerminateAnswer {
  readonly lsn: string | null;
}

export type TerminateMode = "fast" | "immediate";

/** What `export/main.ts` is to do, as the JSON of its argument. */
export interface ExportSpec {
  readonly pgAddr: string;
  readonly tenantId: string;
  readonly timelineId: string;
  readonly lsn: string;
  /** Absolute; nothing or an empty directory. */
  readonly directory: string;
  /** Of the service token that it shows; absent: none. */
  readonly tokenFile?: string | undefined;
  /** By what it knows the pageserver, where that is not on loopback. */
  readonly trust?: ServiceTrust | undefined;
}

/** What it says, one a line. */
export type ExportMessage =
  | { readonly kind: "progress"; readonly doneBytes: number; readonly totalBytes: number }
  | {
      readonly kind: "done";
      readonly lsn: string;
      readonly pgVersion: number;
      readonly bytes: number;
    }
  | { readonly kind: "failed"; readonly errorKind: ErrorKind; readonly message: string };
