// Schemas of the agent's HTTP routes, for its OpenAPI document and the tests that hold it to them.

import { z } from "zod";
import type { RouteSchemas } from "../http/route.ts";
import type {
  CatalogObjects,
  ComputeStatistics,
  ComputeStatus,
  ConfigureAnswer,
  ConfigureRequest,
  ExtensionInstallAnswer,
  ExtensionInstallRequest,
  GrantsRequest,
  Insights,
  InstalledExtensions,
  OffloadState,
  PrewarmState,
  RoleSecretAnswer,
  StartMetrics,
  TerminateAnswer,
} from "./api.ts";

export type ComputeRoute =
  | "status"
  | "metricsJson"
  | "terminate"
  | "configure"
  | "dbsAndRoles"
  | "statistics"
  | "roleSecret"
  | "databaseSchema"
  | "loadSchema"
  | "roleDefinitions"
  | "insights"
  | "installedExtensions"
  | "installExtension"
  | "grants"
  | "checkWritability"
  | "prewarm"
  | "offload";

const milliseconds = z.number().min(0);

const computeStatus: z.ZodType<ComputeStatus> = z.object({
  endpointId: z.string(),
  tenantId: z.string(),
  timelineId: z.string(),
  status: z.enum(["init", "running", "termination_pending", "terminated", "failed"]),
  mode: z.enum(["primary", "replica", "static"]),
  startTime: z.iso.datetime(),
  error: z.string().nullable(),
  postgresPid: z.int().nullable(),
  restarts: z.int(),
  term: z.int().nullable(),
  generation: z.int().nullable(),
  startLsn: z.string().nullable(),
  commitLsn: z.string().nullable(),
  flushLsn: z.string().nullable(),
  insideLsn: z.string().nullable(),
  replayLsn: z.string().nullable(),
  replayLagBytes: z.int().nullable(),
  last_active: z.iso.datetime().nullable(),
});

const startMetrics: z.ZodType<StartMetrics> = z.object({
  process_ms: milliseconds,
  sync_safekeepers_ms: milliseconds,
  basebackup_ms: milliseconds,
  data_directory_ms: milliseconds,
  start_postgres_ms: milliseconds,
  total_startup_ms: milliseconds,
});

const terminateAnswer: z.ZodType<TerminateAnswer> = z.object({ lsn: z.string().nullable() });

const option = z.object({
  name: z.string(),
  value: z.string().nullish(),
  vartype: z.string().optional(),
});

const configureRequest: z.ZodType<ConfigureRequest> = z.object({
  spec: z.object({
    cluster: z.object({
      roles: z
        .array(
          z.object({
            name: z.string(),
            encrypted_password: z.string().nullish(),
            options: z.array(option).nullish(),
          }),
        )
        .optional(),
      databases: z.array(z.object({ name: z.string(), owner: z.string() })).optional(),
      settings: z.array(option).optional(),
      extensions: z
        .array(
          z.object({
            database: z.string(),
            name: z.string(),
            schema: z.string().optional(),
            version: z.string().optional(),
          }),
        )
        .optional(),
    }),
    delta_operations: z
      .array(
        z.object({
          action: z.enum(["delete_role", "rename_role", "delete_db", "rename_db"]),
          name: z.string(),
          new_name: z.string().nullish(),
        }),
      )
      .optional(),
  }),
});

const configureAnswer: z.ZodType<ConfigureAnswer> = z.object({
  restart_required: z.array(z.string()),
});

const catalogObjects: z.ZodType<CatalogObjects> = z.object({
  roles: z.array(z.object({ name: z.string(), options: z.null() })),
  databases: z.array(
    z.object({
      name: z.string(),
      owner: z.string(),
      options: z.null(),
      restrict_conn: z.boolean(),
      invalid: z.boolean(),
    }),
  ),
});

const count = z.int().min(0);
const statistics: z.ZodType<ComputeStatistics> = z.object({
  connections: count,
  active: count,
  maxConnections: count,
  commits: count,
  rollbacks: count,
  rowsRead: count,
  rowsWritten: count,
  blocksHit: count,
  blocksRead: count,
});

const roleSecret: z.ZodType<RoleSecretAnswer> = z.object({ role_secret: z.string().nullable() });

const insights: z.ZodType<Insights> = z.object({
  pg_stat_statements: z.array(z.record(z.string(), z.unknown())),
});

const installedExtensions: z.ZodType<InstalledExtensions> = z.object({
  extensions: z.array(
    z.object({
      extname: z.string(),
      version: z.string(),
      n_databases: count,
      owned_by_superuser: z.string(),
    }),
  ),
});

const installRequest: z.ZodType<ExtensionInstallRequest> = z.object({
  extension: z.string(),
  database: z.string(),
  version: z.string(),
});
const installAnswer: z.ZodType<ExtensionInstallAnswer> = z.object({
  extension: z.string(),
  version: z.string(),
});

const grants: z.ZodType<GrantsRequest> = z.object({
  database: z.string(),
  schema: z.string(),
  privileges: z.array(z.string()),
  role: z.string(),
});

const counts = { total: count, prewarmed: count, skipped: count };
const prewarmState: z.ZodType<PrewarmState> = z.discriminatedUnion("status", [
  z.object({ status: z.literal("not_prewarmed") }),
  z.object({ status: z.literal("prewarming"), ...counts }),
  z.object({ status: z.literal("completed"), prewarm_time_ms: count, ...counts }),
  z.object({ status: z.literal("cancelled"), ...counts }),
  z.object({ status: z.literal("skipped") }),
  z.object({ status: z.literal("failed"), error: z.string() }),
]);
const offloadState: z.ZodType<OffloadState> = z.discriminatedUnion("status", [
  z.object({ status: z.literal("not_offloaded") }),
  z.object({ status: z.literal("offloading") }),
  z.object({ status: z.literal("completed"), blocks: count, state_query_time_ms: count }),
  z.object({ status: z.literal("failed"), error: z.string() }),
]);

export const COMPUTE_SCHEMAS: Readonly<Record<ComputeRoute, RouteSchemas>> = {
  status: {
    query: z.object({ activity: z.enum(["true", "false"]).default("true") }),
    answer: computeStatus,
  },
  metricsJson: { answer: startMetrics },
  terminate: {
    query: z.object({ mode: z.enum(["fast", "immediate"]).default("fast") }),
    answer: terminateAnswer,
  },
  configure: { body: configureRequest, answer: configureAnswer },
  dbsAndRoles: { answer: catalogObjects },
  statistics: { answer: statistics },
  roleSecret: { query: z.object({ role: z.string() }), answer: roleSecret },
  databaseSchema: { query: z.object({ database: z.string() }) },
  loadSchema: { query: z.object({ database: z.string() }), body: z.object({ sql: z.string() }) },
  roleDefinitions: {},
  insights: { answer: insights },
  installedExtensions: { answer: installedExtensions },
  installExtension: { body: installRequest, answer: installAnswer },
  grants: { body: grants, answer: grants },
  checkWritability: { answer: z.literal(true) },
  prewarm: { answer: prewarmState },
  offload: { answer: offloadState },
};
