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

export type ApiProject = z.infer<typeof projectListItemSchema>;
export type ApiBranch = z.infer<typeof branchSchema>;
export type ApiEndpoint = z.infer<typeof endpointSchema>;
export type ApiOperation = z.infer<typeof operationSchema>;
export type ApiRole = z.infer<typeof roleSchema>;
export type ApiDatabase = z.infer<typeof databaseSchema>;

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
