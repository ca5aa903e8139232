// Wrong requests: each one clear error, before anything is made, and nothing lost.

import assert from "node:assert/strict";
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { TestCluster } from "../testing/cluster.ts";
import { request, timelineInfo } from "../testing/damage.ts";
import { freePort } from "../testing/free-port.ts";

const NOBODY = "0123456789abcdef0123456789abcdef";

let cluster: TestCluster;
let tenantId: string;
let timelineId: string;
before(async () => {
  cluster = await TestCluster.create();
  await cluster.startEndpoint("main");
  await cluster.query("main", "create table t as select generate_series(1, 1000) i");
  ({ tenantId, timelineId } = cluster.endpointSpec("main"));
});
after(() => cluster?.[Symbol.asyncDispose]());

// Nothing lost, and main still takes writes.
afterEach(async () => {
  await cluster.query("main", "insert into t values (0)", "delete from t where i = 0");
  const rows = await cluster.query("main", "select count(*)::int n, sum(i)::int s from t");
  assert.deepEqual(rows, [{ n: 1000, s: 500_500 }]);
});

/** The one line on stderr of a command that is refused. */
async function refused(line: string | RegExp, ...args: string[]): Promise<void> {
  const error = await cluster.fails(...args);
  if (typeof line === "string") {
    assert.equal(error, `command failed: ${line}`);
  } else {
    assert.match(error, line);
    assert.ok(error.startsWith("command failed: "), error);
  }
}

const branchArgs = (name: string, ...more: string[]) => [
  "timeline",
  "branch",
  "--branch-name",
  name,
  ...more,
];

async function branchNames(): Promise<string[]> {
  return ((await cluster.json("branch", "list")) as { name: string }[]).map(({ name }) => name);
}

test("unknown tenant, timeline, branch and endpoint are named", async () => {
  await refused(`tenant ${NOBODY} not found`, "timeline", "list", "--tenant-id", NOBODY);
  await refused(`tenant ${NOBODY} not found`, "tenant", "set-default", "--tenant-id", NOBODY);
  const noBranch = "Found no timeline id for branch name 'nowhere'";
  await refused(noBranch, ...branchArgs("x", "--ancestor-branch-name", "nowhere"));
  await refused(noBranch, "endpoint", "create", "e", "--branch-name", "nowhere");
  await refused(noBranch, "branch", "delete", "nowhere");
  await refused(noBranch, "branch", "rename", "nowhere", "x");
  const noEndpoint = "postgres endpoint nowhere is not found";
  await refused(noEndpoint, "endpoint", "start", "nowhere");
  await refused(noEndpoint, "endpoint", "stop", "nowhere");
  await refused(noEndpoint, "psql", "nowhere");
  assert.deepEqual(await branchNames(), ["main"]);

  const pageserver = cluster.config().pageservers[0]!.listenHttpAddr;
  const noTimeline = { status: 404, msg: `timeline ${NOBODY} not found` };
  const base = `/v1/tenant/${tenantId}/timeline`;
  assert.deepEqual(await request(pageserver, "GET", `${base}/${NOBODY}`), noTimeline);
  const child = { new_timeline_id: "f".repeat(32), ancestor_timeline_id: NOBODY };
  assert.deepEqual(await request(pageserver, "POST", base, child), noTimeline);
  const safekeeper = cluster.config().safekeepers[0]!.listenHttpAddr;
  assert.deepEqual(await request(safekeeper, "GET", `${base}/${NOBODY}`), {
    status: 404,
    msg: `timeline ${tenantId}/${NOBODY} is not on this safekeeper`,
  });
});

test("malformed ids, names and words are refused before anything is made", async () => {
  await refused(
    "tenant id must be 32 hex digits, got 'xyz'",
    "tenant",
    "create",
    "--tenant-id",
    "xyz",
  );
  await refused(/^command failed: branch name 'a b': letters, digits and/, ...branchArgs("a b"));
  await refused(
    /^command failed: endpoint id '..\/evil': letters/,
    "endpoint",
    "create",
    "../evil",
  );
  await refused(/unknown command 'frobnicate'/, "frobnicate");
  await refused(
    /70000.*a port is wanted, 1 to 65535/,
    "endpoint",
    "create",
    "e",
    "--pg-port",
    "70000",
  );
  assert.deepEqual(await branchNames(), ["main"]);
  assert.deepEqual(readdirSync(join(cluster.home, "endpoints")), ["main"]);
});

test("duplicate tenants, timelines, branches and endpoints are conflicts", async () => {
  await refused(`tenant ${tenantId} already exists`, "tenant", "create", "--tenant-id", tenantId);
  await cluster.ok(...branchArgs("twice"));
  await refused("branch 'twice' already exists", ...branchArgs("twice"));
  await refused(
    `timeline ${timelineId} already exists as branch 'main'`,
    ...branchArgs("again", "--timeline-id", timelineId),
  );
  await refused("branch 'main' already exists", "branch", "rename", "twice", "main");
  await refused("endpoint main already exists", "endpoint", "create", "main");
  assert.deepEqual(await branchNames(), ["main", "twice"]);
});

