// Tablespaces, by location and in place: what is in them is there at every later start, on branches and in the past.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import type { EventEmitter } from "node:events";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import pg from "pg";
import {
  DEFAULT_MAJOR,
  findInstallation,
  postgresUser,
  runPostgresTool,
} from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { freePort } from "../../testing/free-port.ts";
import { makePostgresDirectory } from "../../testing/stock-cluster.ts";
import { checkConsistency, withClient } from "../../testing/tpcb.ts";

let cluster: TestCluster;
/** The user's directory: the location of tablespace `far`. */
let location: string;

before(async () => {
  cluster = await TestCluster.create();
  location = join(cluster.home, "..", "elsewhere");
  makePostgresDirectory(location);
  await cluster.startEndpoint();
  await run(
    "main",
    "postgres",
    "set allow_in_place_tablespaces = on",
    `create tablespace far location '${location}'`,
    "create tablespace near location ''",
    "create table f(i int, h text) tablespace far",
    "insert into f select i, md5(i::text) from generate_series(1, 20000) i",
    "create index on f(h) tablespace near",
    "create table n tablespace near as select generate_series(1, 5000) i",
    "create unlogged table u tablespace far as select 1 as i",
    "create table moved as select generate_series(1, 3000) i",
    "alter table moved set tablespace far",
    "create database inside tablespace far",
  );
  await run(
    "main",
    "inside",
    "create table t as select generate_series(1, 4000) i",
    "create table beside tablespace near as select generate_series(1, 2000) i",
  );
});
after(() => cluster?.[Symbol.asyncDispose]());

async function one(endpoint: string, sql: string, database = "postgres"): Promise<unknown> {
  return withClient(cluster.url(endpoint, database), async (client) => {
    const { rows } = await client.query({ text: sql, rowMode: "array" });
    return rows[0]?.[0];
  });
}

async function run(endpoint: string, database: string, ...statements: string[]): Promise<void> {
  await withClient(cluster.url(endpoint, database), async (client) => {
    for (const statement of statements) {
      await client.query(statement);
    }
  });
}

async function restart(endpoint = "main"): Promise<void> {
  await cluster.ok("endpoint", "stop", endpoint);
  await cluster.ok("endpoint", "start", endpoint);
}

/** What a stock server says of the same statements, but for what is measured in bytes. */
async function checkContent(endpoint: string, rows: number): Promise<void> {
  assert.equal(await one(endpoint, "select count(*)::int from f"), rows);
  assert.equal(await one(endpoint, "select i from f where h = md5('777')"), 777);
  assert.equal(await one(endpoint, "select count(*)::int from n"), 5000);
  assert.equal(await one(endpoint, "select count(*)::int from moved"), 3000);
  assert.equal(await one(endpoint, "select count(*)::int from t", "inside"), 4000);
  const locations = await one(
    endpoint,
    `select string_agg(spcname || ' ' ||
       regexp_replace(pg_tablespace_location(oid), 'pg_tblspc/\\d+', 'pg_tblspc/N'), ', ' order by spcname)
       from pg_tablespace where oid >= 16384`,
  );
  // Up to 14 Postgres has no words for one in place.
  assert.equal(locations, `far ${location}, near pg_tblspc/N`);
  assert.ok(Number(await one(endpoint, "select pg_tablespace_size('far')")) > 8192 * 100);
  assert.ok(Number(await one(endpoint, "select pg_tablespace_size('near')")) > 8192 * 20);
  assert.ok(Number(await one(endpoint, "select pg_database_size('inside')")) > 5_000_000);
  assert.deepEqual(readdirSync(location), [], "nothing is in the location itself");
}

test("tablespaces: made, filled and moved into; all of it after a start on an empty cache", async () => {
  await checkContent("main", 20000);
  await restart();
  await checkContent("main", 20000);
  assert.equal(await one("main", "select count(*)::int from u"), 0);
  await checkConsistency(cluster.url());
  await checkConsistency(cluster.url("main", "inside"));
});

test("tablespaces: temporary tables and files, and what stock refuses", async () => {
  await withClient(cluster.url(), async (client) => {
    await client.query("set temp_tablespaces = far, near");
    await client.query("create temp table tt as select generate_series(1, 5000) i");
    await client.query("set work_mem = '64kB'");
    const { rows } = await client.query(
      "select count(*)::int c from (select i from f order by h, i offset 0) s",
    );
    assert.equal(rows[0].c, 20000);
  });
  const none = join(location, "none");
  await assert.rejects(run("main", "postgres", `create tablespace a location '${none}'`), {
    message: `directory "${none}" does not exist`,
  });
  await assert.rejects(run("main", "postgres", `create tablespace a location '${location}'`), {
    message: /directory ".*" already in use as a tablespace/,
  });
  await assert.rejects(run("main", "postgres", "drop tablespace far"), {
    message: /tablespace "far" (is not empty|cannot be dropped)/,
  });
});

test("tablespaces: a branch has its own files of the same location, the past its own rows", async () => {
  const [at] = await cluster.query("main", "select pg_current_wal_flush_lsn() as lsn");
  await cluster.ok("endpoint", "create", "past", "--lsn", `${at!["lsn"]}`);
  await cluster.ok("branch", "create", "dev", "--start");
  await checkContent("dev", 20000);
  await run("dev", "postgres", "delete from f where i > 5000", "vacuum full f");
  await run("main", "postgres", "insert into f select i, 'later' from generate_series(1, 1000) i");
  await checkContent("dev", 5000);
  await checkContent("main", 21000);
  await restart("dev");
  await checkContent("dev", 5000);
  await run("main", "postgres", "delete from f where h = 'later'");
  await cluster.ok("endpoint", "start", "past");
  await checkContent("past", 20000);
  await cluster.ok("endpoint", "stop", "past");
});

