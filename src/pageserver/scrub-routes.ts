// The management API of the object store: what it has of a tenant, compared with what the indexes there name.

import { z } from "zod";
import { type Route, route } from "../http/route.ts";
import { idText, tenantParams } from "../http/schemas.ts";
import type { ScrubReport } from "./remote/scrub.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";

/** A day: younger objects may be on their way to an index. */
export const DEFAULT_SCRUB_MIN_AGE_S = 86_400;

const objectSchema = z.object({ key: z.string(), bytes: z.int() });

/** PUT /v1/tenant/{t}/scrub. */
export const scrubRequestSchema = z.object({
  fix: z
    .boolean()
    .default(false)
    .describe("delete orphans, and put layers again that are missing and still on the disk"),
  min_age_s: z
    .int()
    .min(0)
    .default(DEFAULT_SCRUB_MIN_AGE_S)
    .describe("objects that are younger are no orphans"),
});

export const scrubReportSchema = z.object({
  timelines: z.int(),
  objects: z.int(),
  bytes: z.int(),
  orphans: z.array(objectSchema).describe("nobody names them"),
  missing: z
    .array(objectSchema.extend({ index: z.string() }))
    .describe("the index names them, and they are not there"),
  differing: z
    .array(objectSchema.extend({ index: z.string(), stored_bytes: z.int() }))
    .describe("not of the size that the index says"),
  damaged: z
    .array(z.object({ timeline_id: idText, error: z.string() }))
    .describe("timelines whose index cannot be read; then nothing counts as an orphan"),
  unknown: z.array(z.string()).describe("keys that are none of ours"),
  deleted: z.array(z.string()).describe("orphans that are gone now"),
  put_again: z.array(z.string()).describe("missing layers that are on their way again"),
});

export type ScrubRequest = z.input<typeof scrubRequestSchema>;
export type ScrubReportWire = z.infer<typeof scrubReportSchema>;

export function scrubRoutes(tenants: TenantManager): Route[] {
  return [
    route(
      {
        method: "PUT",
        path: "/v1/tenant/{tenant}/scrub",
        summary:
          "Compares the tenant's objects in the object store with what its indexes there name.",
        scope: "admin",
        params: tenantParams,
        body: scrubRequestSchema,
        answer: scrubReportSchema,
      },
      async ({ params, body }) => {
        const { fix, min_age_s } = body;
        const tenant = tenants.tenant(params.tenant);
        const { report, putAgain } = await tenant.scrub({ fix, minAgeMs: min_age_s * 1000 });
        return describeReport(report, putAgain);
      },
    ),
  ];
}

function describeReport(report: ScrubReport, putAgain: readonly string[]): ScrubReportWire {
  const { timelines, objects, bytes, orphans, missing, differing, damaged } = report;
  return {
    timelines,
    objects,
    bytes,
    orphans: orphans.map(({ key, sizeBytes }) => ({ key, bytes: sizeBytes })),
    missing: missing.map(({ key, sizeBytes, indexKey }) => ({
      key,
      bytes: sizeBytes,
      index: indexKey,
    })),
    differing: differing.map(({ key, sizeBytes, indexKey, storedBytes }) => ({
      key,
      bytes: sizeBytes,
      index: indexKey,
      stored_bytes: storedBytes,
    })),
    damaged: [...damaged].map(([timeline_id, { message }]) => ({ timeline_id, error: message })),
    unknown: [...report.unknown],
    deleted: [...report.deleted],
    put_again: [...putAgain],
  };
}
