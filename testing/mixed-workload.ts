// SQL that makes stock Postgres write every kind of heap, btree, sequence and SLRU record we know of.

import type pg from "pg";
import { SeededRandom } from "../src/base/random.ts";
import type { StockCluster } from "./stock-cluster.ts";

export interface WorkloadOptions {
  readonly seed?: number;
  /** Multiplies row counts; 1 writes about 60 MB of WAL. */
  readonly scale?: number;
}

/** The tables that must exist before the base is copied. */
export async function prepareMixedWorkload(client: pg.Client): Promise<void> {
  await client.query(`
    CREATE TABLE accounts (id int PRIMARY KEY, branch int NOT NULL, balance int NOT NULL, filler text)
      WITH (fillfactor = 80);
    INSERT INTO accounts SELECT g, g % 10, 0, repeat('x', 60) FROM generate_series(1, 5000) g;
    CREATE TABLE parent (id int PRIMARY KEY, name text);
    INSERT INTO parent SELECT g, 'p' || g FROM generate_series(1, 300) g;
    CREATE TABLE child (id bigserial PRIMARY KEY, parent_id int REFERENCES parent, note text);
    CREATE TABLE frozen AS SELECT g AS id, 'row ' || g AS t FROM generate_series(1, 20000) g;
  `);
  await client.query("VACUUM (FREEZE) accounts, parent, frozen");
}

/** Runs everything; each part commits. */
export async function runMixedWorkload(
  cluster: StockCluster,
  options: WorkloadOptions = {},
): Promise<void> {
  const random = new SeededRandom(options.seed ?? 1);
  const scale = options.scale ?? 1;
  const first = await cluster.connect();
  const second = await cluster.connect();
  await updates(first, random, scale);
  await indexes(first, scale);
  await rowLocks(first, second, random, scale);
  await savepoints(first, scale);
  await upserts(first, second, scale);
  await partitions(first, scale);
  await toast(first, scale);
  await vacuums(first, scale);
  await rewrites(first, scale);
  await btreeDeletion(first, scale);
  await sequencesAndUnlogged(first);
  await prepared(first);
  await truncation(first, scale);
  await databases(first, cluster.installation.major);
}

function rows(scale: number, count: number): number {
  return Math.max(10, Math.round(count * scale));
}

/** TPC-B like: HOT updates, pruning on access, bottom-up index deletion. */
async function updates(client: pg.Client, random: SeededRandom, scale: number): Promise<void> {
  for (let i = 0; i < rows(scale, 400); i++) {
    const id = 1 + random.int(200);
    await client.query(
      `UPDATE accounts SET balance = balance + ${random.int(100)} WHERE id = ${id};
       UPDATE accounts SET filler = 'f' || ${i} WHERE id = ${1 + random.int(5000)}`,
    );
  }
  await client.query(`
    CREATE INDEX accounts_balance ON accounts (balance);
    UPDATE accounts SET balance = balance + 1;
    UPDATE accounts SET balance = balance + 1 WHERE id % 3 = 0;
    DELETE FROM accounts WHERE id % 11 = 0;
    INSERT INTO accounts SELECT g, g % 10, g, 'again' FROM generate_series(11, 5000, 11) g
      ON CONFLICT DO NOTHING;
  `);
}

async function indexes(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 20000);
  await client.query(`
    CREATE TABLE keys (u uuid DEFAULT gen_random_uuid(), dup int, t text, v int);
    CREATE INDEX keys_u ON keys (u);
    CREATE INDEX keys_dup ON keys (dup);
    CREATE INDEX keys_t ON keys (t);
    CREATE UNIQUE INDEX keys_v ON keys (v);
    INSERT INTO keys (dup, t, v)
      SELECT g % 7, md5((g % 1000)::text), g FROM generate_series(1, ${count}) g;
  `);
  // Single rows between duplicates split posting lists.
  for (let i = 0; i < rows(scale, 60); i++) {
    await client.query(`INSERT INTO keys (dup, t, v)
      SELECT g % 7, md5((g % 1000)::text), g
      FROM generate_series(${count + 1 + i * 20}, ${count + (i + 1) * 20}) g`);
  }
  for (const statement of [
    "DELETE FROM keys WHERE v % 5 = 1",
    "VACUUM keys",
    `INSERT INTO keys (dup, t, v)
      SELECT g % 3, repeat('long key ', 1 + g % 100) || g, 1000000 + g
      FROM generate_series(1, ${rows(scale, 1500)}) g`,
    "UPDATE keys SET dup = dup + 1 WHERE v % 4 = 0",
    "DELETE FROM keys WHERE dup = 2 AND v % 3 = 0",
    "VACUUM keys",
    "REINDEX INDEX keys_dup",
    "CREATE INDEX CONCURRENTLY keys_dup_t ON keys (dup, t)",
    "REINDEX INDEX CONCURRENTLY keys_t",
  ]) {
    await client.query(statement);
  }
}