// Up to 15 Postgres's own base backups leave out those in place.
const whole = { skip: DEFAULT_MAJOR < 16 };
test("tablespaces: a base backup has them, and stock Postgres goes on from it", whole, async () => {
  const directory = join(cluster.home, "..", "backup");
  const archives = await baseBackup();
  makePostgresDirectory(directory);
  const oidOf = (name: string) =>
    one("main", `select oid::int from pg_tablespace where spcname = '${name}'`);
  const [far, near] = [await oidOf("far"), await oidOf("near")];
  unpack(archives.get("base.tar")!, directory);
  unpack(archives.get(`${far}.tar`)!, location);
  makePostgresDirectory(join(directory, `pg_tblspc/${near}`));
  unpack(archives.get(`${near}.tar`)!, join(directory, `pg_tblspc/${near}`));
  assert.deepEqual(
    readdirSync(directory).filter((name) => name.startsWith("pgsql_tmp")),
    [],
    "what computes alone have is not in it",
  );
  const installation = findInstallation(DEFAULT_MAJOR);
  const port = await freePort();
  const options = `-c port=${port} -c unix_socket_directories='' -c listen_addresses=127.0.0.1 -c fsync=off`;
  const control = (...args: string[]) =>
    runPostgresTool(installation, "pg_ctl", ["-D", directory, "-w", ...args]);
  const allowed = "-c allow_in_place_tablespaces=on";
  await control("-l", join(directory, "log"), "-o", `${options} ${allowed}`, "start");
  try {
    const url = `postgresql://cloud_admin:${cluster.password()}@127.0.0.1:${port}/postgres`;
    const count = (table: string) =>
      withClient(
        url,
        async (client) =>
          (await client.query(`select count(*)::int c from ${table}`)).rows[0].c as number,
      );
    assert.deepEqual(
      [await count("f"), await count("n"), await count("moved")],
      [20000, 5000, 3000],
    );
  } finally {
    await control("-m", "fast", "stop");
    execFileSync("find", [location, "-mindepth", "1", "-delete"]);
  }
});

test("tablespaces: emptied and dropped, and their names and locations used again", async () => {
  await restart();
  await run("main", "postgres", "alter database inside set tablespace pg_default");
  // That its database has a new directory elsewhere says nothing of this one.
  assert.equal(await one("main", "select count(*)::int from beside", "inside"), 2000);
  await run("main", "inside", "drop table beside");
  await run(
    "main",
    "postgres",
    "alter table all in tablespace far set tablespace near",
    "alter index all in tablespace near set tablespace pg_default",
    "drop table u",
    "drop tablespace far",
  );
  assert.equal(await one("main", "select count(*)::int from pg_tablespace"), 3);
  await restart();
  assert.equal(await one("main", "select count(*)::int from f"), 20000);
  assert.equal(await one("main", "select count(*)::int from t", "inside"), 4000);
  await run(
    "main",
    "postgres",
    `create tablespace far location '${location}'`,
    "create table again tablespace far as select generate_series(1, 10) i",
    "alter database inside set tablespace near",
  );
  await restart();
  assert.equal(await one("main", "select count(*)::int from again"), 10);
  assert.equal(await one("main", "select count(*)::int from t", "inside"), 4000);
  await run("main", "postgres", "drop database inside", "drop table again", "drop tablespace far");
  await checkConsistency(cluster.url());
});

test("tablespaces: what the WAL of a transaction that did not commit has left does no harm", async () => {
  const another = join(cluster.home, "..", "another");
  makePostgresDirectory(another);
  await run("main", "postgres", `create tablespace other location '${another}'`);
  await withClient(cluster.url(), async (client) => {
    await client.query("begin");
    await client.query("create table lost tablespace other as select generate_series(1, 1000) i");
    await cluster.query("main", "create table after_it as select 1 as i");
    await cluster.kill9("agent-main");
  }).catch(() => undefined);
  await cluster.ok("endpoint", "start", "main");
  await run("main", "postgres", "create table kept tablespace other as select 1 as i");
  await restart();
  assert.equal(await one("main", "select count(*)::int from kept"), 1);
  assert.equal(await one("main", "select to_regclass('lost')"), null);
});

/** BASE_BACKUP of main: the archives by name. */
async function baseBackup(): Promise<Map<string, Buffer>> {
  const archives = new Map<string, Buffer[]>();
  let current: Buffer[] = [];
  const client = new pg.Client({
    connectionString: cluster.url(),
    replication: "true",
  } as pg.ClientConfig);
  await client.connect();
  const { connection } = client as unknown as { connection: EventEmitter };
  connection.on("copyData", ({ chunk }: { chunk: Buffer }) => {
    if (chunk[0] === "n".charCodeAt(0)) {
      current = [];
      archives.set(chunk.subarray(1, chunk.indexOf(0)).toString(), current);
    } else if (chunk[0] === "d".charCodeAt(0)) {
      current.push(Buffer.from(chunk.subarray(1)));
    }
  });
  await client.query("BASE_BACKUP (LABEL 'b', CHECKPOINT 'fast', WAL true, TABLESPACE_MAP true)");
  await client.end();
  return new Map([...archives].map(([name, parts]) => [name, Buffer.concat(parts)]));
}

function unpack(archive: Buffer, directory: string): void {
  const user = postgresUser();
  execFileSync("tar", ["-xf", "-", "-C", directory], {
    input: archive,
    ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
  });
}
