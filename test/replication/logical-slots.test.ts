// Logical replication out of an endpoint: its slots outlive stops, kills and lost data directories, and nobody misses a row.

import assert from "node:assert/strict";
import { readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type pg from "pg";
import { sleep } from "../../src/base/clock.ts";
import { INVALID_LSN } from "../../src/base/lsn.ts";
import { runtimeDirectory } from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { eventually } from "../../testing/eventually.ts";
import { LogicalStream } from "../../testing/replication/logical-stream.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";
import { connect } from "../../testing/tpcb.ts";

let cluster: TestCluster;
let subscriber: StockCluster;
let atSubscriber: pg.Client;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main", "-c", "wal_level=logical");
  await cluster.ok("endpoint", "start", "main");
  await cluster.query(
    "main",
    "create table t (n int primary key, v text)",
    "create publication p for table t",
  );
  subscriber = await StockCluster.create();
  await subscriber.start();
  atSubscriber = await subscriber.connect();
  await atSubscriber.query("create table t (n int primary key, v text)");
  await atSubscriber.query(`create subscription s connection '${cluster.url()}' publication p`);
});

after(async () => {
  await subscriber?.destroy();
  await cluster?.[Symbol.asyncDispose]();
});

/** The subscriber has exactly the rows that the endpoint has. */
async function arrived(): Promise<void> {
  const sql = "select count(*)::int n, coalesce(sum(hashtext(t::text)), 0)::text sum from t";
  const [wanted] = await cluster.query("main", sql);
  await eventually(`${wanted!["n"]} rows at the subscriber`, async () => {
    const { rows } = await atSubscriber.query(sql);
    return rows[0].n === wanted!["n"] && rows[0].sum === wanted!["sum"];
  });
}

async function publish(count = 10): Promise<void> {
  await cluster.query(
    "main",
    `insert into t select m + i, 'v' || i
       from (select coalesce(max(n), 0) m from t) t, generate_series(1, ${count}) i`,
    "update t set v = v || '.' where n % 7 = 0",
  );
}

async function slots(id = "main"): Promise<string[]> {
  const rows = await cluster.query(
    id,
    "select slot_name::text n from pg_replication_slots order by 1",
  );
  return rows.map(({ n }) => String(n));
}

async function restart(mode: "fast" | "immediate" = "fast"): Promise<void> {
  await cluster.ok("endpoint", "stop", "main", "--mode", mode);
  await cluster.ok("endpoint", "start", "main");
}

/** Postgres ends with its agent, but a moment later, and has its port until then. */
async function startAfterKill(): Promise<void> {
  await eventually(
    "main to start",
    async () => (await cluster.cli("endpoint", "start", "main")).code === 0,
  );
}

/** What a slot of test_decoding has to say of table `t`s rows: their numbers, in order. */
async function changes(slot: string, table = "u"): Promise<number[]> {
  const rows = await cluster.query(
    "main",
    `select data from pg_logical_slot_get_changes('${slot}', null, null)`,
  );
  return rows.flatMap(({ data }) => {
    const found = new RegExp(`^table public.${table}: INSERT: n\\[integer\\]:(\\d+)`).exec(
      String(data),
    );
    return found === null ? [] : [Number(found[1])];
  });
}

const upTo = (first: number, last: number) =>
  Array.from({ length: last - first + 1 }, (_, i) => first + i);

test("a subscriber of stock Postgres goes on after a clean stop", async () => {
  await publish();
  await arrived();
  await restart();
  assert.deepEqual(await slots(), ["s"]);
  await publish();
  await arrived();
  await restart();
  await arrived();
});

test("a subscriber has every row after kill -9 of Postgres and of the agent under load, and on an empty disk", async () => {
  let stopped = false;
  let written = 0;
  const load = (async () => {
    while (!stopped) {
      await publish(3).then(
        () => written++,
        () => sleep(50),
      );
    }
  })();
  const progress = async () => {
    const until = written + 20;
    await eventually("the load to go on", () => written >= until);
  };
  try {
    await progress();
    await cluster.kill9("postgres-main");
    await progress();
    await cluster.kill9("agent-main");
    await startAfterKill();
    await progress();
    await cluster.ok("endpoint", "stop", "main", "--mode", "immediate");
    const workdir = join(cluster.home, "endpoints", "main");
    rmSync(join(runtimeDirectory(workdir), "pgdata"), { recursive: true, force: true });
    await cluster.ok("endpoint", "start", "main");
    await progress();
  } finally {
    stopped = true;
    await load;
  }
  await arrived();
  assert.deepEqual(await slots(), ["s"]);
});

