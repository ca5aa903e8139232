// The schema of a branch's database as SQL, now or at a point in time.

import { type Route, route } from "../../http/route.ts";
import { ensurePointEndpoint } from "../computes/point-in-time.ts";
import { pointOf } from "./branches.ts";
import { findBranch, type Parts, writerOf } from "./lookup.ts";
import { branchParams, schemaAnswer, schemaQuery } from "./schemas.ts";

export function schemaRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: "/api/v2/projects/{project_id}/branches/{branch_id}/schema",
        summary: "As pg_dump prints it; wakes the endpoint.",
        scope: "tenant",
        params: branchParams,
        query: schemaQuery,
        answer: schemaAnswer,
      },
      async ({ params, query }) => {
        const { project, branch } = await findBranch(parts, params);
        const at = query.lsn ?? query.timestamp;
        let id = (await writerOf(parts, branch))?.id;
        if (at !== undefined || id === undefined) {
          const lsn = await pointOf(parts, project, branch, at);
          id = await ensurePointEndpoint(parts, parts.computes, { project, branch, lsn });
        }
        await parts.computes.wake(id);
        return { sql: await parts.computes.provider.agent(id).databaseSchema(query.db_name) };
      },
    ),
  ];
}
