// Ingest of a stretch of WAL against stock Postgres's own recovery of the same base and WAL.

import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "../src/base/log.ts";
import { formatLsn, type Lsn } from "../src/base/lsn.ts";
import { WalFeeder } from "../src/pageserver/wal-receiver.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { openImportedTimeline } from "../src/testing/imported-timeline.ts";
import { copyTree } from "../src/testing/stock-cluster.ts";
import { readWalFiles } from "../src/testing/wal-files.ts";
import { initializeTpcb, withClient } from "../test/tpcb.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { StockCluster } from "./stock.ts";

const SCALE = 10;

function checkpointOf(dataDir: string): Lsn {
  return decodeControlFile(readFileSync(join(dataDir, "global/pg_control")), 17).checkPointLsn;
}

/** Some seconds of TPC-B on a stock cluster with full-page images off, as on our computes. */
async function makeWal(base: StockCluster, transactions: number): Promise<void> {
  await base.start();
  await initializeTpcb(base.url, SCALE);
  await base.stop();
  copyTree(base.dataDir, `${base.dataDir}.base`);
  await base.start();
  await withClient(base.url, async (client) => {
    await client.query(`create procedure tpcb(n int) language plpgsql as $$
      declare a int; d int;
      begin
        for i in 1..n loop
          a := 1 + floor(random() * ${SCALE * 100_000})::int;
          d := floor(random() * 10001)::int - 5000;
          update pgbench_accounts set abalance = abalance + d where aid = a;
          update pgbench_tellers set tbalance = tbalance + d where tid = 1 + a % ${SCALE * 10};
          update pgbench_branches set bbalance = bbalance + d where bid = 1 + a % ${SCALE};
          insert into pgbench_history values (1, 1, a, d, now(), '');
          commit;
        end loop;
      end $$`);
    await client.query(`call tpcb(${transactions})`);
  });
  await base.stop();
}

/** Seconds to take everything into a timeline with real layer files, fsyncs included. */
async function ingest(
  base: StockCluster,
  scratch: string,
  end: Lsn,
): Promise<{ seconds: number; records: number }> {
  rmSync(scratch, { recursive: true, force: true });
  const logger = createLogger("bench");
  logger.level = "warn";
  const timeline = await openImportedTimeline(`${base.dataDir}.base`, scratch, { logger });
  const feeder = new WalFeeder(timeline, logger);
  const began = performance.now();
  for (const chunk of readWalFiles(join(base.dataDir, "pg_wal"), timeline.startLsn, end)) {
    feeder.feed(chunk);
    feeder.publish();
    await timeline.ingestReady();
  }
  const seconds = (performance.now() - began) / 1000;
  if (timeline.lastRecordLsn < end) {
    throw new Error(`ingest stopped at ${formatLsn(timeline.lastRecordLsn)} of ${formatLsn(end)}`);
  }
  const records = feeder.recordCount;
  await timeline.close();
  return { seconds, records };
}

/** Seconds of redo as stock Postgres's own log says ("redo done at ... elapsed: N s"). */
async function recover(base: StockCluster): Promise<number> {
  await using copy = await base.copyOf(`${base.dataDir}.base`, {
    fsync: "off",
    shared_buffers: "2GB",
    hot_standby: "off",
    restore_command: "false",
    logging_collector: "on",
    log_directory: "log",
    log_filename: "redo.log",
  });
  for (const name of readdirSync(join(base.dataDir, "pg_wal"))) {
    cpSync(join(base.dataDir, "pg_wal", name), join(copy.dataDir, "pg_wal", name), {
      recursive: true,
    });
  }
  spawnSync("chown", ["-R", "--reference", copy.dataDir, join(copy.dataDir, "pg_wal")]);
  copy.signal("recovery.signal");
  await copy.start();
  await copy.stop("SIGQUIT");
  const log = readFileSync(join(copy.dataDir, "log/redo.log"), "utf8");
  const match = /redo done at \S+ system usage: .*elapsed: ([\d.]+) s/.exec(log);
  if (match === null) {
    throw new Error(`no redo in the log:\n${log.slice(-1000)}`);
  }
  return Number(match[1]);
}

export async function benchIngest(rounds: number): Promise<Row[]> {
  await using base = await StockCluster.create({
    fsync: "off",
    full_page_writes: "off",
    wal_keep_size: "16GB",
    max_wal_size: "16GB",
    wal_recycle: "off",
  });
  const scratch = mkdtempSync(join(tmpdir(), "strata-bench-ingest-"));
  try {
    await makeWal(base, rounds === 1 ? 50_000 : 250_000);
    const end = checkpointOf(base.dataDir);
    const bytes = end - checkpointOf(`${base.dataDir}.base`);
    const ours: number[] = [];
    const theirs: number[] = [];
    let records = 0;
    for (let i = 0; i < rounds; i++) {
      const run = await ingest(base, join(scratch, "timeline"), end);
      ours.push(run.seconds);
      records = run.records;
      theirs.push(await recover(base));
    }
    const [us, stock] = [median(ours), median(theirs)];
    const rate = (seconds: number) => `${(bytes / 1e6 / seconds).toFixed(0)} MB/s`;
    progress(`ingest ${us.toFixed(2)} s, stock recovery ${stock.toFixed(2)} s, ${records} records`);
    return [
      {
        what: `WAL ingest against stock recovery (TPC-B, ${(bytes / 1e6).toFixed(0)} MB, ${records} records)`,
        ours: `${rate(us)}, ${(records / us / 1e6).toFixed(2)} M records/s`,
        theirs: rate(stock),
        ratio: ratio(stock, us),
        aim: "≥ 1",
      },
    ];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
