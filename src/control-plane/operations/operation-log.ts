// What was done to an endpoint outside of anybody's request: a wake or a suspension, noted as an operation that has ended.

import { nowMs } from "../../base/clock.ts";
import { newUuid } from "../context.ts";
import type { Database } from "../state/database.ts";

/** Of a project; older ones go, so that an endpoint that sleeps often does not fill the disk. */
const KEPT_OPERATIONS = 1000;

export async function recordFinished(
  db: Database,
  done: {
    readonly endpointId: string;
    readonly action: "start_compute" | "suspend_compute";
    readonly startedMs: number;
  },
): Promise<void> {
  const endpoint = await db
    .selectFrom("endpoints")
    .select(["project_id", "branch_id"])
    .where("id", "=", done.endpointId)
    .executeTakeFirst();
  if (endpoint === undefined) {
    return;
  }
  const id = newUuid();
  const started = new Date(done.startedMs).toISOString();
  const ended = new Date(nowMs()).toISOString();
  await db
    .insertInto("operations")
    .values({
      id,
      job_id: id,
      position: 0,
      project_id: endpoint.project_id,
      branch_id: endpoint.branch_id,
      endpoint_id: done.endpointId,
      action: done.action,
      kind: "noted",
      status: "finished",
      step: 0,
      args: "{}",
      error: null,
      failures_count: 0,
      created_at: started,
      updated_at: ended,
      finished_at: ended,
      claimed_by: null,
    })
    .execute();
  await forgetOldest(db, endpoint.project_id);
}

async function forgetOldest(db: Database, projectId: string): Promise<void> {
  const oldest = await db
    .selectFrom("operations")
    .select("created_at")
    .where("project_id", "=", projectId)
    .orderBy("created_at", "desc")
    .offset(KEPT_OPERATIONS)
    .limit(1)
    .executeTakeFirst();
  if (oldest !== undefined) {
    await db
      .deleteFrom("operations")
      .where("project_id", "=", projectId)
      .where("created_at", "<=", oldest.created_at)
      .where("finished_at", "is not", null)
      .execute();
  }
}
