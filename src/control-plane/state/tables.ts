// The control plane's tables as kysely sees them. Times are ISO 8601 text in UTC, flags 0 or 1, JSON is text.

export interface Tables {
  projects: ProjectRow;
  branches: BranchRow;
  endpoints: EndpointRow;
  roles: RoleRow;
  databases: DatabaseRow;
  operations: OperationRow;
  api_keys: ApiKeyRow;
  jwks: JwksRow;
  console_links: ConsoleLinkRow;
  console_sessions: ConsoleSessionRow;
  control_planes: ControlPlaneRow;
  secret_key: { fingerprint: string };
  consumption: ConsumptionRow;
  /** One row, once anything was counted: since when. */
  meter: { since: string };
  meter_endpoints: MeterEndpointRow;
  meter_timelines: MeterTimelineRow;
  meter_proxies: MeterProxyRow;
}

/** Up to which of its reports a process of the proxy has been counted (consumption/transfer.ts). */
export interface MeterProxyRow {
  proxy: string;
  sequence: number;
  seen_at: string;
}

/** What a project has used in an hour, a day or a month. */
export interface ConsumptionRow {
  project_id: string;
  /** consumption/frames.ts. */
  granularity: string;
  /** ISO 8601 in UTC with milliseconds. */
  frame_start: string;
  active_ms: number;
  cpu_ms: number;
  written_bytes: number;
  /** Through proxies, to clients. */
  transfer_bytes: number;
  /** The largest that was seen; null: none was. */
  size_bytes: number | null;
}

/** Up to where an endpoint has been counted (consumption/counting.ts). */
export interface MeterEndpointRow {
  endpoint_id: string;
  run: string;
  active_until_ms: number;
  cpu_ms: number;
  has_ended: Flag;
}

/** Up to where a timeline's WAL has been counted. */
export interface MeterTimelineRow {
  project_id: string;
  timeline_id: string;
  counted_lsn: number;
}

/** Those that work on this database (operations/claims.ts). */
export interface ControlPlaneRow {
  id: string;
  /** Raised as long as it lives. */
  beat: number;
}

type Flag = number;

/** What a tenant lacks in the home. */
export interface ProjectRow {
  /** Public: `word-word-12345678`. */
  id: string;
  tenant_id: string;
  name: string;
  pg_version: number;
  history_retention_seconds: number;
  /** JSON, as the API takes and gives them. */
  settings: string;
  default_endpoint_settings: string;
  /** An operation makes it; the home may not know its tenant yet. */
  creating: Flag;
  created_at: string;
  updated_at: string;
}

/** What a branch lacks in the home. */
export interface BranchRow {
  /** Public, and for good: `br-word-word-abcdef12`. */
  id: string;
  project_id: string;
  /** What its name stands for now. */
  timeline_id: string;
  /** As last seen in the home. */
  name: string;
  is_default: Flag;
  protected: Flag;
  expires_at: string | null;
  last_reset_at: string | null;
  init_source: string;
  /** An operation makes it. */
  creating: Flag;
  /** Its roles and databases may not be in Postgres as they are here: the next start sees to it. */
  needs_configure: Flag;
  created_at: string;
  updated_at: string;
}

/** What an endpoint lacks in the home. */
export interface EndpointRow {
  /** As its directory is called. */
  id: string;
  project_id: string;
  branch_id: string;
  name: string | null;
  type: "read_write" | "read_only";
  /** Neon's: 0 is the default, -1 never. */
  suspend_timeout_seconds: number;
  autoscaling_limit_min_cu: number;
  autoscaling_limit_max_cu: number;
  settings: string;
  disabled: Flag;
  /** Made by a connection to a point in time; goes when it is idle. */
  ephemeral: Flag;
  creating: Flag;
  last_active: string | null;
  started_at: string | null;
  suspended_at: string | null;
  created_at: string;
  updated_at: string;
}

export interface RoleRow {
  branch_id: string;
  name: string;
  /** sealed-secrets.ts; null where nobody told us. */
  sealed_password: string | null;
  /** SCRAM secret as in pg_authid; null: it has no password that is known here. */
  verifier: string | null;
  no_login: Flag;
  created_at: string;
  updated_at: string;
}

export interface DatabaseRow {
  id: number;
  branch_id: string;
  name: string;
  owner_name: string;
  created_at: string;
  updated_at: string;
}

export type OperationStatus = "scheduling" | "running" | "finished" | "failed" | "skipped";

export interface OperationRow {
  id: string;
  /** Of one request; in `position` one after the other. */
  job_id: string;
  position: number;
  project_id: string;
  branch_id: string | null;
  endpoint_id: string | null;
  /** As the API names it. */
  action: string;
  /** Which state machine it is (operations/). */
  kind: string;
  status: OperationStatus;
  /** The first of its steps that may not have been done. */
  step: number;
  /** JSON; steps may change it. No secret is in it but sealed. */
  args: string;
  error: string | null;
  failures_count: number;
  created_at: string;
  updated_at: string;
  finished_at: string | null;
  /** Which control plane carries it out. */
  claimed_by: string | null;
}

/** `proxy`: what the proxy asks, and nothing of the API. */
export type KeyScope = "all" | "project" | "read_only" | "proxy";

export interface ApiKeyRow {
  id: number;
  name: string;
  /** SHA-256 of the whole key, in hex. */
  hash: string;
  scope: KeyScope;
  /** Of scope `project`; of `read_only` it may be null: all projects. */
  project_id: string | null;
  created_at: string;
  last_used_at: string | null;
  last_used_from_addr: string;
}

/** A URL of public keys whose tokens let users in. */
export interface JwksRow {
  id: string;
  project_id: string;
  /** Null: all of them. */
  branch_id: string | null;
  jwks_url: string;
  provider_name: string;
  /** What a token's `aud` must have in it; null: anything. */
  jwt_audience: string | null;
  /** JSON: those as which its tokens let in. */
  role_names: string;
  created_at: string;
  updated_at: string;
}

/** A one-time link to log in to the console with. */
export interface ConsoleLinkRow {
  /** SHA-256 of its token, in hex. */
  hash: string;
  /** Of the API key that asked for it: what the session may do. */
  key_id: number;
  expires_at: string;
}

/** A browser that is logged in. It lasts as long as its API key, at most. */
export interface ConsoleSessionRow {
  /** SHA-256 of the cookie's value, in hex. */
  hash: string;
  key_id: number;
  created_at: string;
  expires_at: string;
}
