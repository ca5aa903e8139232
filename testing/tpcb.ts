// A TPC-B load with a client-side log of every commit that was acknowledged.

import assert from "node:assert/strict";
import pg from "pg";
import { sleep } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { eventually } from "./eventually.ts";

export const ACCOUNTS_PER_BRANCH = 100_000;
const TELLERS_PER_BRANCH = 10;
const QUIET_MS = 1000;

/** A client that never crashes the test process when its server is killed. */
export async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 10_000 });
  client.on("error", () => {});
  await client.connect();
  return client;
}

/** Runs `body` with a connection that is closed afterwards, also on failure. */
export async function withClient<T>(
  url: string,
  body: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connect(url);
  try {
    return await body(client);
  } finally {
    await client.end().catch(() => {});
  }
}

/** The four tables of pgbench, `scale` branches, loaded as `pgbench -i` does. */
export async function initializeTpcb(url: string, scale = 1): Promise<void> {
  await withClient(url, async (client) => {
    await client.query(`
      create table pgbench_branches(bid int not null, bbalance int, filler char(88)) with (fillfactor=100);
      create table pgbench_tellers(tid int not null, bid int, tbalance int, filler char(84)) with (fillfactor=100);
      create table pgbench_accounts(aid int not null, bid int, abalance int, filler char(84)) with (fillfactor=100);
      create table pgbench_history(tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
      insert into pgbench_branches select i, 0, '' from generate_series(1, ${scale}) i;
      insert into pgbench_tellers select i, (i - 1) / ${TELLERS_PER_BRANCH} + 1, 0, ''
        from generate_series(1, ${scale * TELLERS_PER_BRANCH}) i;
      insert into pgbench_accounts select i, (i - 1) / ${ACCOUNTS_PER_BRANCH} + 1, 0, ''
        from generate_series(1, ${scale * ACCOUNTS_PER_BRANCH}) i;
      alter table pgbench_branches add primary key (bid);
      alter table pgbench_tellers add primary key (tid);
      alter table pgbench_accounts add primary key (aid);
    `);
    for (const table of ["branches", "tellers", "accounts", "history"]) {
      await client.query(`vacuum analyze pgbench_${table}`);
    }
  });
}

/**
 * `clients` connections running TPC-B until `stop`. Each transaction writes its own name
 * (`client:number`) into pgbench_history, and a name joins `acknowledged` only after COMMIT was
 * answered. A broken connection is replaced; its transaction's fate is unknown and not counted.
 */
export class TpcbLoad {
  readonly acknowledged: string[] = [];
  readonly errors: string[] = [];
  readonly #workers: Promise<void>[];
  #stopping = false;
  #lastCommitAt = performance.now();

  /** `name` tells loads apart that run, or ran, on one database. */
  constructor(
    url: string,
    options: { clients?: number; scale?: number; seed?: number; name?: string } = {},
  ) {
    const scale = options.scale ?? 1;
    this.#workers = Array.from({ length: options.clients ?? 8 }, (_, index) =>
      this.#work(
        url,
        `${options.name ?? ""}${index}`,
        scale,
        new SeededRandom((options.seed ?? 1) * 1000 + index),
      ),
    );
  }

  /** Waits until `count` more transactions were acknowledged; fails where none was for `timeoutMs`. */
  async progress(count: number, timeoutMs = 60_000): Promise<void> {
    const target = this.acknowledged.length + count;
    let [seen, deadline] = [this.acknowledged.length, performance.now() + timeoutMs];
    while (this.acknowledged.length < target) {
      if (this.acknowledged.length > seen) {
        // However slow the machine is.
        [seen, deadline] = [this.acknowledged.length, performance.now() + timeoutMs];
      }
      assert.ok(
        performance.now() < deadline,
        `no progress: ${target - seen} of ${count} are missing, none came for ${timeoutMs} ms; last errors: ${this.errors.slice(-3).join(" | ")}`,
      );
      await sleep(20);
    }
  }

  /** Milliseconds since the last acknowledged commit. */
  get quietMs(): number {
    return performance.now() - this.#lastCommitAt;
  }

  /**
   * Resolves when commits wait: what was on its way has been answered, however slowly, and nothing was acknowledged for a second
   * then. Fails where that does not come to be.
   */
  async waits(): Promise<void> {
    await eventually("no commit to be acknowledged any more", () => this.quietMs > QUIET_MS);
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#workers);
  }

  async #work(url: string, worker: string, scale: number, random: SeededRandom): Promise<void> {
    let client: pg.Client | undefined;
    let number = 0;
    while (!this.#stopping) {
      try {
        client ??= await connect(url);
        const name = `${worker}:${number++}`;
        await runTransaction(client, scale, random, name);
        this.acknowledged.push(name);
        this.#lastCommitAt = performance.now();
      } catch (error) {
        this.errors.push(error instanceof Error ? error.message : String(error));
        client?.end().catch(() => {});
        client = undefined;
        await sleep(50);
      }
    }
    await client?.end().catch(() => {});
  }
}

