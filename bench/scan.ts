// Cold sequential scan through shim, agent and pageserver: of data just loaded and of images, near and 1 ms away.

import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { PageserverHttpClient } from "../src/pageserver/client.ts";
import { TestCluster } from "../testing/cluster.ts";
import { freePort } from "../testing/free-port.ts";
import { withClient } from "../testing/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { COMMON_SETTINGS, StockCluster } from "./stock.ts";

const DELAY_MS = 1;
const PAGE_SIZE = 8192;
/** Of /proc/PID/stat. */
const TICK_US = 10_000;

const fill = (megabytes: number) => [
  "create table filler(i int, p text)",
  "alter table filler alter column p set storage plain",
  `insert into filler select i, repeat(md5(i::text), 31) from generate_series(1, ${Math.ceil((megabytes * 1024 * 1024) / 1050)}) i`,
  "vacuum (freeze, truncate off) filler",
  "checkpoint",
];

/** Processor time of all of a process's threads. */
function processorUs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]!.split(" ");
  return (Number(fields[11]) + Number(fields[12])) * TICK_US;
}

interface Scan {
  readonly megabytesPerSecond: number;
  /** For one page, by process: those asked for, then the backend. */
  readonly costsUs: readonly number[];
}

async function timedScan(url: string, pids: readonly number[] = []): Promise<Scan> {
  return withClient(url, async (client) => {
    await client.query("set max_parallel_workers_per_gather = 0");
    const { rows } = await client.query(
      "select pg_relation_size('filler')::float8 as bytes, pg_backend_pid() as pid",
    );
    const { bytes, pid } = rows[0] as { bytes: number; pid: number };
    const measured = [...pids, pid];
    const before = measured.map(processorUs);
    const began = performance.now();
    await client.query("select count(*) from filler");
    const seconds = (performance.now() - began) / 1000;
    return {
      megabytesPerSecond: bytes / 1e6 / seconds,
      costsUs: measured.map(
        (process_, i) => (processorUs(process_) - before[i]!) / (bytes / PAGE_SIZE),
      ),
    };
  });
}

/** Cold for us: a fresh data directory. */
async function coldScans(strata: TestCluster, rounds: number, what: string): Promise<number> {
  const scans: Scan[] = [];
  for (let round = 0; round < rounds; round++) {
    await strata.ok("endpoint", "stop", "main");
    await strata.ok("endpoint", "start", "main");
    scans.push(await timedScan(strata.url(), [strata.pid("pageserver"), strata.pid("agent-main")]));
  }
  const rate = median(scans.map(({ megabytesPerSecond }) => megabytesPerSecond));
  const costs = ["pageserver", "agent", "backend"].map(
    (name, i) => `${name} ${median(scans.map(({ costsUs }) => costsUs[i]!)).toFixed(1)}`,
  );
  progress(
    `scan, ${what}: ${rate.toFixed(0)} MB/s; us of processor time a page: ${costs.join(", ")}`,
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

export async function benchScan(rounds: number, megabytes: number): Promise<Row[]> {
  await using strata = await TestCluster.create();
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.startEndpoint("main");
  await strata.query("main", ...fill(megabytes));
  const rates: [what: string, rate: number][] = [];
  for (const data of ["just loaded", "images"]) {
    if (data === "images") {
      await age(strata);
    }
    for (const delayMs of [0, DELAY_MS]) {
      const what = `${data}, ${delayMs} ms away`;
      const proxy = delayMs === 0 ? undefined : await moveAway(strata);
      rates.push([what, await coldScans(strata, rounds, what)]);
      if (proxy !== undefined) {
        await moveBack(strata, proxy);
      }
    }
  }
  const local = await stockScan(rounds, megabytes);
  return rates.map(([what, rate]) => ({
    what: `cold sequential scan of ${megabytes} MB, ${what}, MB/s (stock: from OS cache)`,
    ours: rate.toFixed(0),
    theirs: local.toFixed(0),
    ratio: ratio(rate, local),
    aim: "300 MB/s",
  }));
}

/** Warm in the operating system's cache, so ahead. */
async function stockScan(rounds: number, megabytes: number): Promise<number> {
  await using stock = await StockCluster.create();
  await stock.start();
  await withClient(stock.url, async (client) => {
    for (const statement of fill(megabytes)) {
      await client.query(statement);
    }
  });
  const rates: number[] = [];
  for (let round = 0; round < rounds; round++) {
    await stock.stop();
    await stock.start();
    rates.push((await timedScan(stock.url)).megabytesPerSecond);
  }
  return median(rates);
}
