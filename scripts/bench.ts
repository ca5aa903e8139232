// `npm run bench [-- section ...] [--quick] [--pg-version N]`: Strata beside the same stock binary, one table.
//
// `--pg-version` (14 to 18, default 17) counts for the sections `ingest` and `redo`.

import { benchBranch } from "../bench/branch.ts";
import { benchIngest } from "../bench/ingest.ts";
import { benchPgbench } from "../bench/pgbench.ts";
import { benchRedo } from "../bench/redo.ts";
import { printTable, type Row } from "../bench/report.ts";
import { benchScan } from "../bench/scan.ts";
import { benchStartup } from "../bench/startup.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { pgVersion } from "../src/postgres/versions.ts";

const quick = process.argv.includes("--quick");
const versionAt = process.argv.indexOf("--pg-version");
const { major: pgMajor } = pgVersion(
  versionAt < 0 ? DEFAULT_MAJOR : Number(process.argv[versionAt + 1]),
);
const SECTIONS: Readonly<Record<string, () => Promise<Row[]>>> = {
  pgbench: () => benchPgbench(quick ? 1 : 5, quick ? 2 : 4),
  startup: () => benchStartup(quick ? 3 : 9),
  "branch-small": () => benchBranch(20, quick ? 1 : 3),
  "branch-large": () => benchBranch(1024, quick ? 1 : 3),
  scan: () => benchScan(quick ? 1 : 3),
  ingest: () => benchIngest(pgMajor, quick ? 1 : 3, quick ? 2 : 20),
  redo: () => benchRedo(pgMajor, quick ? 1 : 3, quick ? 2 : 10),
};

const wanted = process.argv
  .slice(2)
  .filter(
    (argument, i) => !argument.startsWith("--") && (versionAt < 0 || i + 2 !== versionAt + 1),
  );
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
