// The part of the workload for index methods: one table with an index for each kind of key, and rounds of
// random insertion, update, deletion and vacuum.

import type pg from "pg";
import { SeededRandom } from "../../src/base/random.ts";
import type { StockCluster } from "../../testing/stock-cluster.ts";
import { runAll } from "./sql.ts";

/** Contrib modules that every installation has. */
const EXTENSIONS = [
  "bloom",
  "btree_gin",
  "btree_gist",
  "hstore",
  "intarray",
  "ltree",
  "pg_trgm",
] as const;

const INDEXES = [
  "btree (id)",
  "btree (t, n)",
  'btree (t COLLATE "C" text_pattern_ops)',
  "btree (r)",
  "btree (h)",
  "hash (t)",
  "hash (n)",
  "hash (inet_key)",
  "hash (h)",
  "gin (a)",
  "gin (a gin__int_ops)",
  "gin (words) WITH (fastupdate = off)",
  "gin (j)",
  "gin (j jsonb_path_ops) WITH (fastupdate = off)",
  "gin (v)",
  "gin (t gin_trgm_ops)",
  "gin (h)",
  "gin (id, t, stamp) WITH (fastupdate = off)",
  "gist (p)",
  "gist (b)",
  "gist (r)",
  "gist (v)",
  "gist (t gist_trgm_ops)",
  "gist (h)",
  "gist (a gist__int_ops)",
  "gist (a gist__intbig_ops)",
  "gist (l)",
  "gist (ls)",
  "gist (inet_key inet_ops)",
  "gist (id, n, stamp, t)",
  "spgist (p)",
  "spgist (p kd_point_ops)",
  "spgist (b)",
  "spgist (r)",
  "spgist (inet_key)",
  "spgist (t)",
  "brin (id) WITH (pages_per_range = 2)",
  "brin (inet_key inet_inclusion_ops, b) WITH (pages_per_range = 2)",
  "brin (stamp timestamptz_minmax_multi_ops, t text_bloom_ops) WITH (pages_per_range = 1)",
  "bloom (id, a0, a1)",
] as const;

/** Before the base is copied. */
export async function prepareOperatorClasses(client: pg.Client): Promise<void> {
  await runAll(client, [
    ...EXTENSIONS.map((name) => `CREATE EXTENSION IF NOT EXISTS ${name}`),
    `CREATE TABLE keys_of_all_kinds (id int, n numeric, t text, a int[], a0 int, a1 int, words text[],
       j jsonb, v tsvector, h hstore, l ltree, ls ltree[], p point, b box, r int4range,
       inet_key inet, stamp timestamptz)`,
    ...INDEXES.map((definition) => `CREATE INDEX ON keys_of_all_kinds USING ${definition}`),
  ]);
  await insert(client, 0, 40);
}

function insert(client: pg.Client, from: number, count: number): Promise<unknown> {
  return client.query(`
    INSERT INTO keys_of_all_kinds
    SELECT i, x * i, left(m, 3 + i % 20), ARRAY[i % 5, i % 60, i], i % 11, i % 101,
      ARRAY['w' || i % 13, left(m, 2)],
      jsonb_build_object('k' || i % 7, i, 'list', jsonb_build_array(left(m, 2), i % 3)),
      to_tsvector('simple', left(m, 3) || ' common w' || i % 20),
      hstore(ARRAY['a' || i % 9, left(m, 3), 'c', i::text]),
      ('top.' || left(m, 1) || '.' || left(m, 4))::ltree,
      ARRAY['l.a'::ltree, ('l.' || left(m, 2))::ltree],
      point(x, y), box(point(x, y), point(x + y / 10, y + 3)),
      CASE WHEN i % 40 = 0 THEN 'empty' ELSE int4range(i, i + (y / 2)::int + 1) END,
      ('10.' || i % 250 || '.' || i % 7 || '.1')::inet,
      '2026-01-01'::timestamptz + i * interval '1 minute'
    FROM (SELECT g AS i, random() * 1000 AS x, random() * 100 AS y, md5(g::text) AS m
      FROM generate_series(${from + 1}, ${from + count}) g) s`);
}

/** `scale` 1: about 3000 rows pass through the table. */
export async function operatorClasses(
  cluster: StockCluster,
  seed: number,
  scale: number,
): Promise<void> {
  const random = new SeededRandom(seed);
  const client = await cluster.connect();
  await client.query(`SELECT setseed(${(seed % 1000) / 1000})`);
  const batch = Math.max(20, Math.round(500 * scale));
  for (let round = 0; round < 6; round++) {
    await insert(client, 1000 + round * batch, batch);
    const modulus = 2 + random.int(6);
    const rest = random.int(modulus);
    const where = `WHERE id % ${modulus} = ${rest}`;
    switch (random.int(3)) {
      case 0:
        await client.query(`DELETE FROM keys_of_all_kinds ${where}`);
        break;
      case 1:
        await client.query(`UPDATE keys_of_all_kinds SET t = t || 'u', a = a || ${round}, n = -n,
          p = p + point(1, 1), inet_key = inet_key + 1 ${where}`);
        break;
      default:
        await client.query(`BEGIN; DELETE FROM keys_of_all_kinds ${where}; ROLLBACK`);
        await client.query(`DELETE FROM keys_of_all_kinds ${where} AND id % 2 = 0`);
    }
    if (round % 2 === 1) {
      await client.query("VACUUM keys_of_all_kinds");
    }
  }
  await client.query("REINDEX TABLE keys_of_all_kinds");
}
