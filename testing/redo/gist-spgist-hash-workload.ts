// SQL that makes stock Postgres write every kind of gist, SP-GiST and hash record we know of.

import type pg from "pg";
import { SeededRandom } from "../../src/base/random.ts";
import type { WorkloadOptions } from "../mixed-workload.ts";
import type { StockCluster } from "../stock-cluster.ts";
import { unchecked } from "./gin-brin-workload.ts";

const EXTENSIONS = ["btree_gist", "ltree", "pg_trgm"];

/** The tables that must exist before the base is copied: base pages then come from files too. */
export async function prepareGistSpgistHashWorkload(client: pg.Client): Promise<void> {
  for (const name of EXTENSIONS) {
    await client.query(`CREATE EXTENSION IF NOT EXISTS ${name}`);
  }
  await client.query(`
    CREATE TABLE old_points (id int, p point);
    INSERT INTO old_points SELECT g, point(g % 97, g / 97) FROM generate_series(1, 3000) g;
    CREATE INDEX old_points_gist ON old_points USING gist (p);
    CREATE INDEX old_points_quad ON old_points USING spgist (p);
    CREATE INDEX old_points_hash ON old_points USING hash (id);
  `);
}

export interface GistSpgistHashOptions extends WorkloadOptions {
  /** Another session makes checkpoints all the while: with full_page_writes, images of all pages. */
  readonly checkpoints?: boolean;
  /**
   * No after-images where items of gist are removed (needs wal_consistency_checking): recovery by
   * Postgres would end at its own check (wal-verify/page-masks.ts).
   */
  readonly uncheckedGistDeletion?: boolean;
}

/** Runs everything; each statement commits. Scale 1 writes about 60 MB of WAL. */
export async function runGistSpgistHashWorkload(
  cluster: StockCluster,
  options: GistSpgistHashOptions = {},
): Promise<void> {
  if (options.checkpoints !== true) {
    return runParts(cluster, options);
  }
  const client = await cluster.connect();
  const parts = { running: true };
  const checkpoints = async () => {
    while (parts.running) {
      await client.query("CHECKPOINT");
      await client.query("SELECT pg_sleep(0.02)");
    }
  };
  const done = runParts(cluster, options).finally(() => {
    parts.running = false;
  });
  await Promise.all([done, checkpoints()]);
  await hashSplitsBehindCheckpoints(client);
}

async function runParts(cluster: StockCluster, options: GistSpgistHashOptions): Promise<void> {
  const random = new SeededRandom(options.seed ?? 1);
  const scale = options.scale ?? 1;
  const client = await cluster.connect();
  await client.query(`SELECT setseed(${(options.seed ?? 1) / 1000})`);
  await oldPoints(client);
  await gistTypes(client, scale);
  await gistDeepTree(client, scale);
  await gistDeletion(client, scale);
  if (options.uncheckedGistDeletion === true) {
    await client.query("SET wal_consistency_checking = 'heap, btree'");
  }
  await gistKilledItems(client);
  await client.query("RESET wal_consistency_checking");
  await exclusion(client, random, scale);
  await spgistTypes(client, scale);
  await spgistText(client, random, scale);
  await spgistSmall(client);
  await hashGrowth(client, scale);
  await hashSkew(client, random, scale);
  await hashKilledItems(client);
  await unlogged(client);
}

function rows(scale: number, count: number): number {
  return Math.max(20, Math.round(count * scale));
}

async function all(client: pg.Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) {
    await client.query(statement);
  }
}

async function oldPoints(client: pg.Client): Promise<void> {
  await all(client, [
    "INSERT INTO old_points SELECT 5000 + g, point(random() * 97, random() * 31) FROM generate_series(1, 1500) g",
    "UPDATE old_points SET p = p + point(0.25, 0.25) WHERE id % 9 = 0",
    "DELETE FROM old_points WHERE id % 4 = 0",
    "VACUUM old_points",
    "INSERT INTO old_points SELECT 9000 + g, point(random() * 97, random() * 31) FROM generate_series(1, 800) g",
  ]);
}

