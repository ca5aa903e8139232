// DDL and everything else that is not a plain row change, each checked again on a compute that starts afresh.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { TestCluster } from "../testing/cluster.ts";
import {
  checkConsistency,
  checkTpcb,
  initializeTpcb,
  TpcbLoad,
  withClient,
} from "../testing/tpcb.ts";

let cluster: TestCluster;

before(async () => {
  cluster = await TestCluster.create();
  await cluster.ok("endpoint", "create", "main");
  // Two-phase commit needs it; the default is Postgres's own, 0. A vacuum leaves what the snapshot of an automatic ANALYZE may see.
  cluster.setPostgres("main", { max_prepared_transactions: "10", autovacuum: "off" });
  await cluster.ok("endpoint", "start", "main");
});
after(() => cluster?.[Symbol.asyncDispose]());

async function restart(): Promise<void> {
  await cluster.ok("endpoint", "stop", "main");
  await cluster.ok("endpoint", "start", "main");
}

async function one(sql: string, database = "postgres"): Promise<unknown> {
  return withClient(cluster.url("main", database), async (client) => {
    const { rows } = await client.query({ text: sql, rowMode: "array" });
    return rows[0]?.[0];
  });
}

async function run(database: string, ...statements: string[]): Promise<void> {
  await withClient(cluster.url("main", database), async (client) => {
    for (const statement of statements) {
      await client.query(statement);
    }
  });
}

test("databases: create with both strategies from a filled template, drop, over restarts", async () => {
  await run("postgres", "create database source");
  await run(
    "source",
    "create table t as select i, md5(i::text) as h from generate_series(1, 20000) i",
  );
  await run("source", "create index on t(h)", "create unlogged table u as select 1 as x");
  // Before 15 there is one way, file by file.
  const strategy = (name: string) => (DEFAULT_MAJOR >= 15 ? `strategy ${name}` : "");
  await run(
    "postgres",
    `create database by_log template source ${strategy("wal_log")}`,
    `create database by_copy template source ${strategy("file_copy")}`,
  );
  const sizes = await one(
    "select array_agg(pg_database_size(datname) order by datname)::text from pg_database where datname like 'by_%'",
  );
  await restart();
  for (const database of ["source", "by_log", "by_copy"]) {
    assert.equal(await one("select count(*)::int from t", database), 20000, database);
    assert.equal(await one("select i from t where h = md5('777')", database), 777, database);
    assert.equal(
      await one("select count(*)::int from u", database),
      0,
      "unlogged tables start empty",
    );
    await checkConsistency(cluster.url("main", database));
  }
  assert.ok(sizes);
  await run("postgres", "drop database source", "drop database by_log");
  await restart();
  assert.equal(
    await one(
      "select count(*)::int from pg_database where datname in ('source','by_log','by_copy')",
    ),
    1,
  );
  await run("postgres", "drop database by_copy", "create database by_copy");
  assert.equal(await one("select to_regclass('t')", "by_copy"), null);
});

test("pg_relation_size and pg_database_size: the same on a compute that starts afresh", async () => {
  await run(
    "postgres",
    "create table sized as select i, repeat('x', 100) p from generate_series(1, 50000) i",
    "checkpoint",
  );
  const relation = (await one("select pg_relation_size('sized')::int / 8192")) as number;
  const used = (await one("select max((ctid::text::point)[0])::int + 1 from sized")) as number;
  const database = (await one("select pg_database_size('postgres')::int")) as number;
  await restart();
  // Bulk extension adds empty blocks at the end that no WAL speaks of; stock loses them in a crash too.
  const after = (await one("select pg_relation_size('sized')::int / 8192")) as number;
  assert.ok(after >= used && after <= relation, `${used} <= ${after} <= ${relation}`);
  assert.equal(await one("select count(*)::int from sized"), 50000);
  // Free space maps are advisory and not kept.
  const afterDatabase = (await one("select pg_database_size('postgres')::int")) as number;
  assert.ok(Math.abs(afterDatabase - database) < 0.2 * database, `${afterDatabase} vs ${database}`);
});

