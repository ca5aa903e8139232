// The shim under a real Postgres: lazily filled relations, and commits that wait for the agent.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type pg from "pg";
import { NO_QUORUM, ShimmedPostgres } from "../../../testing/compute/shimmed-postgres.ts";
import { eventually } from "../../../testing/eventually.ts";
import { removeRemoteFiles, StockPages } from "../../../testing/redo/stock-pages.ts";
import {
  copyTree,
  makePostgresDirectory,
  StockCluster,
  writePostgresFile,
} from "../../../testing/stock-cluster.ts";
import { sleep } from "../../base/clock.ts";
import { errnoCode } from "../../base/errors.ts";
import { processIds } from "../../base/proc.ts";
import { DEFAULT_MAJOR } from "../../postgres/installation.ts";
import { FilePlacement, StartReads } from "../pages/start-reads.ts";
import type { CacheUsage } from "./cache-counters.ts";
import type { PlacedFile, WalHandlers } from "./shim-server.ts";

const ACCOUNTS = 40_000;
const SUMS =
  "SELECT count(*)::int AS n, sum(balance)::int AS sum, md5(string_agg(filler, '' ORDER BY id)) AS filler FROM accounts";

let stock: StockCluster;
let expected: unknown;
let copies = 0;

before(async () => {
  stock = await StockCluster.create();
  await stock.start();
  const client = await stock.connect();
  await client.query(`
    CREATE EXTENSION amcheck;
    CREATE TABLE accounts (id int PRIMARY KEY, branch int, balance int, filler text);
    INSERT INTO accounts SELECT i, i % 10, 0, md5(i::text) FROM generate_series(1, ${ACCOUNTS}) i;
    CREATE INDEX ON accounts (branch);
    CREATE TABLE history (id bigserial PRIMARY KEY, account int REFERENCES accounts, delta int);
    CREATE TABLE tail AS SELECT i, repeat('x', 500) AS pad FROM generate_series(1, 20000) i;
    CREATE UNLOGGED TABLE scratch (i int PRIMARY KEY);
    INSERT INTO scratch SELECT generate_series(1, 1000)`);
  await client.query("VACUUM ANALYZE");
  await client.query("CREATE DATABASE second");
  const second = await stock.connect("second");
  await second.query("CREATE TABLE t AS SELECT generate_series(1, 5000) AS i");
  expected = (await client.query(SUMS)).rows[0];
  await stock.stop();
});

after(async () => {
  await stock?.destroy();
});

interface Started {
  readonly postgres: ShimmedPostgres;
  readonly pages: StockPages;
  readonly dataDirectory: string;
}

async function start(
  options: {
    wal?: WalHandlers;
    walMode?: "quorum" | "none";
    standby?: boolean;
    settings?: Record<string, string>;
    localCacheBytes?: number;
    place?: (dataDirectory: string, pages: StockPages) => Promise<readonly PlacedFile[]>;
  } = {},
): Promise<Started> {
  const workdir = stock.place(String(++copies));
  const dataDirectory = join(workdir, "data");
  makePostgresDirectory(workdir);
  copyTree(stock.dataDir, dataDirectory);
  assert.ok(removeRemoteFiles(dataDirectory) > 900);
  if (options.standby === true) {
    writePostgresFile(join(dataDirectory, "standby.signal"), "");
  }
  const pages = new StockPages(stock.dataDir);
  const postgres = await ShimmedPostgres.start({
    installation: stock.installation,
    workdir,
    dataDirectory,
    pages,
    wal: options.wal ?? NO_QUORUM,
    localCacheBytes: options.localCacheBytes,
    ...(options.walMode === undefined ? {} : { walMode: options.walMode }),
    ...(options.settings === undefined ? {} : { settings: options.settings }),
    ...(options.place === undefined ? {} : { placed: options.place(dataDirectory, pages) }),
  });
  return { postgres, pages, dataDirectory };
}

