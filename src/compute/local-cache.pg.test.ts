// `strata.local_cache`: what a compute's disk holds of storage's data, through the whole of storage.

import assert from "node:assert/strict";
import { globSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { childOf } from "../../testing/compute/child-processes.ts";
import { type ComputeEndpoint, ComputeWorld } from "../../testing/compute/compute-world.ts";
import { eventually } from "../../testing/eventually.ts";
import { monotonicMs, sleep } from "../base/clock.ts";
import { LOCAL_CACHE } from "./api.ts";

const MIB = 2 ** 20;
const LIMIT_BYTES = 16 * MIB;
const SUMS = "SELECT count(*), sum(n), md5(string_agg(left(pad, 8), '' ORDER BY n)) FROM big";

let world: ComputeWorld;

before(async () => {
  world = await ComputeWorld.start(1);
});

after(() => world.remove());

/** Of one gauge of the agent, by its name and labels. */
async function gauge({ spec }: ComputeEndpoint, name: string): Promise<number> {
  const answer = await fetch(`http://127.0.0.1:${spec.internalHttpPort}/metrics`);
  const line = (await answer.text()).split("\n").find((one) => one.startsWith(`${name} `));
  assert.ok(line !== undefined, name);
  return Number(line.slice(name.length + 1));
}

async function storedBytes(endpoint: ComputeEndpoint): Promise<number> {
  const [[directory]] = (await endpoint.query("SHOW data_directory")) as [[string]];
  return globSync(join(directory, "base", "*", "*"))
    .map((path) => statSync(path))
    .reduce((sum, { blocks }) => sum + blocks * 512, 0);
}

test("local cache: more is read than it holds, at the head, on a static endpoint and after a crash", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, {
    settings: { [LOCAL_CACHE]: "16MB", autovacuum: "off" },
  });
  await endpoint.start();
  await endpoint.query(
    "CREATE TABLE big AS SELECT n, md5(n::text) || repeat('x', 600) AS pad FROM generate_series(1, 50000) n",
  );
  // Of half of the rows all is known; on the others a scan notes that they have committed, and its pages are written.
  await endpoint.query("VACUUM (FREEZE) big");
  await endpoint.query(
    "INSERT INTO big SELECT n, md5(n::text) || repeat('x', 600) FROM generate_series(50001, 100000) n",
  );
  const [[lsn]] = (await endpoint.query("SELECT pg_current_wal_flush_lsn()")) as [[string]];
  const sums = await endpoint.query(SUMS);
  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  assert.deepEqual(await endpoint.query(`SHOW ${LOCAL_CACHE}`), [["16MB"]]);
  const past = await world.createEndpoint(timeline_id, {
    mode: { static: lsn },
    settings: { [LOCAL_CACHE]: "16MB" },
  });
  await past.start();
  for (const one of [endpoint, past]) {
    for (let round = 0; round < 2; round++) {
      assert.deepEqual(await one.query(SUMS), sums);
    }
    const clean = await gauge(one, 'strata_compute_local_cache_bytes{state="clean"}');
    const kept = await gauge(one, 'strata_compute_local_cache_bytes{state="kept"}');
    const evicted = await gauge(one, "strata_compute_local_cache_evicted_bytes");
    const again = await gauge(one, "strata_compute_local_cache_fetched_again_bytes");
    assert.ok(clean + kept < LIMIT_BYTES + MIB, `${clean} and ${kept}`);
    assert.ok(again > LIMIT_BYTES && evicted > again, `${evicted} evicted, ${again} again`);
    const stored = await storedBytes(one);
    assert.ok(stored > LIMIT_BYTES / 2 && stored < LIMIT_BYTES + 4 * MIB, `${stored} on the disk`);
  }
  await past.daemon.kill("SIGTERM");

  // What is written stays, and what is not comes again as of the same start.
  await endpoint.query("UPDATE big SET n = -n WHERE n % 10 = 0");
  const changed = await endpoint.query(SUMS);
  assert.deepEqual(await endpoint.query(SUMS), changed);
  const postmaster = (await endpoint.client.status()).postgresPid!;
  process.kill(postmaster, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query(SUMS), changed);

  const configure = async (value: string) => {
    const answer = await endpoint.client.configure({
      spec: { cluster: { settings: [{ name: LOCAL_CACHE, value }] } },
    });
    return answer.restart_required.includes(LOCAL_CACHE);
  };
  await assert.rejects(configure("15MB"), /strata.local_cache\) must be at least 16MB/);
  // Another limit counts from the next start on only, and that is said.
  assert.equal(await configure("32MB"), true);
  assert.equal(await configure("16MB"), false);
  assert.deepEqual(await endpoint.query(`SHOW ${LOCAL_CACHE}`), [["16MB"]]);
  await endpoint.daemon.kill("SIGTERM");
  assert.equal(endpoint.daemon.exitCode, 0);
});

