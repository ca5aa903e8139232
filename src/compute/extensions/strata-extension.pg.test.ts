// The extension `strata`: what SQL sees of the local cache and of waits for storage.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { type ComputeEndpoint, ComputeWorld } from "../../../testing/compute/compute-world.ts";
import { eventually } from "../../../testing/eventually.ts";
import { postgresSocketDirectory } from "../../postgres/installation.ts";
import { connectWire } from "../../postgres/wire/wire-client.ts";

/** Nine of its rows fill a page; more than fit into the buffers. */
const PAGES = 4000;
/** Each test may be the only one. */
const MAKE = "create extension if not exists strata";

let world: ComputeWorld;
let endpoint: ComputeEndpoint;
let timelineId: string;

before(async () => {
  world = await ComputeWorld.start(1);
  timelineId = (await world.createTimeline()).timeline_id;
  endpoint = await world.createEndpoint(timelineId);
  await endpoint.start();
  await endpoint.query(
    "create role owner login; create role reader login; create role stranger login",
  );
  await endpoint.query("create database shop owner owner");
});

after(() => world.remove());

async function as(user: string, sql: string, on = endpoint): Promise<(string | null)[][]> {
  const connection = await connectWire({
    host: postgresSocketDirectory(on.daemon.workdir),
    port: on.spec.pgPort,
    parameters: { user, database: "shop" },
    timeoutMs: 60_000,
  });
  try {
    return (await connection.query(sql)).rows;
  } finally {
    connection.close();
  }
}

const stats = async (user: string, on = endpoint) =>
  Object.fromEntries(
    (await as(user, "select lfc_key, lfc_value from strata.neon_lfc_stats", on)).map(
      ([key, value]) => [key, Number(value)],
    ),
  );

test("extension strata: nothing of it is there before it is asked for; the owner of a database may make it, anybody reads it", async () => {
  assert.deepEqual(await as("owner", "select 1 from pg_namespace where nspname = 'strata'"), []);
  await assert.rejects(as("stranger", "create extension strata"), /permission denied/);
  await as("owner", MAKE);
  assert.ok((await stats("reader"))["file_cache_fetched"]! > 0);
  // What runs as the superuser is not theirs, and reads these files only.
  const owners =
    "select distinct r.rolsuper from pg_proc p join pg_roles r on r.oid = proowner where pronamespace = 'strata'::regnamespace";
  assert.deepEqual(await as("reader", owners), [["t"]]);
  await assert.rejects(
    as(
      "owner",
      "create or replace function strata.count_at(file bytea, at int) returns bigint language sql as 'select 1::bigint'",
    ),
    /must be owner/,
  );
  await assert.rejects(as("reader", "select pg_read_binary_file('../read-counts')"), /permission/);
  // By the agent, too, and again.
  const wanted = { extension: "strata", database: "postgres", version: "1.0" };
  for (let i = 0; i < 2; i++) {
    assert.deepEqual(await endpoint.client.installExtension(wanted), {
      extension: "strata",
      version: "1.0",
    });
  }
});

test("extension strata: nothing that the schema's owner puts in the way of its functions runs as the superuser", async () => {
  const evil = (signature: string, result: string) =>
    `create function ${signature} returns ${result} language plpgsql immutable as $$ begin raise 'called as %', current_user; end $$`;
  await as("owner", "drop extension if exists strata; drop schema if exists strata");
  // Closer to what the script's calls are given than Postgres's own, which take any array.
  await as("owner", "create schema strata");
  await as("owner", evil("strata.unnest(bigint[])", "setof bigint"));
  await as(
    "owner",
    `${evil("strata.step(bigint[], bigint)", "bigint[]")};
     create aggregate strata.array_agg(bigint) (sfunc = strata.step, stype = bigint[])`,
  );
  await as("owner", MAKE);
  const read = (schema: string) =>
    as("owner", `select count(*) from ${schema}.neon_lfc_stats, ${schema}.neon_perf_counters`);
  assert.deepEqual(await read("strata"), [["174"]]);
  await as("owner", "alter schema strata rename to moved; create schema strata");
  await as("owner", evil("strata.count_at(bytea, int)", "bigint"));
  await as("owner", evil("strata.read_counts()", "bigint"));
  assert.deepEqual(await read("moved"), [["174"]]);
  await as("owner", "drop extension strata; drop schema strata cascade; drop schema moved cascade");
});

