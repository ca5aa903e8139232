// What waits for storage, and storage does not answer: cancel, timeouts, terminate and shutdown act as in stock Postgres.

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import type pg from "pg";
import { NO_QUORUM, ShimmedPostgres } from "../../../testing/compute/shimmed-postgres.ts";
import { eventually } from "../../../testing/eventually.ts";
import { removeRemoteFiles, StockPages } from "../../../testing/redo/stock-pages.ts";
import { copyTree, makePostgresDirectory, StockCluster } from "../../../testing/stock-cluster.ts";
import { sleep } from "../../base/clock.ts";
import { errnoCode, errorMessage } from "../../base/errors.ts";
import { type StorageFile, storagePath } from "../../postgres/relation-path.ts";

/** "Within a second", and what a busy machine needs besides. */
const SOON_MS = 20_000;
const QUERY_CANCELED = "57014";
const ADMIN_SHUTDOWN = "57P01";
const ROWS = 4000;
/** A page of pg_xact has the states of so many transactions. */
const XIDS_PER_PAGE = 32_768;

/** Storage that can fall silent, about all or some files. */
class SilentPages extends StockPages {
  #silence: PromiseWithResolvers<void> | undefined;
  #about = "";
  waiting = 0;

  fallSilent(about = ""): void {
    this.#silence ??= Promise.withResolvers();
    this.#about = about;
  }

  speak(): void {
    this.#silence?.resolve();
    this.#silence = undefined;
  }

  async #heard(file: StorageFile): Promise<void> {
    if (this.#silence !== undefined && storagePath(file).startsWith(this.#about)) {
      this.waiting++;
      await this.#silence.promise;
      this.waiting--;
    }
  }

  override async stat(file: StorageFile): Promise<number | undefined> {
    await this.#heard(file);
    return super.stat(file);
  }

  override async readPages(file: StorageFile, blkno: number, count: number): Promise<Uint8Array> {
    await this.#heard(file);
    return super.readPages(file, blkno, count);
  }
}

async function useXids(client: pg.Client): Promise<void> {
  await client.query(`DO $$ BEGIN FOR i IN 1..${XIDS_PER_PAGE} LOOP
    BEGIN INSERT INTO xids VALUES (i); EXCEPTION WHEN division_by_zero THEN NULL; END; END LOOP; END $$`);
}

let stock: StockCluster;
let copies = 0;
let pages: SilentPages;
let postgres: ShimmedPostgres;

before(async () => {
  stock = await StockCluster.create();
  await stock.start();
  const client = await stock.connect();
  await client.query(`
    CREATE TABLE unhinted (i int) WITH (autovacuum_enabled = off);
    CREATE TABLE xids (i int);
    CREATE TABLE big (i int PRIMARY KEY, pad text);
    INSERT INTO big SELECT i, repeat('x', 1000) FROM generate_series(1, ${ROWS}) i;
    CREATE TABLE cold AS SELECT 1 AS i`);
  // Onto a page of pg_xact on which neither catalogs nor what is current have transactions.
  await useXids(client);
  await client.query("INSERT INTO unhinted VALUES (1)");
  await useXids(client);
  await client.query("VACUUM FREEZE big");
  await client.query("VACUUM FREEZE cold");
  await client.query("ANALYZE big");
  await stock.stop();
});

after(async () => {
  await stock?.destroy();
});

beforeEach(async () => {
  const workdir = stock.place(String(++copies));
  const dataDirectory = join(workdir, "data");
  makePostgresDirectory(workdir);
  copyTree(stock.dataDir, dataDirectory);
  removeRemoteFiles(dataDirectory);
  pages = new SilentPages(stock.dataDir);
  postgres = await ShimmedPostgres.start({
    installation: stock.installation,
    workdir,
    dataDirectory,
    pages,
    wal: NO_QUORUM,
    settings: { autovacuum: "off" },
  });
});

afterEach(async () => {
  pages.speak();
  await postgres.stop("SIGQUIT");
});

