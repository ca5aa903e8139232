import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { createIn, homeIn, standInAgent } from "../../../testing/homes/stand-in-home.ts";
import { sleep } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import type { WarmAgents } from "../../local/agents/warm-agents.ts";
import type { Context } from "../context.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import { openDatabase } from "../state/database.ts";
import { sqliteDialect } from "../state/node-sqlite.ts";
import { Computes } from "./computes.ts";
import { LocalProcesses } from "./provider.ts";

/** Endpoint `ep`, whose agent somebody else has told to start it; `tell` is what that says next. */
async function starting(t: TestContext) {
  const home = await homeIn(t);
  const db = await openDatabase(sqliteDialect(join(home.path, "state.db")));
  t.after(() => db.destroy());
  const { directory } = await createIn(home, "ep");
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({
    ...{ id: "br", projectId: "p", timelineId: "b".repeat(32), name: "main" },
  });
  await db.insertInto("branches").values(branch).execute();
  await db
    .insertInto("endpoints")
    .values(newEndpointRow("ep", branch, "read_write"))
    .execute();
  const pidFile = join(directory, "compute.pid");
  const { pid } = standInAgent(t, { workdir: directory, pidFile });
  const tell = (status: string) => writeFileSync(pidFile, `${pid}\n${status}\n`);
  tell("init");
  const logger = createLogger("control_plane", "silent");
  const provider = new LocalProcesses(home, {} as WarmAgents, logger);
  const context = { home, db, logger } as unknown as Context;
  return { computes: new Computes(context, provider, async () => {}), provider, tell };
}

// A control plane that was killed while it started an endpoint leaves an agent at work, which it takes for one that runs.
test("Computes.wake: where a start is under way that nobody here has begun, there is an address once Postgres accepts connections", async (t) => {
  const { computes, provider, tell } = await starting(t);
  let isUp = false;
  const woken = computes.wake("ep").then((answer) => ({ answer, isUp }));
  // Long enough for one that waits for nothing.
  await sleep(200);
  isUp = true;
  tell("running");
  const expected = { ...provider.address("ep"), coldStart: "warm" };
  assert.deepEqual(await woken, { answer: expected, isUp: true });
  // Nor does it wait for what changes no more.
  assert.deepEqual(await computes.wake("ep"), expected);
});
