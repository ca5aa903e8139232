// Rows as API v2 shows them.

import type { z } from "zod";
import { nowMs } from "../../base/clock.ts";
import type { DeletedTenant } from "../../local/state/home-state.ts";
import type {
  BranchRow,
  ConsumptionRow,
  DatabaseRow,
  EndpointRow,
  JwksRow,
  OperationRow,
  ProjectRow,
  RoleRow,
} from "../state/tables.ts";
import type {
  branchSchema,
  connectionUriSchema,
  databaseSchema,
  endpointSchema,
  jwksSchema,
  operationSchema,
  projectListItemSchema,
  projectSchema,
  roleSchema,
} from "./schemas.ts";

type Project = z.infer<typeof projectSchema>;
type ProjectListItem = z.infer<typeof projectListItemSchema>;
type Branch = z.infer<typeof branchSchema>;
type Endpoint = z.infer<typeof endpointSchema>;
type Operation = z.infer<typeof operationSchema>;
type Role = z.infer<typeof roleSchema>;
type Database = z.infer<typeof databaseSchema>;
type Jwks = z.infer<typeof jwksSchema>;
type ConnectionUri = z.infer<typeof connectionUriSchema>;

/** The user of a home, who is always the same one. */
export const OWNER_ID = "00000000-0000-4000-8000-000000000001";
const PLATFORM = "local";
const REGION = "local";
const PROVISIONER = "local-process";
const SOURCE = "strata";
/** Neon's: of hosts of poolers. */
export const POOLER_SUFFIX = "-pooler";

/** Of what `host`s consist, beside the endpoint's id. */
export interface FrontAddress {
  readonly domain: string;
  /** Of Postgres connections. */
  readonly port: number;
  /** Of SQL over HTTP and WebSockets. */
  readonly httpPort: number;
}

function common(row: ProjectRow, front: FrontAddress): Omit<ProjectListItem, "active_time"> {
  return {
    id: row.id,
    platform_id: PLATFORM,
    region_id: REGION,
    name: row.name,
    provisioner: PROVISIONER,
    default_endpoint_settings: JSON.parse(row.default_endpoint_settings),
    settings: JSON.parse(row.settings),
    pg_version: row.pg_version,
    proxy_host: front.domain,
    branch_logical_size_limit: 0,
    branch_logical_size_limit_bytes: 0,
    store_passwords: true,
    cpu_used_sec: 0,
    creation_source: SOURCE,
    history_retention_seconds: row.history_retention_seconds,
    created_at: row.created_at,
    updated_at: row.updated_at,
    owner_id: OWNER_ID,
  };
}

/** What a project has used in a month; absent row: nothing was counted in it. */
export interface MonthOfUse {
  readonly start: string;
  readonly end: string;
  readonly row: ConsumptionRow | undefined;
}

/** Storage over time is not measured: 0, as clients want a number. */
export function projectView(row: ProjectRow, front: FrontAddress, month: MonthOfUse): Project {
  const { active_ms: activeMs = 0, cpu_ms: cpuMs = 0, written_bytes: bytes = 0 } = month.row ?? {};
  return {
    data_storage_bytes_hour: 0,
    data_transfer_bytes: month.row?.transfer_bytes ?? 0,
    ...common(row, front),
    written_data_bytes: bytes,
    compute_time_seconds: Math.floor(cpuMs / 1000),
    cpu_used_sec: Math.floor(cpuMs / 1000),
    active_time_seconds: Math.floor(activeMs / 1000),
    consumption_period_start: month.start,
    consumption_period_end: month.end,
  };
}

/** `activeMs`: how long its endpoints have run, as far back as is known. */
export function projectListItem(
  row: ProjectRow,
  front: FrontAddress,
  activeMs: number,
): ProjectListItem {
  return { ...common(row, front), active_time: Math.floor(activeMs / 1000) };
}

/** Nothing of one that is not deleted. */
export function deletionView(deleted: DeletedTenant | undefined) {
  const text = (ms: number) => new Date(ms).toISOString();
  return deleted === undefined
    ? {}
    : {
        deleted_at: text(deleted.deletedAtMs),
        recoverable_until: text(deleted.recoverableUntilMs),
      };
}

/** Where the storage says that it begins; absent for a root, and while it is being made. */
export interface Parent {
  readonly id: string;
  readonly lsn: string;
}

