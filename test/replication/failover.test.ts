// A logical slot is with its branch, so whichever endpoint takes over as primary has it: what `failover` and sync_replication_slots do
// elsewhere. And what those do here.

import assert from "node:assert/strict";
import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type pg from "pg";
import { SeededRandom } from "../../src/base/random.ts";
import {
  findInstallation,
  giveToPostgres,
  spawnPostgresTool,
} from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { freePort } from "../../testing/free-port.ts";
import {
  ChangeWriter,
  createChanged,
  moreWritten,
} from "../../testing/replication/change-writer.ts";
import { StockCluster, takeBaseBackup, writePostgresFile } from "../../testing/stock-cluster.ts";
import { connect } from "../../testing/tpcb.ts";

/** The first that has `failover` and sync_replication_slots. */
const MAJOR = 17;
const PATIENCE = { timeoutMs: 180_000, logs: () => cluster.logTails(4) };
const TRANSACTIONS = 20;
/** `r` is a replica at first. */
const ENDPOINTS = ["a", "b", "r"] as const;
type Endpoint = (typeof ENDPOINTS)[number];
/** Those of first copies come and go. */
const SLOTS =
  "select slot_name::text, failover, synced, invalidation_reason from pg_replication_slots where slot_name = 's'";

const scratch = mkdtempSync(join(tmpdir(), "strata-failover-"));
giveToPostgres(scratch);
let cluster: TestCluster;
let subscriber: StockCluster;
let atSubscriber: pg.Client;
let writer: ChangeWriter;
let primary: Endpoint = "a";
let standby: ChildProcess | undefined;

before(async () => {
  cluster = await TestCluster.create({ safekeepers: 3 });
  await cluster.ok("timeline", "create", "--branch-name", "of17", "--pg-version", `${MAJOR}`);
  for (const id of ENDPOINTS) {
    const kind = id === "r" ? ["--replica"] : ["--allow-multiple", "-c", "wal_level=logical"];
    await cluster.ok("endpoint", "create", id, "--branch-name", "of17", ...kind);
  }
  await cluster.ok("endpoint", "start", "a");
  await cluster.query("a", createChanged("changed"), "create publication p for table changed");
  subscriber = await StockCluster.create({
    pgMajor: MAJOR,
    settings: { wal_retrieve_retry_interval: "'500ms'" },
  });
  await subscriber.start();
  atSubscriber = await subscriber.connect();
  await atSubscriber.query(createChanged("changed"));
  writer = new ChangeWriter(
    1,
    "changed",
    () => ({ connectionString: cluster.url(primary) }),
    new SeededRandom(1),
  );
});

after(async () => {
  await writer?.stop();
  if (standby !== undefined && standby.exitCode === null && standby.signalCode === null) {
    // What it says is written into the directory that is removed.
    const closed = once(standby, "close");
    standby.kill("SIGQUIT");
    await closed;
  }
  await subscriber?.destroy();
  await cluster?.[Symbol.asyncDispose]();
  rmSync(scratch, { recursive: true, force: true });
});

/** All endpoints: whichever is the primary. */
function conninfo(): string {
  const ports = ENDPOINTS.map((id) => cluster.endpointSpec(id).pgPort);
  return `host=127.0.0.1,127.0.0.1,127.0.0.1 port=${ports} user=cloud_admin password=${cluster.password()} dbname=postgres target_session_attrs=read-write`;
}

const progress = () => moreWritten([writer], TRANSACTIONS, PATIENCE);

async function arrived(): Promise<void> {
  const sql =
    "select count(*)::int n, coalesce(sum(hashtextextended(t::text, 0)), 0)::text s from changed t";
  const [wanted] = await cluster.query(primary, sql);
  await eventually(
    `${wanted!["n"]} rows`,
    async () => {
      const { rows } = await atSubscriber.query(sql);
      return rows[0].n === wanted!["n"] && rows[0].s === wanted!["s"];
    },
    PATIENCE,
  );
}

async function takeOver(id: Endpoint): Promise<void> {
  await eventually(
    `${id} to start`,
    async () => (await cluster.cli("endpoint", "start", id)).code === 0,
    PATIENCE,
  );
  primary = id;
}

