// SQL that makes stock Postgres write every kind of GIN and BRIN record, and bloom's generic ones.

import type pg from "pg";
import type { StockCluster } from "../stock-cluster.ts";

/** Extensions and tables that must exist before the base is copied, indexes with content among them. */
export async function prepareGinBrinWorkload(client: pg.Client): Promise<void> {
  await client.query(`
    CREATE EXTENSION IF NOT EXISTS btree_gin; CREATE EXTENSION IF NOT EXISTS pg_trgm;
    CREATE EXTENSION IF NOT EXISTS intarray; CREATE EXTENSION IF NOT EXISTS bloom;
    CREATE TABLE docs (id int, j jsonb, tags int[], words text[], ts tsvector, t text);
    CREATE INDEX docs_j ON docs USING gin (j) WITH (gin_pending_list_limit = 64);
    CREATE INDEX docs_path ON docs USING gin (j jsonb_path_ops) WITH (fastupdate = off);
    CREATE TABLE ranges (k int, t text, a inet, filler text) WITH (fillfactor = 10);
    ALTER TABLE ranges ALTER filler SET STORAGE PLAIN, ALTER t SET STORAGE PLAIN;
    CREATE INDEX ranges_base ON ranges USING brin (k) WITH (pages_per_range = 1);
    INSERT INTO ranges SELECT g, 's' || g, '10.0.0.1', repeat('f', 700)
      FROM generate_series(1, 100) g;
    CREATE TABLE blooms (a int, b int, c text);
    CREATE INDEX blooms_base ON blooms USING bloom (a, b, c);
    INSERT INTO blooms SELECT g, g % 10, 'b' || g FROM generate_series(1, 500) g;
  `);
  await insertDocs(client, 1, 300);
  await client.query("VACUUM (FREEZE) docs, ranges, blooms");
}

/**
 * Runs everything; each part commits. Writes about 70 MB of WAL; `brief` leaves out what takes many
 * rows: most documents, posting trees of more than one leaf, deep entry trees.
 */
export async function runGinBrinWorkload(cluster: StockCluster, brief = false): Promise<void> {
  const client = await cluster.connect();
  await documents(client, brief ? 100 : 300);
  if (!brief) {
    await postingTrees(client);
    await entryTrees(client);
  }
  await pendingLists(client);
  await summaries(client);
  await movedSummaries(client);
  await blooms(client);
}

/** After-images of so many changes that are all alike would only take time. */
export function unchecked(statement: string): string[] {
  return ["SET wal_consistency_checking = ''", statement, "RESET wal_consistency_checking"];
}

async function runAll(client: pg.Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) {
    await client.query(statement);
  }
}

async function insertDocs(client: pg.Client, from: number, to: number): Promise<void> {
  await client.query(`
    INSERT INTO docs SELECT g,
      jsonb_build_object('k' || g % 30, g, 'list', jsonb_build_array(g % 5, md5((g % 90)::text))),
      ARRAY[g % 3, g % 100, g], ARRAY['w' || g % 13, md5(g::text)],
      to_tsvector('simple', md5(g::text) || ' common word' || g % 40), md5((g % 200)::text)
      FROM generate_series(${from}, ${to}) g`);
}

/** Every operator class, insertion with and without pending list, deletion, vacuum. */
async function documents(client: pg.Client, count: number): Promise<void> {
  await runAll(client, [
    "CREATE INDEX docs_tags ON docs USING gin (tags) WITH (fastupdate = off)",
    "CREATE INDEX docs_int ON docs USING gin (tags gin__int_ops)",
    "CREATE INDEX docs_words ON docs USING gin (words) WITH (fastupdate = off)",
    "CREATE INDEX docs_ts ON docs USING gin (ts)",
    "CREATE INDEX docs_trgm ON docs USING gin (t gin_trgm_ops) WITH (fastupdate = off)",
    "CREATE INDEX docs_multi ON docs USING gin (id, tags)",
  ]);
  await insertDocs(client, 301, 300 + count);
  await runAll(client, [
    "INSERT INTO docs VALUES (0, NULL, NULL, '{}', '', ''), (0, '{}', '{}', NULL, NULL, NULL)",
    "UPDATE docs SET tags = tags || 7, j = j || '{\"new\": [1, 2]}' WHERE id % 9 = 0",
    "DELETE FROM docs WHERE id % 4 = 0",
    "VACUUM docs",
  ]);
  await insertDocs(client, 901, 900 + count / 3);
  await runAll(client, ["REINDEX INDEX docs_ts", "VACUUM docs"]);
}