/** One index for each kind of key; built empty, or the build would log whole pages only. */
async function gistTypes(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 2500);
  await all(client, [
    `CREATE TABLE shapes (id serial, p point, b box, c circle, r int4range, m int4multirange,
       v tsvector, l ltree, t text, n inet)`,
    "CREATE INDEX ON shapes USING gist (p)",
    "CREATE INDEX ON shapes USING gist (b)",
    "CREATE INDEX ON shapes USING gist (c) WITH (fillfactor = 60)",
    "CREATE INDEX ON shapes USING gist (r, id)",
    "CREATE INDEX ON shapes USING gist (m)",
    "CREATE INDEX ON shapes USING gist (v)",
    "CREATE INDEX ON shapes USING gist (l)",
    "CREATE INDEX ON shapes USING gist (t gist_trgm_ops)",
    "CREATE INDEX ON shapes USING gist (n inet_ops) INCLUDE (t)",
  ]);
  for (let round = 0; round < 3; round++) {
    const noise = (g: string) => `md5((${g})::text || ${round})`;
    await all(client, [
      `INSERT INTO shapes (p, b, c, r, m, v, l, t, n)
         SELECT point(x, y), box(point(x, y), point(x + y / 10, y + x / 10)),
           circle(point(x, y), 1 + x / 50), int4range(i, i + (y * 3)::int),
           int4multirange(int4range(i, i + 3), int4range(i + 9, i + 12)),
           to_tsvector('simple', left(${noise("i")}, 3) || ' ' || left(${noise("-i")}, 2)),
           ('top.' || left(${noise("i % 50")}, 2) || '.' || left(${noise("i")}, 5))::ltree,
           ${noise("i")}, ('10.' || i % 200 || '.' || i % 7 || '.' || i % 251)::inet
         FROM (SELECT random() * 1000 AS x, random() * 100 AS y, (random() * 100000)::int AS i
           FROM generate_series(1, ${Math.round(count / 3)})) s`,
      `DELETE FROM shapes WHERE id % 7 = ${round}`,
      `UPDATE shapes SET p = p + point(1, 1), r = int4range(lower(r) - 5, upper(r))
         WHERE id % 11 = ${round}`,
      "VACUUM shapes",
    ]);
  }
  await all(client, [
    "INSERT INTO shapes (p) SELECT NULL FROM generate_series(1, 50)",
    // Sorted and buffering builds log pages.
    "CREATE INDEX shapes_built ON shapes USING gist (p)",
    "CREATE INDEX shapes_buffered ON shapes USING gist (b) WITH (buffering = on)",
    "REINDEX INDEX shapes_built",
  ]);
}

/** Large signatures: an inner page holds few keys, so that inner pages and the root split often. */
async function gistDeepTree(client: pg.Client, scale: number): Promise<void> {
  await all(client, [
    "CREATE TABLE deep (id serial, t text)",
    "CREATE INDEX deep_t ON deep USING gist (t gist_trgm_ops (siglen = 900))",
    "CREATE INDEX deep_text ON deep USING gist (t)",
    `INSERT INTO deep (t) SELECT (SELECT string_agg(md5((g * 20 + i)::text), ' ')
         FROM generate_series(1, 9) i)
       FROM generate_series(1, ${rows(scale, 1000)}) g`,
    "DELETE FROM deep WHERE id % 3 = 0",
    "VACUUM deep",
    `INSERT INTO deep (t) SELECT repeat(md5(g::text), 1 + g % 30)
       FROM generate_series(1, ${rows(scale, 600)}) g`,
  ]);
}

/** Whole regions go: pages are emptied, deleted, recycled once no transaction can see them. */
async function gistDeletion(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 8000);
  const insert = (from: number, many: number) =>
    `INSERT INTO regions SELECT g, point(g / 50, g % 50) FROM generate_series(${from}, ${from + many}) g`;
  await all(client, [
    "CREATE TABLE regions (id int, p point)",
    "CREATE INDEX regions_p ON regions USING gist (p)",
    insert(0, count),
    `DELETE FROM regions WHERE id > ${Math.round(count / 4)}`,
    "VACUUM regions",
    "SELECT txid_current()",
    "SELECT txid_current()",
    "VACUUM regions",
    insert(count, Math.round(count / 2)),
    "DELETE FROM regions",
    "VACUUM regions",
    "SELECT txid_current()",
    "VACUUM regions",
    insert(2 * count, 500),
  ]);
}