/** Two sessions share-lock the same parents: multixacts; then updates and locks of updated rows. */
async function rowLocks(
  first: pg.Client,
  second: pg.Client,
  random: SeededRandom,
  scale: number,
): Promise<void> {
  for (let i = 0; i < rows(scale, 120); i++) {
    const id = 1 + random.int(300);
    await first.query(`BEGIN; INSERT INTO child (parent_id, note) VALUES (${id}, 'a${i}')`);
    await second.query(`BEGIN; INSERT INTO child (parent_id, note) VALUES (${id}, 'b${i}')`);
    if (random.bool(0.3)) {
      // No key change: goes on while the key is share-locked; the multixact gets an updater.
      await second.query(`UPDATE parent SET name = name || '.' WHERE id = ${id}`);
    }
    await first.query(random.bool(0.8) ? "COMMIT" : "ROLLBACK");
    if (random.bool(0.5)) {
      await first.query(`BEGIN; SELECT * FROM parent WHERE id = ${id} FOR KEY SHARE; COMMIT`);
    }
    await second.query(random.bool(0.8) ? "COMMIT" : "ROLLBACK");
  }
  for (const mode of ["FOR UPDATE", "FOR NO KEY UPDATE", "FOR SHARE", "FOR KEY SHARE"]) {
    await first.query(`BEGIN; SELECT * FROM frozen WHERE id % 700 = 3 ${mode}; COMMIT`);
  }
  // A lock that follows a row to its newest version: heap2 LOCK_UPDATED.
  await first.query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM parent");
  for (let id = 1; id <= 20; id++) {
    await second.query(`BEGIN; UPDATE parent SET name = 'newer' WHERE id = ${id}`);
    await first.query(`SELECT * FROM parent WHERE id = ${id} FOR KEY SHARE`);
    await second.query("COMMIT");
  }
  await first.query("COMMIT");
}

async function savepoints(client: pg.Client, scale: number): Promise<void> {
  await client.query("CREATE TABLE subs (id int PRIMARY KEY, t text)");
  await client.query("BEGIN");
  for (let i = 0; i < rows(scale, 150); i++) {
    await client.query(`SAVEPOINT s; INSERT INTO subs VALUES (${i}, 'sub ${i}')`);
    await client.query(i % 3 === 0 ? "ROLLBACK TO s" : "RELEASE s");
  }
  await client.query("COMMIT");
  await client.query(
    "BEGIN; INSERT INTO subs VALUES (-1, 'gone'); SAVEPOINT a; DELETE FROM subs; ROLLBACK",
  );
}

/** Speculative insertion: confirmed, and killed by a conflict with another session. */
async function upserts(first: pg.Client, second: pg.Client, scale: number): Promise<void> {
  await first.query(
    "CREATE TABLE up (k int PRIMARY KEY, n int); CREATE UNIQUE INDEX up_n ON up (n)",
  );
  for (let i = 0; i < rows(scale, 100); i++) {
    const sql = `INSERT INTO up VALUES (${i % 40}, ${i})
      ON CONFLICT (k) DO UPDATE SET n = excluded.n + 10000`;
    await first.query(sql);
  }
  // Both sessions believe the key is free while a trigger holds them up: one insertion is killed.
  await first.query(`
    CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
      $$ BEGIN PERFORM pg_sleep(0.02); RETURN $1; END $$;
    CREATE TABLE race (k int, n int);
    CREATE UNIQUE INDEX race_k ON race (slow(k))`);
  for (let i = 0; i < 15; i++) {
    const sql = `INSERT INTO race VALUES (${i}, 0)
      ON CONFLICT (slow(k)) DO UPDATE SET n = race.n + 1`;
    await Promise.all([first.query(sql), second.query(sql)]);
  }
}

