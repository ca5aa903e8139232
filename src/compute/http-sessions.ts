// Routes that are answered in a session with Postgres. Each loads the code for it when it is called.

import type { HttpRequest, Route, RouteSchemas } from "../http/route.ts";
import type { ComputeControl } from "./compute-control.ts";
import type { ComputeRoute } from "./http-schemas.ts";
import type { WriteCheck } from "./sessions/write-check.ts";

/** A schema of the largest size, with its line ends and quotes escaped. */
const MAX_SCHEMA_BODY_BYTES = 80 * 1024 * 1024;

/** What is done in a session with Postgres. Only these load the code for it. */
export function sessionRoutes(control: ComputeControl): Route[] {
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
    ...extensionRoutes(control),
    ...schemaRoutes(control),
  ];
}

function extensionRoutes(control: ComputeControl): Route[] {
  let writeCheck: WriteCheck | undefined;
  const shared = { status: 200, mediaType: undefined, scope: "admin" } as const;
  return [
    {
      ...shared,
      method: "GET",
      path: "/insights",
      summary: "The statements that take the longest, of pg_stat_statements.",
      schemas: () => schemasOf("insights"),
      handle: async () => {
        const { insights } = await import("./sessions/insights.ts");
        return insights(control.postgresAddress());
      },
    },
    {
      ...shared,
      method: "GET",
      path: "/installed_extensions",
      summary: "Extensions, and how many databases have them.",
      schemas: () => schemasOf("installedExtensions"),
      handle: async () => {
        const { installedExtensions } = await import("./sessions/extensions.ts");
        return installedExtensions(control.postgresAddress());
      },
    },
    {
      ...shared,
      status: 201,
      method: "POST",
      path: "/extensions",
      summary: "Makes an extension in a database, or brings it to a version.",
      schemas: () => schemasOf("installExtension"),
      handle: async ({ body }) => {
        const { installExtension } = await import("./sessions/extensions.ts");
        return installExtension(control.postgresAddress(), body);
      },
    },
    {
      ...shared,
      status: 201,
      method: "POST",
      path: "/grants",
      summary: "Gives a role rights on a schema.",
      schemas: () => schemasOf("grants"),
      handle: async ({ body }) => {
        const { grantOnSchema } = await import("./sessions/grants.ts");
        return grantOnSchema(control.postgresAddress(), body);
      },
    },
    {
      ...shared,
      method: "POST",
      path: "/check_writability",
      summary: "Answers true when a write has come to a majority of safekeepers.",
      schemas: () => schemasOf("checkWritability"),
      handle: async () => {
        const { WriteCheck } = await import("./sessions/write-check.ts");
        writeCheck ??= new WriteCheck();
        return writeCheck.run(control.postgresAddress());
      },
    },
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
        const { sql } = (request.body ?? {}) as Readonly<Record<string, unknown>>;
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

export async function schemasOf(route: ComputeRoute): Promise<RouteSchemas> {
  const { COMPUTE_SCHEMAS } = await import("./http-schemas.ts");
  return COMPUTE_SCHEMAS[route];
}
