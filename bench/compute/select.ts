// `pgbench -S` on warm data at several client counts: Strata beside plain stock.

import { TestCluster } from "../../testing/cluster.ts";
import { initializeTpcb } from "../../testing/tpcb.ts";
import { runLoad } from "../load.ts";
import { median, progress, type Row, ratio } from "../report.ts";
import { COMMON_SETTINGS, StockCluster } from "../stock.ts";

const CLIENTS = [1, 8, 16];
const SCALE = 20;

/** `rounds` interleaved rounds of `seconds` each. */
export async function benchSelect(rounds: number, seconds: number): Promise<Row[]> {
  progress(`select: loading scale ${SCALE}`);
  await using plain = await StockCluster.create();
  await plain.start();
  await initializeTpcb(plain.url, SCALE);
  await using strata = await TestCluster.create({ safekeepers: 3 });
  await strata.ok("endpoint", "create", "main");
  strata.setPostgres("main", COMMON_SETTINGS);
  await strata.ok("endpoint", "start", "main");
  await initializeTpcb(strata.url(), SCALE);

  const rows: Row[] = [];
  for (const clients of CLIENTS) {
    const tps = { ours: [] as number[], theirs: [] as number[] };
    for (let i = 0; i < rounds; i++) {
      const load = { clients, scale: SCALE, seconds };
      tps.ours.push((await runLoad(strata.url(), "select", load)).tps);
      tps.theirs.push((await runLoad(plain.url, "select", load)).tps);
    }
    const [ours, theirs] = [median(tps.ours), median(tps.theirs)];
    progress(`select c=${clients}: ${ours.toFixed(0)} / ${theirs.toFixed(0)} tps`);
    rows.push({
      what: `-S warm ${clients} clients, tps`,
      ours: ours.toFixed(0),
      theirs: theirs.toFixed(0),
      ratio: ratio(ours, theirs),
      aim: "≥ 0.98",
    });
  }
  return rows;
}
