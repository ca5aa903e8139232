import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { nowMs, sleep } from "../../base/clock.ts";
import { postgresSocketDirectory } from "../../postgres/installation.ts";
import { connectWire } from "../../postgres/wire/wire-client.ts";

let world: ComputeWorld;
let endpoint: ComputeEndpoint;

before(async () => {
  world = await ComputeWorld.start(1);
  endpoint = await world.createEndpoint((await world.createTimeline()).timeline_id, {
    settings: { autovacuum: "off" },
  });
  await endpoint.start();
});

after(() => world.remove());

/** Once it is not at work: nor is a first look late, which makes caches. */
async function idleSince(): Promise<number> {
  for (let i = 0; i < 20; i++) {
    const at = await lastActive();
    if (at !== null) {
      return at;
    }
  }
  throw new Error("it stays at work");
}

/** As a look that begins now finds it. */
async function lastActive(): Promise<number | null> {
  await sleep(2100);
  const { last_active } = await endpoint.client.status();
  return last_active === null ? null : Date.parse(last_active);
}

test("last_active: from the start on; who only looks does not count", async () => {
  const { startTime, last_active } = await endpoint.client.status();
  assert.ok(Date.parse(last_active!) >= Date.parse(startTime));
  assert.equal((await endpoint.client.standing()).last_active, null);
  const first = await idleSince();
  assert.equal(first, Date.parse(last_active!));
  await endpoint.client.catalogObjects();
  await endpoint.client.roleSecret("cloud_admin");
  await endpoint.client.configure({ spec: { cluster: { roles: [{ name: "someone" }] } } });
  assert.equal(await idleSince(), first);
  assert.equal(await idleSince(), first);
});

test("last_active: a session that came and went, an open one, a query, a transaction", async () => {
  const began = nowMs();
  await endpoint.query("select 1");
  const gone = await idleSince();
  assert.ok(gone >= began && gone <= nowMs(), `${gone} after ${began}`);

  const connection = await endpoint.connect();
  assert.ok((await idleSince()) > gone);
  const query = connection.query("select pg_sleep(6)");
  assert.equal(await lastActive(), null);
  await query;
  const answered = nowMs();
  assert.ok((await idleSince()) >= answered - 1000);

  await connection.query("begin");
  assert.equal(await lastActive(), null);
  await assert.rejects(connection.query("select 1 / 0"));
  assert.equal(await lastActive(), null, "a transaction that failed is open");
  await connection.query("rollback");
  const rolledBack = nowMs();
  assert.ok((await idleSince()) >= rolledBack - 1000);
  connection.close();
});

test("last_active: a walsender keeps it at work", async () => {
  const connection = await connectWire({
    host: postgresSocketDirectory(endpoint.daemon.workdir),
    port: endpoint.spec.pgPort,
    parameters: { user: "cloud_admin", replication: "true", application_name: "a_standby" },
  });
  assert.equal(await lastActive(), null);
  connection.close();
  await idleSince();
});
