// `npm run bench [-- section ...] [--quick]`: Strata beside the same stock binary, one table.

import { benchBranch } from "../bench/branch.ts";
import { benchIngest } from "../bench/ingest.ts";
import { benchPgbench } from "../bench/pgbench.ts";
import { printTable, type Row } from "../bench/report.ts";
import { benchScan } from "../bench/scan.ts";
import { benchStartup } from "../bench/startup.ts";

const quick = process.argv.includes("--quick");
const SECTIONS: Readonly<Record<string, () => Promise<Row[]>>> = {
  pgbench: () => benchPgbench(quick ? 1 : 5, quick ? 2 : 4),
  startup: () => benchStartup(quick ? 3 : 9),
  "branch-small": () => benchBranch(20, quick ? 1 : 3),
  "branch-large": () => benchBranch(1024, quick ? 1 : 3),
  scan: () => benchScan(quick ? 1 : 3),
  ingest: () => benchIngest(quick ? 1 : 3),
};

const wanted = process.argv.slice(2).filter((argument) => !argument.startsWith("--"));
const unknown = wanted.filter((name) => SECTIONS[name] === undefined);
if (unknown.length > 0) {
  console.error(
    `unknown section ${unknown.join(", ")}; there are ${Object.keys(SECTIONS).join(", ")}`,
  );
  process.exit(1);
}
const rows: Row[] = [];
for (const [name, run] of Object.entries(SECTIONS)) {
  if (wanted.length === 0 || wanted.includes(name)) {
    rows.push(...(await run()));
  }
}
printTable(rows);
