// `npm run bench [-- section ...] [--quick] [--pg-version N] [--pg-bin DIR]`: Strata beside stock Postgres, one table.
//
// `--pg-version` (14 to 18, default 17) counts for the sections `branch-*`, `commit`, `ingest`, `redo` and `store-space`.
// `--pg-bin`: where pg_receivewal and pg_basebackup of that major are, if they are not in $PATH.

import { parseArgs } from "node:util";
import { benchBranch } from "../bench/branch.ts";
import { benchBackPressure } from "../bench/bulk/back-pressure.ts";
import { benchBulkWal } from "../bench/bulk/commits-beside-bulk.ts";
import { benchColdStart } from "../bench/cold-start.ts";
import { benchCommit } from "../bench/commit.ts";
import { benchColdScans } from "../bench/compute/cold-scans.ts";
import { benchCommands } from "../bench/compute/commands.ts";
import { benchManyEndpoints } from "../bench/compute/eight-endpoints.ts";
import { benchFirstRow } from "../bench/compute/first-row.ts";
import { benchReplicaLag } from "../bench/compute/replica-lag.ts";
import { benchSelect } from "../bench/compute/select.ts";
import { benchSmallCache } from "../bench/compute/small-cache.ts";
import { benchWake } from "../bench/compute/wake.ts";
import { benchGetPage } from "../bench/getpage.ts";
import { benchIngest } from "../bench/ingest.ts";
import { benchServiceTls } from "../bench/network/service-tls.ts";
import { benchProxy } from "../bench/proxy.ts";
import { benchRedo } from "../bench/redo.ts";
import { benchLogical } from "../bench/replication/logical.ts";
import { printTable, type Row } from "../bench/report.ts";
import { benchStoreIdle } from "../bench/store-idle.ts";
import { benchStoreReads } from "../bench/store-reads.ts";
import { benchStoreSpace } from "../bench/store-space.ts";
import { benchWalAppend } from "../bench/wal-append.ts";
import { DEFAULT_MAJOR } from "../src/postgres/installation.ts";
import { pgVersion } from "../src/postgres/versions.ts";
import { buildBundles } from "./package/build-bundles.ts";

const { values, positionals: wanted } = parseArgs({
  options: {
    quick: { type: "boolean", default: false },
    "pg-version": { type: "string", default: String(DEFAULT_MAJOR) },
    "pg-bin": { type: "string" },
  },
  allowPositionals: true,
});
const { quick, "pg-bin": pgBin } = values;
const { major: pgMajor } = pgVersion(Number(values["pg-version"]));
const SECTIONS: Readonly<Record<string, () => Promise<Row[]>>> = {
  commit: async () => [
    ...(await benchCommit({ rounds: quick ? 1 : 4, seconds: quick ? 1 : 2, pgMajor, pgBin })),
    ...(await benchWalAppend(quick ? 1 : 5)),
  ],
  "bulk-wal": () => benchBulkWal(quick ? 1 : 5, quick ? 3 : 6),
  "back-pressure": () => benchBackPressure(quick ? 200 : 1000, quick ? "64MB" : "500MB", 0.1),
  select: () => benchSelect(quick ? 1 : 5, quick ? 2 : 4),
  "first-row": () =>
    benchFirstRow({
      starts: quick ? 3 : 21,
      loads: quick ? 1 : 3,
      scale: quick ? 3 : 13,
      seconds: quick ? 3 : 8,
    }),
  wake: () => benchWake(quick ? 7 : 31),
  "cold-start": () => benchColdStart(quick ? 2 : 5),
  "branch-small": () => benchBranch({ megabytes: 20, rounds: quick ? 1 : 3, pgMajor, pgBin }),
  "branch-large": () => benchBranch({ megabytes: 1024, rounds: quick ? 1 : 3, pgMajor, pgBin }),
  "branch-huge": () =>
    benchBranch({ megabytes: quick ? 2048 : 5120, rounds: quick ? 1 : 3, pgMajor, pgBin }),
  "eight-endpoints": () =>
    benchManyEndpoints({
      rounds: quick ? 1 : 3,
      seconds: quick ? 2 : 5,
      endpoints: quick ? 8 : 16,
    }),
  "small-cache": () =>
    benchSmallCache({ scale: quick ? 4 : 13, rounds: quick ? 1 : 3, seconds: quick ? 2 : 4 }),
  "replica-lag": () =>
    benchReplicaLag({
      rounds: quick ? 1 : 3,
      seconds: quick ? 4 : 10,
      scale: quick ? 2 : 20,
    }),
  commands: () => benchCommands({ rounds: quick ? 2 : 9, megabytes: 58 }),
  getpage: () => benchGetPage(quick ? 3 : 9),
  "cold-scans": () => benchColdScans({ rounds: quick ? 1 : 3, megabytes: quick ? 64 : 256 }),
  ingest: () => benchIngest(pgMajor, quick ? 1 : 3, quick ? 2 : 20),
  "store-space": () =>
    benchStoreSpace(pgMajor, { scale: 2, times: quick ? 10 : 100, branches: quick ? 50 : 500 }),
  "store-idle": () => benchStoreIdle(quick ? 2000 : 10_000, quick ? 200 : 1000),
  tls: () => benchServiceTls(quick ? 5 : 31),
  proxy: () => benchProxy(quick ? 1 : 5, quick ? 1 : 3),
  redo: () => benchRedo(pgMajor, quick ? 1 : 3, quick ? 2 : 10),
  logical: () => benchLogical(quick ? 1 : 3, quick ? 50 : 300),
  "store-reads": () => benchStoreReads(quick),
};

/** A section by its name, or all whose names begin with it and go on with a hyphen. */
const isMeant = (word: string, name: string) => name === word || name.startsWith(`${word}-`);
const unknown = wanted.filter((word) => !Object.keys(SECTIONS).some((name) => isMeant(word, name)));
if (unknown.length > 0) {
  console.error(
    `unknown section ${unknown.join(", ")}; there are ${Object.keys(SECTIONS).join(", ")}`,
  );
  process.exit(1);
}
// As installed: a start from sources takes twice the time.
await buildBundles();
const rows: Row[] = [];
for (const [name, run] of Object.entries(SECTIONS)) {
  if (wanted.length === 0 || wanted.some((word) => isMeant(word, name))) {
    rows.push(...(await run()));
  }
}
printTable(rows);