/** Posting trees of several leaves: filled at the end and in the middle, emptied, pages deleted. */
async function postingTrees(client: pg.Client): Promise<void> {
  await runAll(client, [
    "CREATE TABLE posts (id int, v int[])",
    "CREATE INDEX posts_v ON posts USING gin (v) WITH (fastupdate = off)",
    ...unchecked(
      "INSERT INTO posts SELECT g, ARRAY[1, 10 + g % 5] FROM generate_series(1, 24000) g",
    ),
    ...unchecked("DELETE FROM posts WHERE id % 3 = 0"),
    "VACUUM posts",
    // Into the holes: items are added in the middle of segments and of leaves.
    "INSERT INTO posts SELECT g, ARRAY[1, 10 + g % 5] FROM generate_series(1, 4000) g",
    // Whole leaves between the first and the last become empty.
    ...unchecked("DELETE FROM posts WHERE ctid >= '(20,0)' AND ctid < '(150,0)'"),
    "VACUUM posts",
    "SELECT txid_current()",
    "VACUUM posts",
    "INSERT INTO posts SELECT g, ARRAY[1, 2, 3] FROM generate_series(1, 6000) g",
    // Deleted pages that nothing takes again.
    ...unchecked("INSERT INTO posts SELECT g, ARRAY[4] FROM generate_series(1, 18000) g"),
    ...unchecked("DELETE FROM posts WHERE v = '{4}' AND id BETWEEN 1000 AND 17000"),
    "VACUUM posts",
  ]);
}

/** Long keys: few items a page, so inner pages of the entry tree split too. */
async function entryTrees(client: pg.Client): Promise<void> {
  const key = (g: string) =>
    `(SELECT string_agg(md5((${g})::text || i), '') FROM generate_series(1, 40) i)`;
  await runAll(client, [
    "CREATE TABLE entries (id int, v text[])",
    "CREATE INDEX entries_v ON entries USING gin (v) WITH (fastupdate = off)",
    `INSERT INTO entries SELECT g, ARRAY[${key("g")}] FROM generate_series(1, 500) g`,
    // Each key again and again: its posting list grows until it becomes a tree.
    ...unchecked(
      "INSERT INTO entries SELECT g, ARRAY['short', 'k' || g % 3] FROM generate_series(1, 6000) g",
    ),
    ...unchecked("DELETE FROM entries WHERE id % 2 = 0"),
    "VACUUM entries",
    `INSERT INTO entries SELECT g, ARRAY[${key("g + 1000")}] FROM generate_series(1, 150) g`,
  ]);
}

/** The pending list: filled row by row and by rows of many keys, cleaned up in three ways. */
async function pendingLists(client: pg.Client): Promise<void> {
  await runAll(client, [
    "CREATE TABLE pending (id int, v int[])",
    "CREATE INDEX pending_v ON pending USING gin (v) WITH (gin_pending_list_limit = 1024)",
  ]);
  for (let i = 0; i < 40; i++) {
    await client.query(`INSERT INTO pending VALUES (${i}, ARRAY[${i}, ${i + 1}, 5])`);
  }
  const many = (from: number, count: number) =>
    `SELECT g, ARRAY(SELECT g * 3 + i FROM generate_series(1, ${count}) i)
       FROM generate_series(${from}, ${from + 10}) g`;
  await runAll(client, [
    // A row of more keys than fit a page becomes a list of its own, behind the one that is there.
    `INSERT INTO pending ${many(100, 1500)}`,
    "INSERT INTO pending VALUES (1, ARRAY[1])",
    "SELECT gin_clean_pending_list('pending_v')",
    `INSERT INTO pending ${many(200, 900)}`,
    "VACUUM pending",
    "ALTER INDEX pending_v SET (gin_pending_list_limit = 64)",
    `INSERT INTO pending ${many(300, 900)}`,
    "INSERT INTO pending SELECT g, ARRAY[g, 5] FROM generate_series(1, 3000) g",
    // Left pending at the end.
    `INSERT INTO pending ${many(400, 100)}`,
  ]);
}

