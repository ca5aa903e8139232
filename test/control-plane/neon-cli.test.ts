import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { StrataHome } from "../../src/local/home.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { withClient } from "../../testing/tpcb.ts";

// Neon's own command line, unmodified: each command with its effect in Postgres.

let world: ControlPlaneWorld;
let project: string;
let password: string;

before(async () => {
  world = await ControlPlaneWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

/** What it prints; behind what goes on after its answer, which who connects past the proxy would meet. */
async function neon(...args: string[]) {
  const printed = await world.neon(...args, "--project-id", project);
  await world.settled(project);
  return printed;
}

const login = (database = "neondb", user = "neondb_owner") => ({ user, password, database });

// Around what is tested the API is asked itself: each command of Neon's takes half a second of a processor.

const branchList = async (): Promise<{ id: string; name: string; default: boolean }[]> =>
  (await world.api("GET", `/projects/${project}/branches`)).branches;

const branchId = async (name: string): Promise<string> =>
  (await branchList()).find((branch) => branch.name === name)!.id;

async function endpointOf(branch: string): Promise<string> {
  const path = `/projects/${project}/branches/${await branchId(branch)}/endpoints`;
  return (await world.api("GET", path)).endpoints[0].id;
}

const notes = async (endpoint: string) =>
  (
    await world.sql<{ note: string }>(endpoint, login(), "select note from notes order by note")
  ).map((row) => row.note);

test("neon: me, projects create, list, get, update", async () => {
  assert.equal((await world.neon("me")).login, "owner");
  const created = await world.neon("projects", "create", "--name", "shop");
  project = created.project.id;
  const uri = new URL(created.connection_uris[0].connection_uri);
  password = decodeURIComponent(uri.password);
  assert.equal(uri.username, "neondb_owner");
  const [endpoint] = (await world.api("GET", `/projects/${project}/endpoints`)).endpoints;
  assert.equal(uri.hostname, `${endpoint.id}.localtest.me`);
  await world.sql(endpoint.id, login(), "create table notes (note text)");
  await world.sql(endpoint.id, login(), "insert into notes values ('main')");
  const { projects } = await world.neon("projects", "list");
  assert.deepEqual(
    projects.map(({ id, name }: { id: string; name: string }) => ({ id, name })),
    [{ id: project, name: "shop" }],
  );
  assert.equal((await world.neon("projects", "update", project, "--name", "store")).name, "store");
  assert.equal((await world.neon("projects", "get", project)).name, "store");
  // Without a project named it takes the only one.
  assert.equal((await world.neon("branches", "list")).length, 1);
});

test("neon: branches create, at the head and at an LSN, with what the parent had then", async () => {
  const main = await endpointOf("main");
  const created = await neon("branches", "create", "--name", "dev");
  assert.equal(created.branch.name, "dev");
  assert.match(created.branch.id, /^br-[a-z0-9]+-[a-z0-9]+-[a-z0-9]+$/);
  const dev = created.endpoints[0].id;
  assert.deepEqual(await notes(dev), ["main"]);
  const [{ lsn }] = (await world.sql<{ lsn: string }>(
    main,
    login(),
    "select pg_current_wal_flush_lsn() as lsn",
  )) as [{ lsn: string }];
  await world.sql(dev, login(), "insert into notes values ('dev')");
  await world.sql(main, login(), "insert into notes values ('later')");
  assert.deepEqual(await notes(dev), ["dev", "main"]);
  const before = await neon("branches", "create", "--name", "before", "--parent", lsn);
  assert.deepEqual(await notes(before.endpoints[0].id), ["main"]);
  const names = (await neon("branches", "list")).map((branch: { name: string }) => branch.name);
  assert.deepEqual(names.toSorted(), ["before", "dev", "main"]);
});

test("neon: roles and databases are in Postgres, and gone from there", async () => {
  const dev = await endpointOf("dev");
  await neon("roles", "create", "--branch", "dev", "--name", "anna o'x");
  await neon(
    "databases",
    "create",
    "--branch",
    "dev",
    "--name",
    "Shop",
    "--owner-name",
    "anna o'x",
  );
  const path = `/projects/${project}/branches/${await branchId("dev")}/roles/${encodeURIComponent("anna o'x")}`;
  const { password: hers } = await world.api("GET", `${path}/reveal_password`);
  const anna = { user: "anna o'x", password: hers, database: "Shop" };
  const who = "select current_user as who, current_database() as base";
  assert.deepEqual(await world.sql(dev, anna, who), [{ who: "anna o'x", base: "Shop" }]);
  await world.sql(dev, login(), "create role by_sql login");
  const roles = (await neon("roles", "list", "--branch", "dev")).map(
    (role: { name: string }) => role.name,
  );
  assert.deepEqual(roles.toSorted(), ["anna o'x", "by_sql", "neondb_owner"]);
  await world.sql(dev, login(), "drop role by_sql");
  const reset = await world.api("POST", `${path}/reset_password`);
  await assert.rejects(world.sql(dev, anna, who), /password authentication failed/);
  await world.sql(dev, { ...anna, password: reset.role.password }, who);
  await neon("databases", "delete", "Shop", "--branch", "dev");
  await neon("roles", "delete", "anna o'x", "--branch", "dev");
  const left = await world.sql(
    dev,
    login(),
    `select (select count(*)::int from pg_roles where rolname = 'anna o''x') as roles,
            (select count(*)::int from pg_database where datname = 'Shop') as databases`,
  );
  assert.deepEqual(left, [{ roles: 0, databases: 0 }]);
});

test("neon: rename, set-expiration, set-default", async () => {
  await neon("branches", "rename", "before", "earlier");
  const expiring = await neon(
    ...["branches", "set-expiration", "earlier", "--expires-at", "2099-01-01T00:00:00Z"],
  );
  assert.equal(expiring.expires_at, "2099-01-01T00:00:00.000Z");
  assert.match(await world.cluster.ok("branch", "list", "--tenant-id", await tenant()), /earlier/);
  assert.equal((await neon("branches", "set-default", "dev")).default, true);
  const defaults = (await branchList()).filter((branch) => branch.default);
  assert.deepEqual(
    defaults.map((branch) => branch.name),
    ["dev"],
  );
  const main = await branchId("main");
  await world.api("POST", `/projects/${project}/branches/${main}/set_as_default`);
  await world.settled(project);
});

async function tenant(): Promise<string> {
  const [first] = (await world.cluster.json("tenant", "list")) as { id: string }[];
  return first!.id;
}

test("neon: restore to its own past keeps the old state, reset takes the parent's", async () => {
  const main = await endpointOf("main");
  const [{ lsn }] = (await world.sql<{ lsn: string }>(
    main,
    login(),
    "select pg_current_wal_flush_lsn() as lsn",
  )) as [{ lsn: string }];
  await world.sql(main, login(), "delete from notes");
  const id = await branchId("main");
  await neon("branches", "restore", "main", `^self@${lsn}`, "--preserve-under-name", "deleted");
  assert.deepEqual(await notes(main), ["later", "main"]);
  const branch = await neon("branches", "get", "main");
  assert.equal(branch.id, id);
  assert.equal(branch.parent_id, await branchId("deleted"));
  await neon("branches", "add-compute", "deleted");
  assert.deepEqual(await notes(await endpointOf("deleted")), []);

  const work = (await neon("branches", "create", "--name", "work")).endpoints[0].id;
  await world.sql(work, login(), "delete from notes");
  await world.sql(main, login(), "insert into notes values ('newer')");
  const reset = await neon("branches", "reset", "work", "--parent");
  assert.ok(reset.last_reset_at);
  assert.deepEqual(await notes(work), ["later", "main", "newer"]);
});

test("neon: connection-string, of a branch, pooled, at a point in time", async () => {
  const dev = await endpointOf("dev");
  const plain = new URL(await neon("connection-string", "dev"));
  assert.equal(plain.hostname, `${dev}.localtest.me`);
  assert.equal(decodeURIComponent(plain.password), password);
  const pooled = new URL(await neon("connection-string", "dev", "--pooled"));
  assert.equal(pooled.hostname, `${dev}-pooler.localtest.me`);
  const past = new URL(await neon("connection-string", "dev@0/1700000"));
  assert.match(past.hostname, /^br-[a-z0-9]+-[a-z0-9]+-[a-z0-9]+\.localtest\.me$/);
  assert.match(decodeURIComponent(past.search), /neon_lsn:0\/1700000/);
});

test("neon: operations list, branches delete", async () => {
  const operations = await neon("operations", "list");
  assert.ok(operations.length > 10);
  assert.ok(operations.every((one: { status: string }) => one.status === "finished"));
  const dev = await endpointOf("dev");
  await neon("branches", "delete", "dev");
  assert.throws(() => world.cluster.endpointSpec(dev), /ENOENT/);
  const refused = await world.neonResult("branches", "delete", "main", "--project-id", project);
  assert.match(refused.stderr, /is the default branch and cannot be deleted/);
});

test("neon: projects delete, list --recoverable-only, recover: all of it is as it was", async () => {
  const endpoint = await endpointOf("main");
  const before = await notes(endpoint);
  const uri = await neon("connection-string", "main");
  const branches = await branchList();
  await world.neon("projects", "delete", project);
  assert.deepEqual((await world.neon("projects", "list")).projects, []);
  await assert.rejects(notes(endpoint), /ECONNREFUSED/);
  const gone = await world.neonResult("projects", "get", project);
  assert.match(gone.stderr, /it is deleted, and can be recovered until/);
  const [kept] = await world.neon("projects", "list", "--recoverable-only");
  assert.equal(kept.id, project);
  const keptMs = Date.parse(kept.recoverable_until) - Date.parse(kept.deleted_at);
  assert.equal(keptMs, 7 * 86_400_000);
  assert.equal((await world.neon("projects", "recover", project)).id, project);
  assert.deepEqual(await world.neon("projects", "list", "--recoverable-only"), []);
  assert.equal(await neon("connection-string", "main"), uri);
  const namesAndIds = (all: typeof branches) =>
    all.map(({ name, id }) => `${name} ${id}`).toSorted();
  assert.deepEqual(namesAndIds(await branchList()), namesAndIds(branches));
  await world.api("POST", `/projects/${project}/endpoints/${endpoint}/start`);
  assert.deepEqual(await notes(endpoint), before);
  const twice = await world.neonResult("projects", "recover", project);
  assert.match(twice.stderr, /is not deleted/);
});

test("neon: link and set-context: what comes after is about that project and branch, in its Postgres", async () => {
  // With two projects nothing is meant by itself.
  const other = await world.createProject("other");
  const context = join(world.cluster.home, "context");
  const inContext = (...args: string[]) => world.neon(...args, "--context-file", context);
  const unclear = await world.neonResult("branches", "list", "--context-file", context);
  assert.notEqual(unclear.code, 0);
  const linked = (await neon("branches", "create", "--name", "linked")).endpoints[0].id;
  await world.sql(linked, login(), "insert into notes values ('linked')");
  await inContext("link", "--project-id", project, "--branch", "linked", "--no-env-pull");
  assert.deepEqual(JSON.parse(readFileSync(context, "utf8")), {
    projectId: project,
    branch: "linked",
  });
  const uri = new URL(await inContext("connection-string"));
  assert.equal(uri.hostname, `${linked}.localtest.me`);
  await world.sql(linked, login(), "create role of_linked login");
  const names = (await inContext("roles", "list")).map((one: { name: string }) => one.name);
  assert.deepEqual(names.toSorted(), ["neondb_owner", "of_linked"]);
  const wrong = await world.neonResult(
    ...["link", "--project-id", project, "--branch", "nosuch", "--context-file", context],
  );
  assert.match(wrong.stderr, /Branch 'nosuch' not found/);

  await inContext("set-context", "--project-id", other.project.id);
  const branches = await inContext("branches", "list");
  assert.deepEqual(
    branches.map((branch: { id: string }) => branch.id),
    [other.branch.id],
  );
  const { password: its } = other.connection_uris[0].connection_parameters;
  const who = { user: "neondb_owner", password: its, database: "neondb" };
  await inContext("databases", "create", "--name", "of_other", "--owner-name", "neondb_owner");
  const there = "select datname from pg_database where datname = 'of_other'";
  assert.equal((await world.sql(other.endpoints[0].id, who, there)).length, 1);
  assert.equal((await world.sql(linked, login(), there)).length, 0);
  await inContext("link", "--clear");
  assert.deepEqual(JSON.parse(readFileSync(context, "utf8")), {});
  await world.api("DELETE", `/projects/${other.project.id}?hard_delete=true`);
});

test("neon: ip-allow, orgs, api", async () => {
  const endpoint = await endpointOf("main");
  const { proxy } = new StrataHome(world.cluster.home).config();
  const options = encodeURIComponent(`endpoint=${endpoint}`);
  const url = `postgresql://neondb_owner:${password}@${proxy!.listenPgAddr}/neondb?options=${options}&sslmode=no-verify`;
  const connect = () => withClient(url, async (client) => client.query("select 1"));
  const allowed = async (...args: string[]) => (await neon("ip-allow", ...args)).IP_addresses;
  await connect();
  assert.deepEqual(await allowed("add", "10.9.9.9"), ["10.9.9.9"]);
  // At once.
  await assert.rejects(connect(), /may not connect/);
  assert.deepEqual(await allowed("list"), ["10.9.9.9"]);
  assert.deepEqual(await allowed("remove", "10.9.9.9"), []);
  await connect();
  assert.deepEqual(await world.neon("orgs", "list"), []);
  const { branches } = await world.neon("api", `/projects/${project}/branches`);
  assert.ok(branches.some((branch: { name: string }) => branch.name === "main"));
});
