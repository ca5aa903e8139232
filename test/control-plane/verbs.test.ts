import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { StrataHome } from "../../src/local/home.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";

// The command line's verbs as clients of the API, and that each side sees what the other made.

let world: ControlPlaneWorld;

before(async () => {
  world = await ControlPlaneWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const strata = (...args: string[]) => world.cluster.ok(...args);
// biome-ignore lint/suspicious/noExplicitAny: answers of many shapes
const json = (...args: string[]) => world.cluster.json(...args) as Promise<any>;

test("projects, roles, databases, connection-string, operations: each with its effect", async () => {
  const created = await json("projects", "create", "--name", "shop");
  const project = created.project.id;
  assert.match(await strata("projects", "list"), new RegExp(`${project} +shop +17`));
  const password = (await strata("roles", "create", "anna")).trim();
  await strata("databases", "create", "orders", "--owner", "anna");
  const login = { user: "anna", password, database: "orders" };
  const endpoint = created.endpoints[0].id;
  assert.deepEqual(await world.sql(endpoint, login, "select 1 as n"), [{ n: 1 }]);
  const uri = new URL(
    (await strata("connection-string", "--role", "anna", "--pooled", "--branch", "main")).trim(),
  );
  assert.equal(uri.hostname, `${endpoint}-pooler.localtest.me`);
  assert.equal(uri.pathname, "/orders");
  assert.equal(uri.password, password);
  assert.equal(
    (await strata("connection-string", "main", "--role", "anna", "--pooled")).trim(),
    uri.href,
  );
  assert.match(await world.cluster.fails("connection-string", "nosuch"), /not branch 'nosuch'/);
  assert.match(
    await world.cluster.fails("connection-string", "main", "--branch", "main"),
    /BRANCH and --branch exclude each other/,
  );
  const next = (await strata("roles", "reset-password", "anna")).trim();
  await assert.rejects(world.sql(endpoint, login, "select 1"), /password authentication failed/);
  await world.sql(endpoint, { ...login, password: next }, "select 1");
  assert.match(
    await world.cluster.fails("roles", "delete", "anna"),
    /anna owns database orders: delete it/,
  );
  await strata("databases", "delete", "orders");
  await strata("roles", "delete", "anna");
  const names = (await json("roles", "list")).map(({ name }: { name: string }) => name);
  assert.deepEqual(names, ["neondb_owner"]);
  assert.match(await strata("operations", "list"), /apply_config +finished/);
  assert.match(await world.cluster.fails("projects", "delete", project), /--yes deletes it/);
});

test("api-key: one that was revoked is none any more", async () => {
  const key = (await strata("api-key", "create", "ci", "--scope", "read_only")).trim();
  assert.equal((await world.request("GET", "/api/v2/projects", { key })).status, 200);
  const keys = await json("api-key", "list");
  const { id } = keys.find(({ name }: { name: string }) => name === "ci");
  await strata("api-key", "revoke", `${id}`);
  assert.equal((await world.request("GET", "/api/v2/projects", { key })).status, 401);
});

test("what the command line makes, renames, resets and deletes is so in the API, under the same id", async () => {
  await strata("tenant", "create", "--set-default");
  const branches = async () => {
    const { defaultTenantId } = new StrataHome(world.cluster.home).config();
    const { projects } = await world.api("GET", `/projects?tenant_id=${defaultTenantId}`);
    assert.equal(projects.length, 1);
    const list = (await world.api("GET", `/projects/${projects[0].id}/branches`)).branches;
    return new Map<string, { id: string; parent_id?: string; default: boolean }>(
      list.map((branch: { name: string }) => [branch.name, branch]),
    );
  };
  const [main] = (await branches()).values();
  assert.equal(main!.default, true);
  await strata("branch", "create", "dev");
  const dev = (await branches()).get("dev")!;
  assert.equal(dev.parent_id, main!.id);
  await strata("branch", "rename", "dev", "work");
  assert.equal((await branches()).get("work")!.id, dev.id);
  await strata("branch", "reset", "work", "--preserve-under", "before");
  const after = await branches();
  assert.equal(after.get("work")!.id, dev.id);
  assert.notEqual(after.get("before")!.id, dev.id);
  await strata("branch", "delete", "work");
  assert.deepEqual([...(await branches()).keys()].toSorted(), ["before", "main"]);
});

test("a home of the version before is taken over by its first start, and has a control plane then", async () => {
  const { rmSync, writeFileSync } = await import("node:fs");
  const { join } = await import("node:path");
  await strata("stop");
  const { controlPlane, deletedTenants, ...before } = new StrataHome(world.cluster.home).config();
  const plain = (_: string, value: unknown) =>
    value instanceof Map ? Object.fromEntries(value) : value instanceof Set ? [...value] : value;
  const path = join(world.cluster.home, "config.json");
  writeFileSync(path, JSON.stringify({ ...before, formatVersion: 1 }, plain));
  for (const name of ["control_plane", "home.db", "home.db-wal", "home.db-shm"]) {
    rmSync(join(world.cluster.home, name), { recursive: true, force: true });
  }
  assert.match(
    await world.cluster.fails("projects", "list"),
    /control plane has not run yet: run '.* start' first/,
  );
  await strata("start");
  const { projects } = await world.api("GET", "/projects");
  assert.equal(projects.length, 2);
  const { controlPlane: made, ...after } = new StrataHome(world.cluster.home).config();
  assert.deepEqual(after, { ...before, deletedTenants });
  assert.ok(made !== undefined && controlPlane !== undefined);
});
