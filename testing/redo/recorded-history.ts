// A base directory, the WAL of a workload on it, and what stock Postgres recovers from the two.

import { join } from "node:path";
import type pg from "pg";
import type { Lsn } from "../../src/base/lsn.ts";
import type { XLogRecord } from "../../src/postgres/xlog-record.ts";
import {
  ReplayedCluster,
  type ReplayedClusterOptions,
} from "../../src/wal-verify/replayed-cluster.ts";
import { replayRecord } from "../../src/wal-verify/verify.ts";
import { prepareMixedWorkload, runMixedWorkload, type WorkloadOptions } from "../mixed-workload.ts";
import { StockCluster, type StockClusterOptions } from "../stock-cluster.ts";
import { baseStartLsn, readWal } from "./replay-wal.ts";
import { recoverStock } from "./stock-recovery.ts";

export interface RecordOptions extends StockClusterOptions {
  /** Of the mixed workload, where it is run. */
  readonly workload?: WorkloadOptions;
  /** Given the cluster after initdb, before its first start. */
  readonly beforeStart?: (cluster: StockCluster) => void;
  /** Another workload: what must exist before the base is copied, and what is recorded. */
  readonly prepare?: (client: pg.Client) => Promise<void>;
  readonly run?: (cluster: StockCluster) => Promise<void>;
}

export interface ReplayOptions extends ReplayedClusterOptions {
  /** Records that start at or after it are left out; default the workload's end. */
  readonly endLsn?: Lsn;
  /** Called before the first record: to look at deltas, or to change them. */
  readonly prepare?: (cluster: ReplayedCluster) => void;
  readonly afterRecord?: (record: XLogRecord, cluster: ReplayedCluster) => void;
}

export class RecordedHistory {
  readonly cluster: StockCluster;
  readonly baseDir: string;
  readonly walDir: string;
  readonly startLsn: Lsn;
  /** The workload's end; at least one record follows. */
  readonly endLsn: Lsn;
  readonly pgMajor: number;
  readonly #pgBin: string | undefined;

  private constructor(
    cluster: StockCluster,
    baseDir: string,
    endLsn: Lsn,
    pgBin: string | undefined,
  ) {
    this.cluster = cluster;
    this.baseDir = baseDir;
    this.walDir = join(cluster.dataDir, "pg_wal");
    this.startLsn = baseStartLsn(baseDir);
    this.endLsn = endLsn;
    this.pgMajor = cluster.installation.major;
    this.#pgBin = pgBin;
  }

  /** Runs the workload on a new cluster, which is stopped again. Ends with `destroy`. */
  static async record(options: RecordOptions = {}): Promise<RecordedHistory> {
    const prepare = options.prepare ?? prepareMixedWorkload;
    const run = options.run ?? ((cluster) => runMixedWorkload(cluster, options.workload));
    const cluster = await StockCluster.create(options);
    try {
      options.beforeStart?.(cluster);
      await cluster.start();
      await prepare(await cluster.connect());
      await cluster.stop();
      const baseDir = cluster.copyData("base");
      await cluster.start();
      await run(cluster);
      const client = await cluster.connect();
      const endLsn = await cluster.currentLsn(client);
      await client.query("CREATE TABLE after_the_end (x int)");
      await cluster.stop();
      return new RecordedHistory(cluster, baseDir, endLsn, options.pgBin);
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
  }

  /** The data directory that stock Postgres recovers at `lsn`; `name` must be new. */
  async recover(name: string, lsn: Lsn = this.endLsn): Promise<string> {
    const outDir = this.cluster.place(name);
    const { baseDir, walDir, pgMajor } = this;
    await recoverStock({ baseDir, walDir, targetLsn: lsn, outDir, pgMajor, pgBin: this.#pgBin });
    return outDir;
  }

  /** What our decoder and redo make of it. The caller closes the result. */
  replay(options: ReplayOptions = {}): ReplayedCluster {
    const cluster = new ReplayedCluster(this.baseDir, options);
    try {
      options.prepare?.(cluster);
      const { walDir, startLsn, pgMajor } = this;
      const endLsn = options.endLsn ?? this.endLsn;
      readWal({ walDir, startLsn, endLsn, pgMajor }, (record) => {
        replayRecord(cluster, record);
        options.afterRecord?.(record, cluster);
      });
      cluster.checkInvalidPages();
      return cluster;
    } catch (error) {
      cluster.close();
      throw error;
    }
  }

  destroy(): Promise<void> {
    return this.cluster.destroy();
  }
}