test("a subscription with failover goes on at another endpoint of the branch, after a stop, after kill -9 and at a promoted replica", async () => {
  await atSubscriber.query(
    `create subscription s connection '${conninfo()}' publication p with (failover = true)`,
  );
  const slot = { slot_name: "s", failover: true, synced: false, invalidation_reason: null };
  assert.deepEqual(await cluster.query("a", SLOTS), [slot]);
  writer.start();
  await progress();

  await cluster.ok("endpoint", "stop", "a");
  await takeOver("b");
  assert.deepEqual(await cluster.query("b", SLOTS), [slot]);
  await progress();

  await cluster.kill9("agent-b");
  await takeOver("a");
  assert.deepEqual(await cluster.query("a", SLOTS), [slot]);
  await progress();

  await cluster.ok("endpoint", "stop", "a", "--mode", "immediate");
  await takeOver("b");
  await progress();

  await cluster.ok("endpoint", "start", "r");
  assert.deepEqual(await cluster.query("r", SLOTS), [], "a replica has none");
  await cluster.ok("endpoint", "promote", "r");
  await takeOver("r");
  assert.deepEqual(await cluster.query("r", SLOTS), [slot]);
  await progress();
  await writer.stop();
  await arrived();
});

test("ALTER SUBSCRIPTION takes failover away and gives it back, and a kill does not undo that", async () => {
  const failover = async () => {
    const rows = await eventually("an answer", () => cluster.query(primary, SLOTS), PATIENCE);
    return rows.map((row) => row["failover"]);
  };
  for (const wanted of [false, true]) {
    await atSubscriber.query("alter subscription s disable");
    await eventually("the slot to be free", async () => {
      await atSubscriber.query(`alter subscription s set (failover = ${wanted})`);
      return true;
    });
    await atSubscriber.query("alter subscription s enable");
    await cluster.kill9(`postgres-${primary}`);
    assert.deepEqual(await failover(), [wanted]);
  }
});

test("a stock standby that synchronizes slots from an endpoint has them; after a start of that one its physical slot has to be made again", async () => {
  await cluster.query(primary, "select pg_create_physical_replication_slot('standby', true)");
  const { pgHost, pgPort } = cluster.endpointSpec(primary);
  const login = { user: "cloud_admin", password: cluster.password() };
  const directory = join(scratch, "standby");
  await takeBaseBackup(
    { host: pgHost, port: pgPort, ...login, database: "postgres" },
    MAJOR,
    directory,
  );
  const port = await freePort();
  writePostgresFile(join(directory, "standby.signal"), "");
  appendFileSync(
    join(directory, "postgresql.auto.conf"),
    `primary_conninfo = 'host=${pgHost} port=${pgPort} user=${login.user} password=${login.password} dbname=postgres'
primary_slot_name = 'standby'
sync_replication_slots = on
hot_standby_feedback = on
port = ${port}
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
wal_receiver_status_interval = 1
wal_retrieve_retry_interval = 200\n`,
  );
  standby = spawnPostgresTool(findInstallation(MAJOR), "postgres", ["-D", directory]);
  const log = `${directory}.log`;
  for (const stream of [standby.stdout!, standby.stderr!]) {
    stream.on("data", (chunk: Buffer) => appendFileSync(log, chunk));
  }
  const logs = () => (existsSync(log) ? readFileSync(log, "utf8").slice(-3000) : "");
  const url = `postgresql://${login.user}:${login.password}@127.0.0.1:${port}/postgres`;
  const ask = async () => {
    const client = await connect(url);
    try {
      return (await client.query(SLOTS)).rows;
    } finally {
      await client.end();
    }
  };
  await eventually(
    "the slot to be synchronized",
    async () => {
      // It is there to stay once the standby has the WAL that it needs, for which there has to be some.
      await cluster.query(primary, "select pg_log_standby_snapshot()");
      const [row] = await ask();
      return row?.["synced"] === true && row["failover"] === true && row["slot_name"] === "s";
    },
    { timeoutMs: 120_000, logs },
  );

  await cluster.ok("endpoint", "stop", primary);
  await cluster.ok("endpoint", "start", primary);
  await eventually(
    "the standby to be told",
    () => /replication slot "standby" does not exist/.test(readFileSync(log, "utf8")),
    PATIENCE,
  );
  await cluster.query(primary, "select pg_create_physical_replication_slot('standby', true)");
  await cluster.query(primary, "insert into changed values ('last', '')");
  await eventually(
    "the standby to go on",
    async () => {
      const client = await connect(url);
      try {
        return (await client.query("select from changed where id = 'last'")).rows.length === 1;
      } finally {
        await client.end();
      }
    },
    { timeoutMs: 120_000, logs },
  );
});
