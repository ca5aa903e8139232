// Cold scans through shim, agent and pageserver: sequential, bitmap and by an index, near and 1 ms away.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { START_READS_NAME } from "../../src/compute/api.ts";
import { PageserverHttpClient } from "../../src/pageserver/client.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { freePort } from "../../testing/free-port.ts";
import { withClient } from "../../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, StockCluster } from "../stock.ts";
import { processorUs } from "./processes.ts";

const DELAY_MS = 1;
const PAGE_SIZE = 8192;
const ROW_BYTES = 1050;
const ROWS_PER_PAGE = 7;

/** `i` grows with the place, `r` has nothing to do with it. */
const fill = (megabytes: number) => [
  "create table filler(i int, r int, p text)",
  "alter table filler alter column p set storage plain",
  `insert into filler select i, hashint4(i), repeat(md5(i::text), 31) from generate_series(1, ${rowsOf(megabytes)}) i`,
  "create index filler_i on filler(i)",
  "create index filler_r on filler(r)",
  "vacuum (freeze, truncate off, analyze) filler",
  "checkpoint",
];

const rowsOf = (megabytes: number) => Math.ceil((megabytes * 1024 * 1024) / ROW_BYTES);
/** `share` of all that hashint4() can give. */
const randomShare = (share: number) =>
  `r between ${-(2 ** 31)} and ${Math.floor(-(2 ** 31) + share * 2 ** 32)}`;

interface ScanKind {
  readonly name: string;
  /** Off, so that the planner takes the one that is meant. */
  readonly without: readonly string[];
  /** For the whole session. */
  readonly settings?: Readonly<Record<string, string>>;
  readonly query: (megabytes: number) => string;
  /** As EXPLAIN names it. */
  readonly node: string;
  readonly aim?: string;
}

const SEQUENTIAL: ScanKind = {
  name: "sequential",
  without: ["indexonlyscan", "indexscan", "bitmapscan"],
  query: () => "select count(*) from filler",
  node: "Seq Scan",
  aim: "300 MB/s",
};

/** One of so many pages, in order with gaps. */
const bitmap = (pages: number): ScanKind => ({
  name: `bitmap, one page of ${pages}`,
  without: ["seqscan", "indexscan"],
  query: () => `select count(p) from filler where ${randomShare(1 / (ROWS_PER_PAGE * pages))}`,
  node: "Bitmap Heap Scan",
});

const SCANS: readonly ScanKind[] = [
  SEQUENTIAL,
  bitmap(5),
  bitmap(30),
  {
    ...bitmap(30),
    name: `${bitmap(30).name}, without prefetch`,
    settings: { effective_io_concurrency: "0" },
  },
  {
    name: "by an index, correlated",
    without: ["seqscan", "bitmapscan"],
    query: (megabytes) =>
      `select count(p) from filler where i < ${Math.floor(rowsOf(megabytes) / 4)}`,
    node: "Index Scan",
  },
  {
    name: "by an index, random",
    without: ["seqscan", "bitmapscan"],
    query: () => `select count(p) from filler where ${randomShare(1 / 60)}`,
    node: "Index Scan",
  },
];

interface Scan {
  readonly pagesPerSecond: number;
  /** For one page, by process: those asked for, then the backend. */
  readonly costsUs: readonly number[];
}

interface Plan {
  readonly "Node Type": string;
  readonly Plans?: readonly Plan[];
}

/** Pages are those that were not in Postgres's memory, those of the index too. */
async function timedScan(
  url: string,
  kind: ScanKind,
  megabytes: number,
  pids: readonly number[] = [],
): Promise<Scan> {
  return withClient(url, async (client) => {
    await client.query("set max_parallel_workers_per_gather = 0");
    for (const one of kind.without) {
      await client.query(`set enable_${one} = off`);
    }
    for (const [name, value] of Object.entries(kind.settings ?? {})) {
      await client.query(`set ${name} = '${value}'`);
    }
    const { rows } = await client.query("select pg_backend_pid() as pid");
    const measured = [...pids, rows[0].pid as number];
    const before = measured.map(processorUs);
    const explained = await client.query(
      `explain (analyze, buffers, timing off, format json) ${kind.query(megabytes)}`,
    );
    const [{ Plan: plan, "Execution Time": ms }] = explained.rows[0]["QUERY PLAN"];
    const nodes = (one: Plan): string[] => [one["Node Type"], ...(one.Plans ?? []).flatMap(nodes)];
    if (!nodes(plan).includes(kind.node)) {
      throw new Error(`the scan ${kind.name} was planned as ${nodes(plan).join(", ")}`);
    }
    const pages: number = plan["Shared Read Blocks"];
    return {
      pagesPerSecond: pages / (ms / 1000),
      costsUs: measured.map((process_, i) => (processorUs(process_) - before[i]!) / pages),
    };
  });
}

const megabytesPerSecond = (pagesPerSecond: number) => (pagesPerSecond * PAGE_SIZE) / 1e6;

