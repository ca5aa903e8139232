import assert from "node:assert/strict";
import { test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { REAL_CLOCK, replaceClock } from "../../base/clock.ts";
import { createLogger } from "../../base/log.ts";
import type { Context } from "../context.ts";
import { newBranchRow, newEndpointRow } from "../inventory.ts";
import { Computes } from "./computes.ts";
import type { LocalProcesses } from "./provider.ts";
import { SuspendLoop } from "./suspend-loop.ts";

const HOUR_MS = 3_600_000;

test("SuspendLoop: a clock that is set back keeps no endpoint awake", async (t) => {
  const { db } = await scratchState(t);
  let elapsedMs = 0;
  let wallMs = Date.parse("2026-11-30T12:00:00Z");
  const pass = (ms: number) => {
    elapsedMs += ms;
    wallMs += ms;
  };
  replaceClock({ ...REAL_CLOCK, nowMs: () => wallMs, monotonicMs: () => elapsedMs });
  t.after(() => replaceClock(REAL_CLOCK));
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" });
  await db.insertInto("branches").values(branch).execute();
  const row = { ...newEndpointRow("ep", branch, "read_write"), suspend_timeout_seconds: 5 };
  await db.insertInto("endpoints").values(row).execute();

  let isRunning = false;
  let lastActiveMs = wallMs;
  let questions = 0;
  const status = async () => {
    questions++;
    // As an agent tells it: never later than now.
    lastActiveMs = Math.min(lastActiveMs, wallMs);
    return { last_active: new Date(lastActiveMs).toISOString() };
  };
  const stopped = Promise.withResolvers<void>();
  const provider = {
    isRunning: () => isRunning,
    agent: () => ({ status }),
    stop: async () => {
      isRunning = false;
      stopped.resolve();
    },
  } as unknown as LocalProcesses;
  const context = { db, logger: createLogger("control_plane", "silent") } as unknown as Context;
  const computes = new Computes(context, provider, async () => {});
  const loop = new SuspendLoop(context, computes);

  await loop.look();
  isRunning = true;
  wallMs -= HOUR_MS;
  pass(3000);
  await loop.look();
  assert.equal(questions, 1);
  wallMs -= HOUR_MS;
  pass(1000);
  await loop.look();
  assert.equal(questions, 2);
  pass(5000);
  await loop.look();
  await stopped.promise;
  // Behind what notes it.
  await computes.suspended("ep");
  while ((await db.selectFrom("operations").selectAll().execute()).length === 0) {
    await new Promise(setImmediate);
  }
});
