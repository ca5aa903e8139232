// Stock tools and a stock hot standby on a safekeeper, and what the command line and the metrics show of it.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { parseTenantId, parseTimelineId } from "../src/base/ids.ts";
import { type Lsn, parseLsn } from "../src/base/lsn.ts";
import {
  findInstallation,
  giveToPostgres,
  postgresUser,
  spawnPostgresTool,
} from "../src/postgres/installation.ts";
import { SafekeeperHttpClient } from "../src/safekeeper/client.ts";
import type { TimelinePosition } from "../src/storage-controller/safekeeper-positions.ts";
import { TestCluster } from "../testing/cluster.ts";
import { eventually } from "../testing/eventually.ts";
import { freePort } from "../testing/free-port.ts";
import {
  checkConsistency,
  checkTpcb,
  initializeTpcb,
  TpcbLoad,
  withClient,
} from "../testing/tpcb.ts";

const MAJOR = 15;
/** The npm packages have no client programs. */
const TOOLS = `/usr/lib/postgresql/${MAJOR}/bin`;
const skip = !existsSync(join(TOOLS, "pg_basebackup")) && `no client programs in ${TOOLS}`;
const SEGMENT = 16 * 1024 * 1024;

const scratch = mkdtempSync(join(tmpdir(), "strata-standby-"));
giveToPostgres(scratch);
const started = new Set<ChildProcess>();
let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.ok("timeline", "create", "--branch-name", "old", "--pg-version", String(MAJOR));
  await cluster.startEndpoint("main", "old");
  await initializeTpcb(cluster.url());
  // Nothing is on its disk after a new start: a backup has to fetch all of it.
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
});
after(async () => {
  for (const child of started) {
    await end(child, "SIGKILL");
  }
  await cluster?.[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

/** A client program of Debian's, as the user who owns the scratch directory. */
function tool(name: string, ...args: string[]): { child: ChildProcess; ended: Promise<string> } {
  const user = postgresUser();
  const child = spawn(join(TOOLS, name), args, {
    stdio: ["ignore", "ignore", "pipe"],
    cwd: scratch,
    env: { ...process.env, PGPASSWORD: cluster.password() },
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
  });
  started.add(child);
  let stderr = "";
  child.stderr!.on("data", (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  const ended = new Promise<string>((resolve) =>
    child.on("close", (code, signal) => {
      started.delete(child);
      resolve(`${code ?? signal}: ${stderr}`);
    }),
  );
  return { child, ended };
}

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  const closed = new Promise((resolve) => child.on("close", resolve));
  if (child.exitCode === null && child.signalCode === null) {
    child.kill(signal);
    await closed;
  }
  started.delete(child);
}

const until = <T>(what: string, holds: () => T | Promise<T>) =>
  eventually(what, holds, { logs: () => cluster.logTails(4) });

/** With all three, a client goes on to the next where one is away. */
function conninfo(ids: readonly number[] = [1, 2, 3], endpoint = "main"): string {
  const { tenantId, timelineId } = cluster.endpointSpec(endpoint);
  const addresses = ids.map((id) => cluster.config().safekeepers[id - 1]!.listenPgAddr.split(":"));
  const options = `-c timeline_id=${timelineId} -c tenant_id=${tenantId}`;
  const hosts = addresses.map(([host]) => host).join(",");
  const ports = addresses.map(([, port]) => port).join(",");
  return `host=${hosts} port=${ports} user=strata application_name=stock options='${options}'`;
}

async function metrics(url: string): Promise<(pattern: string) => number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return (line) => {
    const found = text.split("\n").find((each) => each.startsWith(`${line} `));
    assert.ok(found !== undefined, `no ${line} in\n${text}`);
    return Number(found.split(" ")[1]);
  };
}

const agentUrl = () => `http://127.0.0.1:${cluster.endpointSpec().internalHttpPort}`;
/** Its exit code tells whether one is unreachable. */
const positions = async (branch = "old") => {
  const { stdout } = await cluster.cli("safekeeper", "list", "--branch-name", branch, "--json");
  return JSON.parse(stdout) as TimelinePosition[];
};

test("safekeeper list and the histograms show where every commit and every safekeeper is", async () => {
  const load = new TpcbLoad(cluster.url(), { clients: 4, seed: 5 });
  await load.progress(100);
  await load.stop();
  const agent = await metrics(agentUrl());
  const step = (name: string, part: string) =>
    agent(`strata_compute_commit_step_seconds_${part}{step="${name}"}`);
  const commits = step("total", "count");
  assert.ok(commits >= 25, `${commits} flushes for 100 commits of 4 clients`);
  const parts = ["ship", "quorum", "notify"].map((name) => step(name, "sum"));
  const sum = parts.reduce((a, b) => a + b);
  assert.ok(Math.abs(sum - step("total", "sum")) < 1e-3, `${parts} are not the whole`);
  for (const id of [1, 2, 3]) {
    const { listenHttpAddr } = cluster.config().safekeepers[id - 1]!;
    const safekeeper = await metrics(`http://${listenHttpAddr}`);
    const answers = safekeeper('safekeeper_append_step_seconds_count{step="flush"}');
    assert.ok(answers > 0);
    assert.equal(safekeeper("safekeeper_flush_wal_bytes_count"), answers);
  }
  // One of them, sent its WAL late, is not timed meanwhile, and perhaps never was.
  const text = await (await fetch(`${agentUrl()}/metrics`)).text();
  const pattern = /^strata_compute_safekeeper_step_seconds_count\{.*step="answer"\} (\d+)$/gm;
  const answered = [...text.matchAll(pattern)].map(([, count]) => Number(count));
  assert.ok(answered.filter((count) => count > 10).length >= 2, `${answered}`);
  await cluster.kill9("safekeeper-3");
  await cluster.query("main", "select pg_logical_emit_message(true, 'x', repeat('x', 100000))");
  const list = await cluster.cli("safekeeper", "list", "--branch-name", "old");
  assert.equal(list.code, 1);
  assert.match(list.stdout, /^ old +3 +unreachable +---/m);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("safekeeper", "start", "3");
  const rows = await positions();
  assert.deepEqual(
    rows.map((row) => [row.safekeeper_id, row.state, row.generation, row.members]),
    [1, 2, 3].map((id) => [id, "idle", 1, [1, 2, 3]]),
  );
  const lags = rows.map((row) => row.lag_bytes!);
  assert.deepEqual(lags.slice(0, 2), [0, 0]);
  assert.ok(lags[2]! > 100_000, `safekeeper 3 was away, but its lag is ${lags[2]}`);
  await cluster.ok("endpoint", "start", "main");
  await until("safekeeper 3 has caught up", async () =>
    (await positions()).every((row) => row.lag_bytes === 0 && row.state === "leading"),
  );
  assert.match(await cluster.ok("safekeeper", "status"), /SK +STATE +GEN +MEMBERS +TERM/);
});

test("what a safekeeper does not have, stock tools say clearly", { skip }, async () => {
  const create = ["timeline", "create", "--branch-name", "new", "--pg-version", String(MAJOR)];
  await cluster.ok(...create, "--sk-set", "1,3");
  await cluster.startEndpoint("new", "new");
  assert.deepEqual(
    (await positions("new")).map((row) => [row.safekeeper_id, row.state, row.members]),
    [1, 3].map((id) => [id, "leading", [1, 3]]),
  );
  assert.equal(cluster.endpointSpec("new").safekeepers.length, 2);
  const directory = join(scratch, "none");
  const on = ["--no-loop", "-D", scratch, "-d", conninfo([1], "new")];
  const receive = (...args: string[]) => tool("pg_receivewal", ...on, ...args);
  assert.match(await receive("--create-slot", "--slot=s").ended, /has no replication slots/);
  assert.match(await receive("--drop-slot", "--slot=s").ended, /has no replication slots/);
  assert.match(await receive("--slot=s").ended, /replication slot "s" does not exist/);
  const backup = tool("pg_basebackup", "-D", directory, "-d", conninfo([1], "new"));
  assert.match(await backup.ended, /take the base backup from a running endpoint/);
  // Its first segment has no beginning anywhere; the second one has.
  const start = /WAL at 0\/1000000 is not here: the timeline begins at 0\/1\w{6}; .* 0\/2000000 /;
  assert.match(await receive().ended, start);
  await cluster.query(
    "new",
    "select pg_logical_emit_message(true, '', 'x'), pg_switch_wal()",
    "select pg_logical_emit_message(true, '', 'x')",
  );
  const { child, ended } = receive();
  const file = join(scratch, "000000010000000000000002.partial");
  await until("it streams", () => existsSync(file));
  child.kill("SIGINT");
  assert.match(await ended, /^0:/);
  await cluster.ok("endpoint", "stop", "new");
});

test("pg_receivewal gets the committed bytes", { skip }, async () => {
  await cluster.query(
    "main",
    "select pg_switch_wal()",
    "select pg_logical_emit_message(true, '', 'x')",
  );
  const directory = join(scratch, "received");
  mkdirSync(directory);
  giveToPostgres(directory);
  const receive = (...args: string[]) =>
    tool("pg_receivewal", "-D", directory, "--no-loop", "-d", conninfo([2]), ...args);
  const { child, ended } = receive("-s", "1");
  await until("it streams", async () => (await positions())[1]!.readers!.includes("stock"));
  const load = new TpcbLoad(cluster.url(), { clients: 2, seed: 6 });
  await load.progress(50);
  await load.stop();
  const flush = parseLsn((await positions())[1]!.commit_lsn!)!;
  const segment = (flush - (flush % SEGMENT)) as Lsn;
  const file = () => readdirSync(directory).find((name) => name.endsWith(".partial"));
  const received = () => readFileSync(join(directory, file() ?? "")).subarray(0, flush - segment);
  const { tenantId, timelineId } = cluster.endpointSpec();
  const { listenHttpAddr } = cluster.config().safekeepers[0]!;
  const expected = await new SafekeeperHttpClient(`http://${listenHttpAddr}`).digest(
    parseTenantId(tenantId),
    parseTimelineId(timelineId),
    segment,
    flush,
  );
  await until(
    "all bytes have arrived",
    () => createHash("sha256").update(received()).digest("hex") === expected,
  );
  child.kill("SIGINT");
  assert.match(await ended, /^0:/);
});

test("a stock hot standby: base from the compute, WAL from whichever safekeeper is there", {
  skip,
}, async () => {
  await cluster.query(
    "main",
    "truncate pgbench_history",
    `update pgbench_accounts set abalance = 0 where abalance <> 0`,
    "update pgbench_tellers set tbalance = 0",
    "update pgbench_branches set bbalance = 0",
  );
  const load = new TpcbLoad(cluster.url(), { clients: 2, seed: 7 });
  await load.progress(20);
  const directory = join(scratch, "standby");
  const { pgPort } = cluster.endpointSpec();
  const backup = ["-h", "127.0.0.1", "-p", `${pgPort}`, "-U", "cloud_admin"];
  const base = tool("pg_basebackup", "-D", directory, "-c", "fast", "--no-sync", ...backup);
  assert.match(await base.ended, /^0:/);
  const port = await freePort();
  writeFileSync(join(directory, "standby.signal"), "");
  appendFileSync(
    join(directory, "postgresql.auto.conf"),
    `primary_conninfo = '${conninfo().replaceAll("'", "''")}'
primary_slot_name = 'slot'
port = ${port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
hot_standby_feedback = on
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = 200\n`,
  );
  giveToPostgres(directory);
  const log = join(scratch, "standby.log");
  writeFileSync(log, "");
  const standby = spawnPostgresTool(findInstallation(MAJOR), "postgres", ["-D", directory]);
  started.add(standby);
  for (const stream of [standby.stdout!, standby.stderr!]) {
    stream.on("data", (chunk: Buffer) => appendFileSync(log, chunk));
  }
  await until("it says that there are no slots", () =>
    /could not start WAL streaming: .*has no replication slots/.test(readFileSync(log, "utf8")),
  );
  appendFileSync(join(directory, "postgresql.auto.conf"), "primary_slot_name = ''\n");
  standby.kill("SIGHUP");
  const url = `postgresql://cloud_admin:${cluster.password()}@127.0.0.1:${port}/postgres`;
  const ask = (sql: string) => withClient(url, async (client) => (await client.query(sql)).rows[0]);
  await until("the standby answers", () =>
    ask("select 1").then(
      () => true,
      () => false,
    ),
  );
  await until("its xmin is known to the compute", async () => {
    const text = await (await fetch(`${agentUrl()}/metrics`)).text();
    return /^strata_compute_standby_xmin \d+$/m.test(text);
  });
  const streamsFrom = async () =>
    (await positions()).find((row) => row.readers?.includes("stock"))?.safekeeper_id;
  await until("it streams", async () => (await streamsFrom()) !== undefined);
  const first = (await streamsFrom())!;
  await cluster.kill9(`safekeeper-${first}`);
  await load.progress(50);
  await until(
    "another one serves it",
    async () => ![undefined, first].includes(await streamsFrom()),
  );
  await cluster.ok("safekeeper", "start", `${first}`);
  // A new term, whose first record is the checkpoint that the agent has made.
  await cluster.ok("endpoint", "stop", "main", "--mode", "immediate");
  await cluster.ok("endpoint", "start", "main");
  await load.progress(50);
  await load.stop();
  const [head] = await cluster.query("main", "select pg_current_wal_lsn()::text as lsn");
  await until("it has applied everything", async () => {
    const row = await ask(`select pg_last_wal_replay_lsn() >= '${head!["lsn"]}' as done`);
    return row.done as boolean;
  });
  assert.ok((await ask("select pg_is_in_recovery() as standby")).standby);
  await checkTpcb(url, load.acknowledged);
  await cluster.query("main", "create extension if not exists amcheck");
  await until("amcheck is there", () =>
    ask("select count(*)::int as n from pg_extension where extname = 'amcheck'").then(
      (row) => row.n === 1,
    ),
  );
  const damage =
    await ask(`select count(*)::int as n from pg_class c, lateral verify_heapam(c.oid) v
    where c.relkind in ('r', 'm', 't') and c.relpersistence = 'p'`);
  assert.equal(damage.n, 0, "verify_heapam on the standby");
  await checkConsistency(cluster.url());
  assert.doesNotMatch(readFileSync(log, "utf8"), /PANIC|WARNING|incorrect|corrupt/);
});