async function partitions(client: pg.Client, scale: number): Promise<void> {
  await client.query(`
    CREATE TABLE part (k int, t text) PARTITION BY RANGE (k);
    CREATE TABLE part1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
    CREATE TABLE part2 PARTITION OF part FOR VALUES FROM (1000) TO (100000);
    CREATE INDEX ON part (k);
    INSERT INTO part SELECT g % 1000, 'part ' || g FROM generate_series(1, ${rows(scale, 3000)}) g;
    UPDATE part SET k = k + 1000 WHERE k % 2 = 0;
  `);
}

async function toast(client: pg.Client, scale: number): Promise<void> {
  await client.query(`
    CREATE TABLE big (id int PRIMARY KEY, a text, b text);
    ALTER TABLE big ALTER a SET STORAGE EXTERNAL;
    INSERT INTO big SELECT g, repeat(md5(g::text), 300), repeat('z', g * 10)
      FROM generate_series(1, ${rows(scale, 150)}) g;
    UPDATE big SET a = a || 'more' WHERE id % 2 = 0;
    DELETE FROM big WHERE id % 5 = 0;
  `);
}

async function vacuums(client: pg.Client, scale: number): Promise<void> {
  await client.query(`
    CREATE TABLE vac (id int PRIMARY KEY, t text, n int);
    INSERT INTO vac SELECT g, 'v' || g, NULL FROM generate_series(1, ${rows(scale, 8000)}) g;
  `);
  for (const statement of [
    "VACUUM vac",
    "DELETE FROM vac WHERE id % 3 = 0",
    "VACUUM vac",
    "UPDATE vac SET n = id WHERE id % 7 = 0",
    "VACUUM (FREEZE) vac",
    "UPDATE vac SET t = 'cleared' WHERE id % 101 = 1",
    "INSERT INTO vac SELECT g, 'w', 1 FROM generate_series(100001, 100500) g",
    "BEGIN; SELECT * FROM vac WHERE id % 97 = 1 FOR UPDATE; COMMIT",
    "DELETE FROM vac WHERE id > 4000",
    "VACUUM (FREEZE, ANALYZE) vac",
    "VACUUM (FREEZE) parent",
    "VACUUM (FREEZE) child",
    "COPY frozen TO '/dev/null'",
    "DELETE FROM frozen WHERE id > 15000",
    "VACUUM frozen",
    "CREATE TABLE copied (id int, t text)",
    "BEGIN; TRUNCATE copied; INSERT INTO copied SELECT g, 'c' FROM generate_series(1, 2000) g; COMMIT",
    "VACUUM copied",
    "BEGIN; TRUNCATE copied; COPY copied (id) FROM PROGRAM 'seq 1 3000' (FREEZE); COMMIT",
  ]) {
    await client.query(statement);
  }
}

async function rewrites(client: pg.Client, scale: number): Promise<void> {
  for (const statement of [
    "VACUUM FULL vac",
    "CLUSTER keys USING keys_v",
    `CREATE TABLE ctas AS SELECT g AS id, md5(g::text) AS t
       FROM generate_series(1, ${rows(scale, 3000)}) g`,
    "ALTER TABLE ctas ADD COLUMN extra int DEFAULT 5",
    "ALTER TABLE ctas ALTER COLUMN id TYPE bigint",
    "ALTER TABLE ctas ADD PRIMARY KEY (id)",
    "CREATE MATERIALIZED VIEW mv AS SELECT id % 10 AS k, count(*) FROM ctas GROUP BY 1",
    "REFRESH MATERIALIZED VIEW mv",
    "ANALYZE",
    "VACUUM FULL pg_class",
    "REINDEX TABLE pg_attribute",
    "BEGIN; CREATE TABLE never (x int); INSERT INTO never VALUES (1); ROLLBACK",
    "CREATE TABLE dropped AS SELECT 1 AS x",
    "DROP TABLE dropped",
  ]) {
    await client.query(statement);
  }
}

