// Schemas of the agent's HTTP routes, for its OpenAPI document and the tests that hold it to them.

import { z } from "zod";
import type { RouteSchemas } from "../http/route.ts";
import type { ComputeStatus, StartMetrics, TerminateAnswer } from "./api.ts";

export type ComputeRoute = "status" | "metricsJson" | "terminate";

const milliseconds = z.number().min(0);

const computeStatus: z.ZodType<ComputeStatus> = z.object({
  endpointId: z.string(),
  tenantId: z.string(),
  timelineId: z.string(),
  status: z.enum(["init", "running", "termination_pending", "terminated", "failed"]),
  mode: z.enum(["primary", "static"]),
  startTime: z.iso.datetime(),
  error: z.string().nullable(),
  postgresPid: z.int().nullable(),
  restarts: z.int(),
  term: z.int().nullable(),
  generation: z.int().nullable(),
  startLsn: z.string().nullable(),
  commitLsn: z.string().nullable(),
  flushLsn: z.string().nullable(),
});

const startMetrics: z.ZodType<StartMetrics> = z.object({
  process_ms: milliseconds,
  sync_safekeepers_ms: milliseconds,
  basebackup_ms: milliseconds,
  data_directory_ms: milliseconds,
  start_postgres_ms: milliseconds,
  total_startup_ms: milliseconds,
});

const terminateAnswer: z.ZodType<TerminateAnswer> = z.object({ lsn: z.string().nullable() });

export const COMPUTE_SCHEMAS: Readonly<Record<ComputeRoute, RouteSchemas>> = {
  status: { answer: computeStatus },
  metricsJson: { answer: startMetrics },
  terminate: {
    query: z.object({ mode: z.enum(["fast", "immediate"]).default("fast") }),
    answer: terminateAnswer,
  },
};
