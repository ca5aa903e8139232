// A tenant is deleted: with its endpoints, on all that stores it, and over a pageserver that dies in the middle.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { inspect } from "node:util";
import { sleep } from "../../src/base/clock.ts";
import { errnoCode } from "../../src/base/errors.ts";
import { StrataHome } from "../../src/local/home.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
});

after(() => cluster?.[Symbol.asyncDispose]());

async function tenants(): Promise<readonly string[]> {
  return ((await cluster.json("tenant", "list")) as { id: string }[]).map(({ id }) => id);
}

/** Below the home. A directory may go while it is listed: then it is done again. */
function listed(): string[] {
  for (;;) {
    try {
      return readdirSync(cluster.home, { recursive: true }) as string[];
    } catch (error) {
      if (errnoCode(error) !== "ENOENT") {
        throw error;
      }
    }
  }
}

/** Paths below the home that have the id in them, but for the mark in the store, and directories that safekeepers remove when they start. */
function pathsOf(tenantId: string): string[] {
  return listed().filter(
    (path) =>
      path.includes(tenantId) &&
      !path.includes("deleted-tenants") &&
      !(path.startsWith("safekeepers") && path.endsWith(tenantId)),
  );
}

async function isGone(tenantId: string): Promise<void> {
  await eventually(
    `nothing of ${tenantId} is left`,
    async () => pathsOf(tenantId).length === 0,
  ).catch((error: unknown) => {
    throw new Error(pathsOf(tenantId).join("\n"), { cause: error });
  });
}

test("tenant delete: only with --yes, only without endpoints or with --force; then nothing is left, anywhere", async () => {
  const [kept] = await tenants();
  const tenantId = "d".repeat(32);
  await cluster.ok("tenant", "create", "--tenant-id", tenantId);
  await cluster.ok("branch", "create", "dev", "--tenant-id", tenantId);
  const create = ["endpoint", "create", "doomed", "--tenant-id", tenantId, "--branch-name", "dev"];
  await cluster.ok(...create);
  await cluster.ok("endpoint", "start", "doomed");
  await cluster.query("doomed", "create table t as select generate_series(1, 1000) n");
  const remove = ["tenant", "delete", tenantId];
  assert.match(await cluster.fails(...remove), /has branches: dev, main; --yes deletes it/);
  assert.match(await cluster.fails(...remove, "--yes"), /endpoints: doomed; --force stops/);
  assert.deepEqual(await cluster.query("doomed", "select count(*)::int from t"), [{ count: 1000 }]);
  const told = await cluster.ok(...remove, "--yes", "--force");
  assert.equal(told, `Destroyed endpoint doomed\nDeleted tenant ${tenantId}\n`);
  assert.deepEqual(await tenants(), [kept]);
  await isGone(tenantId);
  assert.match(
    await cluster.fails("tenant", "create", "--tenant-id", tenantId),
    /was deleted: its id is not given again/,
  );
  assert.match(await cluster.fails(...remove, "--yes"), /not found/);
  // The other tenant goes on.
  await cluster.startEndpoint();
  assert.deepEqual(await cluster.query("main", "select 1 as one"), [{ one: 1 }]);
  await cluster.ok("pageserver", "restart");
  assert.deepEqual(await tenants(), [kept]);
});

test("tenant delete: a pageserver that is killed meanwhile, and a safekeeper that is away", async () => {
  const before = await tenants();
  const ids = ["1", "2", "3"].map((digit) => digit.repeat(32));
  for (const [i, tenantId] of ids.entries()) {
    await cluster.ok("tenant", "create", "--tenant-id", tenantId);
    const main = join(import.meta.dirname, "..", "..", "src", "cli", "main.ts");
    const env = { ...process.env, STRATA_HOME: cluster.home };
    const args = [main, "tenant", "delete", tenantId, "--yes"];
    const command = spawn(process.execPath, args, { env, stdio: "ignore" });
    const ended = new Promise((resolve) => command.once("exit", resolve));
    // Anywhere from before the request to after its end.
    await sleep(200 + i * 60);
    await cluster.kill9("pageserver");
    await ended;
    await cluster.ok("start");
    const again = await cluster.cli("tenant", "delete", tenantId, "--yes");
    assert.ok(again.code === 0 || /not found/.test(again.stderr), again.stderr);
    await isGone(tenantId);
  }
  assert.deepEqual(await tenants(), before);
  const tenantId = "4".repeat(32);
  await cluster.ok("tenant", "create", "--tenant-id", tenantId);
  await cluster.ok("safekeeper", "stop", "3");
  assert.match(
    await cluster.fails("tenant", "delete", tenantId, "--yes"),
    /its data could not be removed yet/,
  );
  await cluster.ok("start");
  await isGone(tenantId);
  await cluster.ok("safekeeper", "restart", "1");
  assert.ok(!readdirSync(join(cluster.home, "safekeepers", "sk1")).includes(tenantId));
  assert.ok(!inspect(new StrataHome(cluster.home).config(), { depth: 9 }).includes(tenantId));
});