test("extension strata: reads of what is not here are misses and waits, and the next ones are hits", async () => {
  await as(
    "owner",
    `${MAKE}; create table big as select n, repeat('x', 800) as pad from generate_series(1, ${PAGES * 9}) n`,
  );
  await as("owner", "vacuum (freeze) big");
  await endpoint.daemon.kill("SIGTERM");
  await endpoint.start();
  const before = await stats("reader");
  const scan = "select count(*) from big where pad > ''";
  await as("owner", scan);
  // A session tells what it has read when it ends at the latest.
  const cold = await eventually("the scan is counted", async () => {
    const now = await stats("reader");
    return now["file_cache_fetched"]! - before["file_cache_fetched"]! >= PAGES ? now : undefined;
  });
  // What was read ahead is here when its turn comes: up to 32 blocks for one miss.
  assert.ok(cold["file_cache_misses"]! - before["file_cache_misses"]! >= PAGES / 40);
  assert.ok(cold["file_cache_used"]! - before["file_cache_used"]! >= PAGES);
  await as("owner", scan);
  const warm = await eventually("so is the next one", async () => {
    const now = await stats("reader");
    return now["file_cache_hits"]! - cold["file_cache_hits"]! >= PAGES * 0.4 ? now : undefined;
  });
  assert.ok(warm["file_cache_misses"]! - cold["file_cache_misses"]! < PAGES / 10);
  assert.deepEqual(Object.keys(warm).sort(), [
    "file_cache_evicted",
    "file_cache_fetched",
    "file_cache_fetched_again",
    "file_cache_hits",
    "file_cache_misses",
    "file_cache_used",
  ]);
});

test("extension strata: waits are a histogram in Prometheus's way; a ratio is of what was read", async () => {
  await as("owner", MAKE);
  const rows = await as(
    "reader",
    "select metric, bucket_le, value from strata.neon_perf_counters order by metric, bucket_le",
  );
  const one = (name: string) => Number(rows.find(([metric]) => metric === name)![2]);
  const buckets = rows.filter(([metric]) => metric === "getpage_wait_seconds_bucket");
  assert.equal(buckets.length, 24);
  assert.equal(buckets.at(-1)![1], "Infinity");
  const counts = buckets.map(([, , value]) => Number(value));
  assert.deepEqual(
    counts,
    counts.toSorted((a, b) => a - b),
  );
  assert.equal(counts.at(-1), one("getpage_wait_seconds_count"));
  assert.ok(one("getpage_wait_seconds_count") > 10 && one("getpage_wait_seconds_sum") > 0);
  // Half of the waits were as long as the median's bucket at most, so all of them together at least the sum of the lower bounds.
  const least = buckets.reduce(
    (sum, [, le], i) =>
      sum + (i < 2 ? 0 : (counts[i]! - counts[i - 1]!) * (le === "Infinity" ? 4 : Number(le) / 2)),
    0,
  );
  assert.ok(one("getpage_wait_seconds_sum") >= least * 0.99, `${least}`);
  const [[hits, misses, ratio]] = (await as(
    "reader",
    "select file_cache_hits, file_cache_misses, file_cache_hit_ratio from strata.neon_stat_file_cache",
  )) as [[string, string, string]];
  const wanted = (100 * Number(hits)) / (Number(hits) + Number(misses));
  assert.ok(Math.abs(Number(ratio) - wanted) < 0.01, `${ratio} ${wanted}`);
});

test("extension strata: a read-only endpoint has counts of its own", async () => {
  await as("owner", MAKE);
  const [[lsn]] = (await endpoint.query("select pg_current_wal_flush_lsn()")) as [[string]];
  const past = await world.createEndpoint(timelineId, { mode: { static: lsn } });
  await past.start();
  const seen = await stats("reader", past);
  assert.ok(seen["file_cache_fetched"]! > 0);
  assert.ok(seen["file_cache_fetched"]! < (await stats("reader"))["file_cache_fetched"]!);
  await past.daemon.kill("SIGTERM");
});
