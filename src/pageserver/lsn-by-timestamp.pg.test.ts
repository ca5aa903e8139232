// LSN <-> time of real WAL: by the times that pg_walinspect prints, and by where recovery to a time stops.

import assert from "node:assert/strict";
import { readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import pg from "pg";
import { EACH_MAJOR } from "../../testing/each-major.ts";
import { openImportedTimeline } from "../../testing/imported-timeline.ts";
import {
  copyTree,
  makePostgresDirectory,
  STOCK_USER,
  StockCluster,
  writePostgresFile,
} from "../../testing/stock-cluster.ts";
import { sleep } from "../base/clock.ts";
import { createLogger } from "../base/log.ts";
import {
  formatLsn,
  type Lsn,
  pageOffset,
  pageStart,
  parseLsn,
  parseWalFileName,
  WAL_SEGMENT_SIZE,
} from "../base/lsn.ts";
import { formatTimestamp, parseTimestamp } from "../base/timestamp.ts";
import { runPostgresTool } from "../postgres/installation.ts";
import { pageHeaderSize } from "../postgres/wal-page.ts";
import { findLsnByTimestamp, timestampOfLsn } from "./lsn-by-timestamp.ts";
import { StorageResources } from "./storage/storage-resources.ts";
import type { Timeline } from "./storage/timeline.ts";
import { WalFeeder } from "./wal-receiver.ts";

const CLIENTS = 6;
const ROUNDS = 60;
const logger = createLogger("test", "warn");

interface End {
  readonly start: Lsn;
  readonly timeUs: number;
  readonly committed: boolean;
}

/** All ways to end a transaction, by clients whose records do not come in the order of their times. */
async function runClients(cluster: StockCluster): Promise<void> {
  await Promise.all(
    Array.from({ length: CLIENTS }, async (_, number) => {
      const client = await cluster.connect();
      for (let i = 0; i < ROUNDS; i++) {
        const gid = `'${number}-${i}'`;
        const insert = `INSERT INTO t VALUES (${number}, ${i})`;
        const ends = [
          [`${insert}; COMMIT`],
          [`SAVEPOINT s; ${insert}; RELEASE s; SAVEPOINT r; ${insert}; ROLLBACK TO r; COMMIT`],
          [`${insert}; ROLLBACK`],
          [`${insert}; PREPARE TRANSACTION ${gid}`, `COMMIT PREPARED ${gid}`],
          [`${insert}; PREPARE TRANSACTION ${gid}`, `ROLLBACK PREPARED ${gid}`],
          [`LOCK t IN ACCESS SHARE MODE; ${insert}; COMMIT`],
        ];
        for (const sql of ends[(i + number) % ends.length]!) {
          await client.query(
            sql.startsWith("COMMIT P") || sql.startsWith("ROLLBACK P") ? sql : `BEGIN; ${sql}`,
          );
        }
      }
    }),
  );
}

/** What ends transactions, as pg_walinspect prints it; there is none in 14. */
async function endsByWalinspect(cluster: StockCluster, startLsn: Lsn): Promise<End[]> {
  const client = await cluster.connect();
  // An abort does not wait for its record's flush.
  await client.query("CHECKPOINT");
  await client.query("SET timezone TO 'UTC'; SET datestyle TO 'ISO'");
  const { rows } = await client.query(
    `SELECT start_lsn, record_type, description
       FROM pg_get_wal_records_info($1, pg_current_wal_flush_lsn())
      WHERE resource_manager = 'Transaction' AND record_type ~ '^(COMMIT|ABORT)'
      ORDER BY start_lsn`,
    [formatLsn(startLsn)],
  );
  return rows.map(({ start_lsn, record_type, description }) => {
    const text = /\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?:\+00| UTC)/.exec(description)![0];
    const { timeUs } = parseTimestamp(text)!;
    return { start: parseLsn(start_lsn)!, timeUs, committed: record_type.startsWith("COMMIT") };
  });
}

async function ingestAll(cluster: StockCluster, timeline: Timeline): Promise<void> {
  const feeder = new WalFeeder(timeline, logger);
  const directory = join(cluster.dataDir, "pg_wal");
  for (const name of readdirSync(directory).sort()) {
    const segno = parseWalFileName(name);
    if (segno !== undefined && (segno + 1) * WAL_SEGMENT_SIZE > timeline.startLsn) {
      const bytes = readFileSync(join(directory, name));
      try {
        await feeder.feed(
          bytes.subarray(Math.max(0, timeline.startLsn - segno * WAL_SEGMENT_SIZE)),
        );
      } catch (error) {
        // The last segment ends in zeros.
        assert.match(String(error), /zeros after the record/);
      }
      feeder.publish();
    }
  }
}

/** Where the record before one that starts at `lsn` ends: before the page's header. */
function recordEnd(lsn: Lsn): Lsn {
  const headerBytes = pageHeaderSize(pageStart(lsn), WAL_SEGMENT_SIZE);
  return pageOffset(lsn) === headerBytes ? pageStart(lsn) : lsn;
}