/** Every B-tree has an entry for each heap row, and no heap page is odd. */
async function checkAll(client: pg.Client): Promise<void> {
  await client.query(`SELECT bt_index_check(index => indexrelid, heapallindexed => true)
    FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    WHERE a.amname = 'btree' AND c.relpersistence <> 't' AND i.indisready AND i.indisvalid`);
  const odd = await client.query(`SELECT c.relname, v.* FROM pg_class c,
    LATERAL verify_heapam(c.oid) v WHERE c.relkind IN ('r', 'm', 't') AND c.relpersistence = 'p'`);
  assert.deepEqual(odd.rows, []);
}

/** TPC-B without its name: money moves between accounts, none is made. */
async function transfer(client: pg.Client, count: number, seed: number): Promise<void> {
  for (let i = 0; i < count; i++) {
    const from = ((seed * 7919 + i * 104_729) % ACCOUNTS) + 1;
    const to = ((seed * 15_485_863 + i * 32_452_843) % ACCOUNTS) + 1;
    const [low, high] = from < to ? [from, to] : [to, from];
    const sign = from < to ? -1 : 1;
    await client.query("BEGIN");
    await client.query(`UPDATE accounts SET balance = balance + ${sign * i} WHERE id = ${low}`);
    await client.query(`UPDATE accounts SET balance = balance - ${sign * i} WHERE id = ${high}`);
    await client.query(`INSERT INTO history (account, delta) VALUES (${from}, ${i})`);
    await client.query("COMMIT");
  }
}

test("memory that a start has only filled with zeros is given back, and is there when it is used", async () => {
  const settings = { wal_buffers: "32MB", shared_buffers: "16MB", huge_pages: "off" };
  const { postgres } = await start({ settings });
  try {
    const used = sharedMemoryKb(postgres.process.pid!);
    assert.ok(used > 1000 && used < 16_000, `the postmaster has ${used} kB of shared memory`);
    const client = await postgres.connect();
    await client.query(
      "CREATE TABLE many AS SELECT repeat('x', 900) FROM generate_series(1, 60000)",
    );
    const { rows } = await client.query("SELECT count(*)::int AS n FROM many");
    assert.equal(rows[0].n, 60_000);
  } finally {
    assert.equal(await postgres.stop(), "exit code 0");
  }
});

