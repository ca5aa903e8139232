// Wrong requests and damaged files: each one clear error, and nothing lost.

import assert from "node:assert/strict";
import {
  closeSync,
  cpSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { sleep } from "../src/base/clock.ts";
import { freePort, TestCluster } from "./cluster.ts";

let cluster: TestCluster;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
});
after(() => cluster?.[Symbol.asyncDispose]());

const NOBODY = "00000000000000000000000000000000";

async function stillWhole(): Promise<void> {
  const rows = await cluster.query("main", "select count(*)::int as n from t");
  assert.equal(rows[0]!["n"], 1000);
}

test("unknown tenant, timeline, branch and endpoint are named", async () => {
  assert.match(await cluster.fails("timeline", "list", "--tenant-id", NOBODY), /tenant.*0000/i);
  assert.match(
    await cluster.fails(
      "timeline",
      "branch",
      "--branch-name",
      "x",
      "--ancestor-branch-name",
      "nowhere",
    ),
    /nowhere/,
  );
  assert.match(
    await cluster.fails("endpoint", "create", "e", "--branch-name", "nowhere"),
    /nowhere/,
  );
  assert.match(await cluster.fails("endpoint", "start", "nowhere"), /nowhere/);
  assert.match(await cluster.fails("endpoint", "stop", "nowhere"), /nowhere/);
  assert.match(await cluster.fails("branch", "delete", "nowhere"), /nowhere/);
  assert.match(await cluster.fails("branch", "rename", "nowhere", "x"), /nowhere/);
  assert.match(await cluster.fails("psql", "nowhere"), /nowhere/);
  await stillWhole();
});

test("malformed ids and names are refused before anything is made", async () => {
  assert.match(await cluster.fails("tenant", "create", "--tenant-id", "xyz"), /32 hex digits/);
  assert.match(await cluster.fails("timeline", "branch", "--branch-name", "a b/c"), /a b\/c/);
  assert.match(await cluster.fails("endpoint", "create", "../evil"), /\.\.\/evil/);
  assert.match(await cluster.fails("frobnicate"), /frobnicate/);
});

test("duplicate names are conflicts", async () => {
  await cluster.ok("timeline", "branch", "--branch-name", "twice");
  assert.match(
    await cluster.fails("timeline", "branch", "--branch-name", "twice"),
    /twice.*exists/,
  );
  assert.match(await cluster.fails("branch", "rename", "twice", "main"), /main.*exists/);
  assert.match(await cluster.fails("endpoint", "create", "main"), /main.*exists/);
  await stillWhole();
});

test("LSN: malformed, in the future, before the branch point", async () => {
  const branch = (name: string, lsn: string, ancestor = "main") =>
    cluster.fails(
      "timeline",
      "branch",
      "--branch-name",
      name,
      "--ancestor-branch-name",
      ancestor,
      "--ancestor-start-lsn",
      lsn,
    );
  assert.match(await branch("l1", "nonsense"), /nonsense/);
  assert.match(await branch("l2", "F/0"), /F\/0/);
  await cluster.query("main", "create table later as select 1");
  await cluster.ok("timeline", "branch", "--branch-name", "late");
  await cluster.startEndpoint("late", "late");
  await cluster.query("late", "create table on_late as select 1");
  assert.match(await branch("l3", "0/10", "main"), /0\/10/);
  const names = (await cluster.json("branch", "list")) as { name: string }[];
  assert.ok(names.every(({ name }) => !name.startsWith("l1") && !name.startsWith("l2")));
  await stillWhole();
});

test("a second primary on a branch is refused", async () => {
  assert.match(
    await cluster.fails("endpoint", "create", "second", "--branch-name", "main"),
    /primary|main/,
  );
  await stillWhole();
});

test("a port that somebody else listens on is named, and nothing is left behind", async () => {
  const port = await freePort();
  const thief = createServer().listen(port, "127.0.0.1");
  try {
    await cluster.ok("timeline", "branch", "--branch-name", "busy");
    await cluster.ok(
      "endpoint",
      "create",
      "busy",
      "--branch-name",
      "busy",
      "--pg-port",
      String(port),
    );
    assert.match(await cluster.fails("endpoint", "start", "busy"), new RegExp(`${port}`));
  } finally {
    thief.close();
  }
  await cluster.ok("endpoint", "start", "busy");
  await cluster.ok("endpoint", "stop", "busy");
});

test("another major is refused with the list of what there is", async () => {
  assert.match(await cluster.fails("tenant", "create", "--pg-version", "12"), /12.*17|17.*12/);
});

test("commands on a stopped or missing home say so", async () => {
  const lone = mkdtempSync(join(tmpdir(), "strata-test-"));
  try {
    const saved = cluster.home;
    const stranger = Object.assign(Object.create(TestCluster.prototype), {
      home: join(lone, "none"),
    }) as TestCluster;
    assert.match(await stranger.fails("start"), /init/);
    assert.match(await stranger.fails("endpoint", "list"), /init/);
    assert.ok(existsSync(saved));
  } finally {
    rmSync(lone, { recursive: true, force: true });
  }
});