test("local cache: a scan of rows that were updated once has written nothing", async () => {
  const { timeline_id } = await world.createTimeline();
  const settings = { [LOCAL_CACHE]: "16MB", shared_buffers: "2MB", autovacuum: "off" };
  const endpoint = await world.createEndpoint(timeline_id, { settings });
  await endpoint.start();
  await endpoint.query(
    "CREATE TABLE big AS SELECT n, 0 AS round, repeat('x', 84) AS pad FROM generate_series(1, 180000) n",
  );
  await endpoint.query("CREATE INDEX ON big (round)");
  // One row of each page: without it the page has less room than a tenth, below which scans look for rows to prune.
  await endpoint.query("UPDATE big SET round = 1 WHERE n % 60 = 0");
  const sums = "SELECT count(*), sum(n), sum(round) FROM big";
  const before = await endpoint.query(sums);
  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  // Each finds in the page's header that there may be something to prune, as storage has it; and all goes before the next.
  for (let scan = 0; scan < 2; scan++) {
    assert.deepEqual(await endpoint.query(sums), before);
  }
  await endpoint.query("CHECKPOINT");
  const kept = await gauge(endpoint, 'strata_compute_local_cache_bytes{state="kept"}');
  const again = await gauge(endpoint, "strata_compute_local_cache_fetched_again_bytes");
  assert.ok(again > LIMIT_BYTES / 2, `${again} again`);
  assert.ok(kept < 2 * MIB, `${kept} bytes count as written`);
  await endpoint.daemon.kill("SIGTERM");
});

/** As the kernel does where it is out of memory: nobody notices but the next one of its kind. */
async function killEvictor(endpoint: ComputeEndpoint): Promise<void> {
  const postmaster = (await endpoint.client.status()).postgresPid!;
  const killed = childOf(postmaster, "strata-evictor");
  assert.ok(killed !== undefined);
  process.kill(killed, "SIGKILL");
  await eventually("another process compares what was written", async () => {
    await endpoint.query("SELECT 1"); // In a process of its own: the postmaster looks when it makes one.
    const next = childOf(postmaster, "strata-evictor");
    return next !== undefined && next !== killed;
  });
  assert.equal((await endpoint.client.status()).postgresPid, postmaster);
}

test("local cache: more is written than it holds, and goes once storage has it", async () => {
  const { timeline_id } = await world.createTimeline();
  const settings = { [LOCAL_CACHE]: "16MB", shared_buffers: "2MB", autovacuum: "off" };
  const endpoint = await world.createEndpoint(timeline_id, { settings });
  await endpoint.start();
  await endpoint.query("CREATE EXTENSION amcheck");
  await endpoint.query(
    "CREATE TABLE big AS SELECT n, 0 AS round, md5(n::text) || repeat('x', 600) AS pad FROM generate_series(1, 60000) n",
  );
  await endpoint.query("CREATE INDEX big_n ON big (n)");
  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  const check = `SELECT count(*), sum(n), min(round), max(round), bool_and(pad = md5(n::text) || repeat('x', 600)) FROM big`;
  const amcheck =
    "SELECT bt_index_check('big_n', true), (SELECT count(*) FROM verify_heapam('big')) AS damage";
  const parts = 12;
  for (let round = 1; round <= 3; round++) {
    await killEvictor(endpoint);
    // Each part is updated where the one before has made room. One transaction of several commands, of which rows stay until its end.
    for (let part = 0; part < parts; part++) {
      const from = (part * 60_000) / parts;
      const half = from + 30_000 / parts;
      await endpoint.query(
        `BEGIN;
         UPDATE big SET round = round + 1 WHERE n > ${from} AND n <= ${half};
         UPDATE big SET round = round + 1 WHERE n > ${half} AND n <= ${from + 60_000 / parts};
         COMMIT`,
      );
      await endpoint.query("VACUUM (TRUNCATE off) big");
    }
    const rows = await endpoint.query(check);
    assert.deepEqual(rows, [["60000", "1800030000", `${round}`, `${round}`, "t"]]);
    assert.deepEqual(await endpoint.query(amcheck), [["", "0"]]);
    await eventually("storage has most of what was written, and it goes", async () => {
      const kept = await gauge(endpoint, 'strata_compute_local_cache_bytes{state="kept"}');
      return kept < LIMIT_BYTES;
    });
    const stored = await storedBytes(endpoint);
    assert.ok(stored < 2 * LIMIT_BYTES, `${stored} on the disk`);
  }
  const evicted = await gauge(endpoint, "strata_compute_local_cache_written_evicted_bytes");
  assert.ok(evicted > 4 * LIMIT_BYTES, `${evicted} given back of what was written`);

  // As another endpoint reads it, and as it is after a crash.
  const [[lsn]] = (await endpoint.query("SELECT pg_current_wal_flush_lsn()")) as [[string]];
  const sums = "SELECT md5(string_agg(big::text, '' ORDER BY n)) FROM big";
  const expected = await endpoint.query(sums);
  const past = await world.createEndpoint(timeline_id, { mode: { static: lsn } });
  await past.start();
  assert.deepEqual(await past.query(sums), expected);
  await past.daemon.kill("SIGTERM");
  process.kill((await endpoint.client.status()).postgresPid!, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query(sums), expected);
  assert.deepEqual(await endpoint.query(amcheck), [["", "0"]]);
  await endpoint.daemon.kill("SIGTERM");
  assert.equal(endpoint.daemon.exitCode, 0);
});