async function checkList(timeline: Timeline, ends: readonly End[]): Promise<void> {
  for (const [i, { timeUs, start }] of ends.entries()) {
    const stop = ends.findIndex((end) => end.timeUs > timeUs);
    const passed = stop < 0 ? ends : ends.slice(0, stop);
    const found = await findLsnByTimestamp(timeline, timeUs);
    assert.deepEqual(found, {
      kind: stop < 0 ? "future" : "present",
      lsn: stop < 0 ? timeline.lastRecordLsn : ends[stop]!.start,
      commitUs: passed.findLast((end) => end.committed)?.timeUs,
    });
    const before = ends.slice(0, i).findLast((end) => end.committed);
    assert.equal(await timestampOfLsn(timeline, start), before?.timeUs);
  }
}

/** Recovers the base to each time; where the last replayed record ends. */
async function* recoverTo(
  cluster: StockCluster,
  base: string,
  times: readonly number[],
): AsyncGenerator<{ timeUs: number; lsn: Lsn }> {
  const { installation, workdir } = cluster;
  const dataDir = join(workdir, "recovered");
  const socket = join(workdir, "socket");
  makePostgresDirectory(socket);
  const pgCtl = (...args: string[]) =>
    runPostgresTool(installation, "pg_ctl", ["-D", dataDir, "-w", "-t", "120", ...args]);
  for (const timeUs of times) {
    rmSync(dataDir, { recursive: true, force: true });
    copyTree(base, dataDir);
    writePostgresFile(join(dataDir, "recovery.signal"), "");
    writePostgresFile(
      join(dataDir, "postgresql.auto.conf"),
      `restore_command = 'cp "${join(cluster.dataDir, "pg_wal")}/%f" "%p"'\n` +
        `recovery_target_time = '${formatTimestamp(timeUs).replace("Z", "+00")}'\nrecovery_target_action = pause\n` +
        `recovery_target_timeline = current\nhot_standby = on\nunix_socket_directories = '${socket}'\n`,
    );
    await pgCtl("-l", join(workdir, "recovery-log"), "start");
    const client = new pg.Client({
      host: socket,
      user: STOCK_USER,
      database: "postgres",
      port: 5432,
    });
    await client.connect();
    try {
      for (;;) {
        const { rows } = await client.query("SELECT pg_get_wal_replay_pause_state() AS state");
        if (rows[0].state === "paused") {
          break;
        }
        await sleep(20);
      }
      const { rows } = await client.query("SELECT pg_last_wal_replay_lsn() AS lsn");
      yield { timeUs, lsn: parseLsn(rows[0].lsn)! };
    } finally {
      await client.end();
      await pgCtl("-m", "immediate", "stop");
    }
  }
}

for (const pgMajor of EACH_MAJOR) {
  describe(`PostgreSQL ${pgMajor}`, () => {
    let cluster: StockCluster;
    let base: string;
    let timeline: Timeline;
    /** Empty without pg_walinspect. */
    let ends: End[] = [];

    before(async () => {
      cluster = await StockCluster.create({
        pgMajor,
        settings: { max_prepared_transactions: "20", autovacuum: "off" },
      });
      await cluster.start();
      const client = await cluster.connect();
      await client.query("CREATE TABLE t (client int, round int)");
      const hasWalinspect = pgMajor >= 15;
      if (hasWalinspect) {
        await client.query("CREATE EXTENSION pg_walinspect");
      }
      await cluster.stop();
      base = cluster.copyData("base");
      await cluster.start();
      await runClients(cluster);
      const directory = join(cluster.workdir, "timeline");
      timeline = await openImportedTimeline(new StorageResources(logger), base, directory, pgMajor);
      if (hasWalinspect) {
        ends = await endsByWalinspect(cluster, timeline.startLsn);
      }
      await cluster.stop();
      await ingestAll(cluster, timeline);
    });

    after(async () => {
      await timeline.close();
      await cluster.destroy();
    });

    test("LSN <-> time: as the records say", {
      skip: pgMajor < 15 && "no pg_walinspect",
    }, async () => {
      assert.ok(ends.length > CLIENTS * ROUNDS, `${ends.length} ends`);
      await checkList(timeline, ends);
    });

    test("LSN of a time: where recovery to it stops", async () => {
      const first = (await findLsnByTimestamp(timeline, 0)).commitUs!;
      const last = (await timestampOfLsn(timeline, timeline.lastRecordLsn))!;
      const times: number[] = [];
      for (const share of [0.3, 0.5, 0.8]) {
        const found = await findLsnByTimestamp(
          timeline,
          Math.floor(first + share * (last - first)),
        );
        times.push(found.commitUs! - 1, found.commitUs!);
      }
      for await (const { timeUs, lsn } of recoverTo(cluster, base, times)) {
        const found = await findLsnByTimestamp(timeline, timeUs);
        assert.equal(found.kind, "present");
        assert.equal(formatLsn(recordEnd(found.lsn)), formatLsn(lsn), formatTimestamp(timeUs));
      }
    });
  });
}
