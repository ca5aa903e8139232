// `-S` on an endpoint whose data directory may hold a tenth of the data, beside one without that limit and beside stock.

import { TestCluster } from "../../testing/cluster.ts";
import { initializeTpcb } from "../../testing/tpcb.ts";
import { readTables, runLoad } from "../load.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, StockCluster } from "../stock.ts";

const CLIENTS = 8;
const MB_PER_SCALE = 15;
/** Postgres's own memory is small on all sides, or it would be the cache. */
const SETTINGS = { ...COMMON_SETTINGS, shared_buffers: "4MB" };
const KEYS = { select: "uniform", skewed: "skewed" } as const;

export interface SmallCacheScale {
  /** Of pgbench; its tenth is at least what an endpoint may be limited to. */
  readonly scale: number;
  readonly rounds: number;
  readonly seconds: number;
}

export async function benchSmallCache({ scale, rounds, seconds }: SmallCacheScale): Promise<Row[]> {
  const megabytes = scale * MB_PER_SCALE;
  const limit = Math.max(16, Math.round(megabytes / 10));
  progress(`small cache: loading ${megabytes} MB`);
  await using stock = await StockCluster.create(SETTINGS);
  await stock.start();
  await initializeTpcb(stock.url, scale);
  await readTables(stock.url, "read");
  await using strata = await TestCluster.create();
  await strata.startEndpoint("main");
  await initializeTpcb(strata.url(), scale);
  await strata.ok("endpoint", "stop", "main");
  for (const [id, options] of [
    ["limited", ["--local-cache", `${limit}MB`]],
    ["unlimited", []],
  ] as const) {
    // Of a branch of its own: what an endpoint has written itself stays.
    await strata.ok("timeline", "branch", "--branch-name", id);
    await strata.ok("endpoint", "create", id, "--branch-name", id, ...options);
    strata.setPostgres(id, SETTINGS);
    await strata.ok("endpoint", "start", id);
    await readTables(strata.url(id), "read");
  }
  const rows: Row[] = [];
  for (const kind of ["select", "skewed"] as const) {
    const tps = { limited: [] as number[], unlimited: [] as number[], stock: [] as number[] };
    const fetched: number[] = [];
    for (let i = 0; i < rounds; i++) {
      const load = { clients: CLIENTS, scale, seconds };
      const before = await fetchedAgain(strata);
      const result = await runLoad(strata.url("limited"), kind, load);
      fetched.push(((await fetchedAgain(strata)) - before) / (result.tps * seconds));
      tps.limited.push(result.tps);
      tps.unlimited.push((await runLoad(strata.url("unlimited"), kind, load)).tps);
      tps.stock.push((await runLoad(stock.url, kind, load)).tps);
    }
    progress(
      `small cache, ${KEYS[kind]} keys: pages that a read has fetched again: ${median(fetched).toFixed(2)}`,
    );
    const limited = median(tps.limited);
    for (const [what, theirs] of [
      ["without limit", median(tps.unlimited)],
      ["stock", median(tps.stock)],
    ] as const) {
      rows.push({
        what: `-S, ${KEYS[kind]} keys, ${CLIENTS} clients, ${limit} MB of disk for ${megabytes} MB, against ${what}, tps`,
        ours: limited.toFixed(0),
        theirs: theirs.toFixed(0),
        ratio: ratio(limited, theirs),
        aim: "",
      });
    }
  }
  return rows;
}

/** Pages that the limited one had, gave back, and has fetched once more. */
async function fetchedAgain(strata: TestCluster): Promise<number> {
  const { internalHttpPort } = strata.endpointSpec("limited");
  const text = await (await fetch(`http://127.0.0.1:${internalHttpPort}/metrics`)).text();
  const match = /^strata_compute_local_cache_fetched_again_bytes(?:\{[^}]*\})? (\d+)$/m.exec(text);
  if (match === null) {
    throw new Error("the agent does not say what it has fetched again");
  }
  return Number(match[1]) / 8192;
}
