// Stock Postgres's own recovery of a base directory and WAL, timed by its log.

import { spawnSync } from "node:child_process";
import { cpSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { RecordedWal } from "./wal-kinds.ts";

/** Gigabytes of WAL, on a machine that has others to serve. */
const RECOVERY_MS = 1_800_000;

/** Seconds of one recovery. */
export interface Recovery {
  /** From "redo starts" to "redo done": every page is right, in shared buffers. */
  readonly redo: number;
  /** Processor time of the startup process until then. */
  readonly redoCpu: number;
  /** From "redo starts" to "ready": the checkpoint at the end of recovery is on disk too. */
  readonly durable: number;
}

/**
 * One run on a copy. fsync is on and shared buffers hold everything, so that redo writes no page
 * itself; nothing may connect, which is the fastest way to recover.
 */
export async function recoverStock(wal: RecordedWal): Promise<Recovery> {
  await using copy = await wal.cluster.copyOf(wal.baseDir, {
    fsync: "on",
    shared_buffers: "2GB",
    hot_standby: "off",
    restore_command: "false",
    logging_collector: "on",
    log_directory: "log",
    log_filename: "redo.log",
    log_line_prefix: "%n ",
  });
  for (const name of readdirSync(wal.walDir)) {
    cpSync(join(wal.walDir, name), join(copy.dataDir, "pg_wal", name), { recursive: true });
  }
  spawnSync("chown", ["-R", "--reference", copy.dataDir, join(copy.dataDir, "pg_wal")]);
  copy.signal("recovery.signal");
  await copy.start(RECOVERY_MS);
  await copy.stop("SIGQUIT");
  const log = readFileSync(join(copy.dataDir, "log/redo.log"), "utf8");
  const at = (what: string) => {
    const match = new RegExp(`^(\\d+\\.\\d+) .*${what}`, "m").exec(log);
    if (match === null) {
      throw new Error(`no "${what}" in the log:\n${log.slice(-1000)}`);
    }
    return Number(match[1]);
  };
  const usage = /redo done at .*user: ([\d.]+) s, system: ([\d.]+) s/.exec(log);
  const starts = at("redo starts");
  return {
    redo: at("redo done") - starts,
    redoCpu: usage === null ? Number.NaN : Number(usage[1]) + Number(usage[2]),
    durable: at("database system is ready to accept connections") - starts,
  };
}
