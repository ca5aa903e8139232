import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { newProjectRow } from "../../testing/control-plane/project-row.ts";
import { scratchState } from "../../testing/control-plane/scratch-state.ts";
import { nowMs, sleep } from "../base/clock.ts";
import { StorageError } from "../base/errors.ts";
import { createLogger } from "../base/log.ts";
import type { Parts } from "./api-v2/lookup.ts";
import { Computes } from "./computes/computes.ts";
import type { LocalProcesses } from "./computes/provider.ts";
import type { Context } from "./context.ts";
import { newBranchRow, newEndpointRow, nowText } from "./inventory.ts";
import { PROXY_PREFIX, proxyRoutes } from "./proxy-routes.ts";

const VERIFIER = "SCRAM-SHA-256$4096:as noted";

/** Endpoint `ep`, which runs; its suspension notes role `app`, whose Postgres is down before `noting` resolves. */
async function scratch(t: TestContext, noting: Promise<void>) {
  const { db } = await scratchState(t);
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" });
  await db.insertInto("branches").values(branch).execute();
  const row = { ...newEndpointRow("ep", branch, "read_write"), started_at: nowText() };
  await db.insertInto("endpoints").values(row).execute();

  let isRunning = true;
  let lastRanMs = nowMs();
  let starts = 0;
  const isDown = Promise.withResolvers<void>();
  const provider = {
    isRunning: () => isRunning,
    joins: async () => isRunning,
    exists: () => true,
    lastRanMs: () => lastRanMs,
    stop: async () => {
      lastRanMs = nowMs();
      isRunning = false;
      isDown.resolve();
      await noting;
    },
    start: async () => {
      starts++;
      throw new Error("it was to stay asleep");
    },
  } as unknown as LocalProcesses;
  const context = { db, logger: createLogger("control_plane", "silent") } as unknown as Context;
  const computes = new Computes(context, provider, async ({ branch_id }) => {
    const times = { created_at: nowText(), updated_at: nowText() };
    const role = { branch_id, name: "app", sealed_password: null, verifier: VERIFIER };
    await db
      .insertInto("roles")
      .values({ ...role, no_login: 0, ...times })
      .execute();
  });
  const parts = {
    ...context,
    home: { config: () => ({ deletedTenants: new Map() }) },
    computes,
    access: { note: () => {} },
    inventory: { refresh: async () => {} },
  } as unknown as Parts;
  return { db, computes, provider, isDown: isDown.promise, starts: () => starts, parts };
}

async function secretOf(parts: Parts, role: string): Promise<string> {
  const path = `${PROXY_PREFIX}/get_endpoint_access_control`;
  const route = proxyRoutes(parts).find((one) => one.path === path)!;
  const query = { endpointish: "ep", role };
  const request = { id: "r", params: {}, query, body: {}, caller: undefined };
  return ((await route.handle(request)) as { role_secret: string }).role_secret;
}

test("a role of an endpoint that is just being suspended: what that notes is waited for, and nothing is woken", async (t) => {
  const noting = Promise.withResolvers<void>();
  const { computes, isDown, starts, parts } = await scratch(t, noting.promise);
  const suspended = computes.suspend("ep");
  await isDown;
  const asked = Promise.all([secretOf(parts, "app"), secretOf(parts, "nobody")]);
  // Long enough for an answer that waits for nothing.
  await parts.db.selectFrom("endpoints").selectAll().execute();
  noting.resolve();
  assert.deepEqual(await asked, [VERIFIER, ""]);
  assert.equal(await suspended, true);
  assert.equal(starts(), 0);
});

test("who sees an endpoint asleep finds noted that it was suspended", async (t) => {
  const noting = Promise.withResolvers<void>();
  const { db, computes, isDown } = await scratch(t, noting.promise);
  const suspended = computes.suspend("ep");
  await isDown;
  assert.deepEqual(computes.stateOf("ep"), { isRunning: true, isStarting: false });
  noting.resolve();
  while (computes.stateOf("ep").isRunning) {
    await new Promise(setImmediate);
  }
  const { suspended_at } = await db.selectFrom("endpoints").selectAll().executeTakeFirstOrThrow();
  assert.notEqual(suspended_at, null);
  const { action } = await db.selectFrom("operations").selectAll().executeTakeFirstOrThrow();
  assert.equal(action, "suspend_compute");
  await suspended;
});

// It was killed, say, and is built anew.
test("a role that SQL made, of an endpoint whose Postgres is just coming up, is asked for once it is there", async (t) => {
  const { provider, starts, parts } = await scratch(t, Promise.resolve());
  const comesUp = Promise.withResolvers<boolean>();
  let isUp = false;
  const roleSecret = async () => {
    if (!isUp) {
      throw new StorageError("unavailable", "not-running", "the compute does not run: it is init");
    }
    return { role_secret: "SCRAM-SHA-256$4096:of SQL" };
  };
  Object.assign(provider, { joins: () => comesUp.promise, agent: () => ({ roleSecret }) });
  const asked = secretOf(parts, "of_sql");
  // Long enough for an answer that waits for nothing.
  await sleep(100);
  isUp = true;
  comesUp.resolve(true);
  assert.equal(await asked, "SCRAM-SHA-256$4096:of SQL");
  assert.equal(starts(), 0);
});
