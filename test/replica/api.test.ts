// A read_only endpoint of Neon's API: a replica, which follows, sleeps and wakes, and may be promoted.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";

let world: ControlPlaneWorld;

before(async () => {
  world = await ControlPlaneWorld.create();
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

test("a read_only endpoint follows its branch, sleeps and wakes, keeps no primary awake, and can be promoted", async () => {
  const created = await world.createProject("readers");
  const project = created.project.id;
  const primary: string = created.endpoints[0].id;
  const { password } = created.connection_uris[0].connection_parameters;
  const login = { user: "neondb_owner", password, database: "neondb" };
  const until = <T>(what: string, holds: () => T | Promise<T>) =>
    eventually(what, holds, { logs: () => world.cluster.logTails() });
  const endpoint = async (id: string) =>
    (await world.api("GET", `/projects/${project}/endpoints/${id}`)).endpoint;
  const count = async (id: string) => {
    const [row] = (await world.sql(id, login, "select count(*)::int n from t")) as [{ n: number }];
    return row.n;
  };

  await world.sql(primary, login, "create table t as select 1 as n");
  const made = await world.api("POST", `/projects/${project}/endpoints`, {
    endpoint: { branch_id: created.branch.id, type: "read_only" },
  });
  await world.settled(project);
  const replica: string = made.endpoint.id;
  assert.equal((await endpoint(replica)).type, "read_only");
  assert.equal(await count(replica), 1);
  await world.sql(primary, login, "insert into t values (2)");
  await until("the replica to see it", async () => (await count(replica)) === 2);
  await assert.rejects(world.sql(replica, login, "insert into t values (3)"), /read-only/);

  const sleepAfter = async (seconds: number) => {
    for (const id of [primary, replica]) {
      await world.api("PATCH", `/projects/${project}/endpoints/${id}`, {
        endpoint: { suspend_timeout_seconds: seconds },
      });
    }
  };
  await sleepAfter(2);
  await until("the primary to sleep", async () => {
    return (await endpoint(primary)).current_state === "idle";
  });
  await until("the replica to sleep", async () => {
    return (await endpoint(replica)).current_state === "idle";
  });
  // What follows goes past the proxy, which would wake them.
  await sleepAfter(-1);
  await world.api("POST", `/projects/${project}/endpoints/${replica}/start`);
  await world.settled(project);
  assert.equal(await count(replica), 2);

  await world.cluster.ok("endpoint", "promote", replica);
  assert.equal((await endpoint(replica)).type, "read_write");
  assert.equal((await endpoint(primary)).type, "read_only");
  await world.sql(replica, login, "insert into t values (3)");
  await world.api("POST", `/projects/${project}/endpoints/${primary}/start`);
  await world.settled(project);
  await until("the replica to see it", async () => (await count(primary)) === 3);
});
