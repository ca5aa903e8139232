// Moves a new cluster's counters close to where they wrap or begin a page, as pg_resetwal does.
//
// The last record of a stopped cluster's WAL is its shutdown checkpoint: it and the copy in pg_control
// are written anew with other counters. Segments of SLRUs that the counters now point into get zeros.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "../../src/base/crc32c.ts";
import { segmentNumber, segmentOffset, walFileName, XLOG_BLCKSZ } from "../../src/base/lsn.ts";
import { encodeCheckPoint } from "../../src/postgres/checkpoint.ts";
import { decodeControlFile } from "../../src/postgres/control-file.ts";
import { XLOG_CHECKPOINT_SHUTDOWN } from "../../src/postgres/opcodes.ts";
import { RM_XLOG_ID } from "../../src/postgres/rmgr.ts";
import { pgVersion } from "../../src/postgres/versions.ts";
import { encodeRecord } from "../../src/postgres/xlog-record.ts";
import { type StockCluster, writePostgresFile } from "../../testing/stock-cluster.ts";

/** Of xl_prev in a record, and of checkPointCopy in pg_control. */
const PREV_AT = 8;
const CHECKPOINT_COPY_AT = 40;
const SLRU_SEGMENT_BYTES = 32 * 8192;
const XIDS_PER_CLOG_SEGMENT = 32 * 32768;
const XIDS_PER_COMMIT_TS_SEGMENT = 32 * 819;
const MULTIS_PER_PAGE = 2048;
const MEMBERS_PER_SEGMENT = 32 * 1636;

/** Two segments of pg_xact on, and a few pages' worth of xids before the next. */
const NEXT_XID = 3 * XIDS_PER_CLOG_SEGMENT - 600;
/** Some multixacts before a page of their offsets ends. */
const NEXT_MULTI = 2 * MULTIS_PER_PAGE - 30;
/** Some members before the offsets of members start again from zero. */
const NEXT_MEMBER = 2 ** 32 - 40;

/** `cluster` has been made and never started. */
export function moveCounters(cluster: StockCluster): void {
  const { dataDir, installation } = cluster;
  const version = pgVersion(installation.major);
  const controlPath = join(dataDir, "global", "pg_control");
  const control = new Uint8Array(readFileSync(controlPath));
  const { checkPointLsn, checkPoint } = decodeControlFile(control, version.major);
  const moved = {
    ...checkPoint,
    nextFullXid: BigInt(NEXT_XID),
    nextMulti: NEXT_MULTI,
    oldestMulti: NEXT_MULTI,
    nextMultiOffset: NEXT_MEMBER,
  };

  const walPath = join(dataDir, "pg_wal", walFileName(segmentNumber(checkPointLsn)));
  const wal = new Uint8Array(readFileSync(walPath));
  const at = segmentOffset(checkPointLsn);
  const prevLsn = new DataView(wal.buffer).getBigUint64(at + PREV_AT, true);
  const record = encodeRecord({
    rmid: RM_XLOG_ID,
    info: XLOG_CHECKPOINT_SHUTDOWN,
    xid: 0,
    prevLsn: Number(prevLsn) as typeof checkPointLsn,
    mainData: encodeCheckPoint(moved, version),
  });
  if ((at % XLOG_BLCKSZ) + record.length > XLOG_BLCKSZ) {
    throw new Error("initdb's checkpoint record crosses a page");
  }
  wal.set(record, at);
  writePostgresFile(walPath, wal);

  control.set(encodeCheckPoint(moved, version), CHECKPOINT_COPY_AT);
  const crcAt = version.controlCrcOffset;
  new DataView(control.buffer).setUint32(crcAt, crc32c(control, 0, crcAt), true);
  writePostgresFile(controlPath, control);

  const zeros = (directory: string, segment: number) => {
    const name = segment.toString(16).toUpperCase().padStart(4, "0");
    // From 17 on pg_commit_ts has names of 15 digits only where a segment needs them: 4 do here.
    writePostgresFile(join(dataDir, directory, name), new Uint8Array(SLRU_SEGMENT_BYTES));
  };
  zeros("pg_xact", Math.floor(NEXT_XID / XIDS_PER_CLOG_SEGMENT));
  zeros("pg_multixact/offsets", 0);
  zeros("pg_multixact/members", Math.floor(NEXT_MEMBER / MEMBERS_PER_SEGMENT));
  // An old segment, for truncation to find, and the one of now.
  zeros("pg_commit_ts", 0);
  zeros("pg_commit_ts", Math.floor(NEXT_XID / XIDS_PER_COMMIT_TS_SEGMENT));
}
