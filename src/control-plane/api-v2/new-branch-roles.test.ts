import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { newProjectRow } from "../../../testing/control-plane/project-row.ts";
import { scratchState } from "../../../testing/control-plane/scratch-state.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import type { Computes } from "../computes/computes.ts";
import { newBranchRow, newEndpointRow, nowText } from "../inventory.ts";
import type { BranchRow } from "../state/tables.ts";
import { NewBranchRoles } from "./new-branch-roles.ts";

const NOTED = "noted when it was suspended";
const TOLD = "told by Postgres";

interface Parent {
  readonly isRunning: boolean;
  readonly suspendedAt: string | null;
  readonly lastRanMs?: number;
  readonly needsConfigure?: boolean;
  /** Of its agent. */
  readonly isAway?: boolean;
  readonly isDatabaseAway?: boolean;
}

/** A parent with role `user`, and what is known of it on a branch while that is being made. */
async function learned(t: TestContext, parent: Parent, done = new Promise<void>(() => {})) {
  const { db } = await scratchState(t);
  const now = nowText();
  const times = { created_at: now, updated_at: now };
  await db.insertInto("projects").values(newProjectRow("p")).execute();
  const branch = (id: string): BranchRow => ({
    ...newBranchRow({ id, projectId: "p", timelineId: id, name: id }),
    needs_configure: parent.needsConfigure === true ? 1 : 0,
  });
  await db.insertInto("branches").values(branch("parent")).execute();
  const endpoint = newEndpointRow("ep", branch("parent"), "read_write");
  const writer = { ...endpoint, suspended_at: parent.suspendedAt };
  await db
    .insertInto("roles")
    .values({
      ...{ branch_id: "parent", name: "user", sealed_password: null, verifier: NOTED },
      ...{ no_login: 0, ...times },
    })
    .execute();
  const agent = {
    roleSecret: async () => {
      if (parent.isAway === true) {
        throw new StorageError("unavailable", "away", "it is being stopped");
      }
      return { role_secret: TOLD };
    },
  };
  const provider = {
    isRunning: () => parent.isRunning,
    lastRanMs: () => parent.lastRanMs,
    agent: () => agent,
  };
  const logger = createLogger("control_plane", "silent");
  const parts = { db, logger, computes: { provider } as unknown as Computes };
  if (parent.isDatabaseAway === true) {
    await db.schema.dropTable("roles").execute();
  }
  const roles = new NewBranchRoles();
  await roles.learn(parts, { branch: branch("new"), parent: branch("parent"), writer }, done);
  return roles;
}

test("NewBranchRoles: a running parent's Postgres tells, whatever was noted before", async (t) => {
  const roles = await learned(t, { isRunning: true, suspendedAt: nowText() });
  assert.equal(roles.verifierOf("new", "user"), TOLD);
  assert.equal(roles.verifierOf("new", "other"), undefined);
  assert.equal(roles.verifierOf("parent", "user"), undefined);
});

test("NewBranchRoles: of a parent that was suspended what was noted then, where it has not run since", async (t) => {
  const suspendedAt = new Date(1_000_000).toISOString();
  const known = async (parent: Partial<Parent>) =>
    (await learned(t, { isRunning: false, suspendedAt, lastRanMs: 999_000, ...parent })).verifierOf(
      "new",
      "user",
    );
  assert.equal(await known({}), NOTED);
  assert.equal(await known({ lastRanMs: 1_001_000 }), undefined);
  assert.equal(await known({ suspendedAt: null }), undefined);
  assert.equal(await known({ needsConfigure: true }), undefined);
  assert.equal(await known({ isRunning: true, isAway: true }), undefined);
});

test("NewBranchRoles: that nothing can be learnt, as the database is away, is nobody's failure", async (t) => {
  const roles = await learned(t, { isRunning: true, suspendedAt: null, isDatabaseAway: true });
  assert.equal(roles.verifierOf("new", "user"), undefined);
});

test("NewBranchRoles: what is known goes with the job, also where that was first", async (t) => {
  const parent = { isRunning: true, suspendedAt: null };
  const { promise, reject } = Promise.withResolvers<void>();
  const roles = await learned(t, parent, promise);
  assert.equal(roles.verifierOf("new", "user"), TOLD);
  reject(new Error("it does not start"));
  await promise.catch(() => {});
  await Promise.resolve();
  assert.equal(roles.verifierOf("new", "user"), undefined);
  const late = await learned(t, parent, Promise.resolve());
  assert.equal(late.verifierOf("new", "user"), undefined);
});
