// What the console's own routes take and give, as zod schemas; all else of the console is API v2.

import { z } from "zod";
import type { ComputeStatistics, StartMetrics } from "../../compute/api.ts";
import { LOG_LEVELS, LOG_SOURCES, type LogEntry } from "../../local/logs/log-entries.ts";
import { branchSchema, endpointSchema } from "../api-v2/schemas.ts";

export const loginBody = z.object({
  token: z.string().max(100).optional().describe("of a one-time link"),
  api_key: z.string().max(200).optional(),
});
export const sessionAnswer = z.object({
  scope: z.enum(["all", "project", "read_only", "proxy"]),
  project_id: z.string().nullable().describe("the only project that it sees; null: all"),
  proxy_http_port: z.number().int().describe("where the proxy answers SQL over HTTP"),
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

/** As of API v2's `history_retention_seconds`. */
const MAX_HISTORY_SECONDS = 2_592_000;

/** Of before, in one answer. */
const MAX_LOG_ENTRIES = 2000;

const count = z.object({ layers: z.int(), bytes: z.int() });

export const layersAnswer = z.object({
  head_lsn: z.string(),
  readable_lsn: z.string().describe("below it nothing can be read"),
  begin_lsn: z.string().nullable().describe("where it left its parent; null: it has none"),
  memory_lsn: z.string().nullable().describe("from here on it is in memory; null: all is in files"),
  branch_points: z.array(z.object({ name: z.string(), lsn: z.string() })),
  keys: z.array(z.string()).describe("where layers begin and end, in words; ascending"),
  layers: z
    .array(
      z.object({
        kind: z.enum(["delta", "image"]),
        is_l0: z.boolean().describe("a delta of all keys, as WAL came in"),
        key_from: z.int().describe("which of `keys`"),
        key_to: z.int().describe("which of `keys`; exclusive"),
        key_range: z.string().describe("the first and the last one, in words"),
        lsn_start: z.string(),
        lsn_end: z.string().describe("exclusive, and no further than the branch can see"),
        bytes: z.int(),
        count: z.int().describe("more than one: so many of the same LSNs"),
        remote: z.int().describe("so many of them are in the object store only"),
        branch: z.string().describe("whose it is"),
        is_own: z.boolean(),
      }),
    )
    .describe("newest first"),
  own: count.describe("that the branch made, or took over with its parent's place"),
  inherited: count.describe("its parents', of what it reads"),
  remote: count.describe("of both, those in the object store only"),
  left_out: count.describe("the oldest, where there are too many for one answer"),
});

export const costsQuery = z.object({
  history_seconds: z
    .string()
    .regex(/^\d{1,7}$/, "expected a number of seconds")
    .transform(Number)
    .refine((seconds) => seconds <= MAX_HISTORY_SECONDS, `at most ${MAX_HISTORY_SECONDS}`)
    .optional()
    .describe("default: what the project keeps"),
});
export const costsAnswer = z.object({
  logical_bytes: z.int().nullable().describe("of all relations now; null: cannot be told yet"),
  delete_frees_bytes: z.int().nullable().describe("of layers that no other branch can read"),
  head_lsn: z.string(),
  head_time: z.string().nullable().describe("of the last commit"),
  readable_lsn: z.string(),
  readable_time: z.string().nullable(),
  history_wal_bytes: z.int().describe("of WAL, from the oldest that can be read to the newest"),
  own_wal_bytes: z.int().nullable().describe("since it left its parent; null: it has none"),
  unflushed_wal_bytes: z.int().describe("that is in no layer yet"),
  kept_seconds: z.int().describe("of history, by the project's settings"),
  window: z
    .object({
      history_seconds: z.int(),
      cutoff_lsn: z.string(),
      cutoff_time: z.string().nullable(),
      frees: count.describe("at least: layers that nobody else reads"),
      rewritten: count.describe("of them a part goes"),
      held_by: z
        .array(z.string())
        .describe("branches, leases and subscriptions that hold what is older"),
    })
    .describe("what a collection would do now, if history went so far back"),
});

const milliseconds = z.number();
const startMetrics: z.ZodType<StartMetrics> = z.object({
  process_ms: milliseconds.describe("the agent's own start"),
  sync_safekeepers_ms: milliseconds.describe("the election"),
  basebackup_ms: milliseconds.describe("waiting for the pageserver"),
  data_directory_ms: milliseconds,
  start_postgres_ms: milliseconds,
  total_startup_ms: milliseconds.describe("with what is between them"),
});

export const startAnswer = z.object({
  last: z
    .object({
      at: z.string().nullable().describe("when Postgres took connections; null: not known"),
      metrics: startMetrics.describe("as its agent's `GET /metrics.json`"),
    })
    .nullable()
    .describe("null: it never started, or nothing is kept of it"),
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

const logSource = z.enum(LOG_SOURCES).default("compute").describe("whose: the agent's, Postgres's");
const logCount = z
  .string()
  .regex(/^\d{1,4}$/, "expected a number")
  .transform(Number)
  .refine((count) => count >= 1 && count <= MAX_LOG_ENTRIES, `1 to ${MAX_LOG_ENTRIES}`);

export const logQuery = z.object({
  source: logSource,
  level: z.enum(LOG_LEVELS).default("trace").describe("and graver ones"),
  lines: logCount.optional().describe("so many of before, default 200; one may go on over several"),
});
export const logDownloadQuery = z.object({ source: logSource });

/** The events of a log, of which the first has what was written before; not a route's answer. */
export interface LogEvent {
  /** The newest last. */
  readonly entries: readonly LogEntry[];
}

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
