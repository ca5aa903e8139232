// What a stop must not lose: sequences, statistics and free space maps go on as in a stock server that is restarted.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { sleep } from "../../src/base/clock.ts";
import { DEFAULT_MAJOR } from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { checkConsistency, withClient } from "../../testing/tpcb.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main");
  // What autovacuum does in between would be in the statistics, too.
  cluster.setPostgres("main", { autovacuum: "off" });
  await cluster.ok("endpoint", "start", "main");
});
after(() => cluster?.[Symbol.asyncDispose]());

async function one(endpoint: string, sql: string, database = "postgres"): Promise<unknown> {
  return withClient(cluster.url(endpoint, database), async (client) => {
    const { rows } = await client.query({ text: sql, rowMode: "array" });
    return rows[0]?.[0];
  });
}

async function restart(endpoint = "main"): Promise<void> {
  await cluster.ok("endpoint", "stop", endpoint);
  await cluster.ok("endpoint", "start", endpoint);
}

test("a clean stop: sequences go on with the next value", async () => {
  const unlogged = DEFAULT_MAJOR >= 15 ? ["create unlogged sequence u"] : [];
  await cluster.query(
    "main",
    "create sequence s",
    "create sequence by_ten increment 10 start 100 cache 3",
    "create sequence down increment -1",
    "create table ids(id serial primary key, v int generated always as identity)",
    ...unlogged,
    "create database other",
  );
  const next = (sequence: string, endpoint = "main") =>
    one(endpoint, `select nextval('${sequence}')::int`);
  assert.deepEqual([await next("s"), await next("s")], [1, 2]);
  assert.deepEqual([await next("by_ten"), await next("down")], [100, -1]);
  await cluster.query("main", "insert into ids default values");
  await withClient(cluster.url("main", "other"), async (client) => {
    await client.query("create sequence there");
    await client.query("select nextval('there') from generate_series(1, 40)");
  });
  await restart();
  assert.equal(await next("s"), 3);
  // The session had three of them, as in any Postgres.
  assert.equal(await next("by_ten"), 130);
  assert.equal(await next("down"), -2);
  assert.equal(await one("main", "insert into ids default values returning id"), 2);
  assert.equal(await one("main", "select nextval('there')::int", "other"), 41);

  // Used again, restarted again, and again not used.
  await restart();
  await restart();
  assert.equal(await next("s"), 4);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("branch", "create", "dev", "--start");
  assert.equal(await next("s", "dev"), 5);
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await next("s"), 5);
});

test("a crash: sequences skip what was not used, as in any Postgres, and never go back", async () => {
  await cluster.query("main", "create sequence c", "select nextval('c')");
  await restart();
  assert.equal(await one("main", "select nextval('c')::int"), 2);
  await cluster.query("main", "create table made_durable as select 1 as i");
  await cluster.kill9("agent-main");
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await one("main", "select nextval('c')::int"), 35);
});

test("a clean stop: statistics are there at the next start, and not after a crash", async () => {
  await cluster.query(
    "main",
    "create table counted as select generate_series(1, 1000) i",
    "update counted set i = i + 1 where i <= 100",
    "delete from counted where i > 900",
    "analyze counted",
  );
  const counts = (endpoint: string) =>
    one(
      endpoint,
      "select n_tup_ins || ' ' || n_tup_upd || ' ' || n_tup_del || ' ' || analyze_count from pg_stat_user_tables where relname = 'counted'",
    );
  await restart();
  const before = await counts("main");
  assert.match(String(before), /^1000 100 10[01] 1$/);
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("branch", "create", "counts", "--start");
  assert.equal(await counts("counts"), before, "a branch of a stopped one begins with them");
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await counts("main"), before);
  await cluster.query("main", "create table more as select 1 as i");
  await cluster.kill9("agent-main");
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await counts("main"), "0 0 0 0");
});

test("a clean stop: a table that is updated does not grow over suspends", async () => {
  await cluster.query(
    "main",
    "create table bloat(id int primary key, v text) with (fillfactor = 100)",
    "insert into bloat select i, repeat('x', 200) from generate_series(1, 4000) i",
    "update bloat set v = repeat('y', 200)",
    "vacuum bloat",
  );
  const blocks = () => one("main", "select (pg_relation_size('bloat') / 8192)::int");
  const first = Number(await blocks());
  for (let round = 0; round < 8; round++) {
    await restart();
    await cluster.query(
      "main",
      `update bloat set v = repeat(chr(97 + ${round}), 200) where id % 4 = ${round % 4}`,
      "vacuum bloat",
    );
  }
  const last = Number(await blocks());
  assert.ok(last <= first * 1.2, `${first} blocks became ${last}`);
  await checkConsistency(cluster.url());
});

test("a clean stop of a compute that did nothing saves no page", async () => {
  await restart();
  await one("main", "select count(*) from pg_class");
  await cluster.ok("endpoint", "stop", "main");
  const saved = cluster
    .log("endpoints/main/compute.log")
    .split("\n")
    .filter((line) => line.includes("saving what the shutdown left"))
    .map((line) => JSON.parse(line) as { pages: number });
  assert.equal(saved.at(-1)?.pages, 0);
  await cluster.ok("endpoint", "start", "main");
});

test("a stop in which Postgres crashes saves nothing", async () => {
  // On disk is what the checkpoint wrote; the value after it is in WAL only.
  await cluster.query(
    "main",
    "create sequence crashed",
    "select nextval('crashed')",
    "checkpoint",
    "select nextval('crashed')",
  );
  const checkpointer = await one(
    "main",
    "select pid from pg_stat_activity where backend_type = 'checkpointer'",
  );
  // It does not write the shutdown checkpoint.
  process.kill(Number(checkpointer), "SIGSTOP");
  const stopped = cluster.ok("endpoint", "stop", "main");
  await sleep(500);
  process.kill(Number(checkpointer), "SIGKILL");
  await stopped;
  await cluster.ok("endpoint", "start", "main");
  assert.equal(await one("main", "select nextval('crashed')::int"), 35);
});
