// What the proxy asks: who may come to an endpoint, and where its Postgres is, which is woken for that.
//
// Source: neondatabase/neon, proxy/src/control_plane/client/cplane_proxy_v1.rs and messages.rs.

import type { IncomingMessage } from "node:http";
import { z } from "zod";
import { nowMs } from "../base/clock.ts";
import { errorKind, errorMessage, StorageError } from "../base/errors.ts";
import { type Route, route } from "../http/route.ts";
import { superuserSecret } from "../local/credentials.ts";
import { SUPERUSER } from "../postgres/installation.ts";
import { transferReportSchema } from "../proxy/api.ts";
import { pointOf } from "./api-v2/branches.ts";
import { jwksOf } from "./api-v2/jwks.ts";
import { findProject, notFound, type Parts, writerOf } from "./api-v2/lookup.ts";
import { hasRunSince } from "./api-v2/new-branch-roles.ts";
import { jwksListAnswer } from "./api-v2/schemas.ts";
import { jwksView } from "./api-v2/views.ts";
import { ensurePointEndpoint } from "./computes/point-in-time.ts";
import { readVerifier } from "./computes/postgres-objects.ts";
import { countTransfer } from "./consumption/transfer.ts";
import type { BranchRow, EndpointRow, ProjectRow } from "./state/tables.ts";

export const PROXY_PREFIX = "/proxy/api/v1";

const accessQuery = z.looseObject({
  session_id: z.string().max(100).optional(),
  application_name: z.string().max(1000).optional(),
  endpointish: z.string().min(1).max(100),
  role: z.string().max(1000),
});
const wakeQuery = z.looseObject({
  session_id: z.string().max(100).optional(),
  application_name: z.string().max(1000).optional(),
  endpointish: z.string().min(1).max(100),
  "options[lsn]": z.string().max(100).optional(),
  "options[timestamp]": z.string().max(100).optional(),
});
const accessAnswer = z.object({
  role_secret: z.string().describe("as in pg_authid; empty: no such role, or no password"),
  project_id: z.string(),
  account_id: z.string(),
  branch_id: z.string(),
  allowed_ips: z.array(z.string()),
  block_public_connections: z.boolean(),
});
const wakeAnswer = z.object({
  address: z.string(),
  server_name: z.null(),
  aux: z.object({
    endpoint_id: z.string(),
    project_id: z.string(),
    branch_id: z.string(),
    unix_socket: z.string().describe("ours: the path, for who is on this machine"),
    cold_start_info: z.enum(["warm", "pool_hit", "pool_miss"]),
  }),
});

export function proxyRoutes(parts: Parts): Route[] {
  return [...loginRoutes(parts), wakeRoute(parts), transferRoute(parts)];
}

/** Whom to let in. */
function loginRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: `${PROXY_PREFIX}/get_endpoint_access_control`,
        summary: "Who may come to an endpoint.",
        scope: "admin",
        query: accessQuery,
        answer: accessAnswer,
      },
      async ({ query }) => {
        parts.access.note(query.endpointish);
        const { project, branch, endpoint } = await findSettled(parts, query.endpointish);
        return {
          role_secret: (await verifierOf(parts, branch, endpoint, query.role)) ?? "",
          project_id: project.id,
          account_id: "",
          branch_id: branch.id,
          allowed_ips: allowedIps(project),
          block_public_connections: false,
        };
      },
    ),
    route(
      {
        method: "GET",
        path: `${PROXY_PREFIX}/endpoints/{endpoint_id}/jwks`,
        summary: "Whose tokens are good at an endpoint, and for which roles.",
        scope: "admin",
        params: z.object({ endpoint_id: z.string().max(100) }),
        answer: jwksListAnswer,
      },
      async ({ params }) => {
        parts.access.note(params.endpoint_id);
        const { project, branch } = await findEndpointish(parts, params.endpoint_id);
        return { jwks: (await jwksOf(parts, project.id, branch.id)).map(jwksView) };
      },
    ),
  ];
}