export function branchView(
  row: BranchRow,
  state: { readonly parent: Parent | undefined; readonly isArchived: boolean },
): Branch {
  const current = row.creating === 1 ? "init" : state.isArchived ? "archived" : "ready";
  return {
    id: row.id,
    project_id: row.project_id,
    ...(state.parent === undefined
      ? {}
      : { parent_id: state.parent.id, parent_lsn: state.parent.lsn }),
    name: row.name,
    current_state: current,
    ...(row.creating === 1 ? { pending_state: "ready" } : {}),
    state_changed_at: row.updated_at,
    creation_source: SOURCE,
    primary: row.is_default === 1,
    default: row.is_default === 1,
    protected: row.protected === 1,
    cpu_used_sec: 0,
    compute_time_seconds: 0,
    active_time_seconds: 0,
    written_data_bytes: 0,
    data_transfer_bytes: 0,
    created_at: row.created_at,
    updated_at: row.updated_at,
    ...(row.expires_at === null ? {} : { expires_at: row.expires_at }),
    ...(row.last_reset_at === null ? {} : { last_reset_at: row.last_reset_at }),
    init_source: row.init_source,
  };
}

/** With the port, where it is not Postgres's own: Neon's command line makes URIs of it. */
export function endpointHost(id: string, { domain, port }: FrontAddress): string {
  return port === 5432 ? `${id}.${domain}` : `${id}.${domain}:${port}`;
}

export function endpointView(
  row: EndpointRow,
  { isRunning, isStarting }: { readonly isRunning: boolean; readonly isStarting: boolean },
  front: FrontAddress,
): Endpoint {
  const isNew = row.creating === 1 || (isStarting && row.started_at === null);
  const times = {
    last_active: row.last_active,
    started_at: row.started_at,
    suspended_at: row.suspended_at,
  };
  return {
    host: endpointHost(row.id, front),
    id: row.id,
    ...(row.name === null ? {} : { name: row.name }),
    project_id: row.project_id,
    branch_id: row.branch_id,
    autoscaling_limit_min_cu: row.autoscaling_limit_min_cu,
    autoscaling_limit_max_cu: row.autoscaling_limit_max_cu,
    region_id: REGION,
    type: row.type,
    current_state: isNew ? "init" : isRunning ? "active" : "idle",
    ...(isNew ? { pending_state: "active" as const } : {}),
    settings: JSON.parse(row.settings),
    pooler_enabled: false,
    pooler_mode: "transaction",
    disabled: row.disabled === 1,
    passwordless_access: false,
    ...Object.fromEntries(Object.entries(times).filter(([, time]) => time !== null)),
    creation_source: SOURCE,
    created_at: row.created_at,
    updated_at: row.updated_at,
    proxy_host: front.domain,
    suspend_timeout_seconds: row.suspend_timeout_seconds,
    provisioner: PROVISIONER,
  };
}

export function operationView(row: OperationRow): Operation {
  const end = row.finished_at === null ? nowMs() : Date.parse(row.finished_at);
  return {
    id: row.id,
    project_id: row.project_id,
    ...(row.branch_id === null ? {} : { branch_id: row.branch_id }),
    ...(row.endpoint_id === null ? {} : { endpoint_id: row.endpoint_id }),
    action: row.action,
    status: row.status,
    ...(row.error === null ? {} : { error: row.error }),
    failures_count: row.failures_count,
    created_at: row.created_at,
    updated_at: row.updated_at,
    total_duration_ms: Math.max(0, end - Date.parse(row.created_at)),
  };
}

export function roleView(
  row: Pick<RoleRow, "branch_id" | "name" | "created_at" | "updated_at" | "no_login">,
  password?: string,
): Role {
  return {
    branch_id: row.branch_id,
    name: row.name,
    ...(password === undefined ? {} : { password }),
    protected: false,
    authentication_method: row.no_login === 1 ? "no_login" : "password",
    created_at: row.created_at,
    updated_at: row.updated_at,
  };
}

export function databaseView(row: DatabaseRow): Database {
  return { ...row };
}

export function jwksView({ branch_id, jwt_audience, role_names, ...row }: JwksRow): Jwks {
  return {
    ...row,
    ...(branch_id === null ? {} : { branch_id }),
    ...(jwt_audience === null ? {} : { jwt_audience }),
    role_names: JSON.parse(role_names) as string[],
  };
}

export interface ConnectionParts {
  readonly endpointId: string;
  readonly role: string;
  readonly password: string;
  readonly database: string;
  readonly pooled?: boolean;
}

export function connectionUri(parts: ConnectionParts, front: FrontAddress): string {
  const { role, password, database, pooled } = parts;
  const id = pooled === true ? `${parts.endpointId}${POOLER_SUFFIX}` : parts.endpointId;
  const word = encodeURIComponent;
  return `postgresql://${word(role)}:${word(password)}@${endpointHost(id, front)}/${word(database)}?sslmode=require`;
}

export function connectionDetails(parts: ConnectionParts, front: FrontAddress): ConnectionUri {
  return {
    connection_uri: connectionUri(parts, front),
    connection_parameters: {
      database: parts.database,
      password: parts.password,
      role: parts.role,
      host: endpointHost(parts.endpointId, front),
      pooler_host: endpointHost(`${parts.endpointId}${POOLER_SUFFIX}`, front),
    },
  };
}
