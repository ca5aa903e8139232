import assert from "node:assert/strict";
import { test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { StorageError } from "../../base/errors.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import type { Parts } from "./lookup.ts";
import { projectRoutes } from "./projects.ts";

const DAMAGED = "ep-b";

test("enable_logical_replication: an endpoint that cannot have it keeps no other from it, and is told of", async (t) => {
  const { db } = await scratchState(t);
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" });
  await db.insertInto("branches").values(branch).execute();
  for (const id of ["ep-a", DAMAGED, "ep-c"]) {
    await db
      .insertInto("endpoints")
      .values(newEndpointRow(id, branch, "read_write"))
      .execute();
  }
  const set: string[] = [];
  const suspended: string[] = [];
  const provider = {
    exists: () => true,
    settings: (id: string) => {
      if (id === DAMAGED) {
        throw new StorageError("invalid", "bad-endpoint-spec", "endpoint.json is not JSON");
      }
      return {};
    },
    changeSettings: async (id: string, change: (set: () => void) => Promise<void>) =>
      change(() => void set.push(id)),
  };
  const parts = {
    db,
    inventory: { refresh: async () => {} },
    home: { config: () => ({ deletedTenants: new Map() }) },
    computes: { provider, suspend: async (id: string) => void suspended.push(id) },
  } as unknown as Parts;
  const route = projectRoutes(parts).find(({ method }) => method === "PATCH")!;
  const body = { project: { settings: { enable_logical_replication: true } } };
  const request = { id: "r", params: { project_id: "p" }, query: {}, body, caller: undefined };
  await assert.rejects(async () => route.handle(request), {
    message: "endpoint ep-b: endpoint.json is not JSON",
  });
  assert.deepEqual([set, suspended], Array(2).fill(["ep-a", "ep-c"]));
});
