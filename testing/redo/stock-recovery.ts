// The oracle: what stock Postgres itself makes of a base directory and WAL.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { monotonicMs, sleep } from "../../src/base/clock.ts";
import { formatLsn, type Lsn } from "../../src/base/lsn.ts";
import { findInstallation, runPostgresTool } from "../../src/postgres/installation.ts";
import { copyTree, makePostgresDirectory, writePostgresFile } from "../stock-cluster.ts";

export interface RecoverStockOptions {
  /** A cleanly stopped data directory; copied. */
  readonly baseDir: string;
  /** WAL segments from the base's last checkpoint on. */
  readonly walDir: string;
  /**
   * Every record that starts below is replayed, none from it on. Absent: all WAL. A later record
   * should exist; if none does, all WAL is replayed, which is the same.
   */
  readonly targetLsn?: Lsn;
  /** Must not exist; becomes the recovered data directory, cleanly stopped. */
  readonly outDir: string;
  readonly pgMajor?: number;
  /** Directory with that major's binaries, where they are not the npm package's. */
  readonly pgBin?: string | undefined;
}

/**
 * Lets stock Postgres replay WAL over a copy of a base directory, and stop. It ends recovery like a
 * promotion does: with a checkpoint, so every page is in the files as redo left it.
 */
export async function recoverStock(options: RecoverStockOptions): Promise<void> {
  try {
    await recoverOnce(options, options.targetLsn);
  } catch (error) {
    const log = join(`${options.outDir}.run`, "log");
    const text = existsSync(log) ? readFileSync(log, "utf8") : "";
    if (
      options.targetLsn === undefined ||
      !text.includes("recovery ended before configured recovery target was reached")
    ) {
      throw new Error(`stock recovery: ${String(error)}\n${text.slice(-2000)}`);
    }
    rmSync(options.outDir, { recursive: true, force: true });
    await recoverOnce(options, undefined);
  } finally {
    rmSync(`${options.outDir}.run`, { recursive: true, force: true });
  }
}

async function recoverOnce(
  options: RecoverStockOptions,
  targetLsn: Lsn | undefined,
): Promise<void> {
  const installation = findInstallation(options.pgMajor, { pgBin: options.pgBin });
  const { baseDir, walDir, outDir } = options;
  const runDir = `${outDir}.run`;
  copyTree(baseDir, outDir);
  rmSync(runDir, { recursive: true, force: true });
  makePostgresDirectory(runDir);
  rmSync(join(outDir, "postmaster.pid"), { force: true });
  const target =
    targetLsn === undefined
      ? ""
      : `recovery_target_lsn = '${formatLsn(targetLsn)}'\nrecovery_target_inclusive = off\n` +
        "recovery_target_action = promote\n";
  writePostgresFile(
    join(outDir, "postgresql.auto.conf"),
    `restore_command = 'cp "${walDir}/%f" "%p"'\nrecovery_target_timeline = current\n${target}` +
      // Nothing but recovery may touch a page.
      "autovacuum = off\nmax_logical_replication_workers = 0\nhot_standby = off\nfsync = off\n" +
      `listen_addresses = ''\nunix_socket_directories = '${runDir}'\nport = 5432\n` +
      "shared_preload_libraries = ''\nmax_prepared_transactions = 20\nlogging_collector = off\n",
  );
  writePostgresFile(join(outDir, "recovery.signal"), "");
  const pgCtl = (...args: string[]) =>
    runPostgresTool(installation, "pg_ctl", ["-D", outDir, "-t", "600", ...args]);
  // pg_ctl would call the server ready while it still recovers without hot standby.
  await pgCtl("-l", join(runDir, "log"), "-W", "start");
  await waitUntilReady(outDir);
  await pgCtl("-m", "fast", "stop");
}

/** Polls the eighth line of postmaster.pid; throws where the file goes, because the server ended. */
async function waitUntilReady(dataDir: string): Promise<void> {
  const path = join(dataDir, "postmaster.pid");
  const started = monotonicMs();
  let seen = false;
  for (;;) {
    const status = existsSync(path) ? readFileSync(path, "utf8").split("\n")[7]?.trim() : undefined;
    if (status === "ready") {
      return;
    }
    seen = seen || existsSync(path);
    const waited = monotonicMs() - started;
    if ((seen && !existsSync(path)) || waited > 600_000 || (!seen && waited > 10_000)) {
      throw new Error("the server ended during recovery");
    }
    await sleep(20);
  }
}