test("local cache: what a compute makes itself goes, too: tables, indexes, all in one life", async () => {
  const { timeline_id } = await world.createTimeline();
  const settings = { [LOCAL_CACHE]: "16MB", shared_buffers: "2MB", autovacuum: "off" };
  const endpoint = await world.createEndpoint(timeline_id, { settings });
  await endpoint.start();
  await endpoint.query("CREATE EXTENSION amcheck");
  const kept = () => gauge(endpoint, 'strata_compute_local_cache_bytes{state="kept"}');
  /** Storage has to take it in. */
  const settle = async () => {
    const started = monotonicMs();
    while ((await kept()) > LIMIT_BYTES && monotonicMs() - started < 60_000) {
      await endpoint.query("SELECT count(*) FROM pg_class");
      await sleep(200);
    }
    const stored = await storedBytes(endpoint);
    assert.ok(stored < 2 * LIMIT_BYTES, `${stored} on the disk, ${await kept()} kept`);
  };
  for (const sql of [
    "CREATE TABLE big AS SELECT n, repeat('x', 600) AS pad FROM generate_series(1, 24000) n",
    "CREATE INDEX big_n ON big (n)",
    "CREATE INDEX big_hash ON big USING hash (n)",
    "CREATE INDEX big_gist ON big USING gist (point(n, n))",
    "CREATE INDEX big_spgist ON big USING spgist (point(n, n))",
    "CREATE INDEX big_gin ON big USING gin ((ARRAY[n, n % 100]))",
    "CREATE INDEX big_brin ON big USING brin (n)",
    // Nobody's but ours: rows that storage has not.
    "CREATE UNLOGGED TABLE gone AS SELECT n, repeat('y', 600) AS pad FROM generate_series(1, 10000) n",
    "CREATE TABLE dropped AS SELECT n, repeat('z', 600) AS pad FROM generate_series(1, 20000) n",
  ]) {
    await endpoint.query(sql);
  }
  const unlogged = "SELECT count(*), sum(n), min(pad) = repeat('y', 600) FROM gone";
  assert.deepEqual(await endpoint.query(unlogged), [["10000", "50005000", "t"]]);
  await endpoint.query("DROP TABLE gone; DROP TABLE dropped");
  await settle();
  // Cut off and grown again, filled anew in one transaction, rolled back, moved.
  for (const sql of [
    "DROP INDEX big_gin, big_spgist",
    "DELETE FROM big WHERE n > 16000",
    "VACUUM big",
    "INSERT INTO big SELECT n, repeat('x', 600) FROM generate_series(16001, 24000) n",
    "BEGIN; TRUNCATE big; INSERT INTO big SELECT 0, 'no' FROM generate_series(1, 3000); ROLLBACK",
    "BEGIN; CREATE TABLE none AS SELECT * FROM big; ROLLBACK",
    "ALTER TABLE big SET UNLOGGED",
    "ALTER TABLE big SET LOGGED",
    "VACUUM FULL big",
    "UPDATE big SET pad = repeat('w', 600) WHERE n % 3 = 0",
    "REINDEX TABLE big",
    "CREATE INDEX big_gin ON big USING gin ((ARRAY[n, n % 100]))",
  ]) {
    await endpoint.query(sql);
  }
  await settle();
  const check = `SET enable_seqscan = off;
    SELECT (SELECT md5(string_agg(big::text, '' ORDER BY n)) FROM big),
      (SELECT count(*) FROM big WHERE n BETWEEN 1 AND 24000),
      (SELECT count(*) FROM big WHERE ARRAY[n, n % 100] @> ARRAY[7]),
      (SELECT count(*) FROM big WHERE point(n, n) <@ box '((20,20),(20000,20000))')`;
  const amcheck =
    "SELECT bt_index_check('big_n', true), (SELECT count(*) FROM verify_heapam('big')) AS damage";
  const expected = await endpoint.query(check);
  assert.deepEqual(expected[0]!.slice(1), ["24000", "240", "19981"]);
  assert.deepEqual(await endpoint.query(amcheck), [["", "0"]]);
  const evicted = await gauge(endpoint, "strata_compute_local_cache_written_evicted_bytes");
  assert.ok(evicted > LIMIT_BYTES, `${evicted} given back of what was written`);
  assert.deepEqual(await endpoint.query(check), expected);
  // After a stop that looks through the directory, and a crash.
  await endpoint.daemon.kill("SIGTERM");
  assert.equal(endpoint.daemon.exitCode, 0);
  await endpoint.start();
  assert.deepEqual(await endpoint.query(check), expected);
  process.kill((await endpoint.client.status()).postgresPid!, "SIGKILL");
  await endpoint.running(1);
  assert.deepEqual(await endpoint.query(check), expected);
  assert.deepEqual(await endpoint.query(amcheck), [["", "0"]]);
  await endpoint.daemon.kill("SIGTERM");
});

