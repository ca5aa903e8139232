// The user of the home, API keys, operations, connection URIs.

import { z } from "zod";
import { StorageError } from "../../base/errors.ts";
import { type Route, route } from "../../http/route.ts";
import type { Accounts } from "../accounts.ts";
import type { ApiKeyRow, OperationRow } from "../state/tables.ts";
import {
  defaultBranch,
  findBranch,
  findEndpointRow,
  findProject,
  notFound,
  type Parts,
  writerOf,
} from "./lookup.ts";
import { opened } from "./names.ts";
import { seeObjects, seeRole } from "./objects-seen.ts";
import { page } from "./pages.ts";
import {
  apiKeyCreateBody,
  connectionUriQuery,
  operationAnswer,
  operationParams,
  operationsAnswer,
  operationsQuery,
  projectParams,
  uriAnswer,
} from "./schemas.ts";
import { connectionUri, OWNER_ID, operationView } from "./views.ts";

/** Neon's answers name one; no mail is ever sent. */
const EMAIL = "owner@strata.localhost.localdomain";
const NO_LIMIT = 1_000_000;

export function accountRoutes(parts: Parts, accounts: Accounts): Route[] {
  return [...userRoutes(), ...keyRoutes(accounts), ...operationRoutes(parts), uriRoute(parts)];
}

const userAnswer = z.object({
  active_seconds_limit: z.number(),
  id: z.string(),
  email: z.string(),
  login: z.string(),
  name: z.string(),
  last_name: z.string(),
  image: z.string(),
  projects_limit: z.number(),
  branches_limit: z.number(),
  max_autoscaling_limit: z.number(),
  auth_accounts: z.array(z.object({})),
  plan: z.string(),
});

function userRoutes(): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/api/v2/users/me",
        summary: "The owner of the home.",
        scope: "admin",
        answer: userAnswer,
      },
      () => ({
        active_seconds_limit: 0,
        id: OWNER_ID,
        email: EMAIL,
        login: "owner",
        name: "Owner",
        last_name: "",
        image: "",
        projects_limit: NO_LIMIT,
        branches_limit: NO_LIMIT,
        max_autoscaling_limit: 1,
        auth_accounts: [],
        plan: "strata",
      }),
    ),
    route(
      {
        method: "GET",
        path: "/api/v2/users/me/organizations",
        summary: "There are none.",
        scope: "admin",
        answer: z.object({ organizations: z.array(z.object({})) }),
      },
      () => ({ organizations: [] }),
    ),
    route(
      {
        method: "GET",
        path: "/api/v2/auth",
        summary: "How the caller proved who it is.",
        scope: "admin",
        answer: z.object({ account_id: z.string(), auth_method: z.string() }),
      },
      () => ({ account_id: OWNER_ID, auth_method: "api_key_user" }),
    ),
    route(
      {
        method: "GET",
        path: "/api/v2/regions",
        summary: "This machine.",
        scope: "admin",
        answer: z.object({
          regions: z.array(
            z.object({
              region_id: z.string(),
              name: z.string(),
              default: z.boolean(),
              geo_lat: z.string(),
              geo_long: z.string(),
            }),
          ),
        }),
      },
      () => ({
        regions: [
          { region_id: "local", name: "This machine", default: true, geo_lat: "0", geo_long: "0" },
        ],
      }),
    ),
  ];
}

const apiKeySchema = z.object({
  id: z.number(),
  name: z.string(),
  created_at: z.string(),
  created_by: z.object({ id: z.string(), name: z.string(), image: z.string() }),
  last_used_at: z.string().optional(),
  last_used_from_addr: z.string(),
  scope: z.string(),
  project_id: z.string().optional(),
});
const createdKeySchema = z.object({
  id: z.number(),
  key: z.string(),
  name: z.string(),
  created_at: z.string(),
  created_by: z.string(),
});
const revokedKeySchema = z.object({
  id: z.number(),
  name: z.string(),
  created_at: z.string(),
  created_by: z.string(),
  last_used_at: z.string().optional(),
  last_used_from_addr: z.string(),
  revoked: z.boolean(),
});