test("rewrites: vacuum full, cluster, reindex, truncate with and without rollback", async () => {
  await run(
    "postgres",
    "create table w(id int primary key, v text)",
    "insert into w select i, md5(i::text) from generate_series(1, 30000) i",
    "delete from w where id % 3 = 0",
    "vacuum full w",
    "create index w_v on w(v)",
    "cluster w using w_v",
    "reindex table w",
    "reindex index concurrently w_v",
    "vacuum freeze w",
    "create table tr as select generate_series(1, 1000) i",
    "begin",
    "truncate tr",
    "insert into tr values (1)",
    "rollback",
    "create table tr2 as select generate_series(1, 1000) i",
    "truncate tr2",
    "insert into tr2 values (42)",
  );
  await restart();
  assert.equal(await one("select count(*)::int from w"), 20000);
  assert.equal(await one("select count(*)::int from tr"), 1000);
  assert.equal(await one("select i from tr2"), 42);
  await checkConsistency(cluster.url());
});

test("truncation by vacuum: blocks that went stay away after a restart and the table grows again", async () => {
  await run(
    "postgres",
    "create table shrink as select i, repeat('x', 500) p from generate_series(1, 20000) i",
    "delete from shrink where i > 1000",
    "vacuum shrink",
  );
  const blocks = (await one("select pg_relation_size('shrink')::int / 8192")) as number;
  assert.ok(blocks < 200, `${blocks} blocks are left`);
  await restart();
  assert.equal(await one("select pg_relation_size('shrink')::int / 8192"), blocks);
  await run(
    "postgres",
    "insert into shrink select i, repeat('y', 500) from generate_series(1, 20000) i",
  );
  await restart();
  assert.equal(await one("select count(*)::int from shrink"), 21000);
  assert.equal(await one("select count(*)::int from shrink where p like 'y%'"), 20000);
});

test("temporary and unlogged tables work, and unlogged ones are empty after a restart", async () => {
  await withClient(cluster.url(), async (client) => {
    await client.query("create temp table tt as select generate_series(1, 5000) i");
    await client.query("create index on tt(i)");
    assert.equal((await client.query("select i from tt where i = 4321")).rows[0].i, 4321);
  });
  await run(
    "postgres",
    "create unlogged table ul(i int primary key)",
    "insert into ul select generate_series(1, 5000)",
  );
  assert.equal(await one("select count(*)::int from ul"), 5000);
  await restart();
  assert.equal(await one("select count(*)::int from ul"), 0);
  await run("postgres", "insert into ul values (1)");
  assert.equal(await one("select count(*)::int from ul"), 1);
});

test("every index method answers as a sequential scan does, on a compute that starts afresh", async () => {
  await run(
    "postgres",
    "create extension if not exists bloom",
    `create table ix as select i, md5(i::text) as m, array[i % 10, i % 77] as a,
       point(i % 300, i % 7) as p, int4range(i, i + 10) as r, ('10.0.' || i % 256 || '.1')::inet as n
     from generate_series(1, 20000) i`,
    "create index on ix using hash (m)",
    "create index on ix using gin (a)",
    "create index on ix using gist (p)",
    "create index on ix using spgist (n)",
    "create index on ix using brin (i)",
    "create index on ix using bloom (i)",
    "insert into ix select i, md5(i::text), array[i % 10], point(i % 300, 1), null, null from generate_series(20001, 30000) i",
    "delete from ix where i % 5 = 0",
    "vacuum ix",
    "update ix set m = md5(m) where i % 9 = 0",
  );
  await restart();
  const questions = [
    ["hash", "m = md5('777')"],
    ["gin", "a @> array[7]"],
    ["gist", "p <@ box '((0,0),(20,3))'"],
    ["spgist", "n << '10.0.8.0/22'"],
    ["brin", "i between 5000 and 5100"],
    ["bloom", "i = 7777"],
  ] as const;
  await withClient(cluster.url(), async (client) => {
    for (const [method, where] of questions) {
      const answers: string[] = [];
      for (const sequential of ["on", "off"]) {
        await client.query(`set enable_seqscan = ${sequential}`);
        for (const kind of ["indexscan", "bitmapscan", "indexonlyscan"]) {
          await client.query(`set enable_${kind} = ${sequential === "on" ? "off" : "on"}`);
        }
        const { rows } = await client.query(
          `select count(*) || ':' || coalesce(sum(i), 0) as digest from ix where ${where}`,
        );
        answers.push(rows[0].digest);
      }
      assert.equal(answers[1], answers[0], method);
      assert.notEqual(answers[0], "0:0", method);
    }
  });
});