test("local cache: rows of a transaction that runs are as it left them, however many commands it has", async () => {
  const { timeline_id } = await world.createTimeline();
  const settings = { [LOCAL_CACHE]: "16MB", shared_buffers: "2MB", autovacuum: "off" };
  const endpoint = await world.createEndpoint(timeline_id, { settings });
  await endpoint.start();
  await endpoint.query(
    "CREATE TABLE big AS SELECT n, 0 AS round, repeat('x', 600) AS pad FROM generate_series(1, 24000) n",
  );
  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  // What the cursor sees was there before the commands behind it, whose rows take more than the limit.
  const session = await endpoint.connect();
  try {
    for (const sql of [
      "CREATE TEMP TABLE seen (n int, round int)",
      "BEGIN",
      "UPDATE big SET round = 1 WHERE n % 2 = 0",
      "DECLARE before CURSOR FOR SELECT n, round FROM big",
      "UPDATE big SET round = 2 WHERE n % 4 = 0",
      "DELETE FROM big WHERE n % 4 = 1",
      // What may go goes meanwhile.
      "SELECT sum(length(pad)), pg_sleep(1) FROM big",
      "SELECT sum(length(pad)), pg_sleep(1) FROM big",
      `DO $$
       DECLARE c refcursor := 'before'; r record;
       BEGIN
         LOOP
           FETCH c INTO r;
           EXIT WHEN NOT FOUND;
           INSERT INTO seen VALUES (r.n, r.round);
         END LOOP;
       END $$`,
      "COMMIT",
    ]) {
      await session.query(sql);
    }
    const { rows } = await session.query(
      "SELECT count(*), count(DISTINCT n), sum(round), max(round) FROM seen",
    );
    assert.deepEqual(rows, [["24000", "24000", "12000", "1"]]);
  } finally {
    session.close();
  }
  const after = await endpoint.query("SELECT count(*), sum(round) FROM big");
  assert.deepEqual(after, [["18000", "18000"]]);
  await endpoint.daemon.kill("SIGTERM");
});

test("local cache: a limit that cannot be ends a start with its reason", async () => {
  const { timeline_id } = await world.createTimeline();
  const endpoint = await world.createEndpoint(timeline_id, {
    settings: { [LOCAL_CACHE]: "999999TB" },
  });
  endpoint.daemon.start();
  await endpoint.daemon.exited();
  assert.equal(endpoint.daemon.exitCode, 1);
  assert.match(
    endpoint.daemon.log,
    /fatal: .*strata.local_cache\) must not be larger than the disk/,
  );
});