/** A session whose catalogs are read, so that of a query of `relations` only blocks of theirs are missing. */
async function session(...relations: string[]): Promise<{ client: pg.Client; pid: number }> {
  const client = await postgres.connect();
  const { rows } = await client.query(
    "SELECT pg_backend_pid() AS pid, pg_cancel_backend(-1), pg_terminate_backend(-1)",
  );
  for (const relation of relations) {
    await client.query(`EXPLAIN SELECT * FROM ${relation} WHERE i = 1`);
  }
  return { client, pid: (rows[0] as { pid: number }).pid };
}

/** The SQLSTATE and text that `query` fails with, observed from now on. */
async function failure(query: Promise<unknown>) {
  try {
    await query;
    return undefined;
  } catch (error) {
    return { code: errnoCode(error) ?? "", message: errorMessage(error) };
  }
}

async function soon<T>(what: Promise<T>): Promise<T> {
  const timer = new AbortController();
  const late = sleep(SOON_MS, timer.signal).then(
    () => assert.fail(`not within ${SOON_MS} ms`),
    () => undefined as never,
  );
  try {
    return await Promise.race([what, late]);
  } finally {
    timer.abort();
  }
}

const until = <T>(what: string, holds: () => T | Promise<T>) =>
  eventually(what, holds, { timeoutMs: SOON_MS });

/** Everything is there once storage speaks again, for those who waited and for others. */
async function checkAll(...clients: pg.Client[]): Promise<void> {
  pages.speak();
  for (const client of [...clients, await postgres.connect()]) {
    const { rows } = await client.query(
      "SELECT count(*)::int AS n, sum(i)::int AS sum, min(length(pad)) AS pad FROM big",
    );
    assert.deepEqual(rows[0], { n: ROWS, sum: (ROWS * (ROWS + 1)) / 2, pad: 1000 });
    const lookup = await client.query("SELECT length(pad) AS pad FROM big WHERE i = 1234");
    assert.deepEqual(lookup.rows, [{ pad: 1000 }]);
    assert.equal((await client.query("SELECT i FROM unhinted")).rowCount, 1);
    assert.equal((await client.query("SELECT i FROM cold")).rowCount, 1);
  }
  assert.equal(await postgres.stop(), "exit code 0");
}

/** What has to wait, by what Postgres waits for; and in which files that is. */
const WAITS: readonly { what: string; sql: string; relation: string; silent: string }[] = [
  { what: "a scan", sql: "SELECT sum(i) FROM big", relation: "big", silent: "base/" },
  {
    what: "a look-up by index",
    sql: "SELECT pad FROM big WHERE i = 1234",
    relation: "big",
    silent: "base/",
  },
  {
    // With a lock of shared memory held, so that Postgres holds off interrupts.
    what: "a transaction's state",
    sql: "SELECT i FROM unhinted",
    relation: "unhinted",
    silent: "pg_xact/",
  },
];

for (const { what, sql, relation, silent } of WAITS) {
  test(`statement_timeout ends the wait for ${what}`, async () => {
    const { client } = await session(relation);
    await client.query("SET statement_timeout = 1000");
    pages.fallSilent(silent);
    for (let round = 0; round < 3; round++) {
      const error = await soon(failure(client.query(sql)));
      assert.match(error?.message ?? "", /canceling statement due to statement timeout/);
      assert.equal(error?.code, QUERY_CANCELED);
      assert.ok(pages.waiting > round);
    }
    await client.query("SET statement_timeout = 0");
    await checkAll(client);
  });
}

test("pg_cancel_backend ends the wait for a file's size, and the session goes on", async () => {
  const { client, pid } = await session();
  const { client: other } = await session();
  pages.fallSilent();
  const failed = failure(client.query("SELECT pg_relation_size('cold')"));
  await until("a question to storage", () => pages.waiting > 0);
  await other.query(`SELECT pg_cancel_backend(${pid})`);
  const error = await soon(failed);
  assert.equal(error?.code, QUERY_CANCELED);
  assert.match(error?.message ?? "", /canceling statement due to user request/);
  assert.deepEqual((await client.query("SELECT 1 AS one")).rows, [{ one: 1 }]);
  await checkAll(client, other);
});

