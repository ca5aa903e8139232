// The agent's HTTP routes: status, metrics, termination, roles and databases. Schemas are loaded only when they are asked for.

import { StorageError } from "../base/errors.ts";
import type { HttpRequest, Route, RouteSchemas } from "../http/route.ts";
import type {
  ComputeStatus,
  ConfigureAnswer,
  StartMetrics,
  TerminateAnswer,
  TerminateMode,
} from "./api.ts";
import type { ComputeRoute } from "./http-schemas.ts";
import type { Configuration } from "./sessions/configuration.ts";
import type { PostgresAddress } from "./sessions/maintenance-session.ts";

/** A schema of the largest size, with its line ends and quotes escaped. */
const MAX_SCHEMA_BODY_BYTES = 80 * 1024 * 1024;

/** What the routes show and do; the supervisor implements it. */
export interface ComputeControl {
  status(): Promise<ComputeStatus>;
  /** Undefined before the first start has succeeded. */
  startMetrics(): StartMetrics | undefined;
  /** Prometheus text format. */
  metricsText(): string;
  /** Resolves when Postgres has ended. */
  terminate(mode: TerminateMode): Promise<TerminateAnswer>;
  /** Of the unix socket. StorageError `unavailable` while Postgres does not run. */
  postgresAddress(): PostgresAddress;
  /** Of its specification. */
  readonly pgBin: string | undefined;
  /** Resolves when all of it is so. */
  configure(configuration: Configuration): Promise<ConfigureAnswer>;
}

/** Checks are written out by hand: loading zod costs each endpoint 18 MB and 45 ms (docs/decisions). */
export function computeRoutes(control: ComputeControl): Route[] {
  const shared = { status: 200, mediaType: undefined };
  return [
    {
      ...shared,
      method: "GET",
      path: "/status",
      summary: "How the compute stands.",
      scope: "public",
      schemas: () => schemasOf("status"),
      handle: () => control.status(),
    },
    {
      ...shared,
      method: "GET",
      path: "/metrics.json",
      summary: "How long the parts of the last start took.",
      scope: "public",
      schemas: () => schemasOf("metricsJson"),
      handle: () => {
        const metrics = control.startMetrics();
        if (metrics === undefined) {
          throw new StorageError("unavailable", "not-started", "this compute has not started yet");
        }
        return metrics;
      },
    },
    {
      ...shared,
      method: "POST",
      path: "/terminate",
      summary: "Stops Postgres, then the agent; answers when Postgres has ended.",
      scope: "admin",
      schemas: () => schemasOf("terminate"),
      handle: (request) => control.terminate(terminateMode(request)),
    },
    ...catalogRoutes(control),
  ];
}

/** What is done in a session with Postgres. Only these load the code for it. */
function catalogRoutes(control: ComputeControl): Route[] {
  const shared = { status: 200, mediaType: undefined, scope: "admin" } as const;
  return [
    {
      ...shared,
      method: "POST",
      path: "/configure",
      summary:
        "Makes roles, databases, extensions and settings what the body says; answers when it is done.",
      schemas: () => schemasOf("configure"),
      handle: async ({ body }) => {
        const { parseConfiguration } = await import("./sessions/configuration.ts");
        return control.configure(parseConfiguration(body));
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/dbs_and_roles",
      summary: "Roles and databases as Postgres has them.",
      schemas: () => schemasOf("dbsAndRoles"),
      handle: async () => {
        const { catalogObjects } = await import("./sessions/catalog-objects.ts");
        return catalogObjects(control.postgresAddress());
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/statistics",
      summary: "What Postgres has counted of its work, and its sessions.",
      schemas: () => schemasOf("statistics"),
      handle: async () => {
        const { statistics } = await import("./sessions/statistics.ts");
        return statistics(control.postgresAddress());
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/role_secret",
      summary: "What a role's password is checked against.",
      schemas: () => schemasOf("roleSecret"),
      handle: async (request) => {
        const { roleSecret } = await import("./sessions/catalog-objects.ts");
        return roleSecret(control.postgresAddress(), parameter(request, "role"));
      },
    },
    ...schemaRoutes(control),
  ];
}

function schemaRoutes(control: ComputeControl): Route[] {
  const shared = { status: 200, mediaType: undefined, scope: "admin" } as const;
  return [
    {
      ...shared,
      method: "GET",
      path: "/database_schema",
      summary: "The schema of a database as SQL.",
      mediaType: "text/plain; charset=utf-8",
      schemas: () => schemasOf("databaseSchema"),
      handle: async (request) => {
        const { databaseSchema } = await import("./sessions/database-schema.ts");
        const database = parameter(request, "database");
        return databaseSchema(control.postgresAddress(), database, control.pgBin);
      },
    },
    {
      ...shared,
      method: "POST",
      path: "/database_schema",
      summary: "Runs a schema's SQL in a database, in one transaction.",
      maxBodyBytes: MAX_SCHEMA_BODY_BYTES,
      schemas: () => schemasOf("loadSchema"),
      handle: async (request) => {
        const { loadSchema } = await import("./sessions/database-schema.ts");
        const { sql } = request.body as Readonly<Record<string, unknown>>;
        await loadSchema(control.postgresAddress(), parameter(request, "database"), sql);
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/role_definitions",
      summary:
        "SQL that makes all roles of users in another cluster, with their passwords' secrets.",
      mediaType: "text/plain; charset=utf-8",
      schemas: () => schemasOf("roleDefinitions"),
      handle: async () => {
        const { roleDefinitions } = await import("./sessions/role-definitions.ts");
        return roleDefinitions(control.postgresAddress());
      },
    },
  ];
}

function parameter(request: HttpRequest, name: string): unknown {
  return (request.query as Readonly<Record<string, unknown>>)[name];
}

function terminateMode(request: HttpRequest): TerminateMode {
  const { mode = "fast" } = request.query as { mode?: string };
  if (mode !== "fast" && mode !== "immediate") {
    throw new StorageError("invalid", "bad-mode", `mode must be fast or immediate, got '${mode}'`);
  }
  return mode;
}

async function schemasOf(route: ComputeRoute): Promise<RouteSchemas> {
  const { COMPUTE_SCHEMAS } = await import("./http-schemas.ts");
  return COMPUTE_SCHEMAS[route];
}
