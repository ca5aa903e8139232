// The part of the workload for what only a crash leaves: page splits that a later insertion finishes, and
// a record cut in half by the end of WAL.
//
// A crash at a chosen record is made by stopping Postgres at once and wiping its WAL from that LSN on.
// That is as if it had never been written as long as no page in the files is newer: so a checkpoint
// comes before, the background writer sleeps (settings of the run), and the buffers hold everything.

import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import {
  addLsn,
  type Lsn,
  pageStart,
  segmentNumber,
  segmentOffset,
  walFileName,
  XLOG_BLCKSZ,
} from "../../src/base/lsn.ts";
import {
  RM_BTREE_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_LOGICALMSG_ID,
} from "../../src/postgres/rmgr.ts";
import type { XLogRecord } from "../../src/postgres/xlog-record.ts";
import { readWal } from "../../testing/redo/replay-wal.ts";
import { type StockCluster, writePostgresFile } from "../../testing/stock-cluster.ts";
import { noise, runAll } from "./sql.ts";

interface Crash {
  readonly name: string;
  /** Makes an empty table with its index. */
  readonly prepare: readonly string[];
  /** Splits pages. */
  readonly work: readonly string[];
  readonly isSplit: (record: XLogRecord) => boolean;
  /** WAL ends after that many splits. */
  readonly splits: number;
  /** Lands where the split was left open. */
  readonly finish: readonly string[];
}

function isRecord(rmid: number, ...infos: number[]): (record: XLogRecord) => boolean {
  return (record) => record.rmid === rmid && infos.includes(record.info & 0xf0);
}

const CRASHES: readonly Crash[] = [
  {
    name: "btree leaf split",
    prepare: ["CREATE TABLE torn_btree (t text)", "CREATE INDEX ON torn_btree (t)"],
    work: [
      `INSERT INTO torn_btree SELECT lpad(g::text, 5, '0') || ${noise("g", 400)}
         FROM generate_series(1, 60) g`,
    ],
    isSplit: isRecord(RM_BTREE_ID, 0x30, 0x40),
    splits: 3,
    finish: [
      `INSERT INTO torn_btree SELECT lpad(g::text, 5, '0') || ${noise("g + 1", 400)}
         FROM generate_series(1, 80) g`,
      "DELETE FROM torn_btree WHERE t < '00040'",
      "VACUUM torn_btree",
    ],
  },
  {
    name: "gin entry split",
    prepare: [
      "CREATE TABLE torn_gin (a text[])",
      "CREATE INDEX ON torn_gin USING gin (a) WITH (fastupdate = off)",
    ],
    work: [
      `INSERT INTO torn_gin SELECT ARRAY[lpad((g * 7 % 100)::text, 5, '0') || ${noise("g", 500)}]
         FROM generate_series(1, 100) g`,
    ],
    isSplit: isRecord(RM_GIN_ID, 0x30),
    splits: 4,
    finish: [
      `INSERT INTO torn_gin SELECT ARRAY[lpad((g * 7 % 100)::text, 5, '0') || ${noise("g + 1", 500)}]
         FROM generate_series(1, 200) g`,
      "VACUUM torn_gin",
    ],
  },
  {
    name: "gist page split",
    prepare: ["CREATE TABLE torn_gist (p point)", "CREATE INDEX ON torn_gist USING gist (p)"],
    work: [
      "INSERT INTO torn_gist SELECT point(g * 37 % 101, g * 53 % 103) FROM generate_series(1, 1500) g",
    ],
    isSplit: isRecord(RM_GIST_ID, 0x30),
    splits: 4,
    finish: [
      "INSERT INTO torn_gist SELECT point(g * 31 % 101, g * 59 % 103) FROM generate_series(1, 1500) g",
      "DELETE FROM torn_gist WHERE p[0] > 50",
      "VACUUM torn_gist",
    ],
  },
  {
    name: "hash bucket split",
    prepare: ["CREATE TABLE torn_hash (k int)", "CREATE INDEX ON torn_hash USING hash (k)"],
    work: ["INSERT INTO torn_hash SELECT g FROM generate_series(1, 6000) g"],
    isSplit: isRecord(RM_HASH_ID, 0x40),
    splits: 5,
    finish: [
      "INSERT INTO torn_hash SELECT g FROM generate_series(6001, 9000) g",
      "VACUUM torn_hash",
    ],
  },
];

/** Each of the crashes, and an insertion after it that meets what it left. */
export async function crashes(cluster: StockCluster): Promise<void> {
  for (const crash of CRASHES) {
    const client = await cluster.connect();
    await runAll(client, [...crash.prepare, "CHECKPOINT"]);
    const startLsn = await cluster.currentLsn(client);
    await runAll(client, crash.work);
    await cluster.stop("immediate");
    const ends: Lsn[] = [];
    read(cluster, startLsn, (record, endLsn) => {
      if (crash.isSplit(record)) {
        ends.push(endLsn);
      }
    });
    const cut = ends[crash.splits - 1];
    if (cut === undefined) {
      throw new Error(`${crash.name}: only ${ends.length} of them`);
    }
    wipeWal(cluster, cut);
    await cluster.start();
    await runAll(await cluster.connect(), crash.finish);
  }
  await tornRecord(cluster);
}

/** WAL ends in the middle of a long record: Postgres goes on with OVERWRITE_CONTRECORD. */
async function tornRecord(cluster: StockCluster): Promise<void> {
  const client = await cluster.connect();
  await client.query("CHECKPOINT");
  const startLsn = await cluster.currentLsn(client);
  await client.query("SELECT pg_logical_emit_message(true, 'torn', repeat('long ', 10000))");
  await cluster.stop("immediate");
  let message: Lsn | undefined;
  read(cluster, startLsn, (record) => {
    message ??= record.rmid === RM_LOGICALMSG_ID ? record.startLsn : undefined;
  });
  if (message === undefined) {
    throw new Error("no logical message in WAL");
  }
  wipeWal(cluster, addLsn(pageStart(message), 3 * XLOG_BLCKSZ));
  await cluster.start();
  await (await cluster.connect()).query("CREATE TABLE after_torn AS SELECT 1 AS x");
}

function read(
  cluster: StockCluster,
  startLsn: Lsn,
  onRecord: (record: XLogRecord, endLsn: Lsn) => void,
): void {
  const walDir = join(cluster.dataDir, "pg_wal");
  readWal({ walDir, startLsn, pgMajor: cluster.installation.major }, onRecord);
}

/** Zeros from `lsn` on; `lsn` is in a segment that exists. */
function wipeWal(cluster: StockCluster, lsn: Lsn): void {
  const pathOf = (segno: number) => join(cluster.dataDir, "pg_wal", walFileName(segno));
  const segno = segmentNumber(lsn);
  const bytes = new Uint8Array(readFileSync(pathOf(segno)));
  bytes.fill(0, segmentOffset(lsn));
  writePostgresFile(pathOf(segno), bytes);
  for (let next = segno + 1; existsSync(pathOf(next)); next++) {
    rmSync(pathOf(next));
  }
}
