// The console's SQL editor: statements with the rights of a role that users made, now or at a point in time.

import type { z } from "zod";
import { StorageError } from "../../base/errors.ts";
import { mediaRoute, type Route } from "../../http/route.ts";
import { pointOf } from "../api-v2/branches.ts";
import { findBranch, notFound, type Parts, writerOf } from "../api-v2/lookup.ts";
import { seeObjects } from "../api-v2/objects-seen.ts";
import { projectParams } from "../api-v2/schemas.ts";
import { ensurePointEndpoint } from "../computes/point-in-time.ts";
import { MAX_ROWS, sqlBody } from "./schemas.ts";
import { SqlRun } from "./sql-run.ts";

/** What a page can hold, beside that many rows. */
const MAX_BYTES = 64 * 1024 * 1024;

export function sqlRoutes(parts: Parts): Route[] {
  return [
    mediaRoute(
      {
        method: "POST",
        path: "/console/projects/{project_id}/sql",
        summary: "Runs statements, which end with the request; results as lines of JSON.",
        scope: "tenant",
        mediaType: "application/x-ndjson",
        params: projectParams,
        body: sqlBody,
      },
      async ({ params, body }) => {
        if (`${body.query}${body.database}${body.role}`.includes("\0")) {
          throw new StorageError("invalid", "zero-byte", "there is a zero byte in it");
        }
        const id = await endpointFor(parts, params.project_id, body);
        await parts.computes.wake(id);
        return new SqlRun({
          path: parts.computes.provider.socketPath(id),
          user: body.role,
          database: body.database,
          query: body.query,
          maxRows: body.max_rows ?? MAX_ROWS,
          maxBytes: MAX_BYTES,
        });
      },
    ),
  ];
}

/** StorageError `not-found` where branch, role or endpoint are not there. */
async function endpointFor(
  parts: Parts,
  projectId: string,
  { branch_id, role, at }: z.infer<typeof sqlBody>,
): Promise<string> {
  const { project, branch } = await findBranch(parts, { project_id: projectId, branch_id });
  await seeObjects(parts, branch);
  // The superuser could run programs on this machine: nobody comes in as that over HTTP.
  const row = await parts.db
    .selectFrom("roles")
    .select("name")
    .where("branch_id", "=", branch.id)
    .where("name", "=", role)
    .executeTakeFirst();
  if (row === undefined) {
    throw notFound("role", role);
  }
  if (at !== undefined) {
    const lsn = await pointOf(parts, project, branch, at);
    return await ensurePointEndpoint(parts, parts.computes, { project, branch, lsn });
  }
  const endpoint = await writerOf(parts, branch);
  if (endpoint === undefined) {
    throw notFound("endpoint", `of branch ${branch.name}`);
  }
  return endpoint.id;
}
