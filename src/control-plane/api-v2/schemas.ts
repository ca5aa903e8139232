// What API v2 takes and gives, as zod schemas. Names, types and limits are those of Neon's published document.

import { z } from "zod";
import { isAllowEntry } from "../../base/network/addresses.ts";

const id = z.string().regex(/^[a-z0-9-]{1,60}$/);
const time = z.string().describe("RFC 3339");
/** Of branches, and what is not measured of projects: always 0. */
const counter = z.number();
const json = z.record(z.string(), z.unknown());

export const projectSchema = z.object({
  data_storage_bytes_hour: counter,
  data_transfer_bytes: counter,
  written_data_bytes: counter,
  compute_time_seconds: counter,
  active_time_seconds: counter,
  cpu_used_sec: counter,
  id: z.string(),
  platform_id: z.string(),
  region_id: z.string(),
  name: z.string(),
  provisioner: z.string(),
  default_endpoint_settings: json,
  settings: json,
  pg_version: z.number(),
  proxy_host: z.string(),
  branch_logical_size_limit: z.number(),
  branch_logical_size_limit_bytes: z.number(),
  store_passwords: z.boolean(),
  creation_source: z.string(),
  history_retention_seconds: z.number(),
  created_at: time,
  updated_at: time,
  consumption_period_start: time,
  consumption_period_end: time,
  owner_id: z.string(),
});

export const projectListItemSchema = z.object({
  id: z.string(),
  platform_id: z.string(),
  region_id: z.string(),
  name: z.string(),
  provisioner: z.string(),
  default_endpoint_settings: json,
  settings: json,
  pg_version: z.number(),
  proxy_host: z.string(),
  branch_logical_size_limit: z.number(),
  branch_logical_size_limit_bytes: z.number(),
  store_passwords: z.boolean(),
  active_time: counter,
  cpu_used_sec: counter,
  creation_source: z.string(),
  history_retention_seconds: z.number(),
  created_at: time,
  updated_at: time,
  owner_id: z.string(),
  deleted_at: time.optional(),
  recoverable_until: time.optional(),
});

export const branchSchema = z.object({
  id: z.string(),
  project_id: z.string(),
  parent_id: z.string().optional(),
  parent_lsn: z.string().optional(),
  name: z.string(),
  current_state: z.string(),
  pending_state: z.string().optional(),
  state_changed_at: time,
  creation_source: z.string(),
  primary: z.boolean(),
  default: z.boolean(),
  protected: z.boolean(),
  cpu_used_sec: counter,
  compute_time_seconds: counter,
  active_time_seconds: counter,
  written_data_bytes: counter,
  data_transfer_bytes: counter,
  created_at: time,
  updated_at: time,
  expires_at: time.optional(),
  last_reset_at: time.optional(),
  init_source: z.string(),
});

export const endpointSchema = z.object({
  host: z.string(),
  id: z.string(),
  name: z.string().optional(),
  project_id: z.string(),
  branch_id: z.string(),
  autoscaling_limit_min_cu: z.number(),
  autoscaling_limit_max_cu: z.number(),
  region_id: z.string(),
  type: z.enum(["read_write", "read_only"]),
  current_state: z.enum(["init", "active", "idle"]),
  pending_state: z.enum(["init", "active", "idle"]).optional(),
  settings: json,
  pooler_enabled: z.boolean(),
  pooler_mode: z.literal("transaction"),
  disabled: z.boolean(),
  passwordless_access: z.boolean(),
  last_active: time.optional(),
  creation_source: z.string(),
  created_at: time,
  updated_at: time,
  started_at: time.optional(),
  suspended_at: time.optional(),
  proxy_host: z.string(),
  suspend_timeout_seconds: z.number(),
  provisioner: z.string(),
});

export const operationSchema = z.object({
  id: z.string(),
  project_id: z.string(),
  branch_id: z.string().optional(),
  endpoint_id: z.string().optional(),
  action: z.string(),
  status: z.enum(["scheduling", "running", "finished", "failed", "skipped"]),
  error: z.string().optional(),
  failures_count: z.number(),
  created_at: time,
  updated_at: time,
  total_duration_ms: z.number(),
});

export const roleSchema = z.object({
  branch_id: z.string(),
  name: z.string(),
  password: z.string().optional(),
  protected: z.boolean(),
  authentication_method: z.string(),
  created_at: time,
  updated_at: time,
});