/** All kinds of summaries: made, widened, removed, made again. */
async function summaries(client: pg.Client): Promise<void> {
  const rows = (from: number, to: number) =>
    `INSERT INTO ranges SELECT g, 't' || g % 50, '10.1.0.0'::inet + g, repeat('f', 700)
       FROM generate_series(${from}, ${to}) g`;
  await runAll(client, [
    "CREATE INDEX ranges_k ON ranges USING brin (k, t) WITH (pages_per_range = 2)",
    `CREATE INDEX ranges_multi ON ranges USING brin (k int4_minmax_multi_ops, t text_bloom_ops)
       WITH (pages_per_range = 8)`,
    "CREATE INDEX ranges_a ON ranges USING brin (a inet_inclusion_ops) WITH (pages_per_range = 4)",
    rows(101, 300),
    "SELECT brin_summarize_new_values('ranges_k')",
    "SELECT brin_summarize_range('ranges_multi', 104)",
    "VACUUM ranges",
    "UPDATE ranges SET k = -k, a = '192.168.0.1' WHERE k % 10 = 0",
    "SELECT brin_desummarize_range('ranges_k', g) FROM generate_series(0, 200, 6) g",
    "SELECT brin_desummarize_range('ranges_base', g) FROM generate_series(3, 120, 4) g",
    "SELECT brin_summarize_new_values('ranges_k')",
    "SELECT brin_summarize_new_values('ranges_base')",
    // More ranges than one revmap page has: the next one takes the place of a regular page.
    rows(301, 1700),
    "VACUUM ranges",
    "SELECT brin_desummarize_range('ranges_base', 1500)",
    "SELECT brin_summarize_range('ranges_base', 1500)",
  ]);
}

/** Summaries that outgrow their page move to another one. */
async function movedSummaries(client: pg.Client): Promise<void> {
  await runAll(client, [
    "CREATE INDEX ranges_t ON ranges USING brin (t) WITH (pages_per_range = 1)",
    "UPDATE ranges SET t = 'a' || repeat('a', 200 + k % 300) WHERE k % 3 = 0",
    "UPDATE ranges SET t = 'z' || repeat('z', 600) WHERE k % 5 = 0",
    "VACUUM ranges",
    "SELECT brin_desummarize_range('ranges_t', g) FROM generate_series(0, 400, 3) g",
    "SELECT brin_summarize_new_values('ranges_t')",
    "SELECT brin_desummarize_range('ranges_t', g) FROM generate_series(1, 50) g",
  ]);
}

async function blooms(client: pg.Client): Promise<void> {
  await runAll(client, [
    "INSERT INTO blooms SELECT g, g % 7, 'c' || g FROM generate_series(501, 3000) g",
    "CREATE INDEX blooms_new ON blooms USING bloom (a, c) WITH (length = 100, col1 = 4)",
    "DELETE FROM blooms WHERE a % 3 = 0",
    "VACUUM blooms",
    "INSERT INTO blooms SELECT g, g % 7, 'd' || g FROM generate_series(1, 1500) g",
    "DELETE FROM blooms WHERE a > 1000",
    "VACUUM blooms",
    "INSERT INTO blooms SELECT g, g % 7, 'e' || g FROM generate_series(1, 300) g",
  ]);
}
