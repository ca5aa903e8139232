import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { createIn, homeIn } from "../../../testing/homes/stand-in-home.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import { endpointsOf } from "./storage-kinds.ts";

test("endpointsOf: those whose endpoint.json cannot be read, too; of no other tenant or timeline", async (t) => {
  const home = await homeIn(t);
  const { db } = await scratchState(t);
  const [mine, other] = ["a".repeat(32), "c".repeat(32)];
  for (const [project, tenant] of [
    ["mine", mine],
    ["other", other],
  ] as const) {
    await db
      .insertInto("projects")
      .values({ ...newProjectRow(project), tenant_id: tenant })
      .execute();
    for (const digit of ["1", "2"]) {
      const timelineId = digit.repeat(32);
      const name = `${project}-${digit}`;
      const branch = newBranchRow({ id: name, projectId: project, timelineId, name });
      await db.insertInto("branches").values(branch).execute();
      for (const state of ["good", "damaged"]) {
        const id = `${name}-${state}`;
        await db
          .insertInto("endpoints")
          .values(newEndpointRow(id, branch, "read_write"))
          .execute();
        const ids = { tenantId: parseTenantId(tenant), timelineId: parseTimelineId(timelineId) };
        const { directory } = await createIn(home, id, ids);
        if (state === "damaged") {
          writeFileSync(join(directory, "endpoint.json"), "{");
        }
      }
    }
  }
  const parts = { home, db };
  assert.deepEqual((await endpointsOf(parts, mine)).toSorted(), [
    ...["mine-1-damaged", "mine-1-good", "mine-2-damaged", "mine-2-good"],
  ]);
  assert.deepEqual(await endpointsOf(parts, other, "2".repeat(32)), [
    ...["other-2-good", "other-2-damaged"],
  ]);
});