export const databaseSchema = z.object({
  id: z.number(),
  branch_id: z.string(),
  name: z.string(),
  owner_name: z.string(),
  created_at: time,
  updated_at: time,
});

export const connectionUriSchema = z.object({
  connection_uri: z.string(),
  connection_parameters: z.object({
    database: z.string(),
    password: z.string(),
    role: z.string(),
    host: z.string(),
    pooler_host: z.string(),
  }),
});

export const annotationSchema = z.object({
  object: z.object({ type: z.string(), id: z.string() }),
  value: z.record(z.string(), z.string()),
});

const operations = z.array(operationSchema);

/** `recoverable_until`: ours, of one that was deleted and is kept for a time. The size is absent where it is not known. */
export const deletedProjectAnswer = z.object({
  project: z.object({
    ...projectSchema.shape,
    synthetic_storage_size: z.number().optional(),
    deleted_at: time.optional(),
    recoverable_until: time.optional(),
  }),
});
export const projectAnswer = z.object({ project: projectSchema });
export const projectOperationsAnswer = z.object({ project: projectSchema, operations });
/** Absent where a list is empty: a cursor has at least one character. */
const paginationSchema = z.object({ cursor: z.string().min(1) }).optional();
export const projectsAnswer = z.object({
  projects: z.array(projectListItemSchema),
  pagination: paginationSchema,
  applications: z.record(z.string(), z.array(z.string())),
  integrations: z.record(z.string(), z.array(z.string())),
});
export const sharedProjectsAnswer = z.object({
  projects: z.array(projectListItemSchema),
});
export const createdProjectAnswer = z.object({
  project: projectSchema,
  connection_uris: z.array(connectionUriSchema),
  roles: z.array(roleSchema),
  databases: z.array(databaseSchema),
  operations,
  branch: branchSchema,
  endpoints: z.array(endpointSchema),
});
export const branchesAnswer = z.object({
  branches: z.array(branchSchema),
  annotations: z.record(z.string(), annotationSchema),
  pagination: z.object({
    next: z.string().optional(),
    sort_by: z.string(),
    sort_order: z.string(),
  }),
});
export const recoveredProjectAnswer = z.object({
  project: projectSchema,
  branches: z.array(branchSchema),
});
export const branchAnswer = z.object({ branch: branchSchema, annotation: annotationSchema });
export const branchOperationsAnswer = z.object({ branch: branchSchema, operations });
export const createdBranchAnswer = z.object({
  branch: branchSchema,
  endpoints: z.array(endpointSchema),
  operations,
  roles: z.array(roleSchema),
  databases: z.array(databaseSchema),
  connection_uris: z.array(connectionUriSchema),
});
export const countAnswer = z.object({ count: z.number() });
export const endpointsAnswer = z.object({ endpoints: z.array(endpointSchema) });
export const endpointAnswer = z.object({ endpoint: endpointSchema });
export const endpointOperationsAnswer = z.object({ endpoint: endpointSchema, operations });
export const rolesAnswer = z.object({ roles: z.array(roleSchema) });
export const roleAnswer = z.object({ role: roleSchema });
export const roleOperationsAnswer = z.object({ role: roleSchema, operations });
export const databasesAnswer = z.object({ databases: z.array(databaseSchema) });
export const databaseAnswer = z.object({ database: databaseSchema });
export const databaseOperationsAnswer = z.object({ database: databaseSchema, operations });
export const passwordAnswer = z.object({ password: z.string() });
export const operationAnswer = z.object({ operation: operationSchema });
export const operationsAnswer = z.object({
  operations,
  pagination: paginationSchema,
});
export const uriAnswer = z.object({ uri: z.string() });

const limit = (most: number, fallback: number) =>
  z
    .string()
    .regex(/^\d{1,6}$/)
    .transform(Number)
    .refine((count) => count >= 1 && count <= most, `from 1 to ${most}`)
    .default(fallback)
    .meta({ pattern: "^\\d{1,6}$" });
/** A branch has a name of 256 characters at most, in UTF-8 and base64url. */
const cursor = z.string().max(2000).optional();
const flag = z.enum(["true", "false"]).optional();

export const projectParams = z.object({ project_id: id });
export const branchParams = z.object({ project_id: id, branch_id: id });
/** Endpoints that the command line made can have other letters. */
export const endpointParams = z.object({ project_id: id, endpoint_id: z.string().max(63) });
export const roleParams = z.object({ project_id: id, branch_id: id, role_name: z.string() });
export const databaseParams = z.object({
  project_id: id,
  branch_id: id,
  database_name: z.string(),
});
export const operationParams = z.object({ project_id: id, operation_id: z.string().max(60) });

