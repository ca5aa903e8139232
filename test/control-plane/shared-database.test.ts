import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { ControlPlaneWorld } from "../../testing/control-plane/control-plane-world.ts";
import { freePort } from "../../testing/free-port.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";

// Two control planes of one home on one Postgres: each sees what the other makes, and ends what the other had begun.

const MAIN = join(import.meta.dirname, "../../src/control-plane/main.ts");

let database: StockCluster;
let world: ControlPlaneWorld;
let url: string;
let second: Started | undefined;

interface Started {
  readonly address: string;
  readonly process: ChildProcess;
  /** What it has written so far. */
  readonly log: () => string;
}

before(async () => {
  database = await StockCluster.create();
  await database.start();
  const { host, port, user } = await database.connect();
  url = `postgresql:///postgres?${new URLSearchParams({ host, port: `${port}`, user: user! })}`;
  world = await ControlPlaneWorld.create();
  await world.cluster.ok("stop");
  const path = join(world.cluster.home, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  config.controlPlane.databaseUrl = url;
  writeFileSync(path, JSON.stringify(config));
  await world.cluster.ok("start");
});

after(async () => {
  second?.process.kill("SIGKILL");
  await world?.[Symbol.asyncDispose]();
  await database?.destroy();
});

function directoryOf(name: string): string {
  return join(world.cluster.home, name);
}

async function startSecond(workdir: string): Promise<Started> {
  const address = `127.0.0.1:${await freePort()}`;
  const args = [MAIN, "--workdir", workdir, "--home", world.cluster.home, "--listen", address];
  const child = spawn(process.execPath, [...args, "--database-url", url]);
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (chunk: string) => {
      text += chunk;
    });
  }
  return { address, process: child, log: () => text };
}

/** Of the second one. */
async function ask(path: string) {
  const response = await fetch(`http://${second!.address}/api/v2${path}`, {
    headers: { authorization: `Bearer ${world.key}` },
  });
  // biome-ignore lint/suspicious/noExplicitAny: answers of many shapes
  return (await response.json()) as any;
}

test("a second control plane needs the key of the first one's passwords", async () => {
  const workdir = directoryOf("control_plane_2");
  mkdirSync(workdir, { mode: 0o700 });
  const refused = await startSecond(workdir);
  const code = await new Promise((resolve) => refused.process.once("close", resolve));
  assert.notEqual(code, 0);
  assert.match(refused.log(), /sealed with another key/);
  copyFileSync(join(directoryOf("control_plane"), "secret.key"), join(workdir, "secret.key"));
  second = await startSecond(workdir);
  for (let i = 0; ; i++) {
    const answers = await fetch(`http://${second.address}/status`).catch(() => undefined);
    if (answers?.ok === true) {
      break;
    }
    assert.ok(i < 1200, "it does not answer");
    await sleep(100);
  }
});

test("kill -9 of the one that makes a project: the other one makes it whole, and both tell the same", async () => {
  const asked = world
    .request("POST", "/api/v2/projects", { body: { project: { name: "shared" } } })
    .catch(() => undefined);
  const client = await database.connect();
  for (;;) {
    const { rows } = await client.query("select from operations where step > 0");
    if (rows.length > 0) {
      break;
    }
    await sleep(10);
  }
  await world.cluster.kill9("control_plane");
  await asked;
  const unfinished = "select from operations where finished_at is null";
  assert.notEqual((await client.query(unfinished)).rows.length, 0, "it was too late for a crash");
  for (let i = 0; (await client.query(unfinished)).rows.length > 0; i++) {
    assert.ok(i < 600, world.cluster.logTails());
    await sleep(200);
  }
  const { projects } = await ask("/projects");
  assert.equal(projects.length, 1);
  const { operations } = await ask(`/projects/${projects[0].id}/operations`);
  assert.ok(operations.every(({ status }: { status: string }) => status === "finished"));
  const query = "database_name=neondb&role_name=neondb_owner";
  const { uri } = await ask(`/projects/${projects[0].id}/connection_uri?${query}`);
  const { username: user, password } = new URL(uri);
  const { endpoints } = await ask(`/projects/${projects[0].id}/endpoints`);
  const login = { user, password, database: "neondb" };
  await world.sql(endpoints[0].id, login, "create table t (n int)");
  await world.cluster.ok("start");
  const again = await world.api("GET", "/projects");
  assert.deepEqual(
    again.projects.map(({ id }: { id: string }) => id),
    [projects[0].id],
  );
  assert.match(second!.log(), /a dead one had begun/);
});