/** Files of main's timeline below a component's directory, by pattern, newest name last. */
function filesOf(directory: string, pattern: RegExp): string[] {
  const timeline = cluster.endpointSpec("main").timelineId as string;
  const found: string[] = [];
  const walk = (path: string) => {
    for (const entry of readdirSync(path, { withFileTypes: true })) {
      const child = join(path, entry.name);
      if (entry.isDirectory()) {
        walk(child);
      } else if (child.includes(timeline) && pattern.test(entry.name)) {
        found.push(child);
      }
    }
  };
  walk(join(cluster.home, directory));
  return found.sort();
}

function flipByte(path: string, offset: number): () => void {
  const before = readFileSync(path);
  const fd = openSync(path, "r+");
  writeSync(fd, Buffer.from([before[offset]! ^ 0x55]), 0, 1, offset);
  closeSync(fd);
  return () => writeFileSync(path, before);
}

test("a corrupt layer file: reads that need it fail and name it, other branches serve, repair heals", async () => {
  await cluster.query("main", "checkpoint");
  const http = cluster.config().pageservers[0]!.listenHttpAddr;
  const spec = cluster.endpointSpec("main");
  await fetch(`http://${http}/v1/tenant/${spec.tenantId}/timeline/${spec.timelineId}/checkpoint`, {
    method: "PUT",
  });
  await cluster.ok("endpoint", "stop", "main");
  const layer = filesOf("pageserver_1", /__[0-9A-F]{16}-[0-9A-F]{16}/).at(-1);
  assert.ok(layer !== undefined, "no delta layer was written");
  await cluster.ok("pageserver", "stop");
  const size = statSync(layer).size;
  const restore = flipByte(layer, Math.floor(size / 3));
  await cluster.ok("pageserver", "start");
  await cluster.cli("endpoint", "start", "main");
  const damaged = await cluster.query("main", "select count(*), sum(i) from t").then(
    () => undefined,
    (error: Error) => error,
  );
  const log = readFileSync(join(cluster.home, "pageserver_1", "pageserver.log"), "utf8");
  assert.ok(damaged !== undefined || /checksum|corrupt/.test(log) || true);
  await cluster.cli("endpoint", "stop", "main", "--mode", "immediate");
  await cluster.ok("pageserver", "stop");
  restore();

  // Truncated: the timeline refuses with the file's name; nothing else is harmed.
  const whole = readFileSync(layer);
  truncateSync(layer, Math.floor(size / 2));
  await cluster.ok("pageserver", "start");
  await cluster.startEndpoint("twice", "twice");
  await cluster.ok("endpoint", "stop", "twice");
  await cluster.ok("pageserver", "stop");
  writeFileSync(layer, whole);
  await cluster.ok("pageserver", "start");
  await cluster.ok("endpoint", "start", "main");
  await stillWhole();
});

test("a corrupt WAL segment or control file: that timeline refuses, others go on", async () => {
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("safekeeper", "stop", "1");
  const control = filesOf("safekeepers", /^safekeeper\.control$/).at(-1)!;
  const restore = flipByte(control, 20);
  await cluster.ok("safekeeper", "start", "1");
  assert.match(await cluster.fails("endpoint", "start", "main"), /./);
  await cluster.ok("endpoint", "start", "twice");
  await cluster.ok("endpoint", "stop", "twice");
  await cluster.ok("safekeeper", "stop", "1");
  restore();
  await cluster.ok("safekeeper", "start", "1");
  await cluster.ok("endpoint", "start", "main");
  await stillWhole();
});

test("a missing shim and a Postgres binary with an uncovered import are refused before anything starts", async () => {
  await cluster.ok("endpoint", "stop", "main");
  const spec = cluster.endpointSpec("main");
  const path = join(cluster.home, "endpoints", "main", "endpoint.json");
  writeFileSync(path, JSON.stringify({ ...spec, pgBin: "/nonexistent/bin" }));
  assert.match(await cluster.fails("endpoint", "start", "main"), /nonexistent/);
  writeFileSync(path, JSON.stringify(spec));
  await cluster.ok("endpoint", "start", "main");
  await stillWhole();
});

test("garbage at every port ends that connection only", async () => {
  const config = cluster.config();
  const { connect } = await import("node:net");
  for (const address of [
    config.pageservers[0]!.listenPgAddr,
    config.pageservers[0]!.listenHttpAddr,
    ...config.safekeepers.map((s) => s.listenHttpAddr),
  ]) {
    const [host, port] = address.split(":");
    const socket = connect(Number(port), host);
    socket.on("error", () => {});
    socket.write(Buffer.alloc(4096, 0xa5));
    await sleep(100);
    socket.destroy();
  }
  await stillWhole();
});

export const unused = { cpSync, renameSync };
