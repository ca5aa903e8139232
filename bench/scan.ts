// Cold sequential scan through shim, agent and pageserver.

import { TestCluster } from "../testing/cluster.ts";
import { withClient } from "../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { COMMON_SETTINGS, StockCluster } from "./stock.ts";

const MEGABYTES = 512;
const FILL = [
  "create table filler(i int, p text)",
  "alter table filler alter column p set storage plain",
  `insert into filler select i, repeat(md5(i::text), 31) from generate_series(1, ${Math.ceil((MEGABYTES * 1024 * 1024) / 1050)}) i`,
  "vacuum (freeze, truncate off) filler",
  "checkpoint",
];
const SCAN = ["set max_parallel_workers_per_gather = 0", "select count(*) from filler"];

async function timedScan(url: string): Promise<number> {
  return withClient(url, async (client) => {
    await client.query(SCAN[0]!);
    const { rows } = await client.query("select pg_relation_size('filler')::float8 as bytes");
    const began = performance.now();
    await client.query(SCAN[1]!);
    return rows[0].bytes / 1e6 / ((performance.now() - began) / 1000);
  });
}

/** Cold for us: a fresh data directory. Stock is warm in the operating system's cache, so ahead. */
export async function benchScan(rounds: number): Promise<Row[]> {
  await using stock = await StockCluster.create();
  await stock.start();
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.startEndpoint("main");
  await strata.query("main", ...FILL);
  await withClient(stock.url, async (client) => {
    for (const statement of FILL) {
      await client.query(statement);
    }
  });
  const cold: number[] = [];
  const local: number[] = [];
  for (let i = 0; i < rounds; i++) {
    await strata.ok("endpoint", "stop", "main");
    await strata.ok("endpoint", "start", "main");
    cold.push(await timedScan(strata.url()));
    await stock.stop();
    await stock.start();
    local.push(await timedScan(stock.url));
  }
  progress(`scan ${median(cold).toFixed(0)} MB/s, stock ${median(local).toFixed(0)}`);
  return [
    {
      what: `cold sequential scan of ${MEGABYTES} MB, MB/s (stock: from OS cache)`,
      ours: median(cold).toFixed(0),
      theirs: median(local).toFixed(0),
      ratio: ratio(median(cold), median(local)),
      aim: "",
    },
  ];
}