test("two-phase commit: a prepared transaction survives a restart and keeps its locks", async () => {
  await run(
    "postgres",
    "create table tp(i int primary key, v int)",
    "insert into tp select i, 0 from generate_series(1, 10) i",
  );
  await run("postgres", "begin", "update tp set v = 1 where i = 1", "prepare transaction 'one'");
  await run(
    "postgres",
    "begin",
    "savepoint s",
    "update tp set v = 2 where i = 2",
    "release s",
    "prepare transaction 'two'",
  );
  await restart();
  assert.equal(
    await one("select string_agg(gid, ',' order by gid) from pg_prepared_xacts"),
    "one,two",
  );
  assert.equal(await one("select sum(v)::int from tp"), 0);
  await assert.rejects(
    run("postgres", "set lock_timeout = '200ms'", "update tp set v = 9 where i = 1"),
    /lock timeout/,
  );
  await run("postgres", "commit prepared 'one'");
  await restart();
  await run("postgres", "rollback prepared 'two'");
  await restart();
  assert.equal(await one("select string_agg(v::text, ',' order by i) from tp where i <= 2"), "1,0");
  assert.equal(await one("select count(*)::int from pg_prepared_xacts"), 0);
});

test("large objects, toast, sequences, pg_switch_wal, subtransactions, multixacts", async () => {
  await run(
    "postgres",
    "create table lo(oid oid)",
    "insert into lo select lo_from_bytea(0, decode(repeat('ab', 300000), 'hex'))",
    "create table toasty as select i, (select string_agg(md5((i * j)::text), '') from generate_series(1, 500) j) big from generate_series(1, 50) i",
    "create sequence sq",
    "select nextval('sq') from generate_series(1, 100)",
    "select pg_switch_wal()",
    "create table parent(id int primary key)",
    "create table child(id int references parent)",
    "insert into parent select generate_series(1, 10)",
    "select pg_switch_wal()",
  );
  await withClient(cluster.url(), async (a) => {
    await withClient(cluster.url(), async (b) => {
      for (const client of [a, b]) {
        await client.query("begin");
        await client.query("savepoint x");
        await client.query("insert into child values (1), (2), (3)");
      }
      await a.query("commit");
      await b.query("rollback to x");
      await b.query("commit");
    });
  });
  const digest = await one("select md5(string_agg(big, '' order by i)) from toasty");
  await restart();
  assert.equal(await one("select length(lo_get(oid)) from lo"), 300000);
  assert.equal(await one("select md5(string_agg(big, '' order by i)) from toasty"), digest);
  assert.ok(Number(await one("select nextval('sq')")) > 100);
  assert.equal(await one("select count(*)::int from child"), 3);
  await run("postgres", "update parent set id = id + 100 where id > 5");
  await checkConsistency(cluster.url());
});

test("create index, plain and concurrently, while TPC-B runs", async () => {
  await initializeTpcb(cluster.url());
  const load = new TpcbLoad(cluster.url(), { clients: 4 });
  await load.progress(100);
  await run("postgres", "create index on pgbench_accounts(abalance)");
  await run("postgres", "create index concurrently on pgbench_history(aid)");
  await run("postgres", "vacuum pgbench_accounts", "reindex table concurrently pgbench_accounts");
  await load.progress(100);
  await load.stop();
  await checkTpcb(cluster.url(), load.acknowledged);
  await restart();
  await checkTpcb(cluster.url(), load.acknowledged);
  await checkConsistency(cluster.url());
});

test("4,000 tables: the start of an endpoint does not grow with them", async () => {
  const startMs = async () => {
    await cluster.ok("endpoint", "stop", "main");
    const before = performance.now();
    await cluster.ok("endpoint", "start", "main");
    assert.equal(await one("select 1"), 1);
    return performance.now() - before;
  };
  // The best of some: the machine is shared, and only what we add can never get smaller.
  const few = Math.min(await startMs(), await startMs(), await startMs());
  await withClient(cluster.url(), async (client) => {
    for (let i = 0; i < 40; i++) {
      await client.query(`do $$ begin for j in 1..100 loop
        execute format('create table many_%s(id int primary key, v text)', ${i * 100} + j); end loop; end $$`);
    }
  });
  const limit = few * 1.5 + 250;
  const many: number[] = [];
  while (many.length < 15 && Math.min(...many) >= limit) {
    many.push(await startMs());
  }
  assert.ok(
    Math.min(...many) < limit,
    `start took ${few.toFixed(0)} ms before, ${many.map(Math.round).join(", ")} ms with 4,000 tables`,
  );
  await run("postgres", "insert into many_3000 values (1, 'x')");
  await restart();
  assert.equal(await one("select v from many_3000"), "x");
  assert.equal(
    await one("select count(*)::int from pg_class where relname like 'many_%' and relkind = 'r'"),
    4000,
  );
});