const INDEX_SCANS_ONLY = "SET enable_seqscan = off; SET enable_bitmapscan = off";
const ALL_SCANS = "RESET enable_seqscan; RESET enable_bitmapscan";

/** An index scan that meets dead rows marks their items; the next insertion on a full page removes them. */
export async function gistKilledItems(client: pg.Client): Promise<void> {
  await all(client, [
    "CREATE TABLE killed (id int, p point)",
    "CREATE INDEX killed_p ON killed USING gist (p)",
    "INSERT INTO killed SELECT g, point(g % 40, g / 40) FROM generate_series(1, 1200) g",
    INDEX_SCANS_ONLY,
  ]);
  for (let round = 1; round <= 4; round++) {
    await all(client, [
      `DELETE FROM killed WHERE id % 5 = ${round}`,
      "SELECT count(*) FROM killed WHERE p <@ box(point(-1, -1), point(100, 100))",
      "SELECT count(*) FROM killed WHERE p <@ box(point(-1, -1), point(100, 100))",
      `INSERT INTO killed SELECT 5 * g, point(random() * 40, random() * 30)
         FROM generate_series(1, 300) g`,
    ]);
  }
  await client.query(ALL_SCANS);
}

async function exclusion(client: pg.Client, random: SeededRandom, scale: number): Promise<void> {
  await all(client, [
    `CREATE TABLE bookings (room int, during int4range,
       EXCLUDE USING gist (room WITH =, during WITH &&))`,
  ]);
  for (let i = 0; i < rows(scale, 60); i++) {
    const from = random.int(20000);
    const room = random.int(5);
    await client.query(`INSERT INTO bookings
      SELECT ${room} + g, int4range(${from}, ${from + 1 + random.int(30)})
      FROM generate_series(0, 40) g ON CONFLICT DO NOTHING`);
  }
  await all(client, [
    "BEGIN; DELETE FROM bookings WHERE room = 3; INSERT INTO bookings VALUES (3, '[1,9)'); ROLLBACK",
    "DELETE FROM bookings WHERE room % 4 = 1",
    "VACUUM bookings",
  ]);
}

async function spgistTypes(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 6000);
  await all(client, [
    "CREATE TABLE spaces (id serial, p point, b box, r int4range, n inet, g polygon)",
    "CREATE INDEX ON spaces USING spgist (p quad_point_ops)",
    "CREATE INDEX ON spaces USING spgist (p kd_point_ops) WITH (fillfactor = 50)",
    "CREATE INDEX ON spaces USING spgist (b)",
    "CREATE INDEX ON spaces USING spgist (r) INCLUDE (id)",
    "CREATE INDEX ON spaces USING spgist (n)",
    "CREATE INDEX ON spaces USING spgist (g)",
  ]);
  for (let round = 0; round < 3; round++) {
    await all(client, [
      `INSERT INTO spaces (p, b, r, n, g)
         SELECT point(x, y), box(point(x, y), point(x + 1, y + 2)),
           CASE WHEN i % 50 = 0 THEN 'empty'::int4range ELSE int4range(i, i + (y * 3)::int) END,
           ('10.' || i % 200 || '.' || i % 7 || '.' || i % 251)::inet,
           polygon(box(point(x, y), point(x + 3, y + 1)))
         FROM (SELECT random() * 1000 AS x, random() * 100 AS y, (random() * 100000)::int AS i
           FROM generate_series(1, ${Math.round(count / 3)})) s`,
      `DELETE FROM spaces WHERE id % 5 = ${round} OR (id > ${(round * count) / 3 + 10} AND id % 3 = 0)`,
      "VACUUM spaces",
      "SELECT txid_current()",
      "VACUUM spaces",
    ]);
  }
  await all(client, [
    // Duplicates make tuples whose nodes are all the same.
    `INSERT INTO spaces (p, n) SELECT point(7, 7), '10.1.1.1' FROM generate_series(1, ${rows(scale, 900)})`,
    `INSERT INTO spaces (p, r) SELECT NULL, NULL FROM generate_series(1, ${rows(scale, 900)})`,
    "DELETE FROM spaces WHERE p IS NULL AND id % 2 = 0",
    "VACUUM spaces",
    "CREATE INDEX spaces_built ON spaces USING spgist (p)",
  ]);
}

