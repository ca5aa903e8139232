// Cold sequential scan through shim, agent and pageserver, and GetPage alone.

import { parseLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import { PagestreamClient } from "../src/pageserver/client.ts";
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
  const pages = await getPages(strata);
  progress(
    `scan ${median(cold).toFixed(0)} MB/s, stock ${median(local).toFixed(0)}; GetPage ${pages.join("/")}/s`,
  );
  return [
    {
      what: `cold sequential scan of ${MEGABYTES} MB, MB/s (stock: from OS cache)`,
      ours: median(cold).toFixed(0),
      theirs: median(local).toFixed(0),
      ratio: ratio(median(cold), median(local)),
      aim: "",
    },
    {
      what: "GetPage, one at a time, pages/s",
      ours: String(pages[0]),
      theirs: "—",
      ratio: "—",
      aim: "",
    },
    {
      what: "GetPage, 32 in flight, pages/s",
      ours: String(pages[1]),
      theirs: "—",
      ratio: "—",
      aim: "",
    },
  ];
}

/** Random pages of the filled table straight from the pageserver: one and 32 in flight. */
async function getPages(strata: TestCluster): Promise<number[]> {
  const [where] = await strata.query(
    "main",
    `select pg_relation_filenode('filler')::int as rel, (select oid::int from pg_database where datname = 'postgres') as db,
       pg_relation_size('filler')::int / 8192 as blocks, pg_current_wal_flush_lsn()::text as lsn`,
  );
  const spec = strata.endpointSpec();
  const client = await PagestreamClient.connect(spec.pageserver.pgAddr, {
    tenantId: spec.tenantId,
    timelineId: spec.timelineId,
  });
  const rel = {
    spcOid: 1663,
    dbOid: where!["db"] as number,
    relNumber: where!["rel"] as number,
    fork: 0,
  };
  const lsn = parseLsn(where!["lsn"] as string)!;
  const random = new SeededRandom(7);
  const rates: number[] = [];
  for (const depth of [1, 32]) {
    const samples: number[] = [];
    for (let round = 0; round < 5; round++) {
      let done = 0;
      const end = performance.now() + 1000;
      const worker = async () => {
        while (performance.now() < end) {
          await client.getPage(rel, random.int(where!["blocks"] as number), lsn, lsn);
          done++;
        }
      };
      await Promise.all(Array.from({ length: depth }, worker));
      samples.push(done);
    }
    rates.push(Math.round(median(samples)));
  }
  client.close();
  return rates;
}