export const projectsQuery = z.looseObject({
  limit: limit(400, 10),
  cursor,
  search: z.string().max(256).optional(),
  tenant_id: z.string().max(32).optional().describe("ours: the project of a tenant of the home"),
  recoverable: flag.describe("only those that were deleted and can be recovered"),
});
export const projectDeleteQuery = z.looseObject({
  hard_delete: flag.describe("ours, as Neon's of branches: for good, at once"),
});
export const branchesQuery = z.looseObject({
  limit: limit(10_000, 10_000),
  cursor,
  search: z.string().max(256).optional(),
  sort_by: z.enum(["name", "created_at", "updated_at"]).default("updated_at"),
  sort_order: z.enum(["asc", "desc"]).default("desc"),
});
export const operationsQuery = z.looseObject({ limit: limit(1000, 1000), cursor });
export const connectionUriQuery = z.looseObject({
  branch_id: id.optional(),
  endpoint_id: z.string().max(63).optional(),
  database_name: z.string(),
  role_name: z.string(),
  pooled: z.enum(["true", "false"]).optional(),
});

/** One parameter with commas: nothing is twice in a query. */
const idList = z
  .string()
  .regex(/^([a-z0-9-]{1,60}(,[a-z0-9-]{1,60}){0,99})?$/)
  .transform((text) => (text === "" ? undefined : text.split(",")))
  .optional()
  .meta({ pattern: "^([a-z0-9-]{1,60}(,[a-z0-9-]{1,60}){0,99})?$" });
const METRICS = [
  ...["active_time_seconds", "compute_time_seconds", "written_data_bytes"],
  ...["synthetic_storage_size_bytes", "data_storage_bytes_hour"],
  ...["logical_size_bytes", "logical_size_bytes_hour"],
];
const metricList = z
  .string()
  .refine((text) => text.split(",").every((name) => METRICS.includes(name)), {
    error: ({ input }) => `'${input}' is no list of metrics: ${METRICS.join(", ")}`,
  })
  .optional()
  .describe("taken; what is measured is answered always, what is not never");
export const consumptionQuery = z.looseObject({
  from: z.string().max(60),
  to: z.string().max(60),
  granularity: z.enum(["hourly", "daily", "monthly"]),
  org_id: id.optional(),
  include_v1_metrics: flag,
  metrics: metricList,
});
export const projectsConsumptionQuery = z.looseObject({
  ...consumptionQuery.shape,
  limit: limit(100, 10),
  cursor,
  project_ids: idList,
});
export const consumptionFrameSchema = z.object({
  timeframe_start: time,
  timeframe_end: time,
  active_time_seconds: z.number(),
  compute_time_seconds: z.number(),
  written_data_bytes: z.number(),
  data_transfer_bytes: z.number().describe("ours: through the proxy, to clients"),
  synthetic_storage_size_bytes: z.number().optional(),
});
const consumptionPeriods = z.array(
  z.object({
    period_id: z.string(),
    period_plan: z.string(),
    period_start: time,
    period_end: time.optional(),
    consumption: z.array(consumptionFrameSchema),
  }),
);
export const accountConsumptionAnswer = z.object({ periods: consumptionPeriods });
export const projectsConsumptionAnswer = z.object({
  projects: z.array(z.object({ project_id: z.string(), periods: consumptionPeriods })),
  pagination: paginationSchema,
});

export const schemaQuery = z.looseObject({
  db_name: z.string(),
  lsn: z.string().optional(),
  timestamp: z.string().optional(),
  format: z.literal("sql").optional(),
});
export const schemaAnswer = z.object({ sql: z.string() });
export const compareSchemaQuery = z.looseObject({
  db_name: z.string(),
  base_branch_id: id.optional(),
  lsn: z.string().optional(),
  timestamp: z.string().optional(),
  base_lsn: z.string().optional(),
  base_timestamp: z.string().optional(),
});
export const compareSchemaAnswer = z.object({ diff: z.string() });

const name = z.string().min(1).max(256);
const settings = json.optional();
/** Addresses, networks and ranges: an entry that is none would let nobody in. */
const allowedIps = z.array(
  z.string().refine(isAllowEntry, {
    error: ({ input }) => `'${input}' is no address, network or range`,
  }),
);
const projectSettings = z
  .looseObject({
    allowed_ips: z.looseObject({ ips: allowedIps.optional() }).optional(),
    enable_logical_replication: z.boolean().optional(),
  })
  .optional();
