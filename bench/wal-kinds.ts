// The kinds of WAL that ingest and redo are measured on: each a base directory and what came after.

import { readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Lsn } from "../src/base/lsn.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { giveToPostgres } from "../src/postgres/installation.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import { copyTree } from "../testing/stock-cluster.ts";
import { ACCOUNTS_PER_BRANCH, initializeTpcb, withClient } from "../testing/tpcb.ts";
import { StockCluster } from "./stock.ts";

export interface WalKind {
  readonly name: string;
  readonly settings: Readonly<Record<string, string>>;
  /** Before the base is copied. */
  prepare(cluster: StockCluster, scale: number): Promise<void>;
  /** What makes the WAL. */
  run(cluster: StockCluster, scale: number): Promise<void>;
}

/** A stopped base directory and the WAL that a workload wrote after it, ending with a shutdown. */
export interface RecordedWal extends AsyncDisposable {
  readonly kind: WalKind;
  readonly cluster: StockCluster;
  readonly baseDir: string;
  readonly walDir: string;
  readonly start: Lsn;
  /** Start of the shutdown checkpoint's record: every record before it is replayed. */
  readonly end: Lsn;
}

/** `pgbench -i`: the accounts come by COPY with FREEZE into a table truncated in the same transaction. */
async function pgbenchInit(cluster: StockCluster, scale: number): Promise<void> {
  const rows = join(dirname(cluster.dataDir), "accounts.copy");
  const filler = " ".repeat(84);
  await withClient(cluster.url, async (client) => {
    await client.query(`
      create table pgbench_accounts(aid int not null, bid int, abalance int, filler char(84))
        with (fillfactor=100)`);
    await client.query("begin");
    await client.query("truncate pgbench_accounts");
    for (let branch = 1; branch <= scale; branch++) {
      let text = "";
      for (let i = 1; i <= ACCOUNTS_PER_BRANCH; i++) {
        text += `${(branch - 1) * ACCOUNTS_PER_BRANCH + i}\t${branch}\t0\t${filler}\n`;
      }
      writeFileSync(rows, text);
      giveToPostgres(rows);
      await client.query(`copy pgbench_accounts from '${rows}' with (freeze on)`);
    }
    await client.query("commit");
    await client.query("vacuum analyze pgbench_accounts");
    await client.query("alter table pgbench_accounts add primary key (aid)");
  });
}

const tpcb = (cluster: StockCluster, scale: number) => runTpcb(cluster, scale, scale * 25_000);

/** TPC-B inside the server, a commit for each transaction, without waiting for any flush. */
export async function runTpcb(
  cluster: StockCluster,
  scale: number,
  transactions: number,
): Promise<void> {
  await withClient(cluster.url, async (client) => {
    await client.query(`create or replace procedure tpcb(n int) language plpgsql as $$
      declare a int; d int;
      begin
        for i in 1..n loop
          a := 1 + floor(random() * ${scale * ACCOUNTS_PER_BRANCH})::int;
          d := floor(random() * 10001)::int - 5000;
          update pgbench_accounts set abalance = abalance + d where aid = a;
          update pgbench_tellers set tbalance = tbalance + d where tid = 1 + a % ${scale * 10};
          update pgbench_branches set bbalance = bbalance + d where bid = 1 + a % ${scale};
          insert into pgbench_history values (1, 1, a, d, now(), '');
          commit;
        end loop;
      end $$`);
    await client.query(`call tpcb(${transactions})`);
  });
}

export const prepareTpcb = (cluster: StockCluster, scale: number) =>
  initializeTpcb(cluster.url, scale);

async function prepareIndexed(cluster: StockCluster): Promise<void> {
  await withClient(cluster.url, async (client) => {
    await client.query(`
      create table documents (id int, words tsvector, tags int[], place point, span int4range);
      create index on documents using gin (words);
      create index on documents using gin (tags);
      create index on documents using gist (place);
      create index on documents using gist (span);
      select setseed(0.5)`);
  });
}

/** Inserts, updates and deletes of rows under two GIN and two GiST indexes, with vacuums. */
async function changeIndexed(cluster: StockCluster, scale: number): Promise<void> {
  const columns = (g: string) => `
    array_to_tsvector(array['w' || ${g} % 1000, 'x' || (random() * 5000)::int, 'y' || (random() * 200)::int]),
    array[${g} % 500, (random() * 20000)::int, (random() * 100)::int],
    point(random() * 1000, random() * 1000),
    int4range(${g} % 10000, ${g} % 10000 + 1 + (random() * 100)::int)`;
  await withClient(cluster.url, async (client) => {
    for (let i = 0; i < scale; i++) {
      await client.query(
        `insert into documents select g, ${columns("g")} from generate_series(1, 12000) g`,
      );
      await client.query(
        `update documents set (words, tags, place, span) = (select ${columns("documents.id")})
           where id % 10 = ${i % 10} and ctid < '(${100 + i * 50},0)'`,
      );
      await client.query(`delete from documents where id % 20 = ${i % 20}`);
      if (i % 3 === 2) {
        await client.query("vacuum documents");
      }
    }
  });
}

export const WAL_KINDS: Readonly<Record<string, WalKind>> = {
  init: {
    name: "pgbench -i",
    settings: { full_page_writes: "off" },
    prepare: async () => {},
    run: pgbenchInit,
  },
  tpcb: {
    name: "TPC-B",
    settings: { full_page_writes: "off" },
    prepare: prepareTpcb,
    run: tpcb,
  },
  "tpcb-images": {
    name: "TPC-B with full-page images",
    settings: { full_page_writes: "on" },
    prepare: prepareTpcb,
    run: tpcb,
  },
  "gin-gist": {
    name: "GIN and GiST",
    settings: { full_page_writes: "off" },
    prepare: prepareIndexed,
    run: changeIndexed,
  },
};

function checkpointOf(dataDir: string, pgMajor: PgMajor): Lsn {
  const bytes = readFileSync(join(dataDir, "global/pg_control"));
  return decodeControlFile(bytes, pgMajor).checkPointLsn;
}

/** Runs a workload; `scale` 10 makes 120 to 270 MB of WAL. */
export async function recordWal(
  kind: WalKind,
  pgMajor: PgMajor,
  scale: number,
): Promise<RecordedWal> {
  const cluster = await StockCluster.create(
    {
      fsync: "off",
      synchronous_commit: "off",
      wal_keep_size: "16GB",
      max_wal_size: "16GB",
      wal_recycle: "off",
      ...kind.settings,
    },
    pgMajor,
  );
  try {
    await cluster.start();
    await kind.prepare(cluster, scale);
    await cluster.stop();
    const baseDir = `${cluster.dataDir}.base`;
    copyTree(cluster.dataDir, baseDir);
    await cluster.start();
    await kind.run(cluster, scale);
    await cluster.stop();
    return {
      kind,
      cluster,
      baseDir,
      walDir: join(cluster.dataDir, "pg_wal"),
      start: checkpointOf(baseDir, pgMajor),
      end: checkpointOf(cluster.dataDir, pgMajor),
      [Symbol.asyncDispose]: () => cluster[Symbol.asyncDispose](),
    };
  } catch (error) {
    await cluster[Symbol.asyncDispose]();
    throw error;
  }
}