test("LSN: malformed, in the future, before the branch point", async () => {
  const at = (name: string, lsn: string, ancestor = "main") =>
    branchArgs(name, "--ancestor-branch-name", ancestor, "--ancestor-start-lsn", lsn);
  for (const lsn of ["nonsense", "0/XYZ", "1/2/3", "0/0", "123456789/0"]) {
    await refused(
      `'${lsn}' is no LSN, such as 0/16F9A00, and no time, such as 2026-11-28T10:38:10Z`,
      ...at("l", lsn),
    );
  }
  const future =
    /^command failed: LSN F\/0 is in the future: the newest of branch 'main' is 0\/[0-9A-F]+$/;
  await refused(future, ...at("l", "F/0"));
  await refused(future, "endpoint", "create", "e", "--lsn", "F/0");

  const { start_lsn: begin } = await timelineInfo(cluster, tenantId, timelineId);
  await refused(`LSN 0/10 is before branch 'main' begins, at ${begin}`, ...at("l", "0/10"));
  await cluster.ok(...branchArgs("late"));
  const late = (
    (await cluster.json("branch", "list")) as { name: string; parent_lsn: string }[]
  ).find(({ name }) => name === "late");
  await refused(
    `LSN ${begin} is before branch 'late' begins, at ${late!.parent_lsn}; before that its history is that of 'main'`,
    ...at("l", begin, "late"),
  );
  assert.ok(!(await branchNames()).includes("l"));
});

test("a second primary on a branch is refused, at its creation and at its start", async () => {
  const other =
    "a primary endpoint of this branch exists already: main; --allow-multiple overrides";
  await refused(other, "endpoint", "create", "second", "--branch-name", "main");
  await cluster.ok("endpoint", "create", "second", "--branch-name", "main", "--allow-multiple");
  await refused(other.replace("exists", "is running"), "endpoint", "start", "second");
});

async function withThief(port: number, body: () => Promise<void>): Promise<void> {
  const thief: Server = createServer();
  await new Promise<void>((resolve) => thief.listen(port, "127.0.0.1", resolve));
  try {
    await body();
  } finally {
    await new Promise((resolve) => thief.close(resolve));
  }
}

test("a port that somebody else listens on is named, and nothing is left behind", async () => {
  const port = await freePort();
  await cluster.ok(...branchArgs("busy"));
  await cluster.ok("endpoint", "create", "busy", "--branch-name", "busy", "--pg-port", `${port}`);
  const inUse = (address: string) =>
    new RegExp(`: ${address} is already in use by pid \\d+ \\(.*\\); .*$`);
  await withThief(port, () => refused(inUse(`127.0.0.1:${port}`), "endpoint", "start", "busy"));
  await cluster.ok("endpoint", "start", "busy");
  assert.deepEqual(await cluster.query("busy", "select count(*)::int n from t"), [{ n: 1000 }]);
  await cluster.ok("endpoint", "stop", "busy");

  await cluster.ok("safekeeper", "stop", "1");
  const address = cluster.config().safekeepers[0]!.listenHttpAddr;
  await withThief(Number(address.split(":")[1]), () =>
    refused(inUse(address), "safekeeper", "start", "1"),
  );
  await cluster.ok("safekeeper", "start", "1");
});

test("a Postgres major that Strata does not know is refused by every command and service", async () => {
  const unknown = "PostgreSQL 12 is not supported; supported: 14, 15, 16, 17, 18";
  await refused(unknown, "tenant", "create", "--pg-version", "12");
  await refused(unknown, "timeline", "create", "--branch-name", "old", "--pg-version", "12");
  const pageserver = cluster.config().pageservers[0]!.listenHttpAddr;
  const body = { new_timeline_id: NOBODY, pg_version: 12 };
  const answer = await request(pageserver, "POST", `/v1/tenant/${tenantId}/timeline`, body);
  assert.equal(answer.status, 400);
  assert.match(answer.msg, /pg_version/);
  const directory = mkdtempSync(join(tmpdir(), "strata-test-"));
  try {
    const stranger = strangerAt(join(directory, "home"));
    const bin = join(directory, "bin");
    chmodSync(directory, 0o755);
    mkdirSync(bin);
    for (const tool of ["postgres", "initdb"]) {
      writeFileSync(join(bin, tool), "#!/bin/sh\necho 'postgres (PostgreSQL) 15.3'\n", {
        mode: 0o755,
      });
    }
    assert.equal(await stranger.fails("init", "--pg-version", "12"), `command failed: ${unknown}`);
    assert.equal(
      await stranger.fails("init", "--pg-bin", bin),
      `command failed: PostgreSQL binaries in '${bin}': version 15.3, wanted 17`,
    );
    // Without a home every other command says what to do.
    const missing = /^command failed: '.*\/home' is not initialized: run 'npx strata init' first$/;
    assert.match(await stranger.fails("start"), missing);
    assert.match(await stranger.fails("endpoint", "list"), missing);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

/** The CLI on a home that nobody has initialized. */
function strangerAt(home: string): Pick<TestCluster, "fails"> {
  return Object.assign(Object.create(TestCluster.prototype) as TestCluster, { home });
}
