import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import type { EventEmitter } from "node:events";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { neon, Pool } from "@neondatabase/serverless";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { type ProxyOfHome, useProxyOfHome } from "../../testing/proxy/proxy-of-home.ts";

// The whole way in: proxy, control plane, agent and Postgres as processes of their own.

const run = promisify(execFile);

let world: ControlPlaneWorld;
let project: string;
let branch: string;
let endpoint: string;
let password: string;
let proxy: ProxyOfHome["address"];
let ca: string;

before(async () => {
  world = await ControlPlaneWorld.create();
  const created = await world.createProject("front");
  project = created.project.id;
  branch = created.branch.id;
  endpoint = created.endpoints[0].id;
  password = created.connection_uris[0].connection_parameters.password;
  ({ address: proxy, ca } = useProxyOfHome(world.cluster.home));
});

after(async () => {
  await world?.[Symbol.asyncDispose]();
});

/** As a client would that does what it is told: verify-full with channel binding. */
function clientOf(name: string, overrides: pg.ClientConfig = {}): pg.Client {
  const client = new pg.Client({
    ...proxy,
    user: "neondb_owner",
    password,
    database: "neondb",
    ssl: { ca, servername: `${name}.localtest.me` },
    enableChannelBinding: true,
    ...overrides,
  } as pg.ClientConfig);
  client.on("error", () => {});
  return client;
}

async function ask(name: string, sql: string, overrides: pg.ClientConfig = {}) {
  const client = clientOf(name, overrides);
  await client.connect();
  try {
    return (await client.query(sql)).rows;
  } finally {
    await client.end();
  }
}

const suspend = () => world.api("POST", `/projects/${project}/endpoints/${endpoint}/suspend`);

test("the way in: by host name, pooled, over HTTP and WebSocket; asleep or awake", async () => {
  await ask(endpoint, "create table t as select 1 as n");
  await suspend();
  assert.deepEqual(await ask(endpoint, "select n from t"), [{ n: 1 }]);
  assert.deepEqual(await ask(`${endpoint}-pooler`, "select n from t"), [{ n: 1 }]);
  const url = `postgresql://neondb_owner:${encodeURIComponent(password)}@${endpoint}.localtest.me/neondb`;
  await suspend();
  assert.deepEqual(await neon(url)`select n from t`, [{ n: 1 }]);
  const pool = new Pool({ connectionString: url });
  assert.deepEqual((await pool.query("select n from t")).rows, [{ n: 1 }]);
  await pool.end();
});

test("a pooled client that is idle keeps its connection, and its statements, over a suspend", async () => {
  const client = clientOf(`${endpoint}-pooler`);
  await client.connect();
  const query = { name: "mine", text: "select n + $1::int as n from t", values: [1] };
  assert.deepEqual((await client.query(query)).rows, [{ n: 2 }]);
  await suspend();
  assert.deepEqual((await client.query(query)).rows, [{ n: 2 }]);
  await client.end();
});

test("a client that has only logged in keeps its connection over a suspend, one that has said something does not", async () => {
  const [silent, heard] = [clientOf(endpoint), clientOf(endpoint)];
  await Promise.all([silent.connect(), heard.connect()]);
  const ended = new Promise((resolve) => heard.once("end", resolve));
  await heard.query("set application_name = 'heard'");
  await suspend();
  await ended;
  assert.deepEqual((await silent.query("select n from t")).rows, [{ n: 1 }]);
  assert.deepEqual((await silent.query("show application_name")).rows, [{ application_name: "" }]);
  await silent.end();
});

test("logical replication: who streams from a slot wakes the endpoint, and gets what it has missed", async () => {
  const settings = { enable_logical_replication: true };
  await world.api("PATCH", `/projects/${project}`, { project: { settings } });
  await ask(endpoint, "create table r (v text)");
  await ask(endpoint, "create publication p for table r");
  await ask(endpoint, "select pg_create_logical_replication_slot('s', 'pgoutput')");
  await ask(endpoint, "insert into r values ('missed')");
  await suspend();
  const client = clientOf(endpoint, { replication: "database" } as pg.ClientConfig);
  await client.connect();
  const { connection } = client as unknown as { connection: EventEmitter };
  let received = "";
  connection.on("copyData", ({ chunk }: { chunk: Buffer }) => {
    received += chunk.toString("latin1");
  });
  const streamed = client
    .query("START_REPLICATION SLOT s LOGICAL 0/0 (proto_version '1', publication_names 'p')")
    .catch(() => undefined);
  await eventually("the row that it missed", () => received.includes("missed"));
  await ask(endpoint, "insert into r values ('seen')");
  await eventually("a row that comes while it streams", () => received.includes("seen"));
  await client.end();
  await streamed;
  // Whoever streams still has it.
  await eventually("the slot to be dropped", () =>
    ask(endpoint, "select pg_drop_replication_slot('s')"),
  );
});

