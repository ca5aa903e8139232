// Numbered steps from one version of the control plane's tables to the next; one that was released never changes.

import type { Kysely } from "kysely";

export interface Migration {
  readonly name: string;
  /** In a transaction. Any database that kysely knows: no SQL of SQLite's own. */
  up(db: Kysely<unknown>): Promise<void>;
}

/** The version of a database is how many of them it has. */
export const MIGRATIONS: readonly Migration[] = [
  { name: "0001 projects, branches, endpoints", up: first },
  { name: "0002 roles, databases", up: rolesAndDatabases },
  { name: "0003 operations", up: operations },
  { name: "0004 API keys", up: apiKeys },
  { name: "0005 JWKS", up: jwks },
  { name: "0006 console sessions", up: consoleSessions },
  { name: "0007 several control planes", up: controlPlanes },
  { name: "0008 consumption", up: consumption },
  { name: "0009 transfer", up: transfer },
];

async function first(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("projects")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("tenant_id", "text", (column) => column.notNull().unique())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("pg_version", "integer", (column) => column.notNull())
    .addColumn("history_retention_seconds", "integer", (column) => column.notNull())
    .addColumn("settings", "text", (column) => column.notNull())
    .addColumn("default_endpoint_settings", "text", (column) => column.notNull())
    .addColumn("creating", "integer", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .execute();
  await db.schema
    .createTable("branches")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("project_id", "text", (column) =>
      column.notNull().references("projects.id").onDelete("cascade"),
    )
    .addColumn("timeline_id", "text", (column) => column.notNull())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("is_default", "integer", (column) => column.notNull())
    .addColumn("protected", "integer", (column) => column.notNull())
    .addColumn("expires_at", "text")
    .addColumn("last_reset_at", "text")
    .addColumn("init_source", "text", (column) => column.notNull())
    .addColumn("creating", "integer", (column) => column.notNull())
    .addColumn("needs_configure", "integer", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .addUniqueConstraint("branches_timeline", ["project_id", "timeline_id"])
    .execute();
  await db.schema
    .createTable("endpoints")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("project_id", "text", (column) =>
      column.notNull().references("projects.id").onDelete("cascade"),
    )
    .addColumn("branch_id", "text", (column) =>
      column.notNull().references("branches.id").onDelete("cascade"),
    )
    .addColumn("name", "text")
    .addColumn("type", "text", (column) => column.notNull())
    .addColumn("suspend_timeout_seconds", "integer", (column) => column.notNull())
    .addColumn("autoscaling_limit_min_cu", "real", (column) => column.notNull())
    .addColumn("autoscaling_limit_max_cu", "real", (column) => column.notNull())
    .addColumn("settings", "text", (column) => column.notNull())
    .addColumn("disabled", "integer", (column) => column.notNull())
    .addColumn("ephemeral", "integer", (column) => column.notNull())
    .addColumn("creating", "integer", (column) => column.notNull())
    .addColumn("last_active", "text")
    .addColumn("started_at", "text")
    .addColumn("suspended_at", "text")
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .execute();
}

async function rolesAndDatabases(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("roles")
    .addColumn("branch_id", "text", (column) =>
      column.notNull().references("branches.id").onDelete("cascade"),
    )
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("sealed_password", "text")
    .addColumn("verifier", "text")
    .addColumn("no_login", "integer", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .addPrimaryKeyConstraint("roles_pk", ["branch_id", "name"])
    .execute();
  await db.schema
    .createTable("databases")
    .addColumn("id", "integer", (column) => column.primaryKey())
    .addColumn("branch_id", "text", (column) =>
      column.notNull().references("branches.id").onDelete("cascade"),
    )
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("owner_name", "text", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .addUniqueConstraint("databases_name", ["branch_id", "name"])
    .execute();
}

async function operations(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("operations")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("job_id", "text", (column) => column.notNull())
    .addColumn("position", "integer", (column) => column.notNull())
    // No reference: that a project was deleted is told by an operation.
    .addColumn("project_id", "text", (column) => column.notNull())
    .addColumn("branch_id", "text")
    .addColumn("endpoint_id", "text")
    .addColumn("action", "text", (column) => column.notNull())
    .addColumn("kind", "text", (column) => column.notNull())
    .addColumn("status", "text", (column) => column.notNull())
    .addColumn("step", "integer", (column) => column.notNull())
    .addColumn("args", "text", (column) => column.notNull())
    .addColumn("error", "text")
    .addColumn("failures_count", "integer", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .addColumn("finished_at", "text")
    .execute();
  await db.schema
    .createIndex("operations_by_project")
    .on("operations")
    .columns(["project_id", "created_at"])
    .execute();
  await db.schema.createIndex("operations_by_status").on("operations").column("status").execute();
}

async function apiKeys(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("api_keys")
    .addColumn("id", "integer", (column) => column.primaryKey())
    .addColumn("name", "text", (column) => column.notNull())
    .addColumn("hash", "text", (column) => column.notNull())
    .addColumn("scope", "text", (column) => column.notNull())
    .addColumn("project_id", "text")
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("last_used_at", "text")
    .addColumn("last_used_from_addr", "text", (column) => column.notNull())
    .execute();
}

async function jwks(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("jwks")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("project_id", "text", (column) =>
      column.notNull().references("projects.id").onDelete("cascade"),
    )
    .addColumn("branch_id", "text", (column) =>
      column.references("branches.id").onDelete("cascade"),
    )
    .addColumn("jwks_url", "text", (column) => column.notNull())
    .addColumn("provider_name", "text", (column) => column.notNull())
    .addColumn("jwt_audience", "text")
    .addColumn("role_names", "text", (column) => column.notNull())
    .addColumn("created_at", "text", (column) => column.notNull())
    .addColumn("updated_at", "text", (column) => column.notNull())
    .execute();
}

async function consoleSessions(db: Kysely<unknown>): Promise<void> {
  for (const table of ["console_links", "console_sessions"]) {
    await db.schema
      .createTable(table)
      .addColumn("hash", "text", (column) => column.primaryKey())
      .addColumn("key_id", "integer", (column) =>
        column.notNull().references("api_keys.id").onDelete("cascade"),
      )
      .addColumn("expires_at", "text", (column) => column.notNull())
      .execute();
  }
  await db.schema
    .alterTable("console_sessions")
    .addColumn("created_at", "text", (column) => column.notNull().defaultTo(""))
    .execute();
}

async function controlPlanes(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("control_planes")
    .addColumn("id", "text", (column) => column.primaryKey())
    .addColumn("beat", "integer", (column) => column.notNull())
    .execute();
  // Null: of a version before, whose process is gone.
  await db.schema.alterTable("operations").addColumn("claimed_by", "text").execute();
  await db.schema
    .createTable("secret_key")
    .addColumn("fingerprint", "text", (column) => column.primaryKey())
    .execute();
}

/** Numbers are doubles: exact to 2^53, and no text as Postgres's bigint is to its driver. */
async function consumption(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .createTable("consumption")
    // No reference: what a project has used stays told when it is gone.
    .addColumn("project_id", "text", (column) => column.notNull())
    .addColumn("granularity", "text", (column) => column.notNull())
    .addColumn("frame_start", "text", (column) => column.notNull())
    .addColumn("active_ms", "double precision", (column) => column.notNull())
    .addColumn("cpu_ms", "double precision", (column) => column.notNull())
    .addColumn("written_bytes", "double precision", (column) => column.notNull())
    .addColumn("size_bytes", "double precision")
    .addPrimaryKeyConstraint("consumption_pk", ["project_id", "granularity", "frame_start"])
    .execute();
  await db.schema
    .createTable("meter")
    .addColumn("since", "text", (column) => column.notNull())
    .execute();
  await db.schema
    .createTable("meter_endpoints")
    .addColumn("endpoint_id", "text", (column) => column.primaryKey())
    .addColumn("run", "text", (column) => column.notNull())
    .addColumn("active_until_ms", "double precision", (column) => column.notNull())
    .addColumn("cpu_ms", "double precision", (column) => column.notNull())
    .addColumn("has_ended", "integer", (column) => column.notNull())
    .execute();
  await db.schema
    .createTable("meter_timelines")
    .addColumn("project_id", "text", (column) => column.notNull())
    .addColumn("timeline_id", "text", (column) => column.notNull())
    .addColumn("counted_lsn", "double precision", (column) => column.notNull())
    .addPrimaryKeyConstraint("meter_timelines_pk", ["project_id", "timeline_id"])
    .execute();
}

async function transfer(db: Kysely<unknown>): Promise<void> {
  await db.schema
    .alterTable("consumption")
    .addColumn("transfer_bytes", "double precision", (column) => column.notNull().defaultTo(0))
    .execute();
  await db.schema
    .createTable("meter_proxies")
    .addColumn("proxy", "text", (column) => column.primaryKey())
    .addColumn("sequence", "double precision", (column) => column.notNull())
    .addColumn("seen_at", "text", (column) => column.notNull())
    .execute();
}
