import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { StrataHome } from "../../src/local/home.ts";
import { withHomeLocked, withLock } from "../../src/local/lock.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";

// Two who change one thing at once through the API, each something else of it: both have what they wanted.

let world: ControlPlaneWorld;
let home: StrataHome;
let project: string;
let branch: string;
let endpoint: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  home = new StrataHome(world.cluster.home).identify();
  const created = await world.createProject("busy");
  project = `/projects/${created.project.id}`;
  branch = `${project}/branches/${created.branch.id}`;
  endpoint = `${project}/endpoints/${created.endpoints[0].id}`;
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

/** The first one waits for a lock that is held until the second one is through, or waits too. */
async function meanwhile(
  lock: (body: () => Promise<void>) => Promise<void>,
  first: () => Promise<unknown>,
  second: () => Promise<unknown>,
): Promise<void> {
  const both: Promise<unknown>[] = [];
  await lock(async () => {
    for (const change of [first, second]) {
      both.push(change());
      // Long enough for what waits for nothing.
      await sleep(500);
    }
  });
  await Promise.all(both);
}

test("a branch that is protected while it is renamed is protected afterwards", async () => {
  await meanwhile(
    (body) => withHomeLocked(home, body),
    () => world.api("PATCH", branch, { branch: { name: "trunk" } }),
    () => world.api("PATCH", branch, { branch: { protected: true } }),
  );
  const now = (await world.api("GET", branch)).branch;
  assert.deepEqual([now.name, now.protected], ["trunk", true]);
});

test("an endpoint: settings and a name; settings of two kinds", async () => {
  const id = endpoint.split("/").at(-1)!;
  const locked = (body: () => Promise<void>) => withLock(home.path, `endpoint ${id}`, body);
  const settings = { pg_settings: { work_mem: "7MB" } };
  await meanwhile(
    locked,
    () => world.api("PATCH", endpoint, { endpoint: { settings } }),
    () =>
      world.api("PATCH", endpoint, { endpoint: { name: "front", suspend_timeout_seconds: 77 } }),
  );
  const pooler = { pgbouncer_settings: { query_wait_timeout: "5" } };
  await meanwhile(
    locked,
    () => world.api("PATCH", endpoint, { endpoint: { settings: { pg_settings: { jit: "off" } } } }),
    () => world.api("PATCH", endpoint, { endpoint: { settings: pooler } }),
  );
  const now = (await world.api("GET", endpoint)).endpoint;
  assert.deepEqual([now.name, now.suspend_timeout_seconds], ["front", 77]);
  assert.deepEqual(now.settings, { pg_settings: { jit: "off" }, ...pooler });
  assert.equal(world.cluster.endpointSpec(id).settings["jit"], "off");
});

test("a project: settings while another change of them waits for the pageserver", async () => {
  const pageserver = world.cluster.pid("pageserver");
  await meanwhile(
    async (body) => {
      process.kill(pageserver, "SIGSTOP");
      try {
        await body();
      } finally {
        process.kill(pageserver, "SIGCONT");
      }
    },
    () =>
      world.api("PATCH", project, {
        project: { history_retention_seconds: 7200, settings: { first: true } },
      }),
    () => world.api("PATCH", project, { project: { name: "busier", settings: { second: true } } }),
  );
  const now = (await world.api("GET", project)).project;
  assert.deepEqual([now.name, now.history_retention_seconds], ["busier", 7200]);
  assert.deepEqual(now.settings, { first: true, second: true });
});
