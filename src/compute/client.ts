// Talks to a compute agent over HTTP.

import { abortAfter } from "../base/clock.ts";
import { HttpClient } from "../http/client.ts";
import type {
  CatalogObjects,
  ComputeStatistics,
  ComputeStatus,
  ConfigureAnswer,
  ConfigureRequest,
  ExtensionInstallAnswer,
  ExtensionInstallRequest,
  GrantsAnswer,
  GrantsRequest,
  Insights,
  InstalledExtensions,
  OffloadState,
  PrewarmState,
  RoleSecretAnswer,
  StartMetrics,
  TerminateAnswer,
  TerminateMode,
} from "./api.ts";

const QUICK_TIMEOUT_MS = 5000;
/** A fast stop waits for a checkpoint and, before that, for a quorum. */
const TERMINATE_TIMEOUT_MS = 60_000;
/** A database is a copy of its template, and pages may have to come from far. */
const CONFIGURE_TIMEOUT_MS = 120_000;
/** One session for each database, whose first pages may have to come from far. */
const SESSIONS_TIMEOUT_MS = 60_000;
const CHECK_TIMEOUT_MS = 15_000;
const LOAD_SCHEMA_TIMEOUT_MS = 300_000;

/** Every call throws StorageError: `unavailable` where no agent answers, else what it said. */
export class ComputeClient {
  readonly #http: HttpClient;

  /** `address`: `host:port` of the agent's HTTP listener; `token`: default that of this process. */
  constructor(address: string, token?: () => string | undefined) {
    const timeoutMs = QUICK_TIMEOUT_MS;
    this.#http = new HttpClient({ component: "compute", address, timeoutMs, bearer: token });
  }

  status(timeoutMs = QUICK_TIMEOUT_MS): Promise<ComputeStatus> {
    return this.#http.call("GET", "/status", { timeoutMs });
  }

  /** Postgres is not asked when it was last used (`last_active` is null): several times as fast. */
  standing(timeoutMs = QUICK_TIMEOUT_MS): Promise<ComputeStatus> {
    return this.#http.call("GET", "/status?activity=false", { timeoutMs });
  }

  /** `unavailable` until the first start has succeeded. */
  startMetrics(timeoutMs = QUICK_TIMEOUT_MS): Promise<StartMetrics> {
    return this.#http.call("GET", "/metrics.json", { timeoutMs });
  }

  /** Returns when Postgres has ended; the agent then ends by itself. */
  terminate(mode: TerminateMode, timeoutMs = TERMINATE_TIMEOUT_MS): Promise<TerminateAnswer> {
    return this.#http.call("POST", `/terminate?mode=${mode}`, { timeoutMs });
  }

  /** Returns when all of it is so. `unsupported` for a read-only endpoint. */
  configure(request: ConfigureRequest, timeoutMs = CONFIGURE_TIMEOUT_MS): Promise<ConfigureAnswer> {
    return this.#http.call("POST", "/configure", { body: request, timeoutMs });
  }

  catalogObjects(): Promise<CatalogObjects> {
    return this.#http.call("GET", "/dbs_and_roles");
  }

  /** `unavailable` while Postgres does not run. */
  statistics(): Promise<ComputeStatistics> {
    return this.#http.call("GET", "/statistics");
  }

  /** `unsupported` where nobody counts statements: the message says what it takes. */
  insights(): Promise<Insights> {
    return this.#http.call("GET", "/insights", { timeoutMs: SESSIONS_TIMEOUT_MS });
  }

  installedExtensions(): Promise<InstalledExtensions> {
    return this.#http.call("GET", "/installed_extensions", { timeoutMs: SESSIONS_TIMEOUT_MS });
  }

  /** `not-found` names an extension, a version or a database that is not there. */
  installExtension(request: ExtensionInstallRequest): Promise<ExtensionInstallAnswer> {
    const timeoutMs = CONFIGURE_TIMEOUT_MS;
    return this.#http.call("POST", "/extensions", { body: request, timeoutMs });
  }

  grant(request: GrantsRequest): Promise<GrantsAnswer> {
    return this.#http.call("POST", "/grants", { body: request, timeoutMs: SESSIONS_TIMEOUT_MS });
  }

  /** `unavailable` where a write comes to no majority within 10 s. */
  checkWritability(timeoutMs = CHECK_TIMEOUT_MS): Promise<true> {
    return this.#http.call("POST", "/check_writability", { timeoutMs });
  }

  prewarmState(): Promise<PrewarmState> {
    return this.#http.call("GET", "/lfc/prewarm");
  }

  /** Begins; `conflict` while one goes on. */
  prewarm(): Promise<PrewarmState> {
    return this.#http.call("POST", "/lfc/prewarm", { timeoutMs: SESSIONS_TIMEOUT_MS });
  }

  cancelPrewarm(): Promise<PrewarmState> {
    return this.#http.call("DELETE", "/lfc/prewarm");
  }

  offloadState(): Promise<OffloadState> {
    return this.#http.call("GET", "/lfc/offload");
  }

  /** As `prewarm`. */
  offload(): Promise<OffloadState> {
    return this.#http.call("POST", "/lfc/offload", { timeoutMs: SESSIONS_TIMEOUT_MS });
  }

  roleSecret(role: string): Promise<RoleSecretAnswer> {
    return this.#http.call("GET", `/role_secret?role=${encodeURIComponent(role)}`);
  }

  /** SQL. `unsupported` where the machine has no pg_dump for it, `not-found` for an unknown database. */
  databaseSchema(database: string, timeoutMs = CONFIGURE_TIMEOUT_MS): Promise<string> {
    const path = `/database_schema?database=${encodeURIComponent(database)}`;
    return this.#http.text("GET", path, abortAfter(timeoutMs));
  }

  /** Runs SQL as superuser, all of it or nothing. */
  async loadSchema(
    database: string,
    sql: string,
    timeoutMs = LOAD_SCHEMA_TIMEOUT_MS,
  ): Promise<void> {
    const path = `/database_schema?database=${encodeURIComponent(database)}`;
    await this.#http.call("POST", path, { body: { sql }, timeoutMs });
  }

  /** SQL that makes all roles of users in another cluster, with their passwords' secrets; for `loadSchema`. */
  roleDefinitions(timeoutMs = CONFIGURE_TIMEOUT_MS): Promise<string> {
    return this.#http.text("GET", "/role_definitions", abortAfter(timeoutMs));
  }
}
