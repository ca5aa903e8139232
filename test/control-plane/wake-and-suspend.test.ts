import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";

// Endpoints fall asleep when idle, and whoever connects wakes them: what the proxy asks, and what comes of it.

let world: ControlPlaneWorld;
let project: string;
let branch: string;
let endpoint: string;
let password: string;

const login = () => ({ user: "neondb_owner", password, database: "neondb" });
const state = async () =>
  (await world.api("GET", `/projects/${project}/endpoints/${endpoint}`)).endpoint.current_state;
const setTimeoutOf = (seconds: number) =>
  world.api("PATCH", `/projects/${project}/endpoints/${endpoint}`, {
    endpoint: { suspend_timeout_seconds: seconds },
  });

async function proxy(path: string, query: Record<string, string>) {
  const search = new URLSearchParams({ session_id: "s", ...query });
  return world.request("GET", `/proxy/api/v1/${path}?${search}`);
}

const until = <T>(what: string, holds: () => T | Promise<T>) =>
  eventually(what, holds, { logs: () => world.cluster.logTails() });

const starts = async () =>
  (await world.api("GET", `/projects/${project}/operations`)).operations.filter(
    (one: { action: string }) => one.action === "start_compute",
  ).length;

before(async () => {
  world = await ControlPlaneWorld.create();
  const created = await world.createProject("sleepy");
  project = created.project.id;
  branch = created.branch.id;
  endpoint = created.endpoints[0].id;
  password = created.connection_uris[0].connection_parameters.password;
  await world.sql(endpoint, login(), "create table t as select 1 as n");
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

describe("waking and suspending", () => {
  test("an endpoint that nobody uses is suspended, one that is used is not", async () => {
    const working = world.sql(endpoint, login(), "select pg_sleep(600)").catch(() => undefined);
    const sleepers = "from pg_stat_activity where query = 'select pg_sleep(600)'";
    await until("work", async () => {
      return (await world.sql(endpoint, login(), `select pid ${sleepers}`)).length === 1;
    });
    await setTimeoutOf(1);
    await sleep(7000);
    assert.equal(await state(), "active");
    await world.sql(endpoint, login(), `select pg_cancel_backend(pid) ${sleepers}`);
    await working;
    await until("suspension", async () => (await state()) === "idle");
    const { operations } = await world.api("GET", `/projects/${project}/operations`);
    assert.equal(operations[0].action, "suspend_compute");
    assert.equal(operations[0].status, "finished");
  });

  test("who asks for a role of an endpoint that sleeps does not wake it, known or not", async () => {
    const known = await proxy("get_endpoint_access_control", {
      ...{ endpointish: endpoint, role: "neondb_owner" },
    });
    assert.equal(known.status, 200);
    assert.match(known.body.role_secret, /^SCRAM-SHA-256\$4096:/);
    assert.equal(known.body.project_id, project);
    const unknown = { endpointish: endpoint, role: "nobody" };
    assert.equal((await proxy("get_endpoint_access_control", unknown)).body.role_secret, "");
    assert.equal(await state(), "idle");
    const none = await proxy("get_endpoint_access_control", { endpointish: "ep-x", role: "a" });
    assert.equal(none.status, 404);
    assert.equal(none.body.status.details.error_info.reason, "ENDPOINT_NOT_FOUND");
  });

  test("who asks for a role while its endpoint falls asleep does not wake it", async () => {
    await proxy("wake_compute", { endpointish: endpoint });
    const before = await starts();
    let isAsleep = false;
    const suspended = world
      .api("POST", `/projects/${project}/endpoints/${endpoint}/suspend`)
      .finally(() => {
        isAsleep = true;
      });
    const ask = async () => {
      while (!isAsleep) {
        const { status } = await proxy("get_endpoint_access_control", {
          ...{ endpointish: endpoint, role: "nobody" },
        });
        assert.equal(status, 200);
      }
    };
    await Promise.all([suspended, ask(), ask(), ask(), ask()]);
    assert.equal(await state(), "idle");
    assert.equal(await starts(), before);
  });

  test("many who wake it at once wake it once, and all are told where it is", async () => {
    await setTimeoutOf(-1);
    const before = await starts();
    const answers = await Promise.all(
      Array.from({ length: 20 }, () => proxy("wake_compute", { endpointish: endpoint })),
    );
    const { pgHost, pgPort } = world.cluster.endpointSpec(endpoint);
    for (const { status, body } of answers) {
      assert.equal(status, 200, JSON.stringify(body));
      assert.equal(body.address, `${pgHost}:${pgPort}`);
      assert.equal(body.aux.branch_id, branch);
    }
    assert.deepEqual(await world.sql(endpoint, login(), "select n from t"), [{ n: 1 }]);
    assert.equal(await starts(), before + 1);
  });

  test("a wake during a suspension waits for its end and starts it again; a disabled one stays down", async () => {
    const suspended = world.api("POST", `/projects/${project}/endpoints/${endpoint}/suspend`);
    await sleep(30);
    const woken = await proxy("wake_compute", { endpointish: endpoint });
    assert.equal(woken.status, 200);
    await suspended;
    assert.deepEqual(await world.sql(endpoint, login(), "select n from t"), [{ n: 1 }]);
    const path = `/projects/${project}/endpoints/${endpoint}`;
    await world.api("PATCH", path, { endpoint: { disabled: true } });
    assert.equal(await state(), "idle");
    const refused = await proxy("wake_compute", { endpointish: endpoint });
    assert.equal(refused.body.status.details.error_info.reason, "ENDPOINT_DISABLED");
    assert.equal(refused.body.status.details.retry_info, null);
    await world.api("PATCH", path, { endpoint: { disabled: false } });
  });

  test("settings of a running Postgres are reloaded, and are there after a restart", async () => {
    const path = `/projects/${project}/endpoints/${endpoint}`;
    await proxy("wake_compute", { endpointish: endpoint });
    const settings = { pg_settings: { work_mem: "7MB" } };
    await world.api("PATCH", path, { endpoint: { settings } });
    const shown = () => world.sql(endpoint, login(), "show work_mem");
    assert.deepEqual(await shown(), [{ work_mem: "7MB" }]);
    await world.api("POST", `${path}/restart`);
    assert.deepEqual(await shown(), [{ work_mem: "7MB" }]);
  });

  test("logical replication: enabled for all endpoints of a project, which sleep for it, and never disabled", async () => {
    const path = `/projects/${project}`;
    const enable = (enabled: boolean) =>
      world.request("PATCH", `/api/v2${path}`, {
        body: { project: { settings: { enable_logical_replication: enabled } } },
      });
    const level = () => world.sql(endpoint, login(), "show wal_level");
    await proxy("wake_compute", { endpointish: endpoint });
    assert.deepEqual(await level(), [{ wal_level: "replica" }]);
    assert.equal((await enable(true)).status, 200);
    assert.equal(await state(), "idle");
    await proxy("wake_compute", { endpointish: endpoint });
    assert.deepEqual(await level(), [{ wal_level: "logical" }]);
    const slot = "select slot_name::text from pg_replication_slots";
    await world.sql(
      endpoint,
      login(),
      "select pg_create_logical_replication_slot('s', 'pgoutput')",
    );
    await world.api("POST", `${path}/endpoints/${endpoint}/suspend`);
    await proxy("wake_compute", { endpointish: endpoint });
    assert.deepEqual(await world.sql(endpoint, login(), slot), [{ slot_name: "s" }]);
    const refused = await enable(false);
    assert.equal(refused.status, 400);
    assert.match(refused.body.message, /logical replication stays/);
    // Said again it changes nothing, and nobody has to sleep for it; new endpoints have it too.
    assert.equal((await enable(true)).status, 200);
    assert.equal(await state(), "active");
    const other = await world.createBranch(project, "logical");
    assert.equal(
      world.cluster.endpointSpec(other.endpoints[0].id).settings["wal_level"],
      "logical",
    );
    await world.api("DELETE", `${path}/branches/${other.branch.id}`);
    await world.sql(endpoint, login(), "select pg_drop_replication_slot('s')");
  });

  test("roles that SQL made are asked of the running Postgres, and remembered while it sleeps", async () => {
    await proxy("wake_compute", { endpointish: endpoint });
    await world.sql(endpoint, login(), "create role app login password 'secret'");
    const access = () =>
      proxy("get_endpoint_access_control", { endpointish: endpoint, role: "app" });
    const running = (await access()).body.role_secret;
    assert.match(running, /^SCRAM-SHA-256\$4096:/);
    await setTimeoutOf(1);
    await until("suspension", async () => (await state()) === "idle");
    assert.equal((await access()).body.role_secret, running);
    assert.equal(await state(), "idle");
    await setTimeoutOf(-1);
  });

  test("a password that SQL changed counts while its endpoint sleeps, however that came to sleep", async () => {
    const { cluster } = world;
    const ways: readonly (readonly [string, () => Promise<unknown>])[] = [
      ["suspend", () => world.api("POST", `/projects/${project}/endpoints/${endpoint}/suspend`)],
      ["stop", () => cluster.ok("endpoint", "stop", endpoint)],
      ["kill", () => cluster.kill9(`agent-${endpoint}`)],
    ];
    const secret = async (role: string) => {
      const query = { endpointish: endpoint, role };
      return (await proxy("get_endpoint_access_control", query)).body.role_secret;
    };
    for (const [way, sleeps] of ways) {
      await proxy("wake_compute", { endpointish: endpoint });
      await world.sql(endpoint, login(), "create role moody login password 'first'");
      const first = await secret("moody");
      await world.sql(endpoint, login(), "alter role moody password 'second'");
      const second = await secret("moody");
      await world.sql(endpoint, login(), "alter role moody password 'third'");
      await sleeps();
      const third = await secret("moody");
      assert.match(third, /^SCRAM-SHA-256\$4096:/, way);
      assert.ok(third !== first && third !== second, `${way}: an old one`);
      await proxy("wake_compute", { endpointish: endpoint });
      assert.equal(await secret("moody"), third, way);
      await world.sql(endpoint, login(), "drop role moody");
    }
  });

  test("a point in time: one read-only endpoint for all who ask for it, gone when it is idle", async () => {
    await proxy("wake_compute", { endpointish: endpoint });
    const [{ lsn }] = (await world.sql<{ lsn: string }>(
      endpoint,
      login(),
      "select pg_current_wal_flush_lsn() as lsn",
    )) as [{ lsn: string }];
    await world.sql(endpoint, login(), "update t set n = 2");
    const ask = () => proxy("wake_compute", { endpointish: branch, "options[lsn]": lsn });
    const [one, other] = await Promise.all([ask(), ask()]);
    assert.equal(one.status, 200, JSON.stringify(one.body));
    assert.deepEqual(one.body, other.body);
    const past = one.body.aux.endpoint_id;
    assert.deepEqual(await world.sql(past, login(), "select n from t"), [{ n: 1 }]);
    await assert.rejects(world.sql(past, login(), "update t set n = 3"), /read-only/);
    const { endpoints } = await world.api("GET", `/projects/${project}/endpoints`);
    assert.deepEqual(
      endpoints.map(({ id }: { id: string }) => id),
      [endpoint],
    );
    await world.api("PATCH", `/projects/${project}/endpoints/${past}`, {
      endpoint: { suspend_timeout_seconds: 1 },
    });
    const directory = join(world.cluster.home, "endpoints", past);
    await until("its end", async () => !existsSync(directory));
    const before = await proxy("wake_compute", {
      ...{ endpointish: branch, "options[lsn]": "0/1000" },
    });
    assert.equal(before.body.status.details.error_info.reason, "WRONG_LSN_OR_TIMESTAMP");
  });

  test("an endpoint that the command line made is not suspended until somebody says so", async () => {
    const tenant = world.cluster.endpointSpec(endpoint).tenantId;
    const own = ["--tenant-id", tenant, "--branch-name", "by-hand"];
    await world.cluster.ok("timeline", "branch", ...own);
    await world.cluster.ok("endpoint", "create", "hand", ...own);
    const { endpoint: made } = await world.api("GET", `/projects/${project}/endpoints/hand`);
    assert.equal(made.suspend_timeout_seconds, -1);
    assert.equal(made.current_state, "idle");
    const access = { endpointish: "hand", role: "neondb_owner" };
    assert.match(
      (await proxy("get_endpoint_access_control", access)).body.role_secret,
      /^SCRAM-SHA-256/,
    );
  });
});