function wakeRoute(parts: Parts): Route {
  return route(
    {
      method: "GET",
      path: `${PROXY_PREFIX}/wake_compute`,
      summary: "Where an endpoint's Postgres is, once it takes connections.",
      scope: "admin",
      query: wakeQuery,
      answer: wakeAnswer,
    },
    async ({ query }) => {
      const found = await findEndpointish(parts, query.endpointish);
      const at = query["options[lsn]"] ?? query["options[timestamp]"];
      const id = await endpointFor(parts, found, at);
      const woken = await parts.computes.wake(id);
      return {
        address: `${woken.host}:${woken.port}`,
        server_name: null,
        aux: {
          endpoint_id: id,
          project_id: found.project.id,
          branch_id: found.branch.id,
          unix_socket: parts.computes.provider.socketPath(id),
          cold_start_info: woken.coldStart,
        },
      };
    },
  );
}

function transferRoute({ db }: Parts): Route {
  return route(
    {
      method: "POST",
      path: `${PROXY_PREFIX}/transfer`,
      summary: "Bytes that clients were sent: ours, for consumption.",
      scope: "admin",
      body: transferReportSchema,
    },
    ({ body }) => countTransfer(db, body, nowMs()),
  );
}

interface Found {
  readonly project: ProjectRow;
  readonly branch: BranchRow;
  /** Undefined where a branch was named that has none. */
  readonly endpoint: EndpointRow | undefined;
}

/** An endpoint's id, or a branch's, which stands for the endpoint that writes. StorageError `not-found`. */
async function findEndpointish(parts: Parts, name: string): Promise<Found> {
  const { db } = parts;
  const find = async () => {
    const endpoint = await db
      .selectFrom("endpoints")
      .selectAll()
      .where("id", "=", name)
      .executeTakeFirst();
    const branchId = endpoint?.branch_id ?? name;
    const branch = await db
      .selectFrom("branches")
      .selectAll()
      .where("id", "=", branchId)
      .executeTakeFirst();
    return branch && { branch, endpoint: endpoint ?? (await writerOf(parts, branch)) };
  };
  // Also what the command line has just made.
  await parts.inventory.refresh();
  const found = await find();
  if (found === undefined) {
    throw notFound("endpoint", name);
  }
  const project = await findProject(parts, found.branch.project_id);
  return { project, ...found };
}

/** As above; what a suspension notes that is under way is there. */
async function findSettled(parts: Parts, name: string): Promise<Found> {
  const found = await findEndpointish(parts, name);
  const { endpoint } = found;
  const isChanged = endpoint !== undefined && (await parts.computes.suspended(endpoint.id));
  return isChanged ? findEndpointish(parts, name) : found;
}

async function endpointFor(parts: Parts, found: Found, at: string | undefined): Promise<string> {
  const { project, branch, endpoint } = found;
  if (at !== undefined) {
    const lsn = await pointOf(parts, project, branch, at);
    return ensurePointEndpoint(parts, parts.computes, { project, branch, lsn });
  }
  if (endpoint === undefined) {
    throw notFound("endpoint", `of branch ${branch.name}`);
  }
  return endpoint.id;
}

/**
 * A running Postgres says what it is; of one that we suspended we have noted it, and neither a role that nobody has heard
 * of nor a wrong password wakes it. One that ended otherwise is woken and asked. While a new branch's starts for the first
 * time what is known of its parent counts.
 */
