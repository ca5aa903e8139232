// Two homes on one machine that count ports from the same number: each takes what the other one's sleeping endpoints have.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, type Server } from "node:net";
import { after, before, test } from "node:test";
import pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { freeConfig, TestCluster } from "../../testing/cluster.ts";
import { freeEndpointPorts } from "../../testing/free-port.ts";

let one: TestCluster;
let two: TestCluster;

before(async () => {
  const endpointBasePort = await freeEndpointPorts();
  const home = async () =>
    TestCluster.create({ config: { ...(await freeConfig(1)), endpointBasePort } });
  one = await home();
  two = await home();
  await one.startEndpoint("main");
  await one.query("main", "create table t as select 1 as home");
});

after(async () => {
  await one?.[Symbol.asyncDispose]();
  await two?.[Symbol.asyncDispose]();
});

function portsOf(cluster: TestCluster, id = "main"): number[] {
  const { pgPort, internalHttpPort } = cluster.endpointSpec(id);
  return [pgPort, internalHttpPort];
}

/** `id` of the second home runs where `main` of the first one was. */
async function takeOver(id: string): Promise<void> {
  const ports = portsOf(one);
  await one.ok("endpoint", "stop", "main");
  await two.ok("branch", "create", id);
  await two.startEndpoint(id, id);
  assert.deepEqual(portsOf(two, id), ports);
  await two.query(id, "create table t as select 2 as home");
}

test("endpoint start: where another home has its ports by now, an endpoint has others, and says which", async () => {
  const [pgPort, httpPort] = portsOf(one);
  await takeOver("first");
  const started = await one.cli("endpoint", "start", "main");
  assert.equal(started.code, 0, started.stderr);
  const [pgNow, httpNow] = portsOf(one);
  assert.equal(new Set([pgPort, httpPort, pgNow, httpNow]).size, 4);
  const lines = started.stderr.trim().split("\n");
  assert.equal(lines.length, 2, started.stderr);
  for (const [line, whose, was, now] of [
    [lines[0]!, "Postgres", pgPort, pgNow],
    [lines[1]!, "the agent", httpPort, httpNow],
  ] as const) {
    const moved = `port ${was} is in use by pid \\d+ \\(.*\\): ${whose} of endpoint main has port ${now} from now on$`;
    assert.match(line, new RegExp(moved));
  }
  assert.match(started.stdout, new RegExp(`:${pgNow}/postgres'`));
  assert.deepEqual(await one.query("main", "select home from t"), [{ home: 1 }]);
  assert.deepEqual(await two.query("first", "select home from t"), [{ home: 2 }]);
  const rows = (await one.json("status")) as { name: string; address: string }[];
  assert.match(
    rows.find(({ name }) => name === "endpoint main")!.address,
    new RegExp(`:${pgNow}/`),
  );
  const endpoints = (await one.json("endpoint", "list")) as { address: string }[];
  assert.equal(endpoints[0]!.address, `127.0.0.1:${pgNow}`);
  // It keeps them.
  await one.ok("endpoint", "stop", "main");
  assert.equal((await one.cli("endpoint", "start", "main")).stderr, "");
  assert.deepEqual(portsOf(one), [pgNow, httpNow]);
});

async function readThroughProxy(): Promise<void> {
  const [host, port] = one.config().proxy.listenPgAddr.split(":") as [string, string];
  const client = new pg.Client({
    host,
    port: Number(port),
    user: "cloud_admin",
    password: one.password(),
    database: "postgres",
    ssl: { rejectUnauthorized: false, servername: "main.localtest.me" },
  });
  await client.connect();
  try {
    assert.deepEqual((await client.query("select home from t")).rows, [{ home: 1 }]);
  } finally {
    await client.end();
  }
}