test("time travel from any client: a branch and an LSN in the options", async () => {
  const [{ lsn }] = await ask(endpoint, "select pg_current_wal_flush_lsn()::text as lsn");
  await ask(endpoint, "update t set n = 2");
  const past = { options: `neon_lsn:${lsn}` };
  assert.deepEqual(await ask(branch, "select n from t", past), [{ n: 1 }]);
  await assert.rejects(ask(branch, "update t set n = 3", past), /read-only/);
  assert.deepEqual(await ask(endpoint, "select n from t"), [{ n: 2 }]);
});

test("a password that is reset is the one that counts, at once", async () => {
  const path = `/projects/${project}/branches/${branch}/roles/neondb_owner/reset_password`;
  const old = password;
  await ask(endpoint, "select 1");
  password = (await world.api("POST", path)).role.password;
  await ask(endpoint, "select 1");
  await assert.rejects(ask(endpoint, "select 1", { password: old }), { code: "28P01" });
});

test("a password that was changed just before its endpoint fell asleep: the old one is refused, the new one wakes it", async () => {
  const path = `/projects/${project}/branches/${branch}/roles/neondb_owner/reset_password`;
  const ways = [
    async () => {
      await ask(endpoint, "alter role neondb_owner password 'by SQL'");
      return "by SQL";
    },
    async (): Promise<string> => (await world.api("POST", path)).role.password,
  ];
  for (const change of ways) {
    await ask(endpoint, "select 1");
    const old = password;
    password = await change();
    await suspend();
    await sleep(1100);
    await assert.rejects(ask(endpoint, "select 1", { password: old }), { code: "28P01" });
    await ask(endpoint, "select 1");
    await assert.rejects(ask(endpoint, "select 1", { password: old }), { code: "28P01" });
  }
});

test("addresses: the project's allowed_ips hold for every way in", async () => {
  const settings = (ips: string[]) =>
    world.api("PATCH", `/projects/${project}`, {
      project: { settings: { allowed_ips: { ips } } },
    });
  await ask(endpoint, "select 1");
  await settings(["10.0.0.0/8"]);
  await assert.rejects(ask(endpoint, "select 1"), /may not connect/);
  await settings([]);
  await ask(endpoint, "select 1");
});

test("strata ca trust: what it prints is enough for psql; no secret is in any log", async (context) => {
  const told = JSON.parse(await world.cluster.ok("ca", "trust", "--json"));
  const logs = globSync("**/*.log", { cwd: world.cluster.home }).map((path) =>
    readFileSync(join(world.cluster.home, path), "utf8"),
  );
  const secret = await world.sql<{ rolpassword: string }>(
    endpoint,
    { user: "neondb_owner", password, database: "neondb" },
    "select 'SCRAM-SHA-256' as rolpassword",
  );
  assert.equal(secret.length, 1);
  assert.ok(logs.length >= 5);
  for (const log of logs) {
    assert.ok(!log.includes(password) && !log.includes("SCRAM-SHA-256$"), "a secret is in a log");
    assert.ok(!log.includes(world.key));
  }
  if ((await run("psql", ["--version"]).catch(() => undefined)) === undefined) {
    context.skip("no psql on this machine");
    return;
  }
  const conninfo =
    `host=${endpoint}.localtest.me hostaddr=${proxy.host} port=${proxy.port} user=neondb_owner ` +
    `dbname=neondb sslmode=verify-full sslrootcert=${told.ca_cert} channel_binding=require`;
  const { stdout } = await run("psql", [conninfo, "-Atc", "select 42"], {
    env: { PATH: process.env["PATH"] ?? "", PGPASSWORD: password },
  });
  assert.equal(stdout.trim(), "42");
});