async function verifierOf(
  parts: Parts,
  branch: BranchRow,
  endpoint: EndpointRow | undefined,
  role: string,
): Promise<string | undefined> {
  const { db, computes, home } = parts;
  const row = await db
    .selectFrom("roles")
    .selectAll()
    .where("branch_id", "=", branch.id)
    .where("name", "=", role)
    .executeTakeFirst();
  const isKept = branch.needs_configure === 1 && row !== undefined;
  if (role === SUPERUSER) {
    return superuserSecret(home);
  }
  if (isKept || endpoint === undefined) {
    return row?.verifier ?? undefined;
  }
  if (isFirstStart(endpoint, computes)) {
    const known = parts.newBranchRoles.verifierOf(branch.id, role);
    if (known !== undefined) {
      return known;
    }
    await computes.wake(endpoint.id);
  }
  const isRunning = computes.provider.isRunning(endpoint.id);
  const isUnsure =
    hasRunSince(endpoint, computes) ||
    (row === undefined ? endpoint.suspended_at === null : row.verifier === null);
  if (!isRunning && isUnsure && row?.no_login !== 1) {
    await computes.wake(endpoint.id);
  } else if (!isRunning) {
    return row?.verifier ?? undefined;
  }
  try {
    return (await askVerifier(computes, endpoint.id, role)) ?? undefined;
  } catch (error) {
    // It is just being stopped, say.
    parts.logger.info({ endpoint: endpoint.id, reason: errorMessage(error) }, "role not asked for");
    return row?.verifier ?? undefined;
  }
}

/** Of a Postgres that is just coming up, once it is there: it was killed, say, and its agent builds it anew. */
async function askVerifier(
  computes: Parts["computes"],
  id: string,
  role: string,
): Promise<string | null> {
  const ask = () => readVerifier(computes.provider.agent(id), role);
  try {
    return await ask();
  } catch (error) {
    // What a suspension ends is not woken for it.
    if ((await computes.suspended(id)) || !(await computes.provider.joins(id))) {
      throw error;
    }
    return await ask();
  }
}

/** Its Postgres, which has never run, comes up: it can be asked in a moment. */
function isFirstStart(
  { id, started_at, suspended_at }: EndpointRow,
  computes: Parts["computes"],
): boolean {
  return started_at === null && suspended_at === null && computes.isWaking(id);
}

function allowedIps({ settings }: ProjectRow): string[] {
  const { allowed_ips: allowed } = JSON.parse(settings) as { allowed_ips?: { ips?: unknown } };
  return Array.isArray(allowed?.ips) ? allowed.ips.map(String) : [];
}

/** Neon's reasons, which its proxy knows. */
const REASONS: Readonly<Record<string, string>> = {
  "no-endpoint": "ENDPOINT_NOT_FOUND",
  "no-branch": "BRANCH_NOT_FOUND",
  "no-project": "PROJECT_NOT_FOUND",
  "endpoint-disabled": "ENDPOINT_DISABLED",
  "operation-in-progress": "RUNNING_OPERATIONS",
  "home-locked": "LOCK_ALREADY_TAKEN",
  "bad-point-in-time": "WRONG_LSN_OR_TIMESTAMP",
  "lsn-in-future": "WRONG_LSN_OR_TIMESTAMP",
  "lsn-before-branch": "WRONG_LSN_OR_TIMESTAMP",
  "time-not-known": "WRONG_LSN_OR_TIMESTAMP",
};
const RETRY_MS = 200;

/** Of these routes; every message of ours is for users. */
export function proxyError(error: unknown): object {
  const message = errorKind(error) === "internal" ? "internal error" : errorMessage(error);
  const reason = error instanceof StorageError ? REASONS[error.code] : undefined;
  const mayPass = errorKind(error) === "unavailable" || reason === "RUNNING_OPERATIONS";
  return {
    error: message,
    status: {
      code: errorKind(error),
      message,
      details: {
        error_info: reason === undefined ? null : { reason },
        retry_info: mayPass ? { retry_delay_ms: RETRY_MS } : null,
        user_facing_message: { message },
      },
    },
  };
}

export function isProxyRequest(request: IncomingMessage): boolean {
  return request.url?.startsWith(`${PROXY_PREFIX}/`) === true;
}
