// The management API of the object store: what it has of a tenant, compared with what the indexes there name.

import { type Route, route } from "../http/route.ts";
import { tenantParams } from "../http/schemas.ts";
import { type ScrubReportWire, scrubReportSchema, scrubRequestSchema } from "./api.ts";
import type { ScrubReport } from "./remote/scrub.ts";
import type { TenantManager } from "./storage/tenant-manager.ts";

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