test("a client of the proxy: the endpoint wakes on other ports, and the client is at the right one", async () => {
  const ports = portsOf(one);
  await takeOver("second");
  await readThroughProxy();
  const now = portsOf(one);
  assert.ok(now.every((each) => !ports.includes(each)));
  assert.match(one.log("control_plane/control_plane.log"), /"a port was taken"/);
  assert.deepEqual(await two.query("second", "select home from t"), [{ home: 2 }]);
});

test("a client of the proxy: an endpoint whose Postgres has crashed, and lost its port to somebody, is there again on another one", async () => {
  const { pgPort, internalHttpPort } = one.endpointSpec("main");
  let server: Server | undefined;
  await one.kill9("postgres-main");
  while (server === undefined) {
    server = await take(pgPort);
  }
  try {
    await readThroughProxy();
    assert.notEqual(one.endpointSpec("main").pgPort, pgPort);
    assert.equal(one.endpointSpec("main").internalHttpPort, internalHttpPort);
    const why = `"fatal".*127\\.0\\.0\\.1:${pgPort} is already in use by pid ${process.pid} `;
    assert.match(one.log("endpoints/main/compute.log"), new RegExp(why));
  } finally {
    server.close();
  }
});

test("both homes start endpoints with the same ports at once: each has ports of its own then", async () => {
  await two.ok("endpoint", "stop", "first");
  await one.ok("branch", "create", "racer");
  await one.ok("endpoint", "create", "racer", "--branch-name", "racer");
  assert.deepEqual(portsOf(one, "racer"), portsOf(two, "first"));
  const started = await Promise.all([
    one.cli("endpoint", "start", "racer"),
    two.cli("endpoint", "start", "first"),
  ]);
  assert.deepEqual(
    started.map(({ code, stderr }) => (code === 0 ? "" : stderr)),
    ["", ""],
  );
  assert.equal(new Set([...portsOf(one, "racer"), ...portsOf(two, "first")]).size, 4);
  assert.deepEqual(await one.query("racer", "select home from t"), [{ home: 1 }]);
  assert.deepEqual(await two.query("first", "select home from t"), [{ home: 2 }]);
});

test("a port that its user chose is not changed: the start says who has it", async () => {
  const [port] = portsOf(two, "first");
  await one.ok("branch", "create", "chosen");
  await one.ok("endpoint", "create", "chosen", "--branch-name", "chosen", "--pg-port", `${port}`);
  const line = await one.fails("endpoint", "start", "chosen");
  assert.match(line, new RegExp(`127\\.0\\.0\\.1:${port} is already in use by pid \\d+ `));
  assert.equal(portsOf(one, "chosen")[0], port);
});

/** A server that has the port; undefined where somebody else was first. */
async function take(port: number): Promise<Server | undefined> {
  const server = createServer().listen(port, "127.0.0.1");
  try {
    await once(server, "listening");
    return server;
  } catch {
    return undefined;
  }
}

for (const [name, message] of [
  ["pgPort", "elected"],
  ["internalHttpPort", "compute agent has started"],
] as const) {
  test(`a ${name} that is taken after it was found free: the start begins anew on another one`, async () => {
    const begun = () => one.log("endpoints/main/compute.log").split(`"${message}"`).length;
    for (;;) {
      await one.ok("endpoint", "stop", "main");
      const port = one.endpointSpec()[name];
      const before = begun();
      const start = one.cli("endpoint", "start", "main");
      while (begun() === before) {
        await sleep(1);
      }
      // Between look and bind are some tens of milliseconds, in which we may not come to it on a busy machine.
      const server = await take(port);
      const { code, stderr } = await start;
      server?.close();
      assert.equal(code, 0, stderr);
      assert.deepEqual(await one.query("main", "select home from t"), [{ home: 1 }]);
      if (server !== undefined) {
        assert.match(stderr, new RegExp(`^port ${port} is in use by pid ${process.pid} `));
        assert.notEqual(one.endpointSpec()[name], port);
        break;
      }
    }
  });
}