function keyRoutes(accounts: Accounts): Route[] {
  const used = (row: ApiKeyRow) => ({
    id: row.id,
    name: row.name,
    created_at: row.created_at,
    ...(row.last_used_at === null ? {} : { last_used_at: row.last_used_at }),
    last_used_from_addr: row.last_used_from_addr,
  });
  return [
    route(
      {
        method: "GET",
        path: "/api/v2/api_keys",
        summary: "API keys, without what they are.",
        scope: "admin",
        answer: z.array(apiKeySchema),
      },
      async () =>
        (await accounts.list()).map((row) => ({
          ...used(row),
          created_by: { id: OWNER_ID, name: "Owner", image: "" },
          scope: row.scope,
          ...(row.project_id === null ? {} : { project_id: row.project_id }),
        })),
    ),
    route(
      {
        method: "POST",
        path: "/api/v2/api_keys",
        summary: "A new key, which is shown this once.",
        scope: "admin",
        body: apiKeyCreateBody,
        answer: createdKeySchema,
      },
      async ({ body }) => {
        const { project_id: projectId = null } = body;
        const scope = body.scope ?? (projectId === null ? "all" : "project");
        if (scope === "project" && projectId === null) {
          const message = "a key of scope 'project' needs a project_id";
          throw new StorageError("invalid", "no-project", message);
        }
        const { row, key } = await accounts.create(body.key_name, scope, projectId);
        return {
          id: row.id,
          key,
          name: row.name,
          created_at: row.created_at,
          created_by: OWNER_ID,
        };
      },
    ),
    route(
      {
        method: "DELETE",
        path: "/api/v2/api_keys/{key_id}",
        summary: "The key is no good from here on.",
        scope: "admin",
        params: z.object({ key_id: z.string().regex(/^\d{1,15}$/) }),
        answer: revokedKeySchema,
      },
      async ({ params }) => {
        const row = await accounts.revoke(Number(params.key_id));
        return { ...used(row), created_by: OWNER_ID, revoked: true };
      },
    ),
  ];
}

function operationRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/api/v2/projects/{project_id}/operations",
        summary: "What was done, newest first.",
        scope: "tenant",
        params: projectParams,
        query: operationsQuery,
        answer: operationsAnswer,
      },
      async ({ params, query }) => {
        const project = await findProject(parts, params.project_id);
        const all = await parts.db
          .selectFrom("operations")
          .selectAll()
          .where("project_id", "=", project.id)
          .execute();
        const order = {
          by: (row: OperationRow) => [row.created_at, row.position, row.id],
          descending: true,
        };
        const { rows, cursor: next = query.cursor } = page(all, order, query);
        return {
          operations: rows.map(operationView),
          ...(next ? { pagination: { cursor: next } } : {}),
        };
      },
    ),
    route(
      {
        method: "GET",
        path: "/api/v2/projects/{project_id}/operations/{operation_id}",
        summary: "One operation.",
        scope: "tenant",
        params: operationParams,
        answer: operationAnswer,
      },
      async ({ params }) => {
        // Also of a project that it has deleted.
        const row = await parts.db
          .selectFrom("operations")
          .selectAll()
          .where("project_id", "=", params.project_id)
          .where("id", "=", params.operation_id)
          .executeTakeFirst();
        if (row === undefined) {
          throw notFound("operation", params.operation_id);
        }
        return { operation: operationView(row) };
      },
    ),
  ];
}

function uriRoute(parts: Parts): Route {
  return route(
    {
      method: "GET",
      path: "/api/v2/projects/{project_id}/connection_uri",
      summary: "What a Postgres client needs, with the password.",
      scope: "tenant",
      params: projectParams,
      query: connectionUriQuery,
      answer: uriAnswer,
    },
    async ({ params, query }) => {
      const project = await findProject(parts, params.project_id);
      const { branch_id, endpoint_id } = query;
      const named =
        endpoint_id === undefined
          ? undefined
          : (await findEndpointRow(parts, { ...params, endpoint_id })).endpoint;
      const branchId = branch_id ?? named?.branch_id;
      const branch =
        branchId === undefined
          ? await defaultBranch(parts, project)
          : (await findBranch(parts, { ...params, branch_id: branchId })).branch;
      const endpoint = named ?? (await writerOf(parts, branch));
      if (endpoint === undefined) {
        throw new StorageError("not-found", "no-endpoint", `branch ${branch.name} has no endpoint`);
      }
      await seeObjects(parts, branch);
      const role = await parts.db
        .selectFrom("roles")
        .selectAll()
        .where("branch_id", "=", branch.id)
        .where("name", "=", query.role_name)
        .executeTakeFirst();
      const password = role && opened(parts, await seeRole(parts, branch, role));
      if (password === undefined) {
        throw notFound("role", `${query.role_name} with a known password`);
      }
      const connection = {
        endpointId: endpoint.id,
        role: query.role_name,
        password,
        database: query.database_name,
        pooled: query.pooled === "true",
      };
      return { uri: connectionUri(connection, parts.front) };
    },
  );
}
