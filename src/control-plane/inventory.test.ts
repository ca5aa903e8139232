import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { newProjectRow } from "../../testing/control-plane/project-row.ts";
import { scratchState } from "../../testing/control-plane/scratch-state.ts";
import { freeEndpointPorts } from "../../testing/free-port.ts";
import { parseTenantId, parseTimelineId } from "../base/ids.ts";
import { createLogger } from "../base/log.ts";
import type { WarmAgents } from "../local/agents/warm-agents.ts";
import { controllerOf } from "../local/controller.ts";
import { createEndpoint, destroyEndpoint, type Endpoint } from "../local/endpoints.ts";
import { StrataHome } from "../local/home.ts";
import { nameBranch } from "../local/state/home-state.ts";
import { LocalProcesses } from "./computes/provider.ts";
import type { Context } from "./context.ts";
import { Inventory, newBranchRow } from "./inventory.ts";

const TENANT = parseTenantId(newProjectRow("p").tenant_id);
const TIMELINE = parseTimelineId("b".repeat(32));

/** A home with branch main, which has its row, and what an endpoint on it takes. */
async function scene(t: TestContext) {
  const { db, directory } = await scratchState(t);
  const home = new StrataHome(join(directory, "home"));
  home.create(
    { endpointBasePort: await freeEndpointPorts() },
    {
      broker: { listenAddr: "127.0.0.1:1" },
      pageservers: [{ id: 1, listenPgAddr: "127.0.0.1:2", listenHttpAddr: "127.0.0.1:3" }],
      safekeepers: [{ id: 1, listenPgAddr: "127.0.0.1:4", listenHttpAddr: "127.0.0.1:5" }],
    },
    "must-not-exist",
  );
  home.update((draft) => nameBranch(draft, TENANT, "main", TIMELINE));
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: TIMELINE, name: "main" });
  await db.insertInto("branches").values(branch).execute();
  const context = { home, db, logger: createLogger("test", "silent") } as unknown as Context;
  const create = (id: string): Promise<Endpoint> =>
    createEndpoint(
      home,
      { id, tenantId: TENANT, timelineId: TIMELINE, pgVersion: 17 },
      controllerOf(home).placementOf(TENANT, TIMELINE),
    );
  const rows = async () => {
    const names = ["id", "branch_id", "name", "suspend_timeout_seconds", "disabled"] as const;
    const found = await db.selectFrom("endpoints").select(names).execute();
    return found.map((row) => ({ ...row }));
  };
  return { home, db, inventory: new Inventory(context), create, rows };
}

const MADE = {
  id: "main",
  branch_id: "br",
  name: null,
  suspend_timeout_seconds: -1,
  disabled: 0,
};

test("Inventory: an endpoint that the API deleted and a command made again has a row", async (t) => {
  const { db, inventory, create, rows } = await scene(t);
  const endpoint = await create("main");
  await inventory.refresh();
  assert.deepEqual(await rows(), [MADE]);
  destroyEndpoint(endpoint);
  await db.deleteFrom("endpoints").where("id", "=", "main").execute();
  await create("main");
  await inventory.refresh();
  assert.deepEqual(await rows(), [MADE]);
});

test("Inventory: an endpoint whose endpoint.json cannot be read keeps its row; that of one that is gone goes", async (t) => {
  const { home, db, inventory, create, rows } = await scene(t);
  const endpoint = await create("main");
  await inventory.refresh();
  const kept = { name: "mine", suspend_timeout_seconds: 60, disabled: 1 };
  await db.updateTable("endpoints").set(kept).execute();
  const file = join(endpoint.directory, "endpoint.json");
  const good = readFileSync(file);
  writeFileSync(file, "{");
  const provider = new LocalProcesses(home, {} as WarmAgents, createLogger("test", "silent"));
  for (const text of [undefined, good]) {
    if (text !== undefined) {
      writeFileSync(file, text);
    }
    await inventory.refresh();
    assert.deepEqual(await rows(), [{ ...MADE, ...kept }]);
    assert.equal(provider.isRunning("main"), false);
    assert.equal(provider.exists("main"), true);
    assert.equal(provider.lastRanMs("main"), undefined);
  }
  writeFileSync(file, "{");
  await inventory.refresh();
  await provider.destroy("main");
  await inventory.refresh();
  assert.deepEqual(await rows(), []);
});