/** Pages a second. Cold for us: a fresh data directory. */
async function coldScans(
  strata: TestCluster,
  kind: ScanKind,
  { rounds, megabytes }: ScanScale,
  what: string,
): Promise<number> {
  const scans: Scan[] = [];
  for (let round = 0; round < rounds; round++) {
    await strata.ok("endpoint", "stop", "main");
    // The scan before this one came right after a start, and what starts read is there before the next one.
    rmSync(join(strata.home, "endpoints", "main", START_READS_NAME), { force: true });
    await strata.ok("endpoint", "start", "main");
    const pids = [strata.pid("pageserver"), strata.pid("agent-main")];
    scans.push(await timedScan(strata.url(), kind, megabytes, pids));
  }
  const rate = median(scans.map(({ pagesPerSecond }) => pagesPerSecond));
  const costs = ["pageserver", "agent", "backend"].map(
    (name, i) => `${name} ${median(scans.map(({ costsUs }) => costsUs[i]!)).toFixed(1)}`,
  );
  progress(
    `scan, ${kind.name}, ${what}: ${rate.toFixed(0)} pages/s, ${megabytesPerSecond(rate).toFixed(0)} MB/s; us of processor time a page: ${costs.join(", ")}`,
  );
  return rate;
}

/** The pageserver goes to another port and a proxy that delays takes its place. */
async function moveAway(strata: TestCluster): Promise<ChildProcess> {
  await strata.ok("stop");
  const path = join(strata.home, "config.json");
  const config = JSON.parse(readFileSync(path, "utf8"));
  const realPort = await freePort();
  config.pageserverOptions = { ...config.pageserverOptions, "listen-pg": `127.0.0.1:${realPort}` };
  writeFileSync(path, JSON.stringify(config));
  await strata.ok("start");
  const [, port] = config.pageservers[0].listenPgAddr.split(":") as [string, string];
  const arguments_ = [port, `${realPort}`, `${DELAY_MS}`];
  const proxy = fork(fileURLToPath(new URL("delay-proxy.ts", import.meta.url)), arguments_);
  await once(proxy, "message");
  await strata.ok("endpoint", "start", "main");
  return proxy;
}

async function moveBack(strata: TestCluster, proxy: ChildProcess): Promise<void> {
  await strata.ok("stop");
  proxy.disconnect();
  await once(proxy, "exit");
  const path = join(strata.home, "config.json");
  const { pageserverOptions, ...config } = JSON.parse(readFileSync(path, "utf8"));
  const { "listen-pg": _, ...options } = pageserverOptions;
  writeFileSync(path, JSON.stringify({ ...config, pageserverOptions: options }));
  await strata.ok("start");
  await strata.ok("endpoint", "start", "main");
}

/** Everything in image layers, as what nobody has written to for long is. */
async function age(strata: TestCluster): Promise<void> {
  await strata.ok("endpoint", "stop", "main");
  const { tenantId, timelineId } = strata.endpointSpec();
  const http = new PageserverHttpClient(strata.config().pageservers[0]!.listenHttpAddr);
  await http.patchTenantConfig(tenantId, { pitr_interval: "0s", gc_horizon: 0 });
  await http.checkpoint(tenantId, timelineId);
  await http.doGc(tenantId, timelineId, { dryRun: false, force: true });
  await http.compact(tenantId, timelineId);
  await strata.ok("endpoint", "start", "main");
}

export interface ScanScale {
  readonly rounds: number;
  readonly megabytes: number;
}

export async function benchColdScans(scale: ScanScale): Promise<Row[]> {
  const { megabytes } = scale;
  const local = await stockScans(scale);
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.startEndpoint("main");
  await strata.query("main", ...fill(megabytes));
  const rates: [kind: ScanKind, what: string, rate: number][] = [];
  for (const data of ["just loaded", "images"]) {
    if (data === "images") {
      await age(strata);
    }
    for (const delayMs of [0, DELAY_MS]) {
      const what = `${data}, ${delayMs} ms away`;
      const proxy = delayMs === 0 ? undefined : await moveAway(strata);
      for (const kind of data === "images" ? SCANS : [SEQUENTIAL]) {
        rates.push([kind, what, await coldScans(strata, kind, scale, what)]);
      }
      if (proxy !== undefined) {
        await moveBack(strata, proxy);
      }
    }
  }
  const cell = (rate: number) => `${rate.toFixed(0)}, ${megabytesPerSecond(rate).toFixed(0)}`;
  return rates.map(([kind, what, rate]) => ({
    what: `cold scan of ${megabytes} MB, ${kind.name}, ${what}, pages/s, MB/s (stock: from OS cache)`,
    ours: cell(rate),
    theirs: cell(local.get(kind)!),
    ratio: ratio(rate, local.get(kind)!),
    aim: kind.aim ?? "",
  }));
}

/** Cold in Postgres's memory, warm in the operating system's cache, so ahead. Pages a second. */
async function stockScans({ rounds, megabytes }: ScanScale): Promise<Map<ScanKind, number>> {
  await using stock = await StockCluster.create();
  await stock.start();
  await withClient(stock.url, async (client) => {
    for (const statement of fill(megabytes)) {
      await client.query(statement);
    }
  });
  const rates = new Map<ScanKind, number>();
  for (const kind of SCANS) {
    const each: number[] = [];
    for (let round = 0; round < rounds; round++) {
      await stock.stop();
      await stock.start();
      each.push((await timedScan(stock.url, kind, megabytes)).pagesPerSecond);
    }
    rates.set(kind, median(each));
  }
  return rates;
}