/** One transaction of a load; `name` tells it from all others. */
export type Transaction = (
  client: pg.Client,
  random: SeededRandom,
  name: string,
) => Promise<unknown>;

/** TPC-B as pgbench has it. */
export function tpcbTransaction(scale: number): Transaction {
  return (client, random, name) => runTransaction(client, scale, random, name);
}

async function runTransaction(
  client: pg.Client,
  scale: number,
  random: SeededRandom,
  name: string,
): Promise<void> {
  const aid = 1 + random.int(scale * ACCOUNTS_PER_BRANCH);
  const bid = 1 + random.int(scale);
  const tid = 1 + random.int(scale * TELLERS_PER_BRANCH);
  const delta = random.int(10_001) - 5000;
  const run = (id: string, text: string, values: unknown[]) =>
    client.query({ name: id, text, values });
  await client.query("begin");
  await run("a", "update pgbench_accounts set abalance = abalance + $1 where aid = $2", [
    delta,
    aid,
  ]);
  await run("s", "select abalance from pgbench_accounts where aid = $1", [aid]);
  await run("t", "update pgbench_tellers set tbalance = tbalance + $1 where tid = $2", [
    delta,
    tid,
  ]);
  await run("b", "update pgbench_branches set bbalance = bbalance + $1 where bid = $2", [
    delta,
    bid,
  ]);
  await run("h", "insert into pgbench_history values ($1, $2, $3, $4, now(), $5)", [
    tid,
    bid,
    aid,
    delta,
    name,
  ]);
  await client.query("commit");
}

/** Every acknowledged transaction is there, none twice, and the four sums agree. Returns rows in history. */
export async function checkTpcb(url: string, acknowledged: readonly string[]): Promise<number> {
  return withClient(url, async (client) => {
    const history = await client.query("select rtrim(filler) as name from pgbench_history");
    const present = new Set(history.rows.map((row: { name: string }) => row.name));
    const lost = acknowledged.filter((name) => !present.has(name));
    assert.deepEqual(lost, [], `${lost.length} acknowledged transactions are lost`);
    assert.equal(present.size, history.rows.length, "a transaction was done twice");
    const sums = await client.query(`select
      (select coalesce(sum(abalance), 0) from pgbench_accounts)::text as a,
      (select coalesce(sum(tbalance), 0) from pgbench_tellers)::text as t,
      (select coalesce(sum(bbalance), 0) from pgbench_branches)::text as b,
      (select coalesce(sum(delta), 0) from pgbench_history)::text as h`);
    const { a, t, b, h } = sums.rows[0];
    assert.deepEqual({ t, b, h }, { t: a, b: a, h: a }, "sums differ");
    return history.rows.length;
  });
}

/** amcheck over every btree (heapallindexed) and heap of the database, catalogs included. */
export async function checkConsistency(url: string): Promise<void> {
  await withClient(url, async (client) => {
    await client.query("create extension if not exists amcheck");
    await client.query(`
      select bt_index_check(i.indexrelid, true)
      from pg_index i join pg_class c on c.oid = i.indexrelid join pg_am a on a.oid = c.relam
      where a.amname = 'btree' and c.relpersistence = 'p' and i.indisready and i.indisvalid`);
    const damage = await client.query(`
      select c.relname, v.* from pg_class c, lateral verify_heapam(c.oid) v
      where c.relkind in ('r', 'm', 't') and c.relpersistence = 'p'`);
    assert.deepEqual(damage.rows, [], "verify_heapam");
  });
}