/** Prefixes that differ late split tuples; many first letters after a prefix enlarge and move them. */
async function spgistText(client: pg.Client, random: SeededRandom, scale: number): Promise<void> {
  await all(client, [
    "CREATE TABLE words (id serial, t text)",
    "CREATE INDEX words_t ON words USING spgist (t)",
  ]);
  for (let round = 0; round < 4; round++) {
    await all(client, [
      `INSERT INTO words (t) SELECT 'http://www.' || left(md5((g % 300)::text), 6) || '.example/'
           || repeat('path/', g % 9) || md5(g::text || ${round})
         FROM generate_series(1, ${rows(scale, 1800)}) g`,
      `INSERT INTO words (t) SELECT repeat(chr(97 + g % 26), 40 + ${round} * 200 + g % 60) || g % 20
         FROM generate_series(1, ${rows(scale, 300)}) g`,
      `DELETE FROM words WHERE id % 4 = ${round} AND id % 3 <> 0`,
      "VACUUM words",
      "SELECT txid_current()",
      "VACUUM words",
    ]);
  }
  // Tuples with two nodes fill pages; then they get one more after the other, and outgrow the pages.
  await all(client, [
    "CREATE TABLE letters (t text)",
    "CREATE INDEX letters_t ON letters USING spgist (t)",
    ...unchecked(`INSERT INTO letters
       SELECT md5((g % 100)::text) || chr(97 + g / 100 % 2) || md5(g::text)
       FROM generate_series(1, 12000) g`),
    `INSERT INTO letters SELECT md5((g % 100)::text) || chr(100 + g / 100) || g
       FROM generate_series(1, ${rows(scale, 6000)}) g`,
    "VACUUM letters",
  ]);
  for (let i = 0; i < 100; i++) {
    const prefix = "abcdefgh".slice(0, random.int(9)).repeat(1 + random.int(40));
    await client.query(`INSERT INTO words (t) VALUES ('${prefix}' || md5('${i}'))`);
  }
}

/** An index of one page: vacuum changes the root itself. Then it grows into a tree. */
async function spgistSmall(client: pg.Client): Promise<void> {
  await all(client, [
    "CREATE TABLE small (id int, p point, t text)",
    "CREATE INDEX small_p ON small USING spgist (p)",
    "CREATE INDEX small_t ON small USING spgist (t)",
    "INSERT INTO small SELECT g, point(g, g), 'word ' || g FROM generate_series(1, 60) g",
    "INSERT INTO small SELECT g, NULL, NULL FROM generate_series(61, 90) g",
    "DELETE FROM small WHERE id % 3 = 0",
    "VACUUM small",
    "INSERT INTO small SELECT g, point(g % 9, g), 'word ' || g FROM generate_series(100, 1200) g",
    "DELETE FROM small WHERE id < 1000",
    "VACUUM small",
    "INSERT INTO small SELECT g, point(g % 9, g), 'word ' || g FROM generate_series(100, 900) g",
  ]);
}

/** Buckets split; a split's leftovers are cleaned up by the next split, by vacuum or at once. */
async function hashGrowth(client: pg.Client, scale: number): Promise<void> {
  const count = rows(scale, 12000);
  await all(client, [
    "CREATE TABLE hashed (id int, t text)",
    "CREATE INDEX hashed_id ON hashed USING hash (id)",
    "CREATE INDEX hashed_t ON hashed USING hash (t) WITH (fillfactor = 20)",
    `INSERT INTO hashed SELECT g, md5(g::text) FROM generate_series(1, ${count}) g`,
    "DELETE FROM hashed WHERE id % 3 = 0",
    "VACUUM hashed",
    `INSERT INTO hashed SELECT g, md5(g::text) FROM generate_series(${count}, ${count * 2}) g`,
    "UPDATE hashed SET t = t || 'x' WHERE id % 10 = 1",
    "VACUUM hashed",
    // A build starts with as many buckets as it expects to need.
    "CREATE INDEX hashed_built ON hashed USING hash (t)",
    "REINDEX INDEX hashed_id",
  ]);
  // A cursor holds a pin on a bucket: splits of that bucket have to leave their cleanup to vacuum.
  const insert = (from: number) =>
    `INSERT INTO pinned SELECT g FROM generate_series(${from}, ${from + 3000}) g`;
  await all(client, [
    "CREATE TABLE pinned (id int)",
    "CREATE INDEX pinned_id ON pinned USING hash (id)",
    "INSERT INTO pinned SELECT 5 FROM generate_series(1, 600)",
    insert(1000),
    INDEX_SCANS_ONLY,
    "BEGIN",
    "DECLARE pin CURSOR FOR SELECT * FROM pinned WHERE id = 5",
    "FETCH 3 FROM pin",
    ALL_SCANS,
    insert(5000),
    insert(9000),
    "COMMIT",
    insert(13000),
    "DELETE FROM pinned WHERE id % 2 = 0",
    "VACUUM pinned",
  ]);
}

