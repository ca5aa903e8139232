// The part of the workload for heap pages: tuples of every size, each plan of pruning and freezing, rows
// that move, indexes built while rows change.

import type { StockCluster } from "../../testing/stock-cluster.ts";
import { noise, runAll } from "./sql.ts";

/** Tuples up to a whole page; toasted ones of up to 2 MB; many columns, many nulls. */
export async function tupleSizes(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  const columns = Array.from({ length: 300 }, (_, i) => `c${i} int`).join(", ");
  await runAll(client, [
    "CREATE TABLE huge (id int PRIMARY KEY, t text)",
    "ALTER TABLE huge ALTER t SET STORAGE PLAIN",
    `INSERT INTO huge SELECT g, ${noise("g", 8120)} FROM generate_series(1, 20) g`,
    `INSERT INTO huge SELECT g, ${noise("g", 4030)} FROM generate_series(21, 50) g`,
    `UPDATE huge SET t = ${noise("id + 1", 8100)} WHERE id % 4 = 0`,
    "UPDATE huge SET t = left(t, 3000) WHERE id % 5 = 0",
    "DELETE FROM huge WHERE id % 3 = 0",
    "VACUUM huge",
  ]);
  await runAll(client, [
    "CREATE TABLE toasted (id int PRIMARY KEY, t text)",
    "ALTER TABLE toasted ALTER t SET STORAGE EXTERNAL",
    "INSERT INTO toasted VALUES (1, repeat('toast ', 350000))",
    "INSERT INTO toasted SELECT g, repeat(md5(g::text), g * 40) FROM generate_series(2, 25) g",
    "UPDATE toasted SET t = t || 'more' WHERE id % 4 = 0",
    "DELETE FROM toasted WHERE id % 5 = 0",
    "VACUUM toasted",
    `CREATE TABLE columns (${columns})`,
    "INSERT INTO columns (c0, c150) SELECT g, g FROM generate_series(1, 50) g",
    "UPDATE columns SET c299 = c0, c7 = 7 WHERE c0 % 3 = 0",
    "UPDATE columns SET c0 = NULL WHERE c0 % 5 = 0",
    "CREATE TABLE empty_rows ()",
    "INSERT INTO empty_rows SELECT FROM generate_series(1, 300)",
    "DELETE FROM empty_rows",
    "VACUUM empty_rows",
    "CREATE TABLE filled (id int, t text)",
    "COPY filled (id) FROM PROGRAM 'seq 1 2500'",
    "BEGIN; CREATE TABLE copied_frozen (id int)",
    "COPY copied_frozen FROM PROGRAM 'seq 1 1500' (FREEZE)",
    "COMMIT",
  ]);
}

/** Chains of HOT updates: redirects, dead and unused line pointers, alone and with freezing. */
export async function pruning(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  const other = await cluster.connect();
  await runAll(client, [
    "CREATE TABLE chains (id int PRIMARY KEY, n int, t text) WITH (fillfactor = 40)",
    "INSERT INTO chains SELECT g, 0, repeat('c', 40) FROM generate_series(1, 900) g",
    "CREATE TABLE bare (id int, t text)",
    "INSERT INTO bare SELECT g, 'b' FROM generate_series(1, 3000) g",
  ]);
  for (let round = 1; round <= 4; round++) {
    await runAll(client, [
      `UPDATE chains SET n = n + 1 WHERE id % ${round + 1} = 0`,
      `UPDATE chains SET n = n + 1 WHERE id % 3 = ${round % 3}`,
      `DELETE FROM chains WHERE id % 17 = ${round}`,
      // On access: a page nearly full is pruned by who reads it.
      "SELECT count(*) FROM chains",
    ]);
  }
  await runAll(client, [
    "UPDATE chains SET id = id + 10000 WHERE id % 19 = 0",
    "BEGIN; UPDATE chains SET n = -1 WHERE id % 7 = 0; ROLLBACK",
    // Dead line pointers stay, because no index is visited.
    "VACUUM (INDEX_CLEANUP off) chains",
    "VACUUM chains",
    // Redirects, dead items and freezing in one.
    "UPDATE chains SET n = n + 1 WHERE id % 2 = 0",
    "DELETE FROM chains WHERE id % 23 = 0",
    "VACUUM (FREEZE) chains",
    // A table without indexes: dead rows become unused at once.
    "DELETE FROM bare WHERE id % 3 = 0",
    "VACUUM bare",
    "DELETE FROM bare WHERE id > 1500",
    "VACUUM bare",
    "INSERT INTO bare SELECT g, 'again' FROM generate_series(1, 700) g",
  ]);
  // Another session sees old rows: they are recently dead, and pruning must keep them.
  await other.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM chains");
  await runAll(client, [
    "UPDATE chains SET n = n + 1 WHERE id % 5 = 0",
    "UPDATE chains SET n = n + 1 WHERE id % 5 = 0",
    "DELETE FROM bare WHERE id % 11 = 0",
    "VACUUM (FREEZE) chains",
    "VACUUM bare",
  ]);
  await other.query("COMMIT");
  await runAll(client, ["VACUUM chains", "VACUUM bare"]);
}

