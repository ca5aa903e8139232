// One run of the conformance test: the workload on one installation, held against Postgres twice.
//
// Once against the after-images of wal_consistency_checking=all, record by record; and once, with nothing
// masked, against the data directory that stock Postgres recovers from the same base and WAL. Both by
// wal-verify, which is the product's own code for that.

import { type VerifyReport, verifyWal } from "../../src/wal-verify/verify.ts";
import { deltaName, deltaParts } from "../../testing/redo/expected-deltas.ts";
import { gistKilledItems } from "../../testing/redo/gist-spgist-hash-workload.ts";
import { RecordedHistory } from "../../testing/redo/recorded-history.ts";
import type { StockClusterOptions } from "../../testing/stock-cluster.ts";
import { moveCounters } from "./counters.ts";
import { opcodeOf } from "./opcodes.ts";
import { compressionMethods, prepareWorkload, runWorkload, WORKLOAD_SETTINGS } from "./workload.ts";

export interface RunOptions {
  readonly pgMajor: number;
  /** Directory of binaries that are not the npm package's. */
  readonly pgBin?: string | undefined;
  readonly fullPageWrites: boolean;
  readonly seed: number;
  readonly scale: number;
  /** No after-images, only the comparison with recovered pages, of a shorter workload. */
  readonly brief?: boolean;
  readonly onStep?: (step: string) => void;
}

/** Of one opcode (opcodes.ts), of any number of runs together. */
export interface OpcodeCounts {
  records: number;
  /** After-images compared, and how many of them differed. */
  images: number;
  imageMismatches: number;
  /** Pages of the recovered directory that this opcode changed last, and how many of them differed. */
  pages: number;
  pageMismatches: number;
}

export interface RunResult {
  /** As `postgres --version` says. */
  readonly version: string;
  readonly fullPageWrites: boolean;
  readonly compression: readonly string[];
  readonly walBytes: number;
  readonly reports: readonly VerifyReport[];
  /** Names of the deltas that redo saw and their parts (expected-deltas.ts). */
  readonly deltas: ReadonlySet<string>;
}

/** Throws where Postgres or replay fails; mismatches are in the reports. */
export async function runConformance(options: RunOptions): Promise<RunResult> {
  const { pgMajor, pgBin, fullPageWrites, seed, scale } = options;
  const brief = options.brief === true;
  const settings = {
    ...WORKLOAD_SETTINGS,
    full_page_writes: fullPageWrites ? "on" : "off",
    wal_consistency_checking: brief ? "''" : "'all'",
  };
  // With checksums hint bits are logged, and marking a page all-visible changes its LSN.
  const initdbArgs = checksumArguments(pgMajor, fullPageWrites);
  const cluster = { pgMajor, pgBin, settings, initdbArgs };
  const deltas = new Set<string>();
  let compression: readonly string[] = [];
  const whole = await RecordedHistory.record({
    ...cluster,
    beforeStart: moveCounters,
    prepare: prepareWorkload,
    run: async (stock) => {
      compression = fullPageWrites ? await compressionMethods(stock) : [];
      const { onStep: onPart } = options;
      await runWorkload(stock, {
        seed,
        scale,
        compress: fullPageWrites,
        brief,
        ...(onPart === undefined ? {} : { onPart }),
      });
    },
  });
  const reports: VerifyReport[] = [];
  let version = "";
  let walBytes = 0;
  try {
    version = whole.cluster.installation.version;
    walBytes = whole.endLsn - whole.startLsn;
    options.onStep?.("recovery by Postgres");
    const recovered = await whole.recover("recovered");
    options.onStep?.("replay");
    reports.push(await verify(whole, deltas, recovered));
  } finally {
    await whole.destroy();
  }
  if (!brief) {
    options.onStep?.("items removed from gist pages");
    reports.push(await verifyGistDeletion(cluster, deltas));
  }
  for (const key of countOpcodes(reports).keys()) {
    deltas.add(`${key >> 8} ${(key & 0xff).toString(16)}`);
  }
  return { version, fullPageWrites, compression, walBytes, reports, deltas };
}

/**
 * After-images only: Postgres's own check would end recovery here (wal-verify/page-masks.ts), so the
 * whole workload makes none of them where items of gist are removed.
 */
async function verifyGistDeletion(
  cluster: StockClusterOptions,
  deltas: Set<string>,
): Promise<VerifyReport> {
  const history = await RecordedHistory.record({
    ...cluster,
    prepare: async () => {},
    run: async (stock) => gistKilledItems(await stock.connect()),
  });
  try {
    return await verify(history, deltas);
  } finally {
    await history.destroy();
  }
}

function checksumArguments(pgMajor: number, wanted: boolean): string[] {
  if (wanted) {
    return ["--data-checksums"];
  }
  return pgMajor >= 18 ? ["--no-data-checksums"] : [];
}

function verify(
  history: RecordedHistory,
  deltas: Set<string>,
  againstDir?: string,
): Promise<VerifyReport> {
  return verifyWal({
    baseDir: history.baseDir,
    walDir: history.walDir,
    untilLsn: history.endLsn,
    ...(againstDir === undefined ? {} : { againstDir, exact: true }),
    prepare: (cluster) => {
      cluster.onDelta = ({ delta }) => {
        deltas.add(deltaName(delta));
        for (const part of deltaParts(delta)) {
          deltas.add(part);
        }
        return delta;
      };
    },
  });
}

/** What reports say of each opcode (opcodes.ts) together, by rmid << 8 | info. */
export function countOpcodes(reports: readonly VerifyReport[]): Map<number, OpcodeCounts> {
  const all = new Map<number, OpcodeCounts>();
  for (const { opcodes } of reports) {
    for (const seen of opcodes) {
      const key = (seen.rmid << 8) | opcodeOf(seen.rmid, seen.info);
      let counts = all.get(key);
      if (counts === undefined) {
        counts = { records: 0, images: 0, imageMismatches: 0, pages: 0, pageMismatches: 0 };
        all.set(key, counts);
      }
      counts.records += seen.records;
      counts.images += seen.images;
      counts.imageMismatches += seen.imageMismatches;
      counts.pages += seen.pages;
      counts.pageMismatches += seen.pageMismatches;
    }
  }
  return all;
}
