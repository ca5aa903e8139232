// What proxies report: bytes that clients of endpoints were sent.

import type { TransferReport } from "../../proxy/api.ts";
import { type Database, serialized } from "../state/database.ts";
import { timeText, Uses } from "./uses.ts";

/** Once, however often it comes. What was sent for an endpoint that is gone by now nobody can be charged with. */
export async function countTransfer(
  db: Database,
  { proxy, sequence, bytes }: TransferReport,
  nowMs: number,
): Promise<void> {
  await serialized(db, async (transaction) => {
    const known = await transaction
      .selectFrom("meter_proxies")
      .select("sequence")
      .where("proxy", "=", proxy)
      .executeTakeFirst();
    if (known !== undefined && sequence <= known.sequence) {
      return;
    }
    const values = { sequence, seen_at: timeText(nowMs) };
    await transaction
      .insertInto("meter_proxies")
      .values({ proxy, ...values })
      .onConflict((conflict) => conflict.column("proxy").doUpdateSet(values))
      .execute();
    const uses = new Uses();
    for (const [id, projectId] of await projectsOf(transaction, Object.keys(bytes))) {
      uses.add(projectId, nowMs, { transferBytes: bytes[id]! });
    }
    await uses.write(transaction);
  });
}

/** By name that clients connect with, of an endpoint or a branch. */
async function projectsOf(db: Database, names: readonly string[]): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  if (names.length === 0) {
    return found;
  }
  for (const table of ["branches", "endpoints"] as const) {
    const rows = await db
      .selectFrom(table)
      .select(["id", "project_id"])
      .where("id", "in", names)
      .execute();
    for (const { id, project_id: projectId } of rows) {
      found.set(id, projectId);
    }
  }
  return found;
}
