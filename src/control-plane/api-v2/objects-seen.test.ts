import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { Computes } from "../computes/computes.ts";
import type { LocalProcesses } from "../computes/provider.ts";
import type { Context } from "../context.ts";
import { newBranchRow, newEndpointRow, nowText } from "../inventory.ts";
import type { Parts } from "./lookup.ts";
import { seeObjectsOf } from "./objects-seen.ts";

interface Branch {
  /** What its agent does not answer. */
  readonly silent?: "catalog" | "verifiers";
  readonly needsConfigure?: boolean;
}

/** After a suspension of a branch on which role `known` was noted; SQL has made `app` there, and `known` is gone. */
async function suspended(t: TestContext, { silent, needsConfigure = false }: Branch) {
  const { db } = await scratchState(t);
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = {
    ...newBranchRow({ id: "br", projectId: "p", timelineId: "t", name: "main" }),
    needs_configure: needsConfigure ? 1 : 0,
  };
  await db.insertInto("branches").values(branch).execute();
  const endpoint = { ...newEndpointRow("ep", branch, "read_write"), suspended_at: nowText() };
  await db.insertInto("endpoints").values(endpoint).execute();
  const times = { created_at: nowText(), updated_at: nowText() };
  const known = { branch_id: "br", name: "known", sealed_password: null, verifier: "its own" };
  await db
    .insertInto("roles")
    .values({ ...known, no_login: 0, ...times })
    .execute();
  const away = () => {
    throw new StorageError("unavailable", "timeout", "no answer within 5 s");
  };
  const agent = {
    catalogObjects: async () =>
      silent === "catalog" ? away() : { roles: [{ name: "app" }], databases: [] },
    roleSecret: async (name: string) =>
      silent === "verifiers" ? away() : { role_secret: name === "app" ? "given by SQL" : null },
  };
  let isRunning = true;
  const provider = {
    isRunning: () => isRunning,
    agent: () => agent,
    stop: async () => {
      isRunning = false;
    },
  } as unknown as LocalProcesses;
  const context = { db, logger: createLogger("control_plane", "silent") } as unknown as Context;
  const parts = { ...context, computes: { provider } } as unknown as Parts;
  const computes = new Computes(context, provider, (each) => seeObjectsOf(parts, each));
  assert.equal(await computes.suspend("ep"), true);
  assert.equal(isRunning, false);
  const roles = await db.selectFrom("roles").select(["name", "verifier"]).execute();
  const pairs = roles.map((one) => [one.name, one.verifier]);
  const row = await db.selectFrom("endpoints").selectAll().executeTakeFirstOrThrow();
  return { isNoted: row.suspended_at !== null, roles: Object.fromEntries(pairs) };
}

test("seeObjectsOf: an endpoint is suspended with all noted where its roles were seen", async (t) => {
  assert.deepEqual(await suspended(t, {}), {
    isNoted: true,
    roles: { app: "given by SQL" },
  });
});

test("seeObjectsOf: what was not seen is not taken for noted, so that who comes as a role that SQL made wakes it", async (t) => {
  assert.deepEqual(await suspended(t, { silent: "catalog" }), {
    isNoted: false,
    roles: { known: "its own" },
  });
  assert.equal((await suspended(t, { silent: "verifiers" })).isNoted, false);
});

test("seeObjectsOf: roles that are still to be brought in keep their passwords", async (t) => {
  assert.deepEqual(await suspended(t, { needsConfigure: true }), {
    isNoted: false,
    roles: { known: "its own" },
  });
});
