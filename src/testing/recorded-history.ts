// A base directory, the WAL of a workload on it, and what stock Postgres recovers from the two.

import { join } from "node:path";
import type pg from "pg";
import type { Lsn } from "../base/lsn.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { PageRedoOptions } from "../redo/page-redo.ts";
import { MemoryCluster } from "./memory-cluster.ts";
import { prepareMixedWorkload, runMixedWorkload, type WorkloadOptions } from "./mixed-workload.ts";
import { baseStartLsn, replayInto } from "./replay-wal.ts";
import { StockCluster, type StockClusterOptions } from "./stock-cluster.ts";
import { recoverStock } from "./stock-recovery.ts";

export interface RecordOptions extends StockClusterOptions {
  /** Of the mixed workload, where it is run. */
  readonly workload?: WorkloadOptions;
  /** Another workload: what must exist before the base is copied, and what is recorded. */
  readonly prepare?: (client: pg.Client) => Promise<void>;
  readonly run?: (cluster: StockCluster) => Promise<void>;
}

export class RecordedHistory {
  readonly cluster: StockCluster;
  readonly baseDir: string;
  readonly walDir: string;
  readonly startLsn: Lsn;
  /** The workload's end; at least one record follows. */
  readonly endLsn: Lsn;

  private constructor(cluster: StockCluster, baseDir: string, endLsn: Lsn) {
    this.cluster = cluster;
    this.baseDir = baseDir;
    this.walDir = join(cluster.dataDir, "pg_wal");
    this.startLsn = baseStartLsn(baseDir);
    this.endLsn = endLsn;
  }

  /** Runs the workload on a new cluster, which is stopped again. Ends with `destroy`. */
  static async record(options: RecordOptions = {}): Promise<RecordedHistory> {
    const prepare = options.prepare ?? prepareMixedWorkload;
    const run = options.run ?? ((cluster) => runMixedWorkload(cluster, options.workload));
    const cluster = await StockCluster.create(options);
    try {
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
      return new RecordedHistory(cluster, baseDir, endLsn);
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
  }

  /** The data directory that stock Postgres recovers at `lsn`; `name` must be new. */
  async recover(name: string, lsn: Lsn = this.endLsn): Promise<string> {
    const outDir = join(this.cluster.workdir, name);
    const { baseDir, walDir } = this;
    await recoverStock({ baseDir, walDir, targetLsn: lsn, outDir });
    return outDir;
  }

  /** What our decoder and redo make of it. The caller closes the result. */
  replay(
    options: PageRedoOptions & {
      readonly endLsn?: Lsn;
      readonly prepare?: (cluster: MemoryCluster) => void;
      readonly afterRecord?: (record: XLogRecord, cluster: MemoryCluster) => void;
    } = {},
  ): MemoryCluster {
    const cluster = new MemoryCluster(this.baseDir, options);
    options.prepare?.(cluster);
    const endLsn = options.endLsn ?? this.endLsn;
    const { walDir, startLsn } = this;
    replayInto(cluster, { walDir, startLsn, endLsn }, (record) =>
      options.afterRecord?.(record, cluster),
    );
    return cluster;
  }

  destroy(): Promise<void> {
    return this.cluster.destroy();
  }
}
