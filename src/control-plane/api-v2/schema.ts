// The schema of a branch's database as SQL, now or at a point in time; and how two of them differ.

import { createTwoFilesPatch, FILE_HEADERS_ONLY } from "diff";
import { StorageError } from "../../base/errors.ts";
import { type Route, route } from "../../http/route.ts";
import { ensurePointEndpoint } from "../computes/point-in-time.ts";
import { pointOf } from "./branches.ts";
import { findBranch, type Parts, type ProjectBranch, storageView, writerOf } from "./lookup.ts";
import {
  branchParams,
  compareSchemaAnswer,
  compareSchemaQuery,
  schemaAnswer,
  schemaQuery,
} from "./schemas.ts";

const ONE = "/api/v2/projects/{project_id}/branches/{branch_id}";
const CONTEXT_LINES = 3;
/** Schemas that have less in common are not compared: the time for it grows with the square. Nobody is served meanwhile. */
const MAX_CHANGED_LINES = 20_000;
const MAX_COMPARE_MS = 2000;

export function schemaRoutes(parts: Parts): Route[] {
  return [
    route(
      {
        method: "GET",
        path: `${ONE}/schema`,
        summary: "As pg_dump prints it; wakes the endpoint.",
        scope: "tenant",
        params: branchParams,
        query: schemaQuery,
        answer: schemaAnswer,
      },
      async ({ params, query }) => {
        const found = await findBranch(parts, params);
        return { sql: await schemaOf(parts, found, query.db_name, query.lsn ?? query.timestamp) };
      },
    ),
    route(
      {
        method: "GET",
        path: `${ONE}/compare_schema`,
        summary:
          "A unified diff from the base branch's schema, by default the parent's, to this one.",
        scope: "tenant",
        params: branchParams,
        query: compareSchemaQuery,
        answer: compareSchemaAnswer,
      },
      async ({ params, query }) => {
        const found = await findBranch(parts, params);
        const base = await findBranch(parts, {
          project_id: params.project_id,
          branch_id: query.base_branch_id ?? (await parentOf(parts, found)),
        });
        const { db_name: database } = query;
        const [before, after] = await Promise.all([
          schemaOf(parts, base, database, query.base_lsn ?? query.base_timestamp),
          schemaOf(parts, found, database, query.lsn ?? query.timestamp),
        ]);
        return { diff: schemaDiff(database, before, after) };
      },
    ),
  ];
}

async function parentOf(parts: Parts, { project, branch }: ProjectBranch): Promise<string> {
  const parent = (await storageView(parts, project)).parentOf(branch);
  if (parent === undefined) {
    const message = `branch ${branch.name} has no parent to compare it with: name one with base_branch_id`;
    throw new StorageError("invalid", "no-parent", message);
  }
  return parent.id;
}

/** `at`: an LSN or a time; absent: now. StorageError `unsupported` where there is no pg_dump for it. */
async function schemaOf(
  parts: Parts,
  { project, branch }: ProjectBranch,
  database: string,
  at: string | undefined,
): Promise<string> {
  let id = (await writerOf(parts, branch))?.id;
  if (at !== undefined || id === undefined) {
    const lsn = await pointOf(parts, project, branch, at);
    id = await ensurePointEndpoint(parts, parts.computes, { project, branch, lsn });
  }
  await parts.computes.wake(id);
  return parts.computes.provider.agent(id).databaseSchema(database);
}

/** Empty where there is none. StorageError `unsupported` for texts that have too little in common. */
export function schemaDiff(database: string, before: string, after: string): string {
  if (before === after) {
    return "";
  }
  const patch = createTwoFilesPatch(
    `a/${database}`,
    `b/${database}`,
    before,
    after,
    undefined,
    undefined,
    {
      context: CONTEXT_LINES,
      headerOptions: FILE_HEADERS_ONLY,
      maxEditLength: MAX_CHANGED_LINES,
      timeout: MAX_COMPARE_MS,
    },
  );
  if (patch === undefined) {
    const message = `the schemas of '${database}' have too little in common to be compared: get each by itself`;
    throw new StorageError("unsupported", "schemas-differ-too-much", message);
  }
  return patch;
}
