import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { StrataHome } from "../../src/local/home.ts";
import { daemonsIn } from "../../src/local/left-over.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { withClient } from "../../testing/tpcb.ts";

// A project that was deleted: out of sight and asleep, brought back, and gone for good with its storage when its time is over.

let world: ControlPlaneWorld;

before(async () => {
  world = await ControlPlaneWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

const strata = (...args: string[]) => world.cluster.ok(...args);
const deletedTenants = () => new StrataHome(world.cluster.home).config().deletedTenants;

/** Of a branch that expires: as if it were over by now. */
function endTimeOf(branchId: string): void {
  const state = new DatabaseSync(join(world.cluster.home, "control_plane", "state.db"));
  try {
    const past = new Date(Date.now() - 1000).toISOString();
    const set = "update branches set expires_at = ? where id = ? and expires_at is not null";
    assert.equal(state.prepare(set).run(past, branchId).changes, 1);
  } finally {
    state.close();
  }
}

async function recoverable(): Promise<{ id: string; recoverable_until: string }[]> {
  return (await world.api("GET", "/projects?recoverable=true")).projects;
}

/** Files and objects of its tenant, by where they are. */
function storedFor(tenantId: string): string[] {
  return ["pageserver_1", "safekeepers", "object_store"].filter((root) =>
    readdirSync(join(world.cluster.home, root), { recursive: true, withFileTypes: true }).some(
      (entry) => entry.isFile() && entry.parentPath.includes(tenantId),
    ),
  );
}

/** Safekeepers clean the object store behind the answer. */
async function nothingStored(tenantId: string): Promise<void> {
  for (let i = 0; i < 300 && storedFor(tenantId).length > 0; i++) {
    await sleep(100);
  }
  assert.deepEqual(storedFor(tenantId), []);
}

async function made(name: string) {
  const { project, endpoints, connection_uris: uris } = await world.createProject(name);
  const { password } = uris[0].connection_parameters;
  const login = { user: "neondb_owner", password, database: "neondb" };
  await world.sql(endpoints[0].id, login, "create table notes as select 'kept' as note");
  return {
    id: project.id as string,
    endpoint: endpoints[0].id as string,
    tenant: world.cluster.endpointSpec(endpoints[0].id).tenantId as string,
    login,
  };
}

function byProxy(endpoint: string, login: { user: string; password: string; database: string }) {
  const { proxy } = new StrataHome(world.cluster.home).config();
  const port = proxy!.listenPgAddr.split(":").at(-1);
  const options = encodeURIComponent(`endpoint=${endpoint}`);
  const url = `postgresql://${login.user}:${login.password}@127.0.0.1:${port}/${login.database}?options=${options}&sslmode=no-verify`;
  return withClient(url, async (client) => (await client.query("select note from notes")).rows);
}

test("deleted: nobody sees it, nothing starts on it, by no way", async () => {
  const { id, endpoint, tenant, login } = await made("shop");
  await strata("tenant", "set-default", "--tenant-id", tenant);
  const expiring = await world.createBranch(id, "short-lived");
  const shortLived = `/projects/${id}/branches/${expiring.branch.id}`;
  assert.match(await world.cluster.fails("projects", "delete", id), /--yes deletes it/);
  // Its time will be over while the project is deleted.
  const later = new Date(Date.now() + 3_600_000).toISOString();
  await world.api("PATCH", shortLived, { branch: { expires_at: later } });
  const workdir = join(world.cluster.home, "endpoints", endpoint);
  assert.equal(daemonsIn(workdir).length, 1);
  const told = await strata("projects", "delete", id, "--yes");
  assert.match(told, new RegExp(`projects recover ${id}' brings it back`));
  assert.deepEqual(daemonsIn(workdir), [], "its endpoint runs on");
  assert.match(told, /--now --yes' frees about \d+(\.\d+)?MB of storage/);
  assert.deepEqual((await world.api("GET", "/projects")).projects, []);
  assert.equal((await world.request("GET", `/api/v2/projects/${id}`)).status, 404);
  assert.equal((await world.request("DELETE", `/api/v2/projects/${id}`)).status, 404);
  const start = await world.request("POST", `/api/v2/projects/${id}/endpoints/${endpoint}/start`);
  assert.equal(start.status, 404);
  await assert.rejects(byProxy(endpoint, login), /there is no endpoint/);
  assert.match(
    await world.cluster.fails("endpoint", "start", endpoint),
    /is deleted; its project can be recovered until/,
  );
  assert.match(
    await world.cluster.fails("endpoint", "create", "other", "--tenant-id", tenant),
    /is deleted/,
  );
  assert.match(await world.cluster.fails("branch", "list", "--tenant-id", tenant), /is deleted/);
  assert.match(await world.cluster.fails("branch", "list"), /No tenant id/);
  assert.match(await strata("tenant", "list"), /deleted; recoverable until/);
  assert.match(await strata("projects", "list", "--recoverable"), new RegExp(`${id} +shop`));

  // Not what is deleted with it either, whose own time is over meanwhile.
  endTimeOf(expiring.branch.id);
  await sleep(6000);
  await strata("projects", "recover", id);
  const { branch } = await world.api("GET", shortLived);
  assert.equal(branch.expires_at, undefined);
  assert.deepEqual(await byProxy(endpoint, login), [{ note: "kept" }]);
  assert.match(await strata("branch", "list"), /short-lived/);
  assert.deepEqual(deletedTenants(), new Map());
});

test("deleted: its time is over: it is gone with all of its storage, and cannot be recovered", async () => {
  await strata("start", "--deleted-project-retention", "4s");
  const { id, tenant } = await made("short");
  await strata("endpoint", "create", "past", "--tenant-id", tenant, "--lsn", "0/1700000");
  assert.deepEqual(storedFor(tenant), ["pageserver_1", "safekeepers", "object_store"]);
  const { project } = await world.api("DELETE", `/projects/${id}`);
  const untilMs = Date.parse(project.recoverable_until);
  assert.equal(untilMs - Date.parse(project.deleted_at), 4000);
  const kept = storedFor(tenant);
  // Where all of this takes longer it is gone by right.
  if (Date.now() < untilMs) {
    assert.deepEqual(kept, ["pageserver_1", "safekeepers", "object_store"]);
  }
  await sleep(Math.max(0, untilMs - Date.now()) + 1);
  const atOnce = await world.request("POST", `/api/v2/projects/${id}/recover`);
  assert.ok([404, 423].includes(atOnce.status), JSON.stringify(atOnce));
  for (let i = 0; i < 400 && deletedTenants().has(tenant as never); i++) {
    await sleep(100);
  }
  assert.deepEqual(deletedTenants(), new Map());
  await nothingStored(tenant);
  assert.deepEqual(await recoverable(), []);
  const late = await world.request("POST", `/api/v2/projects/${id}/recover`);
  assert.equal(late.status, 404);
  assert.throws(() => world.cluster.endpointSpec("past"), /ENOENT/);
});

test("deleted: who brings one back while others remove it has it whole, or it is gone whole", async () => {
  const recover = async (id: string) =>
    (await world.request("POST", `/api/v2/projects/${id}/recover`)).status;
  const remove = async (id: string) =>
    (await world.request("DELETE", `/api/v2/projects/${id}?hard_delete=true`)).status;
  const isDone = (status: number) => status < 300;
  const check = async ({ id, tenant, endpoint, login }: Awaited<ReturnType<typeof made>>) => {
    await world.settled(id).catch(() => undefined);
    for (let i = 0; i < 400 && deletedTenants().has(tenant as never); i++) {
      await sleep(100);
    }
    const { status } = await world.request("GET", `/api/v2/projects/${id}`);
    if (status === 200) {
      assert.deepEqual(await byProxy(endpoint, login), [{ note: "kept" }]);
    } else {
      assert.equal(status, 404);
      await nothingStored(tenant);
      assert.throws(() => world.cluster.endpointSpec(endpoint), /ENOENT/);
    }
    return status === 200;
  };
  // By hand, in either order, at once.
  await strata("start", "--deleted-project-retention", "7d");
  for (const calls of [
    [recover, remove],
    [remove, recover],
  ]) {
    const one = await made("raced");
    await world.api("DELETE", `/projects/${one.id}`);
    const statuses = await Promise.all(calls.map((call) => call(one.id)));
    assert.ok(statuses.some(isDone), `${statuses}`);
    assert.ok(
      statuses.every((status) => [200, 404, 423].includes(status)),
      `${statuses}`,
    );
    assert.equal(await check(one), !isDone(statuses[calls.indexOf(remove)]!), `${statuses}`);
  }
  // When its time is over.
  await strata("start", "--deleted-project-retention", "3s");
  for (const aheadMs of [60, 20]) {
    const one = await made("timed");
    const { project } = await world.api("DELETE", `/projects/${one.id}`);
    await sleep(Math.max(0, Date.parse(project.recoverable_until) - Date.now() - aheadMs));
    const statuses: number[] = [];
    while (!statuses.some(isDone) && Date.now() < Date.parse(project.recoverable_until) + 7000) {
      statuses.push(await recover(one.id));
    }
    assert.equal(await check(one), statuses.some(isDone), `${statuses}`);
  }
});

test("deleted: --now is for good, also for one that is deleted already; a retention of 0 keeps none", async () => {
  await strata("start", "--deleted-project-retention", "7d");
  const { id, tenant } = await made("now");
  await strata("projects", "delete", id, "--yes");
  assert.deepEqual(
    (await recoverable()).map((one) => one.id),
    [id],
  );
  assert.match(
    await strata("projects", "delete", id, "--yes", "--now"),
    /for good: about \d+(\.\d+)?MB of storage is freed/,
  );
  assert.deepEqual(await recoverable(), []);
  await nothingStored(tenant);
  await strata("start", "--deleted-project-retention", "0");
  const second = await made("none");
  assert.match(await strata("projects", "delete", second.id, "--yes"), /for good/);
  await nothingStored(second.tenant);
  assert.match(
    await world.cluster.fails("start", "--deleted-project-retention", "11y"),
    /a duration is wanted/,
  );
});
