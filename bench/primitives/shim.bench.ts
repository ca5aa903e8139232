// What the shim costs: start of Postgres, one commit's hop to the agent, and a cold scan; beside stock Postgres.
//
// Run: node bench/primitives/shim.bench.ts. Ratios mean something, absolutes only on a quiet machine.

import { join } from "node:path";
import type pg from "pg";
import { monotonicMs } from "../../src/base/clock.ts";
import { NO_QUORUM, ShimmedPostgres } from "../../testing/compute/shimmed-postgres.ts";
import { removeRemoteFiles, StockPages } from "../../testing/redo/stock-pages.ts";
import { copyTree, makePostgresDirectory, StockCluster } from "../../testing/stock-cluster.ts";

const ROUNDS = 5;
const UPDATES = 1500;
const SCAN_MEGABYTES = 200;

function median(values: number[]): number {
  return values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;
}

async function updatesPerSecond(client: pg.Client): Promise<number> {
  await client.query("CREATE TABLE IF NOT EXISTS counter AS SELECT 1 AS i, 0 AS n");
  const started = monotonicMs();
  for (let i = 0; i < UPDATES; i++) {
    await client.query("UPDATE counter SET n = n + 1");
  }
  return Math.round((UPDATES * 1000) / (monotonicMs() - started));
}

const stock = await StockCluster.create();
try {
  await stock.start();
  let client = await stock.connect();
  await client.query(`CREATE TABLE scan (i int, pad text);
    ALTER TABLE scan ALTER pad SET STORAGE PLAIN;
    INSERT INTO scan SELECT i, repeat('x', 2600) FROM generate_series(1, ${SCAN_MEGABYTES * 128 * 3}) i`);
  await client.query("VACUUM FREEZE scan");
  const own = await updatesPerSecond(client);
  await stock.stop();
  const stockStarts: number[] = [];
  const lazyStarts: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    const began = monotonicMs();
    await stock.start();
    client = await stock.connect();
    await client.query("SELECT 1");
    stockStarts.push(monotonicMs() - began);
    await stock.stop();
    const workdir = join(stock.workdir, `lazy-${round}`);
    const dataDirectory = join(workdir, "data");
    makePostgresDirectory(workdir);
    copyTree(stock.dataDir, dataDirectory);
    removeRemoteFiles(dataDirectory);
    const pages = new StockPages(stock.dataDir);
    const lazyBegan = monotonicMs();
    const postgres = await ShimmedPostgres.start({
      installation: stock.installation,
      workdir,
      dataDirectory,
      pages,
      wal: NO_QUORUM,
    });
    client = await postgres.connect();
    await client.query("SELECT 1");
    lazyStarts.push(monotonicMs() - lazyBegan);
    if (round === ROUNDS - 1) {
      console.log(`start: ${pages.stats} sizes and ${pages.pages} pages asked`);
      pages.latencyMs = 1;
      const scanBegan = monotonicMs();
      await client.query("SELECT sum(i) FROM scan");
      const cold = Math.round((SCAN_MEGABYTES * 1000) / (monotonicMs() - scanBegan));
      console.log(`cold scan, 1 ms a request, no read-ahead: ${cold} MB/s`);
      const shimmed = await updatesPerSecond(client);
      console.log(
        `one-row updates, one client: ${shimmed}/s with the hop, stock with fsync=off ${own}/s`,
      );
      console.log(`hop to the agent and back: ${Math.round(1e6 / shimmed - 1e6 / own)} us`);
    }
    await postgres.stop("SIGQUIT");
  }
  console.log(
    `start to first row, median: stock (through pg_ctl) ${Math.round(median(stockStarts))} ms`,
  );
  console.log(`start to first row, median: lazy ${Math.round(median(lazyStarts))} ms`);
} finally {
  await stock.destroy();
}
