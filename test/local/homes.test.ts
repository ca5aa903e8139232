// Homes as people have them: at odd paths, two on one machine, deleted or damaged while they run.

import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { daemonsOfHome, stopLeftOver } from "../../src/local/left-over.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";

interface Row {
  readonly name: string;
  readonly address: string;
  readonly status: string;
  readonly pid: number | null;
  readonly http_address: string | null;
}

async function statusOf(cluster: TestCluster): Promise<Row[]> {
  return (await cluster.json("status")) as Row[];
}

/** Everything works, is seen to run, and is gone after a stop. */
async function liveOneLife(cluster: TestCluster): Promise<void> {
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select 42 as answer");
  const rows = await statusOf(cluster);
  assert.deepEqual(
    rows.map((row) => row.status),
    ["running", "running", "running", "running", "running", "running"],
  );
  assert.equal(daemonsOfHome(realpathSync(cluster.home)).length, 6);
  assert.match(await cluster.ok("endpoint", "start", "main"), /already running/);
  await cluster.ok("stop");
  assert.deepEqual(daemonsOfHome(realpathSync(cluster.home)), []);
  await cluster.ok("start");
  await cluster.ok("endpoint", "start", "main");
  assert.deepEqual(await cluster.query("main", "select answer from t"), [{ answer: 42 }]);
}

for (const [what, name] of [
  ["a space, quotes and letters of all kinds", `it's "my" größe 🐘 $HOME`],
  ["a newline", "two\nlines"],
  ["a length that no socket address has", ["deep", "x".repeat(100), "y".repeat(100)].join("/")],
] as const) {
  test(`a home at a path with ${what}: all runs, is seen, and stops`, async () => {
    await using cluster = await TestCluster.create({ name, ownInitdb: true });
    await liveOneLife(cluster);
  });
}

test("a home behind a link that was there before it", async () => {
  const directory = realpathSync(mkdtempSync(join(tmpdir(), "strata-linked-")));
  try {
    const link = join(directory, "link");
    mkdirSync(join(directory, "real"));
    symlinkSync("real", link);
    // From its temporary directory there, over the link.
    const name = `../${link.slice(tmpdir().length)}/h`;
    await using cluster = await TestCluster.create({ name, ownInitdb: true });
    await liveOneLife(cluster);
    assert.ok(existsSync(join(directory, "real", "h", "config.json")));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("an outgoing connection on an endpoint's port: the start is refused by name, and fences nobody", async () => {
  await using cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  const server = createServer((socket) => socket.on("error", () => {}));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const far = (server.address() as { port: number }).port;
  const outgoing = createConnection({ host: "127.0.0.1", port: far });
  try {
    await new Promise((resolve) => outgoing.once("connect", resolve));
    const port = `${outgoing.localPort}`;
    await cluster.ok("endpoint", "create", "rival", "--allow-multiple", "--pg-port", port);
    assert.match(
      await cluster.fails("endpoint", "start", "rival", "--allow-multiple"),
      new RegExp(`:${port} is already in use by the connection to .* of pid ${process.pid} \\(`),
    );
    await cluster.query("main", "create table still_here ()");
  } finally {
    outgoing.destroy();
    server.close();
  }
});

test("a home deleted while it runs: status lists what is left, init refuses, stop ends it", async () => {
  await using cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  const home = realpathSync(cluster.home);
  try {
    // Its daemons make files meanwhile.
    rmSync(home, { recursive: true, maxRetries: 10 });
    const rows = await statusOf(cluster);
    assert.deepEqual(
      rows.map((row) => row.status),
      ["left over", "left over", "left over", "left over", "left over", "left over"],
    );
    assert.match(
      await cluster.fails("init"),
      /is in use by control-plane \(pid \d+\), proxy \(pid \d+\), compute \(pid \d+\).*'npx strata stop'/,
    );
    assert.match(await cluster.ok("stop"), /Stopping pageserver in .* with pid \d+/);
    assert.deepEqual(daemonsOfHome(home), []);
    assert.match(await cluster.fails("stop"), /is not initialized/);
    assert.match(await cluster.fails("status"), /is not initialized/);
  } finally {
    for (const daemon of daemonsOfHome(home)) {
      await stopLeftOver(daemon, "immediate", () => {});
    }
  }
});

test("damaged files: the endpoint is named, all others go on, and stop ends everything", async () => {
  await using cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.ok("branch", "create", "dev");
  await cluster.startEndpoint("dev", "dev");
  const home = realpathSync(cluster.home);
  const damaged = join(cluster.home, "endpoints", "dev", "endpoint.json");
  writeFileSync(damaged, readFileSync(damaged, "utf8").replace(/"pgPort": \d+/, '"pgPort": "x"'));
  const names = /endpoint dev: in .*endpoints\/dev: endpoint\.json is wrong: pgPort/;
  for (const words of [["status"], ["endpoint", "list"]]) {
    const { code, stdout, stderr } = await cluster.cli(...words);
    assert.equal(code, 0);
    assert.match(stdout, /main .*running/);
    assert.match(stderr, names);
  }
  assert.match((await cluster.ok("status")).split("\n").at(-2)!, /endpoint dev .*\d+ +damaged/);
  writeFileSync(join(cluster.home, "pageserver_1", "pageserver.pid"), "garbage\n");
  await cluster.ok("stop");
  assert.deepEqual(daemonsOfHome(home), []);

  await cluster.ok("start");
  await cluster.ok("endpoint", "start", "main");
  assert.match(await cluster.fails("endpoint", "start", "dev"), /dev: endpoint\.json is wrong/);
  const config = readFileSync(join(home, "config.json"));
  try {
    writeFileSync(join(home, "config.json"), config.subarray(0, 100));
    assert.match(await cluster.fails("stop"), /config\.json is not JSON/);
    assert.deepEqual(daemonsOfHome(home), []);
  } finally {
    writeFileSync(join(home, "config.json"), config);
  }
  await cluster.ok("endpoint", "stop", "dev", "--destroy");
  await cluster.ok("start");
  await cluster.startEndpoint("dev", "dev");
});

test("two homes without any configuration: the second one's ports are free ones", async () => {
  await using first = await TestCluster.create({ start: false, config: {} });
  await first.ok("start");
  await using second = await TestCluster.create({ start: false, config: {} });
  await second.ok("start");
  // Both start an agent that waits for work: a slow machine may be late to answer once.
  const addresses = await eventually("all of both answer", async () => {
    const rows = [...(await statusOf(first)), ...(await statusOf(second))];
    return rows.every((row) => row.status === "running") ? rows : undefined;
  });
  assert.equal(new Set(addresses.map((row) => row.address)).size, 10);
  const http = addresses.flatMap((row) => row.http_address ?? []);
  assert.equal(new Set(http).size, 6, "pageserver, safekeeper and proxy of each");
  // What a stopped home had is told to whoever wants it back.
  await first.ok("stop");
  const taken = second.config().pageservers[0]!.listenHttpAddr;
  const config = readFileSync(join(first.home, "config.json"), "utf8");
  const mine = first.config().pageservers[0]!.listenHttpAddr;
  writeFileSync(join(first.home, "config.json"), config.replace(mine, taken));
  assert.match(
    await first.fails("pageserver", "start"),
    new RegExp(`${taken} is already in use by pid \\d+ .*${second.home}.*'init --config FILE'$`),
  );
});