test("a slot is durable when its making returns, and gone when its drop returns", async () => {
  await cluster.query("main", "select pg_create_logical_replication_slot('made', 'test_decoding')");
  await cluster.kill9("postgres-main");
  await eventually("main to answer", async () => (await slots()).includes("made"));
  await cluster.query("main", "select pg_drop_replication_slot('made')");
  await cluster.kill9("postgres-main");
  await eventually("main to answer", async () => (await slots()).length === 1);
  await restart();
  assert.deepEqual(await slots(), ["s"]);
});

test("a clean stop knows what was received, and its WAL goes on", async () => {
  await cluster.query(
    "main",
    "create table c (n int)",
    "create sequence counted",
    "select pg_create_logical_replication_slot('clean', 'test_decoding')",
    "insert into c values (1)",
  );
  assert.deepEqual(await changes("clean", "c"), [1]);
  await cluster.query("main", "select nextval('counted')");
  await restart();
  assert.deepEqual(await changes("clean", "c"), []);
  // Nothing else came into WAL while Postgres shut down, or it would have ended in a panic.
  assert.deepEqual(await cluster.query("main", "select nextval('counted')::int n"), [{ n: 2 }]);
  await cluster.query("main", "insert into c values (2)");
  await restart();
  assert.deepEqual(await changes("clean", "c"), [2]);
  await cluster.query("main", "select pg_drop_replication_slot('clean')");
});

test("a stop does not wait for who confirms nothing, and is a clean one", async () => {
  await cluster.query(
    "main",
    "create table d (n int)",
    "create sequence unconfirmed",
    "select pg_create_logical_replication_slot('unconfirmed', 'test_decoding')",
  );
  let received = 0;
  const stream = await LogicalStream.open(
    { connectionString: cluster.url() },
    { slot: "unconfirmed", from: INVALID_LSN, onData: () => received++ },
  );
  await cluster.query("main", "insert into d values (3)", "select nextval('unconfirmed')");
  await eventually("the row", () => received > 0);
  await cluster.ok("endpoint", "stop", "main");
  await assert.rejects(stream.ended, { code: "57P01" });
  await cluster.ok("endpoint", "start", "main");
  // What a stop that has run out of time does not save.
  assert.deepEqual(await cluster.query("main", "select nextval('unconfirmed')::int n"), [{ n: 2 }]);
  assert.deepEqual(await changes("unconfirmed", "d"), [3]);
  await cluster.query("main", "select pg_drop_replication_slot('unconfirmed')");
});

test("temporary and physical slots end with Postgres", async () => {
  const client = await connect(cluster.url());
  await client.query("select pg_create_logical_replication_slot('mine', 'test_decoding', true)");
  await client.query("select pg_create_physical_replication_slot('physical', true)");
  await cluster.kill9("postgres-main");
  await eventually("main to answer", async () => (await slots()).length === 1);
  await client.end().catch(() => undefined);
});

test("what was not received yet comes from WAL before the start, segment after segment", async () => {
  await cluster.query(
    "main",
    "create table u (n int)",
    "select pg_create_logical_replication_slot('old', 'test_decoding')",
  );
  for (let n = 1; n <= 4; n++) {
    await cluster.query("main", `insert into u values (${n})`, "select pg_switch_wal()");
  }
  await restart();
  await cluster.query("main", "insert into u values (5)");
  const walFiles = () =>
    readdirSync(
      join(runtimeDirectory(join(cluster.home, "endpoints", "main")), "pgdata", "pg_wal"),
    ).filter((name) => /^[0-9A-F]{24}/.test(name)).length;
  const before = walFiles();
  assert.deepEqual(await changes("old"), upTo(1, 5));
  assert.ok(walFiles() >= before + 3, `${before} segments became ${walFiles()}`);
  // L is the start of a segment then.
  await cluster.query("main", "insert into u values (6)", "select pg_switch_wal()");
  await restart("immediate");
  await cluster.query("main", "insert into u values (7)");
  const again = await changes("old");
  assert.deepEqual(again.slice(-2), [6, 7], "what was received may come again, as after a crash");
  await cluster.query("main", "select pg_drop_replication_slot('old')");
});

