import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { createIn, homeIn, standInAgent } from "../../../testing/homes/stand-in-home.ts";
import { createLogger } from "../../base/log.ts";
import type { WarmAgents } from "../../local/agents/warm-agents.ts";
import type { Parts } from "../api-v2/lookup.ts";
import { LocalProcesses } from "../computes/provider.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import { takeSample } from "./monitoring.ts";

test("takeSample: of an endpoint that runs and whose endpoint.json cannot be read all but what its Postgres tells", async (t) => {
  const home = await homeIn(t);
  const { db } = await scratchState(t);
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const timelineId = "b".repeat(32);
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId, name: "main" });
  await db.insertInto("branches").values(branch).execute();
  await db
    .insertInto("endpoints")
    .values(newEndpointRow("ep", branch, "read_write"))
    .execute();
  const { directory } = await createIn(home, "ep");
  standInAgent(t, { workdir: directory, pidFile: join(directory, "compute.pid") });
  writeFileSync(join(directory, "endpoint.json"), "{");
  const logger = createLogger("control_plane", "silent");
  const parts = {
    ...{ home, db, logger },
    inventory: { refresh: async () => {} },
    computes: { provider: new LocalProcesses(home, {} as WarmAgents, logger) },
  } as unknown as Parts;
  const { at, ...sample } = await takeSample(parts, { project_id: "p", branch_id: "br" });
  assert.ok(at > 0);
  assert.deepEqual(sample, { is_awake: true });
});
