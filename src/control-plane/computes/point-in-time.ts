// Read-only endpoints at a point of a branch's past, which connections ask for: shared, and gone when idle.

import { createHash } from "node:crypto";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { parseLsn } from "../../base/lsn.ts";
import type { Context } from "../context.ts";
import { newEndpointRow } from "../inventory.ts";
import type { BranchRow, ProjectRow } from "../state/tables.ts";
import type { Computes } from "./computes.ts";

/** Nobody comes back to most of them. */
const SUSPEND_TIMEOUT_SECONDS = 60;

/**
 * Its id; there is one for each point. `lsn` lies on the branch. StorageError `invalid` where what is there is not
 * kept any more.
 */
export async function ensurePointEndpoint(
  { db }: Context,
  computes: Computes,
  of: { readonly project: ProjectRow; readonly branch: BranchRow; readonly lsn: string },
): Promise<string> {
  const { project, branch, lsn } = of;
  const digest = createHash("sha256").update(`${branch.timeline_id} ${lsn}`).digest("hex");
  const id = `ep-past-${digest.slice(0, 16)}`;
  await computes.provider.create({
    id,
    tenantId: parseTenantId(project.tenant_id),
    timelineId: parseTimelineId(branch.timeline_id),
    staticLsn: parseLsn(lsn),
    settings: {},
  });
  const row = {
    ...newEndpointRow(id, branch, "read_only"),
    ephemeral: 1,
    suspend_timeout_seconds: SUSPEND_TIMEOUT_SECONDS,
  };
  // One that the inventory has seen already counts as made by hand until here.
  await db
    .insertInto("endpoints")
    .values(row)
    .onConflict((conflict) =>
      conflict
        .column("id")
        .doUpdateSet({ ephemeral: 1, suspend_timeout_seconds: SUSPEND_TIMEOUT_SECONDS }),
    )
    .execute();
  return id;
}
