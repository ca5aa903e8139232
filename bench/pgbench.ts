// TPC-B and -S at several client counts: Strata with three safekeepers, plain stock, stock with a standby.

import { execFile, spawnSync } from "node:child_process";
import { sleep } from "../src/base/clock.ts";
import { SeededRandom } from "../src/base/random.ts";
import { TestCluster } from "../test/cluster.ts";
import { initializeTpcb, TpcbLoad, withClient } from "../test/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { COMMON_SETTINGS, StockCluster, startWithSynchronousStandby } from "./stock.ts";

const CLIENTS = [1, 8, 16];
const SCALE = 20;

const hasPgbench = spawnSync("pgbench", ["--version"]).status === 0;

/** Transactions per second of one round, by pgbench where there is one, else by our own client. */
async function round(
  url: string,
  mode: "tpcb" | "select",
  clients: number,
  seconds: number,
): Promise<number> {
  if (hasPgbench) {
    const flags = ["-n", "-M", "prepared", "-c", String(clients), "-j", "1", "-T", String(seconds)];
    return pgbench([...flags, ...(mode === "select" ? ["-S"] : []), url]);
  }
  return mode === "tpcb" ? ownTpcb(url, clients, seconds) : ownSelect(url, clients, seconds);
}

function pgbench(flags: string[]): Promise<number> {
  return new Promise((resolve, reject) => {
    execFile("pgbench", flags, (error, stdout, stderr) => {
      const match = /tps = ([\d.]+)/.exec(stdout);
      if (error !== null || match === null) {
        reject(new Error(`pgbench failed: ${stderr}`));
      } else {
        resolve(Number(match[1]));
      }
    });
  });
}

async function ownTpcb(url: string, clients: number, seconds: number): Promise<number> {
  const load = new TpcbLoad(url, { clients, scale: SCALE });
  await sleep(300);
  const before = load.acknowledged.length;
  await sleep(seconds * 1000);
  const tps = (load.acknowledged.length - before) / seconds;
  await load.stop();
  return tps;
}

async function ownSelect(url: string, clients: number, seconds: number): Promise<number> {
  let count = 0;
  const end = performance.now() + seconds * 1000;
  await Promise.all(
    Array.from({ length: clients }, (_, index) =>
      withClient(url, async (client) => {
        const random = new SeededRandom(index);
        while (performance.now() < end) {
          const aid = 1 + random.int(SCALE * 100_000);
          await client.query({
            name: "s",
            text: "select abalance from pgbench_accounts where aid = $1",
            values: [aid],
          });
          count++;
        }
      }),
    ),
  );
  return count / seconds;
}

/** `rounds` interleaved rounds of `seconds` each; three systems, two modes, three client counts. */
export async function benchPgbench(rounds: number, seconds: number): Promise<Row[]> {
  progress(`pgbench: loading scale ${SCALE}`);
  await using base = await StockCluster.create();
  await base.start();
  await initializeTpcb(base.url, SCALE);
  await base.stop();
  await using plain = await base.copy();
  const pair = await startWithSynchronousStandby(base);
  await using primary = pair.primary;
  await using _standby = pair.standby;
  await plain.start();
  await using strata = await TestCluster.create({ safekeepers: 3 });
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.ok("endpoint", "start", "main");
  await initializeTpcb(strata.url(), SCALE);
  const systems = { strata: strata.url(), plain: plain.url, standby: primary.url };

  const rows: Row[] = [];
  for (const mode of ["tpcb", "select"] as const) {
    for (const clients of CLIENTS) {
      const tps: Record<keyof typeof systems, number[]> = { strata: [], plain: [], standby: [] };
      for (let i = 0; i < rounds; i++) {
        for (const name of ["strata", "plain", "standby"] as const) {
          tps[name].push(await round(systems[name], mode, clients, seconds));
        }
      }
      const [ours, stock, synced] = [median(tps.strata), median(tps.plain), median(tps.standby)];
      progress(
        `${mode} c=${clients}: ${ours.toFixed(0)} / ${stock.toFixed(0)} / ${synced.toFixed(0)} tps`,
      );
      const what = `${mode === "tpcb" ? "TPC-B" : "-S warm"} ${clients} clients, tps`;
      const aims = mode === "tpcb" ? ["", "≥ 0.8"] : ["≥ 0.95", ""];
      rows.push(
        {
          what: `${what}, vs plain fsync`,
          ours: ours.toFixed(0),
          theirs: stock.toFixed(0),
          ratio: ratio(ours, stock),
          aim: aims[0]!,
        },
        {
          what: `${what}, vs sync standby`,
          ours: ours.toFixed(0),
          theirs: synced.toFixed(0),
          ratio: ratio(ours, synced),
          aim: aims[1]!,
        },
      );
    }
  }
  return rows;
}