/** What a process has touched of shared memory without a file. */
function sharedMemoryKb(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps`, "utf8");
  const mappings = text.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  const shared = mappings.filter((mapping) => mapping.includes(" /dev/zero (deleted)\n"));
  return shared.reduce((sum, mapping) => sum + Number(/^Rss: +(\d+) kB$/m.exec(mapping)![1]), 0);
}

describe("pages", () => {
  test("a start reads few pages; a scan then sees what storage has", async () => {
    const { postgres, pages } = await start();
    try {
      assert.ok(pages.pages < 300, `${pages.pages} pages for the start`);
      // Of pg_commit_ts, which Postgres empties at a start without track_commit_timestamp.
      assert.equal(pages.lists, 1);
      const client = await postgres.connect();
      assert.deepEqual((await client.query(SUMS)).rows[0], expected);
      assert.equal((await client.query("SELECT count(*)::int AS n FROM scratch")).rows[0].n, 0);
      await client.query("INSERT INTO scratch VALUES (1)");
      await checkAll(client);
      const before = pages.pages;
      await client.query(SUMS);
      await checkAll(client);
      assert.equal(pages.pages, before, "each page is asked once");
      const second = await postgres.connect("second");
      assert.equal((await second.query("SELECT sum(i)::int AS s FROM t")).rows[0].s, 12_502_500);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  test("files placed before the start: what is in them is not asked, the rest is", async () => {
    // Every third block of some catalogs of every database, and a free space map that is not there.
    const blocks = Array.from({ length: 30 }, (_, i) => 3 * i);
    const files = readdirSync(join(stock.dataDir, "base")).flatMap(
      (db): (readonly [path: string, ...blocks: number[]])[] => [
        ...[1249, 1255, 1259, 2658, 2663].map((rel) => [`base/${db}/${rel}`, ...blocks] as const),
        [`base/${db}/999999_fsm`],
      ],
    );
    const asked = new Set<string>();
    const place = async (dataDirectory: string, pages: StockPages) => {
      const record = join(stock.workdir, "placed.json");
      writeFileSync(record, JSON.stringify({ version: 1, files }));
      const placement = new FilePlacement(pages, new StartReads(record, "PG_17_1"));
      placement.into(dataDirectory);
      const placed = await placement.finish();
      pages.onRead = (path, block) => asked.add(`${path} ${block}`);
      return placed;
    };
    const { postgres } = await start({ place });
    try {
      const client = await postgres.connect();
      assert.deepEqual((await client.query(SUMS)).rows[0], expected);
      await client.query("CREATE TABLE made (i int PRIMARY KEY)");
      await client.query("CREATE DATABASE third TEMPLATE second ");
      await client.query("VACUUM FULL pg_class");
      await client.query("VACUUM pg_attribute");
      await client.query("DROP TABLE made");
      await checkAll(client);
      const third = await postgres.connect("third");
      assert.equal((await third.query("SELECT sum(i)::int AS s FROM t")).rows[0].s, 12_502_500);
      await checkAll(client);
      const placed = files.flatMap(([path, ...blocks]) =>
        blocks.map((block) => `${path} ${block}`),
      );
      assert.deepEqual(
        placed.filter((block) => asked.has(block)),
        [],
      );
      assert.ok(files.some(([path]) => asked.has(`${path} 1`)));
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  async function allAtOnce(limit: { localCacheBytes?: number }): Promise<CacheUsage> {
    const { postgres, pages } = await start({ settings: { shared_buffers: "2MB" }, ...limit });
    pages.latencyMs = 1;
    try {
      const writers = await Promise.all(Array.from({ length: 6 }, () => postgres.connect()));
      const ddl = await postgres.connect();
      await Promise.all([
        ...writers.map((client, i) => transfer(client, 150, i + 1)),
        (async () => {
          for (const sql of [
            "CREATE INDEX CONCURRENTLY byfiller ON accounts (filler)",
            "VACUUM accounts",
            "CREATE TABLE copy AS SELECT * FROM tail",
            "DELETE FROM tail WHERE i > 8000",
            "VACUUM tail",
            "INSERT INTO tail SELECT i, repeat('y', 500) FROM generate_series(8001, 15000) i",
            "VACUUM FULL tail",
            "REINDEX TABLE history",
            "CLUSTER accounts USING accounts_pkey",
            "BEGIN; TRUNCATE copy; ROLLBACK",
            "TRUNCATE copy",
            "CREATE TEMP TABLE temporary AS SELECT * FROM tail",
            "VACUUM FREEZE accounts",
            "CHECKPOINT",
            "DROP TABLE copy",
          ]) {
            await ddl.query(sql);
          }
        })(),
      ]);
      const sums = (await ddl.query(SUMS)).rows[0] as { n: number; sum: number; filler: string };
      assert.deepEqual(sums, expected);
      const history = await ddl.query("SELECT count(*)::int AS n FROM history");
      assert.equal(history.rows[0].n, 900);
      const tail = await ddl.query(
        "SELECT count(*)::int AS n, count(*) FILTER (WHERE pad ~ '^y')::int AS new FROM tail",
      );
      assert.deepEqual(tail.rows[0], { n: 15_000, new: 7000 });
      await checkAll(ddl);
      return postgres.cacheUsage;
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  }

  test("writes, DDL and maintenance at once, with slow storage and tiny buffers", async () => {
    const { evictedBytes, keptBytes } = await allAtOnce({});
    assert.equal(evictedBytes, 0);
    assert.ok(keptBytes > 0);
  });

  test("writes, DDL and maintenance at once, with a cache of 128 blocks", async () => {
    const localCacheBytes = 2 ** 20;
    const { evictedBytes, fetchedAgainBytes, cleanBytes } = await allAtOnce({ localCacheBytes });
    assert.ok(fetchedAgainBytes > 4 * localCacheBytes, `${fetchedAgainBytes} fetched again`);
    assert.ok(evictedBytes >= fetchedAgainBytes);
    assert.ok(cleanBytes < 2 * localCacheBytes, `${cleanBytes} may be given back`);
  });

  test("scans of more than the cache holds: all is right, and the disk holds no more", async () => {
    const localCacheBytes = 2 ** 20;
    const { postgres, dataDirectory } = await start({
      settings: { shared_buffers: "1MB", max_parallel_workers_per_gather: "0" },
      localCacheBytes,
    });
    try {
      const clients = await Promise.all(Array.from({ length: 4 }, () => postgres.connect()));
      const client = clients[0]!;
      const path = await client.query("SELECT pg_relation_filepath('tail') AS path");
      const sum = "SELECT sum(i)::int AS s, sum(length(pad))::int AS l FROM tail";
      for (let round = 0; round < 5; round++) {
        for (const { rows } of await Promise.all(clients.map((one) => one.query(sum)))) {
          assert.deepEqual(rows, [{ s: 200_010_000, l: 10_000_000 }]);
        }
        const { blocks, size } = statSync(join(dataDirectory, path.rows[0].path));
        assert.ok(size > 10_000_000 && blocks * 512 < 2 * localCacheBytes, `${blocks * 512}`);
      }
      const { fetchedAgainBytes, cleanBytes, keptBytes } = postgres.cacheUsage;
      assert.ok(fetchedAgainBytes > 30_000_000, `${fetchedAgainBytes} fetched again`);
      assert.ok(cleanBytes < 2 * localCacheBytes && keptBytes < 4 * localCacheBytes);
      await checkAll(client);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  test("databases: both ways to create one, sizes, and drops of what was never opened", async () => {
    const { postgres, pages } = await start();
    try {
      const client = await postgres.connect();
      // Before 15 there is one way, file by file.
      const strategy = (name: string) => (DEFAULT_MAJOR >= 15 ? `STRATEGY ${name}` : "");
      await client.query(`CREATE DATABASE by_copy TEMPLATE second ${strategy("file_copy")}`);
      await client.query(`CREATE DATABASE by_wal TEMPLATE second ${strategy("wal_log")}`);
      for (const name of ["by_copy", "by_wal"]) {
        const copy = await postgres.connect(name);
        assert.equal((await copy.query("SELECT sum(i)::int AS s FROM t")).rows[0].s, 12_502_500);
        await copy.query("INSERT INTO t VALUES (1)");
        await copy.end();
      }
      const lists = pages.lists;
      const sizes = await client.query(
        "SELECT pg_database_size('template1')::int AS lazy, pg_database_size('by_wal')::int AS own",
      );
      assert.ok(sizes.rows[0].lazy > 6_000_000 && sizes.rows[0].own > 6_000_000);
      assert.equal(pages.lists, lists + 1, "a database made here is not listed in storage");
      await client.query("DROP DATABASE by_copy");
      await client.query("DROP DATABASE second");
      await client.query("CREATE DATABASE second");
      const second = await postgres.connect("second");
      await assert.rejects(second.query("SELECT * FROM t"), /does not exist/);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  test("a page that storage cannot give is an error of that query only", async () => {
    const { postgres, pages } = await start();
    try {
      const client = await postgres.connect();
      await client.query("SELECT 1 FROM accounts WHERE id = 1");
      const read = pages.readPages.bind(pages);
      pages.readPages = () => Promise.reject(new Error("storage is broken, says the test"));
      await assert.rejects(client.query(SUMS), /could not read block.*Input\/output error/);
      pages.readPages = read;
      assert.deepEqual((await client.query(SUMS)).rows[0], expected);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  test("an agent that goes away and comes back is waited for", async () => {
    const { postgres, pages } = await start();
    try {
      const [reader, writer] = await Promise.all([postgres.connect(), postgres.connect()]);
      const [sums] = await Promise.all([
        reader.query(SUMS),
        transfer(writer, 200, 3),
        postgres.replaceAgent(pages, NO_QUORUM, 100),
      ]);
      assert.equal(sums.rows[0].n, ACCOUNTS);
      assert.deepEqual((await reader.query(SUMS)).rows[0], expected);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });
});

describe("WAL", () => {
  test("a commit returns when the agent says so, and not before", async () => {
    const held: (() => void)[] = [];
    let holding = false;
    let notices = 0;
    const { postgres } = await start({
      wal: {
        walWritten: (_segno, _offset, length) => {
          assert.ok(length > 0);
          notices++;
        },
        flushWal: () =>
          holding ? new Promise((resolve) => held.push(resolve)) : Promise.resolve(),
      },
      settings: { autovacuum: "off" },
    });
    try {
      const [writer, other] = await Promise.all([postgres.connect(), postgres.connect()]);
      await writer.query("CREATE TABLE w (i int)");
      holding = true;
      notices = 0;
      let done = false;
      const commit = writer.query("INSERT INTO w VALUES (1)").then(() => {
        done = true;
      });
      commit.catch(() => undefined);
      await eventually("a flush waits", () => held.length > 0);
      await sleep(100);
      assert.ok(!done);
      assert.equal((await other.query("SELECT count(*)::int AS n FROM w")).rows[0].n, 0);
      await other.query(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query ~ '^INSERT'",
      );
      await sleep(100);
      assert.ok(!done, "cancelling does not get round it");
      holding = false;
      for (const release of held) {
        release();
      }
      await commit.catch((error: unknown) => assert.equal(errnoCode(error), "57014"));
      assert.equal((await other.query("SELECT count(*)::int AS n FROM w")).rows[0].n, 1);
      assert.equal(notices, 0, "a commit's write needs no message beside that of its sync");
      // Segments are made and left, among them records longer than WAL buffers.
      await writer.query(
        "CREATE TABLE big AS SELECT repeat(md5(i::text), 50) AS t FROM generate_series(1, 30000) i",
      );
      assert.ok(notices >= 10, `${notices} notices of WAL on its way before a sync`);
      await writer.query("SELECT pg_switch_wal()");
      await writer.query("INSERT INTO w VALUES (2)");
      await writer.query("CHECKPOINT");
    } catch (error) {
      await postgres.stop("SIGQUIT");
      throw error;
    }
    assert.equal(await postgres.stop(), "exit code 0");
  });

  test("who makes a relation longer waits as long for each block as the agent says", async () => {
    let pace = 0;
    const { postgres } = await start({
      wal: {
        walWritten: () => undefined,
        flushWal: () => Promise.resolve(),
        extensionPaceMicros: () => pace,
      },
      settings: { autovacuum: "off" },
    });
    try {
      const client = await postgres.connect();
      await client.query("CREATE TABLE rows (t text); ALTER TABLE rows ALTER t SET STORAGE plain");
      const load = async () => {
        const startedMs = performance.now();
        await client.query(
          "INSERT INTO rows SELECT repeat('x', 7000) FROM generate_series(1, 300)",
        );
        return performance.now() - startedMs;
      };
      await load();
      pace = 10_000;
      await client.query("SELECT pg_logical_emit_message(true, '', 'so that a flush is answered')");
      const slowedMs = await load();
      assert.ok(slowedMs > 300 * 10 * 0.9, `${slowedMs} ms for 300 blocks`);
      pace = 0;
      await client.query("SELECT pg_logical_emit_message(true, '', 'and once more')");
      const { rows } = await client.query("SELECT count(*)::int AS n, min(length(t)) FROM rows");
      assert.deepEqual(rows, [{ n: 600, min: 7000 }]);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
  });

  for (const method of ["fsync", "open_datasync", "open_sync"]) {
    test(`a commit waits for the agent with wal_sync_method=${method} too`, async () => {
      const held: (() => void)[] = [];
      let holding = false;
      const { postgres } = await start({
        wal: {
          walWritten: () => undefined,
          flushWal: () =>
            holding ? new Promise((resolve) => held.push(resolve)) : Promise.resolve(),
        },
        settings: { wal_sync_method: method, autovacuum: "off" },
      });
      const client = await postgres.connect();
      holding = true;
      let done = false;
      const commit = client.query("INSERT INTO history (account, delta) VALUES (1, 1)").then(() => {
        done = true;
      });
      await eventually("a flush waits", () => held.length > 0);
      await sleep(50);
      assert.ok(!done);
      holding = false;
      for (const release of held) {
        release();
      }
      await commit;
      assert.equal(await postgres.stop(), "exit code 0");
    });
  }

  test("fenced: waiting commits and Postgres itself end at once", async () => {
    let holding = false;
    const { postgres } = await start({
      wal: {
        walWritten: () => undefined,
        flushWal: () => (holding ? new Promise(() => undefined) : Promise.resolve()),
      },
    });
    try {
      const clients = await Promise.all(Array.from({ length: 4 }, () => postgres.connect()));
      holding = true;
      const commits = Promise.allSettled(
        clients.map((client, i) =>
          client.query(`INSERT INTO history (account, delta) VALUES (${i + 1}, 1)`),
        ),
      );
      await sleep(100);
      const started = performance.now();
      postgres.server.fence();
      await postgres.exited;
      assert.ok(performance.now() - started < 3000);
      for (const { status } of await commits) {
        assert.equal(status, "rejected");
      }
      assert.match(postgres.log, /fenced: another compute/);
    } finally {
      await postgres.stop("SIGQUIT");
    }
  });

  test("a read-only endpoint: syncs ask nobody, and its start lists no directory", async () => {
    const flushes: number[] = [];
    const { postgres, pages } = await start({
      walMode: "none",
      standby: true,
      wal: {
        walWritten: (segno) => flushes.push(segno),
        flushWal: (segno) => {
          flushes.push(segno);
          return new Promise(() => undefined);
        },
      },
    });
    try {
      const client = await postgres.connect();
      assert.equal(pages.lists, 0);
      assert.ok(pages.pages < 300);
      assert.deepEqual((await client.query(SUMS)).rows[0], expected);
      await assert.rejects(client.query("CREATE TABLE w (i int)"), /read-only transaction/);
      const size = await client.query("SELECT pg_database_size('second')::int AS bytes");
      assert.ok(size.rows[0].bytes > 6_000_000);
    } finally {
      assert.equal(await postgres.stop(), "exit code 0");
    }
    assert.deepEqual(flushes, []);
  });

  for (const victim of ["agent", "postmaster"] as const) {
    test(`kill -9 of the ${victim} ends all, also backends that wait for the agent`, async () => {
      const workdir = stock.place(String(++copies));
      const dataDirectory = join(workdir, "data");
      makePostgresDirectory(workdir);
      copyTree(stock.dataDir, dataDirectory);
      removeRemoteFiles(dataDirectory);
      const agent = spawn(process.execPath, [
        "--disable-warning=ExperimentalWarning",
        join(import.meta.dirname, "../../../testing/compute/doomed-agent.ts"),
        workdir,
        dataDirectory,
        stock.dataDir,
      ]);
      try {
        const pid = await new Promise<number>((resolve, reject) => {
          agent.stdout.once("data", (chunk: Buffer) => resolve(Number(chunk.toString())));
          agent.stderr.once("data", (chunk: Buffer) => reject(new Error(chunk.toString())));
        });
        assert.ok(isAlive(pid));
        process.kill(victim === "agent" ? agent.pid! : pid, "SIGKILL");
        for (let i = 0; i < 300 && isAlive(pid); i++) {
          await sleep(20);
        }
        assert.ok(!isAlive(pid));
      } finally {
        agent.kill("SIGKILL");
      }
    });
  }
});

/** Any process of the group: Postgres was started as the leader of one. Not zombies: nobody may wait for them. */
function isAlive(group: number): boolean {
  return processIds().some((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      const [state, , itsGroup] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return itsGroup === String(group) && state !== "Z";
    } catch {
      return false;
    }
  });
}
