// Small pieces of SQL that several parts of the workload use.

import type pg from "pg";

/** Runs statements one by one, each its own transaction where it does not say otherwise. */
export async function runAll(client: pg.Client, statements: readonly string[]): Promise<void> {
  for (const statement of statements) {
    await client.query(statement);
  }
}

/** Uses up transaction ids. */
export function burnXids(client: pg.Client, count: number): Promise<unknown> {
  return client.query(`DO $$ BEGIN
    FOR i IN 1..${count} LOOP PERFORM txid_current(); COMMIT; END LOOP;
  END $$`);
}

/** A text of `length` characters that pglz cannot shorten, different for every value of `seed`. */
export function noise(seed: string, length: number): string {
  const parts = Math.ceil(length / 32);
  return `left((SELECT string_agg(md5((${seed})::text || '/' || i), '')
    FROM generate_series(1, ${parts}) i), ${length})`;
}
