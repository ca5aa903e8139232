// A load that outruns a slowed pageserver: how long it stands still, and commits of single rows beside it.

import { rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setRepeatingTimer, sleep } from "../../src/base/clock.ts";
import { giveToPostgres } from "../../src/postgres/installation.ts";
import { TestCluster } from "../../testing/cluster.ts";
import { withClient } from "../../testing/tpcb.ts";
import { progress, type Row } from "../report.ts";
import { COMMON_SETTINGS, StockCluster } from "../stock.ts";

/** Of the server's own view of its COPY. */
const LOOK_MS = 10;
/** The pageserver runs for a part of each such time. */
const PERIOD_MS = 50;
const LINE = `${"1".repeat(7)}\t${"x".repeat(116)}\n`;

interface Pauses {
  readonly seconds: number;
  /** Longest time without progress of the COPY, as its server tells it. */
  readonly loaderMs: number;
  /** Of single-row commits beside it, ascending. */
  readonly commitsMs: readonly number[];
}

async function watchCopy(url: string, ended: () => boolean): Promise<number> {
  return withClient(url, async (client) => {
    let longest = 0;
    let last = "";
    let since = performance.now();
    while (!ended()) {
      const { rows } = await client.query("select bytes_processed from pg_stat_progress_copy");
      const now = performance.now();
      const bytes = rows.length === 0 ? "" : String(rows[0].bytes_processed);
      if (bytes !== last || bytes === "") {
        longest = last === "" ? longest : Math.max(longest, now - since);
        [last, since] = [bytes, now];
      }
      await sleep(LOOK_MS);
    }
    return longest;
  });
}

async function commitBeside(url: string, ended: () => boolean): Promise<number[]> {
  return withClient(url, async (client) => {
    const ms: number[] = [];
    while (!ended()) {
      const started = performance.now();
      await client.query("insert into single_rows values (1)");
      ms.push(performance.now() - started);
      await sleep(LOOK_MS);
    }
    return ms.sort((a, b) => a - b);
  });
}

async function load(url: string, file: string): Promise<Pauses> {
  return withClient(url, async (client) => {
    // So that those beside need no page of the slowed pageserver.
    await client.query(`create table single_rows (n int); create table loaded (n int, text text);
      insert into single_rows values (0); select bytes_processed from pg_stat_progress_copy`);
    let done = false;
    const beside = [watchCopy(url, () => done), commitBeside(url, () => done)] as const;
    const started = performance.now();
    try {
      await client.query(`copy loaded from '${file}'`);
    } finally {
      done = true;
    }
    const seconds = (performance.now() - started) / 1000;
    return { seconds, loaderMs: await beside[0], commitsMs: await beside[1] };
  });
}

/** Stopped but for a `share` of the time, until the returned function is called. */
function slow(pid: number, share: number): () => void {
  let turn = 0;
  const timer = setRepeatingTimer(() => {
    turn++;
    process.kill(pid, turn % Math.round(1 / share) === 0 ? "SIGCONT" : "SIGSTOP");
  }, PERIOD_MS);
  return () => {
    timer.cancel();
    process.kill(pid, "SIGCONT");
  };
}

function text({ seconds, loaderMs, commitsMs }: Pauses): string {
  const at = (share: number) => commitsMs[Math.floor((commitsMs.length - 1) * share)]!.toFixed(0);
  return `${seconds.toFixed(1)} s; ${loaderMs.toFixed(0)}; ${at(0.5)} / ${at(0.99)} / ${at(1)} ms`;
}

/**
 * A COPY of `megabytes` into an endpoint whose WAL may be `limit` ahead of the pageserver, which runs for `share` of the
 * time. Stock loads the same file.
 */
export async function benchBackPressure(
  megabytes: number,
  limit: string,
  share: number,
): Promise<Row[]> {
  const file = join(tmpdir(), `strata-load-${process.pid}.copy`);
  writeFileSync(file, LINE.repeat((megabytes * 1e6) / LINE.length));
  giveToPostgres(file);
  try {
    await using stock = await StockCluster.create();
    await stock.start();
    const theirs = await load(stock.url, file);
    progress(`back-pressure, stock: ${text(theirs)}`);
    await using strata = await TestCluster.create({ safekeepers: 3 });
    await strata.ok("endpoint", "create", "main");
    strata.setPostgres("main", {
      ...COMMON_SETTINGS,
      "strata.max_replication_write_lag": limit,
    });
    await strata.ok("endpoint", "start", "main");
    const end = slow(strata.pid("pageserver"), share);
    const ours = await load(strata.url(), file).finally(end);
    progress(`back-pressure, Strata: ${text(ours)}`);
    const what = `COPY of ${megabytes} MB, pageserver slowed to ${share}, limit ${limit}`;
    return [
      {
        what: `${what}: time; longest pause; single-row commits p50 / p99 / longest`,
        ours: text(ours),
        theirs: text(theirs),
        ratio: "",
        aim: "no pause above 500 ms",
      },
    ];
  } finally {
    rmSync(file);
  }
}
