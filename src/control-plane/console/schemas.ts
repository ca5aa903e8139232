// What the console's own routes take and give, as zod schemas; all else of the console is API v2.

import { z } from "zod";
import type { ComputeStatistics } from "../../compute/api.ts";
import { branchSchema, endpointSchema } from "../api-v2/schemas.ts";

export const loginBody = z.object({
  token: z.string().max(100).optional().describe("of a one-time link"),
  api_key: z.string().max(200).optional(),
});
export const sessionAnswer = z.object({
  scope: z.enum(["all", "project", "read_only", "proxy"]),
  project_id: z.string().nullable().describe("the only project that it sees; null: all"),
});
export const linkAnswer = z.object({
  token: z.string().describe("to be given once, as `#token=` behind the console's address"),
  expires_at: z.string(),
});

export const treeBranchSchema = z.object({
  branch: branchSchema,
  endpoints: z.array(endpointSchema),
  begin_lsn: z.string().optional().describe("of its own history"),
  begin_time: z.string().optional().describe("last commit before that; absent: not known (yet)"),
  head_lsn: z.string().optional().describe("absent: archived, or being made"),
  head_time: z.string().optional().describe("last commit"),
  readable_lsn: z.string().optional().describe("below it nothing can be read any more"),
  layers_bytes: z.number().optional().describe("of layers that it made"),
});
export const treeAnswer = z.object({
  now: z.string(),
  branches: z.array(treeBranchSchema),
});

/** What a page can hold. */
export const MAX_ROWS = 100_000;

export const sqlBody = z.object({
  branch_id: z.string().max(60),
  database: z.string().min(1).max(63),
  role: z.string().min(1).max(63).describe("one of the branch's; not the superuser"),
  query: z.string().max(900_000).describe("one or more statements"),
  at: z
    .string()
    .max(100)
    .optional()
    .describe("an LSN, or a time: read-only, as the branch was then"),
  max_rows: z.int().min(1).max(MAX_ROWS).optional(),
});

/** One of the events of a branch's monitoring, which are lists of these; not a route's answer. */
export interface MonitoringSample {
  /** Unix milliseconds. */
  readonly at: number;
  readonly is_awake: boolean;
  readonly last_record_lsn?: string;
  readonly layers_bytes?: number;
  /** Counted since Postgres started: of two samples, the difference tells. Absent while it does not answer. */
  readonly postgres?: ComputeStatistics;
}