test("no WHEN OTHERS swallows a cancel", async () => {
  const { client, pid } = await session("big");
  const { client: other } = await session();
  await client.query(`DO $$ BEGIN EXCEPTION WHEN OTHERS THEN NULL; END $$`);
  pages.fallSilent();
  const failed = failure(
    client.query(
      `DO $$ BEGIN PERFORM count(*) FROM big; EXCEPTION WHEN OTHERS THEN RAISE NOTICE 'swallowed'; END $$`,
    ),
  );
  await until("a question to storage", () => pages.waiting > 0);
  await other.query(`SELECT pg_cancel_backend(${pid})`);
  assert.equal((await soon(failed))?.code, QUERY_CANCELED);
  await checkAll(client, other);
});

test("sessions that wait for blocks which another session fetches can be cancelled as well", async () => {
  const sessions = await Promise.all(Array.from({ length: 6 }, () => session("big")));
  for (const { client } of sessions) {
    await client.query("SET statement_timeout = 500");
  }
  pages.fallSilent();
  const errors = await soon(
    Promise.all(
      sessions.map(({ client }, i) =>
        failure(
          client.query(
            i % 2 === 0
              ? "SELECT sum(length(pad)) FROM big"
              : `SELECT pad FROM big WHERE ctid IN ('(${i},1)', '(${i + 1},1)', '(${i + 2},1)')`,
          ),
        ),
      ),
    ),
  );
  assert.deepEqual(
    errors.map((error) => error?.code),
    errors.map(() => QUERY_CANCELED),
  );
  for (const { client } of sessions) {
    await client.query("SET statement_timeout = 0");
  }
  await checkAll(...sessions.map(({ client }) => client));
});

for (const { what, sql, relation, silent } of WAITS) {
  test(`pg_terminate_backend ends a session that waits for ${what}, temporary tables and all`, async () => {
    const { client, pid } = await session(relation);
    await client.query("CREATE TEMP TABLE temporary (i int PRIMARY KEY, t text)");
    const { client: other } = await session();
    pages.fallSilent(silent);
    const failed = failure(client.query(sql));
    await until("a question to storage", () => pages.waiting > 0);
    await other.query(`SELECT pg_terminate_backend(${pid})`);
    assert.equal((await soon(failed))?.code, ADMIN_SHUTDOWN);
    await until("the process's end", () => !isAlive(pid));
    await checkAll(other);
  });
}

test("a client that goes away takes its session with it, where client_connection_check_interval is set", async () => {
  const { client, pid } = await session("big");
  await client.query("SET client_connection_check_interval = 100");
  pages.fallSilent();
  client.query("SELECT sum(i) FROM big").catch(() => undefined);
  await until("a question to storage", () => pages.waiting > 0);
  (
    client as unknown as { connection: { stream: { destroy(): void } } }
  ).connection.stream.destroy();
  await until("the process's end", () => !isAlive(pid));
  await checkAll();
});

test("a fast shutdown does not wait for storage", async () => {
  const sessions = await Promise.all(WAITS.map(({ relation }) => session(relation)));
  await sessions[0]!.client.query("INSERT INTO cold VALUES (2)");
  pages.fallSilent();
  const failures = Promise.all(
    sessions.map(({ client }, i) => failure(client.query(WAITS[i]!.sql))),
  );
  // A new session waits for the catalogs of its database.
  const connecting = postgres.connect("template1").catch(() => undefined);
  await until("questions to storage", () => pages.waiting > 2);
  await sleep(100);
  postgres.process.kill("SIGINT");
  assert.equal(await soon(postgres.exited), "exit code 0");
  for (const error of await failures) {
    assert.equal(error?.code, ADMIN_SHUTDOWN);
  }
  await connecting;
  await postgres.stop();
});

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    assert.equal(errnoCode(error), "ESRCH");
    return false;
  }
}