/** Splits that are the first to change their bucket's page since a checkpoint: its image goes into the record. */
async function hashSplitsBehindCheckpoints(client: pg.Client): Promise<void> {
  await all(client, [
    "CREATE TABLE split_early (id int)",
    "CREATE INDEX split_early_id ON split_early USING hash (id) WITH (fillfactor = 10)",
    // As many as an empty table's index has buckets for: from here on each 40 rows split one of some 65.
    "INSERT INTO split_early SELECT g FROM generate_series(1, 3000) g",
  ]);
  for (let from = 3001; from < 4000; from += 50) {
    await all(client, [
      "CHECKPOINT",
      `INSERT INTO split_early SELECT g FROM generate_series(${from}, ${from + 49}) g`,
    ]);
  }
}

/** Few keys, many rows each: long chains of overflow pages, which vacuum squeezes; shorter ones show less. */
async function hashSkew(client: pg.Client, random: SeededRandom, scale: number): Promise<void> {
  const count = Math.max(1800, rows(scale, 6000));
  await all(client, [
    "CREATE TABLE skewed (id serial, k int)",
    "CREATE INDEX skewed_k ON skewed USING hash (k)",
  ]);
  for (let round = 0; round < 4; round++) {
    const divisor = 2 + random.int(3);
    await all(client, [
      `INSERT INTO skewed (k) SELECT CASE WHEN g % 3 = 0 THEN g ELSE g % 4 END
         FROM generate_series(1, ${count}) g`,
      `DELETE FROM skewed WHERE id % ${divisor} = 0`,
      "VACUUM skewed",
      `DELETE FROM skewed WHERE k = ${round} AND id % 9 <> 0`,
      "VACUUM skewed",
    ]);
  }
  await all(client, [
    // Whole pages in the middle of chains go, so that the page before a freed one is not the one that
    // tuples move to.
    "DELETE FROM skewed WHERE id % 2000 BETWEEN 300 AND 1500",
    "VACUUM skewed",
    "DELETE FROM skewed WHERE k < 4",
    "VACUUM skewed",
    `INSERT INTO skewed (k) SELECT g % 2 FROM generate_series(1, ${rows(scale, 4000)}) g`,
  ]);
}

async function hashKilledItems(client: pg.Client): Promise<void> {
  await all(client, [
    "CREATE TABLE hash_killed (id int, k int)",
    "CREATE INDEX hash_killed_k ON hash_killed USING hash (k)",
    "INSERT INTO hash_killed SELECT g, g % 2 FROM generate_series(1, 400) g",
    INDEX_SCANS_ONLY,
  ]);
  for (let round = 0; round < 5; round++) {
    await all(client, [
      `DELETE FROM hash_killed WHERE id % 7 = ${round}`,
      "SELECT count(*) FROM hash_killed WHERE k = 0",
      "SELECT count(*) FROM hash_killed WHERE k = 1",
      `INSERT INTO hash_killed SELECT 7 * g + 6, g % 2 FROM generate_series(1, 500) g`,
    ]);
  }
  await client.query(ALL_SCANS);
}

async function unlogged(client: pg.Client): Promise<void> {
  await all(client, [
    "CREATE UNLOGGED TABLE light (k int, p point, t text)",
    "CREATE INDEX light_k ON light USING hash (k)",
    "CREATE INDEX light_p ON light USING gist (p)",
    "CREATE INDEX light_t ON light USING spgist (t)",
    "INSERT INTO light SELECT g, point(g, g), md5(g::text) FROM generate_series(1, 2000) g",
    "ALTER TABLE light SET LOGGED",
    "INSERT INTO light SELECT g, point(g, g), md5(g::text) FROM generate_series(2001, 3000) g",
  ]);
}