const units = z.number().min(0.25).optional();
const suspendTimeout = z.int().min(-1).max(604_800).optional();
const retention = z.int().min(0).max(2_592_000).optional();

/** What is not named here is taken and left alone, as regions are: one machine has none. */
export const projectCreateBody = z.looseObject({
  project: z.looseObject({
    name: name.optional(),
    branch: z
      .looseObject({
        name: name.optional(),
        role_name: z.string().optional(),
        database_name: z.string().optional(),
      })
      .optional(),
    pg_version: z.int().optional(),
    store_passwords: z.boolean().optional(),
    history_retention_seconds: retention,
    settings: projectSettings,
    default_endpoint_settings: settings,
  }),
});
export const projectUpdateBody = z.looseObject({
  project: z.looseObject({
    name: name.optional(),
    history_retention_seconds: retention,
    settings: projectSettings,
    default_endpoint_settings: settings,
  }),
});
const newEndpointOptions = {
  type: z.enum(["read_write", "read_only"]),
  settings,
  autoscaling_limit_min_cu: units,
  autoscaling_limit_max_cu: units,
  suspend_timeout_seconds: suspendTimeout,
};
export const branchCreateBody = z.looseObject({
  branch: z
    .looseObject({
      parent_id: id.optional(),
      name: name.optional(),
      parent_lsn: z.string().optional(),
      parent_timestamp: z.string().optional(),
      protected: z.boolean().optional(),
      archived: z.boolean().optional(),
      init_source: z.string().optional(),
      expires_at: z.string().optional(),
    })
    .optional(),
  endpoints: z.array(z.looseObject(newEndpointOptions)).max(10).optional(),
});
export const branchUpdateBody = z.looseObject({
  branch: z.looseObject({
    name: name.optional(),
    protected: z.boolean().optional(),
    expires_at: z.string().nullable().optional(),
  }),
});
export const branchRestoreBody = z.looseObject({
  source_branch_id: id,
  source_lsn: z.string().optional(),
  source_timestamp: z.string().optional(),
  preserve_under_name: z.string().optional(),
});
export const endpointCreateBody = z.looseObject({
  endpoint: z.looseObject({
    branch_id: id,
    ...newEndpointOptions,
    name: z.string().min(1).max(64).optional(),
    disabled: z.boolean().optional(),
  }),
});
export const endpointUpdateBody = z.looseObject({
  endpoint: z.looseObject({
    settings,
    autoscaling_limit_min_cu: units,
    autoscaling_limit_max_cu: units,
    suspend_timeout_seconds: suspendTimeout,
    name: z.string().min(1).max(64).optional(),
    disabled: z.boolean().optional(),
  }),
});
export const roleCreateBody = z.looseObject({
  role: z.looseObject({ name: z.string(), no_login: z.boolean().optional() }),
});
export const databaseCreateBody = z.looseObject({
  database: z.looseObject({ name: z.string(), owner_name: z.string() }),
});
export const databaseUpdateBody = z.looseObject({
  database: z.looseObject({ name: z.string().optional(), owner_name: z.string().optional() }),
});
export const jwksSchema = z.object({
  id: z.string(),
  project_id: z.string(),
  branch_id: z.string().optional(),
  jwks_url: z.string(),
  provider_name: z.string(),
  created_at: time,
  updated_at: time,
  jwt_audience: z.string().optional(),
  role_names: z.array(z.string()),
});
export const jwksParams = z.object({ project_id: id, jwks_id: z.string().max(60) });
export const jwksCreateBody = z.looseObject({
  jwks_url: z.string().min(1).max(2000),
  provider_name: z.string().min(1).max(256),
  branch_id: id.optional(),
  jwt_audience: z.string().min(1).max(256).optional(),
  role_names: z.array(z.string()).max(10).optional(),
  skip_role_creation: z.boolean().optional().describe("roles are never made here"),
});
export const jwksAnswer = jwksSchema;
export const jwksListAnswer = z.object({ jwks: z.array(jwksSchema) });
export const createdJwksAnswer = z.object({ jwks: jwksSchema, operations });
export const apiKeyCreateBody = z.looseObject({
  key_name: z.string().min(1).max(64),
  scope: z
    .enum(["all", "project", "read_only"])
    .optional()
    .describe("ours: what the key is for; default all"),
  project_id: id.optional().describe("ours: the only project that it sees"),
});