test("transactions around a crash: what a slot's snapshot knows is not forgotten", async () => {
  await cluster.query(
    "main",
    "create table w (n int)",
    "select pg_create_logical_replication_slot('snap', 'test_decoding')",
  );
  // It has an xid and never writes, so decoding has not heard of it, but each list of running transactions has it.
  const open = await connect(cluster.url());
  await open.query("begin");
  await open.query("select txid_current()");
  let n = 0;
  const received: number[] = [];
  for (let round = 0; round < 4; round++) {
    await cluster.query("main", `insert into w values (${++n})`, "checkpoint");
    received.push(...(await changes("snap", "w")));
  }
  assert.deepEqual(received, upTo(1, n));
  await cluster.query("main", `insert into w values (${++n})`, "checkpoint");
  await cluster.query("main", `insert into w values (${++n})`);
  await cluster.kill9("postgres-main");
  await eventually("main to answer", async () => (await slots()).includes("snap"));
  await open.end().catch(() => undefined);
  await cluster.query("main", `insert into w values (${++n})`, "checkpoint");
  const rest = await changes("snap", "w");
  assert.deepEqual(rest.slice(-3), upTo(n - 2, n));
  await cluster.query("main", "select pg_drop_replication_slot('snap')");
});

test("changes of catalogs that were rewritten before they are decoded", async () => {
  const statements = [
    "create table m (n int)",
    "select pg_create_logical_replication_slot('rewritten', 'test_decoding')",
    `begin; insert into m values (1); alter table m add column b text; insert into m values (2, 'two');
       alter table m alter column b type varchar(10); insert into m values (3, 'three'); commit`,
    "vacuum full pg_class",
    "vacuum full pg_attribute",
    "insert into m values (4, 'four')",
  ];
  await cluster.query("main", ...statements);
  await restart("immediate");
  // Without the transactions of which nothing is decoded: autovacuum has some on either side.
  const sql =
    "select data from pg_logical_slot_get_changes('rewritten', null, null, 'include-xids', 'off', 'skip-empty-xacts', 'on')";
  const rows = (await cluster.query("main", sql)).map(({ data }) => data);
  const stock = await StockCluster.create({ settings: { wal_level: "logical" } });
  try {
    await stock.start();
    const client = await stock.connect();
    for (const statement of statements) {
      await client.query(statement);
    }
    assert.deepEqual(
      rows,
      (await client.query(sql)).rows.map(({ data }) => data),
    );
  } finally {
    await stock.destroy();
  }
  await cluster.query("main", "select pg_drop_replication_slot('rewritten')");
});

test("a slot holds back vacuum from the start on", async () => {
  await cluster.query(
    "main",
    "select pg_create_logical_replication_slot('holds', 'test_decoding')",
    "create table gone (n int)",
    "drop table gone",
  );
  const xmin = async () => {
    const [row] = await cluster.query(
      "main",
      "select catalog_xmin::text x from pg_replication_slots where slot_name = 'holds'",
    );
    return row!["x"];
  };
  const before = await xmin();
  await restart("immediate");
  await cluster.query("main", "vacuum pg_class");
  assert.equal(await xmin(), before);
  await cluster.query("main", "select pg_drop_replication_slot('holds')");
});

test("a branch has no slot of its parent's, and may have its own of the same name", async () => {
  await publish();
  await arrived();
  await cluster.ok("branch", "create", "dev");
  await cluster.ok("endpoint", "create", "dev", "--branch-name", "dev", "-c", "wal_level=logical");
  await cluster.ok("endpoint", "start", "dev");
  assert.deepEqual(await slots("dev"), []);
  await cluster.query(
    "dev",
    "select pg_create_logical_replication_slot('s', 'test_decoding')",
    "create table v (n int)",
    "insert into v values (1)",
  );
  await cluster.ok("endpoint", "stop", "dev");
  await cluster.ok("endpoint", "start", "dev");
  const rows = await cluster.query(
    "dev",
    "select data from pg_logical_slot_get_changes('s', null, null)",
  );
  assert.ok(rows.some(({ data }) => String(data).includes("table public.v: INSERT")));
  await cluster.ok("endpoint", "stop", "dev");
  await publish();
  await arrived();
});

test("an endpoint with slots decodes whatever its settings say, and a read-only one has none", async () => {
  await cluster.ok("endpoint", "stop", "main");
  cluster.setPostgres("main", { wal_level: "replica", max_replication_slots: "1" });
  await cluster.ok("endpoint", "start", "main");
  await publish();
  await arrived();
  const [row] = await cluster.query("main", "select pg_current_wal_flush_lsn()::text lsn");
  await cluster.ok("endpoint", "create", "then", "--lsn", String(row!["lsn"]));
  await cluster.ok("endpoint", "start", "then");
  assert.deepEqual(await slots("then"), []);
  await cluster.ok("endpoint", "stop", "then");
  await atSubscriber.query("drop subscription s");
  assert.deepEqual(await slots(), []);
  await restart();
  assert.deepEqual(await slots(), []);
  await assert.rejects(
    cluster.query("main", "select pg_create_logical_replication_slot('x', 'test_decoding')"),
    /wal_level/,
  );
});
