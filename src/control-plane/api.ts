// Wire types of the control plane's API v2, as clients of ours see them; the routes' schemas have the rest.

import type { z } from "zod";
import type {
  branchSchema,
  databaseSchema,
  endpointSchema,
  operationSchema,
  projectListItemSchema,
  roleSchema,
} from "./api-v2/schemas.ts";
import type {
  costsAnswer,
  layersAnswer,
  sessionAnswer,
  sqlBody,
  startAnswer,
  treeAnswer,
} from "./console/schemas.ts";
import type { homeBranchAnswer, homeBranchBody } from "./home-schemas.ts";

export type ApiProject = z.infer<typeof projectListItemSchema>;
export type ApiBranch = z.infer<typeof branchSchema>;
export type ApiEndpoint = z.infer<typeof endpointSchema>;
export type ApiOperation = z.infer<typeof operationSchema>;
export type ApiRole = z.infer<typeof roleSchema>;
export type ApiDatabase = z.infer<typeof databaseSchema>;

/** Of the console's own routes. */
export type ConsoleSession = z.infer<typeof sessionAnswer>;
export type ConsoleTree = z.infer<typeof treeAnswer>;
export type ConsoleCosts = z.infer<typeof costsAnswer>;
export type ConsoleLayers = z.infer<typeof layersAnswer>;
export type ConsoleStart = z.infer<typeof startAnswer>;
export type ConsoleSqlRequest = z.infer<typeof sqlBody>;
export type { LogLevel, LogSource } from "../local/logs/log-entries.ts";
export type { LogEvent, MonitoringSample } from "./console/schemas.ts";

/** Of `strata branch create`. */
export type NewHomeBranchRequest = z.infer<typeof homeBranchBody>;
export type NewHomeBranch = z.infer<typeof homeBranchAnswer>;

export interface ApiKey {
  readonly id: number;
  readonly name: string;
  readonly scope: string;
  readonly project_id?: string;
  readonly created_at: string;
  readonly last_used_at?: string;
}

/** Of POST /api_keys. */
export interface CreatedApiKey {
  readonly id: number;
  readonly name: string;
  readonly key: string;
}