/** Empties whole subtrees: half-dead pages, unlinking on upper levels, new fast root, page reuse. */
async function btreeDeletion(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 4000);
  // Random, or the index would compress it.
  const noise = "(SELECT string_agg(md5(g::text || i), '') FROM generate_series(1, 18) i)";
  for (const statement of [
    "CREATE TABLE wide (k text)",
    "CREATE INDEX wide_k ON wide (k)",
    `INSERT INTO wide SELECT lpad(g::text, 8, '0') || ${noise}
       FROM generate_series(1, ${count}) g`,
    `DELETE FROM wide WHERE k < lpad(${Math.round(count * 0.9)}::text, 8, '0')`,
    "VACUUM wide",
    "SELECT txid_current()",
    "VACUUM wide",
    `INSERT INTO wide SELECT lpad(g::text, 8, '0') || ${noise}
       FROM generate_series(1, ${Math.round(count / 2)}) g`,
    "DELETE FROM wide",
    "VACUUM wide",
    "VACUUM wide",
    "INSERT INTO wide SELECT repeat('q', 500) || g FROM generate_series(1, 200) g",
    // Ends with pages deleted, which the metapage counts: XLOG_BTREE_META_CLEANUP is its last word.
    "DELETE FROM wide",
    "VACUUM wide",
  ]) {
    await client.query(statement);
  }
}

async function sequencesAndUnlogged(client: pg.Client): Promise<void> {
  await client.query(`
    CREATE SEQUENCE seq_a INCREMENT 3;
    SELECT nextval('seq_a') FROM generate_series(1, 100);
    SELECT setval('seq_a', 5000);
    ALTER SEQUENCE seq_a RESTART WITH 7;
    SELECT nextval('seq_a');
    CREATE UNLOGGED TABLE unlogged (id serial PRIMARY KEY, t text);
    INSERT INTO unlogged (t) SELECT 'u' FROM generate_series(1, 500);
    CREATE TEMP TABLE temp AS SELECT 1 AS x;
    ALTER TABLE unlogged SET LOGGED;
    UPDATE unlogged SET t = 'logged now' WHERE id % 2 = 0;
  `);
}

async function prepared(client: pg.Client): Promise<void> {
  for (let i = 0; i < 4; i++) {
    await client.query(`BEGIN; INSERT INTO up VALUES (${1000 + i}, ${-1 - i});
      SAVEPOINT s; INSERT INTO up VALUES (${2000 + i}, ${-100 - i});
      CREATE TABLE two_phase_${i} (x int); PREPARE TRANSACTION 'p${i}'`);
  }
  await client.query("COMMIT PREPARED 'p0'");
  await client.query("ROLLBACK PREPARED 'p1'");
  // p2 stays prepared; p3 ends after other work.
  await client.query("INSERT INTO up VALUES (3000, 3000)");
  await client.query("COMMIT PREPARED 'p3'");
}

async function truncation(client: pg.Client, scale: number): Promise<void> {
  for (const statement of [
    "CREATE TABLE tail (id int, t text)",
    `INSERT INTO tail SELECT g, repeat('t', 100) FROM generate_series(1, ${rows(scale, 5000)}) g`,
    "VACUUM (FREEZE) tail",
    "DELETE FROM tail WHERE id > 200",
    "VACUUM tail",
    "INSERT INTO tail SELECT g, 'after' FROM generate_series(1, 300) g",
    "TRUNCATE ctas",
    "INSERT INTO ctas (id, t) SELECT g, 'again' FROM generate_series(1, 100) g",
    "BEGIN; TRUNCATE copied; ROLLBACK",
  ]) {
    await client.query(statement);
  }
}

/** Postgres 14 only copies files. */
async function databases(client: pg.Client, pgMajor: number): Promise<void> {
  const strategy = (name: string) => (pgMajor === 14 ? "" : ` STRATEGY ${name}`);
  for (const statement of [
    `CREATE DATABASE db_log TEMPLATE template1${strategy("wal_log")}`,
    `CREATE DATABASE db_copy TEMPLATE template1${strategy("file_copy")}`,
    `CREATE DATABASE db_gone TEMPLATE template1${strategy("file_copy")}`,
    "DROP DATABASE db_gone",
    `CREATE DATABASE db_gone_too TEMPLATE template1${strategy("wal_log")}`,
    "DROP DATABASE db_gone_too",
  ]) {
    await client.query(statement);
  }
}
