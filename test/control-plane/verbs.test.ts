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
  const orders = await json("databases", "create", "orders", "--owner", "anna");
  assert.deepEqual([orders.name, orders.owner_name], ["orders", "anna"]);
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
  assert.equal((await json("databases", "delete", "orders")).name, "orders");
  assert.equal((await json("roles", "delete", "anna")).name, "anna");
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
  assert.equal((await json("api-key", "revoke", `${id}`)).id, id);
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

test("what the API makes, renames, restores, suspends and deletes is so on the command line", async () => {
  const { project, branch: main, endpoints } = await world.createProject("both");
  const endpoint = endpoints[0].id;
  const { tenantId } = world.cluster.endpointSpec(endpoint);
  const tenants = async () => (await json("tenant", "list")).map(({ id }: { id: string }) => id);
  const branches = async () =>
    (await json("branch", "list", "--tenant-id", tenantId)).map(
      ({ name }: { name: string }) => name,
    );
  /** By id: its status, and the branch it is on. */
  const computes = async () =>
    new Map<string, string>(
      (await json("endpoint", "list", "--tenant-id", tenantId)).map(
        (one: { id: string; status: string; branch_name: string }) => [
          one.id,
          `${one.status} on ${one.branch_name}`,
        ],
      ),
    );
  assert.ok((await tenants()).includes(tenantId));
  const dev = await world.createBranch(project.id, "dev");
  const [{ id: ofDev }] = dev.endpoints;
  assert.deepEqual(await branches(), ["dev", "main"]);
  assert.deepEqual(
    await computes(),
    new Map([
      [endpoint, "running on main"],
      [ofDev, "running on dev"],
    ]),
  );
  const path = `/projects/${project.id}/branches/${dev.branch.id}`;
  await world.api("PATCH", path, { branch: { name: "work" } });
  await world.api("POST", `${path}/restore`, {
    ...{ source_branch_id: main.id, preserve_under_name: "work_old" },
  });
  await world.settled(project.id);
  assert.deepEqual(await branches(), ["main", "work", "work_old"]);
  assert.match((await computes()).get(ofDev)!, / on work$/);

  // Endpoints: each side starts and stops what the other one has made.
  const seen = async (id: string) =>
    (await world.api("GET", `/projects/${project.id}/endpoints/${id}`)).endpoint;
  await world.api("POST", `/projects/${project.id}/endpoints/${endpoint}/suspend`);
  assert.equal((await computes()).get(endpoint), "stopped on main");
  await strata("endpoint", "start", endpoint);
  assert.equal((await seen(endpoint)).current_state, "active");
  await strata("endpoint", "stop", endpoint);
  assert.equal((await seen(endpoint)).current_state, "idle");
  await strata(
    ...["endpoint", "create", "reader", "--tenant-id", tenantId],
    ...["--branch-name", "main", "--at", "0/1700000"],
  );
  const reader = await seen("reader");
  assert.deepEqual([reader.type, reader.branch_id], ["read_only", main.id]);
  await world.api("POST", `/projects/${project.id}/endpoints/reader/start`);
  await world.settled(project.id);
  assert.equal((await computes()).get("reader"), "running on main");
  await strata("endpoint", "stop", "reader", "--destroy");
  const gone = `/api/v2/projects/${project.id}/endpoints/reader`;
  assert.equal((await world.request("GET", gone)).status, 404);

  await world.api("DELETE", path);
  await world.settled(project.id);
  assert.deepEqual(await branches(), ["main", "work_old"]);
  assert.deepEqual([...(await computes()).keys()], [endpoint]);
  await world.api("DELETE", `/projects/${project.id}?hard_delete=true`);
  assert.ok(!(await tenants()).includes(tenantId));
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