/** Rows to freeze whose xmax is nothing, an aborted deleter, a lock, a multixact of each outcome. */
export async function freezing(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  const other = await cluster.connect();
  await runAll(client, [
    "CREATE TABLE cold (id int PRIMARY KEY, n int)",
    "INSERT INTO cold SELECT g, g FROM generate_series(1, 1500) g",
    "BEGIN; DELETE FROM cold WHERE id % 10 = 1; ROLLBACK",
    "BEGIN; SELECT * FROM cold WHERE id % 10 = 2 FOR UPDATE; COMMIT",
    "BEGIN; SELECT * FROM cold WHERE id % 10 = 3 FOR KEY SHARE; COMMIT",
    "BEGIN; SAVEPOINT s; UPDATE cold SET n = 0 WHERE id % 10 = 4; ROLLBACK TO s; COMMIT",
  ]);
  for (const end of ["COMMIT", "ROLLBACK"]) {
    await client.query("BEGIN; SELECT * FROM cold WHERE id % 10 = 5 FOR KEY SHARE");
    await other.query("BEGIN; SELECT * FROM cold WHERE id % 10 = 5 FOR KEY SHARE");
    await other.query("UPDATE cold SET n = n + 1 WHERE id % 20 = 5");
    await client.query("COMMIT");
    await other.query(end);
  }
  // A transaction that goes on keeps a member of the multixacts alive.
  await other.query("BEGIN; SELECT * FROM cold WHERE id % 10 = 6 FOR KEY SHARE");
  await client.query("BEGIN; SELECT * FROM cold WHERE id % 10 = 6 FOR SHARE; COMMIT");
  await client.query("VACUUM (FREEZE) cold");
  await other.query("COMMIT");
  await runAll(client, [
    "VACUUM (FREEZE) cold",
    // Bits of the map: frozen, then only visible, then nothing, and locks of frozen rows.
    "INSERT INTO cold SELECT g, 0 FROM generate_series(5000, 5600) g",
    "VACUUM cold",
    "BEGIN; SELECT * FROM cold WHERE id % 100 = 7 FOR UPDATE; COMMIT",
    "UPDATE cold SET n = 1 WHERE id % 90 = 8",
    "DELETE FROM cold WHERE id % 80 = 9",
    "VACUUM cold",
    "VACUUM (FREEZE, DISABLE_PAGE_SKIPPING) cold",
  ]);
}

/** Rows that move to other partitions, and triggers and upserts that meet them there. */
export async function partitionMoves(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await runAll(client, [
    "CREATE TABLE parted (k int, v text, PRIMARY KEY (k)) PARTITION BY HASH (k)",
    ...[0, 1, 2].map(
      (i) => `CREATE TABLE parted${i} PARTITION OF parted
        FOR VALUES WITH (MODULUS 3, REMAINDER ${i})`,
    ),
    "INSERT INTO parted SELECT g, 'p' || g FROM generate_series(1, 900) g",
    "UPDATE parted SET k = k + 1000 WHERE k % 4 = 0",
    `INSERT INTO parted SELECT g, 'new' FROM generate_series(1, 900, 2) g
       ON CONFLICT (k) DO UPDATE SET v = excluded.v`,
    "BEGIN; UPDATE parted SET k = k + 5000 WHERE k % 3 = 0; ROLLBACK",
    "DELETE FROM parted WHERE k % 5 = 0",
    "VACUUM parted",
    "ALTER TABLE parted DETACH PARTITION parted2",
    "TRUNCATE parted",
  ]);
}

/** Indexes of each method built while another session updates, deletes and keeps chains broken. */
export async function concurrentBuilds(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  const other = await cluster.connect();
  await runAll(client, [
    "CREATE TABLE busy (id int PRIMARY KEY, k int, p point, a int[], t text) WITH (fillfactor = 60)",
    `INSERT INTO busy SELECT g, g % 50, point(g % 31, g % 37), ARRAY[g % 9, g], md5(g::text)
       FROM generate_series(1, 600) g`,
  ]);
  const state = { building: true };
  const changes = async () => {
    for (let i = 0; state.building; i++) {
      await runAll(other, [
        `UPDATE busy SET k = k + 1 WHERE id % 40 = ${i % 40}`,
        `DELETE FROM busy WHERE id = ${1 + ((i * 13) % 600)}`,
        `INSERT INTO busy VALUES (${10000 + i}, ${i % 7}, point(${i}, 1), ARRAY[${i}], 'x${i}')`,
        "SELECT pg_sleep(0.005)",
      ]);
    }
  };
  const changing = changes();
  try {
    await runAll(client, [
      "CREATE INDEX CONCURRENTLY busy_k ON busy (k)",
      "CREATE INDEX CONCURRENTLY busy_hash ON busy USING hash (t)",
      "CREATE INDEX CONCURRENTLY busy_gin ON busy USING gin (a)",
      "CREATE INDEX CONCURRENTLY busy_gist ON busy USING gist (p)",
      "CREATE INDEX CONCURRENTLY busy_spgist ON busy USING spgist (p)",
      "CREATE INDEX CONCURRENTLY busy_brin ON busy USING brin (k)",
      "REINDEX INDEX CONCURRENTLY busy_k",
      "DROP INDEX CONCURRENTLY busy_hash",
      "VACUUM busy",
    ]);
  } finally {
    state.building = false;
    await changing;
  }
}
