// Transaction records: commit, abort, prepare, and what they carry along.
//
// Source: access/xact.h, 14-18. xl_info: opcode 0x70, 0x80 says that a u32 xinfo follows the time.
//   i64 xact_time; then, each if its bit of xinfo is set, in this order:
//   bit 0  DBINFO          u32 dbOid, u32 spcOid
//   bit 1  SUBXACTS        i32 n, n * u32 xid
//   bit 2  RELFILELOCATORS i32 n, n * (u32 spcOid, dbOid, relNumber): dropped
//   bit 8  DROPPED_STATS   i32 n, n * 12 bytes (16 from 18 on); 15 and later
//   bit 3  INVALS          i32 n, n * 16 bytes; commits only
//   bit 4  TWOPHASE        u32 xid; bit 7 GID: zero-terminated
//   bit 5  ORIGIN          u64 lsn, i64 time: of the remote commit; the record names its origin
// PREPARE's main data is the content of pg_twophase/<xid> without its checksum; where the record
// names an origin, its u64 origin_lsn counts (at 48 in 14, at 56 from 15 on).

import {
  XACT_XINFO_HAS_DBINFO,
  XACT_XINFO_HAS_DROPPED_STATS,
  XACT_XINFO_HAS_GID,
  XACT_XINFO_HAS_INVALS,
  XACT_XINFO_HAS_ORIGIN,
  XACT_XINFO_HAS_RELFILELOCATORS,
  XACT_XINFO_HAS_SUBXACTS,
  XACT_XINFO_HAS_TWOPHASE,
  XLOG_XACT_ABORT,
  XLOG_XACT_ABORT_PREPARED,
  XLOG_XACT_ASSIGNMENT,
  XLOG_XACT_COMMIT,
  XLOG_XACT_COMMIT_PREPARED,
  XLOG_XACT_HAS_INFO,
  XLOG_XACT_INVALIDATIONS,
  XLOG_XACT_OPMASK,
  XLOG_XACT_PREPARE,
} from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

/** TwoPhaseFileHeader up to its xid: u32 magic, u32 total_len, u32 xid. */
const TWO_PHASE_XID_OFFSET = 8;

const data = new MainData();
const xids: number[] = [];

export function interpretXact(record: XLogRecord, sink: RecordSink): void {
  switch (record.info & XLR_RMGR_INFO_MASK & XLOG_XACT_OPMASK) {
    case XLOG_XACT_COMMIT:
      interpretEnd(record, sink, true, false);
      return;
    case XLOG_XACT_COMMIT_PREPARED:
      interpretEnd(record, sink, true, true);
      return;
    case XLOG_XACT_ABORT:
      interpretEnd(record, sink, false, false);
      return;
    case XLOG_XACT_ABORT_PREPARED:
      interpretEnd(record, sink, false, true);
      return;
    case XLOG_XACT_PREPARE:
      interpretPrepare(record, sink);
      return;
    case XLOG_XACT_ASSIGNMENT:
    case XLOG_XACT_INVALIDATIONS:
      return; // for standbys and logical decoding
    default:
      throw unsupportedRecord(record);
  }
}

function interpretEnd(record: XLogRecord, sink: RecordSink, commit: boolean, prepared: boolean) {
  data.open(record);
  const time = data.i64();
  const xinfo = (record.info & XLOG_XACT_HAS_INFO) !== 0 ? data.u32() : 0;
  if ((xinfo & XACT_XINFO_HAS_DBINFO) !== 0) {
    data.skip(8);
  }
  xids.length = 0;
  xids.push(record.xid);
  if ((xinfo & XACT_XINFO_HAS_SUBXACTS) !== 0) {
    const count = data.count(4);
    for (let i = 0; i < count; i++) {
      xids.push(data.u32());
    }
  }
  const dropped =
    (xinfo & XACT_XINFO_HAS_RELFILELOCATORS) !== 0 ? data.bytes(data.count(12) * 12) : undefined;
  if ((xinfo & XACT_XINFO_HAS_DROPPED_STATS) !== 0) {
    const { xactStatsItemSize } = record.version;
    data.skip(data.count(xactStatsItemSize) * xactStatsItemSize);
  }
  if (commit && (xinfo & XACT_XINFO_HAS_INVALS) !== 0) {
    data.skip(data.count(16) * 16);
  }
  if ((xinfo & XACT_XINFO_HAS_TWOPHASE) !== 0) {
    const xid = data.u32();
    if (prepared) {
      xids[0] = xid;
    }
    if ((xinfo & XACT_XINFO_HAS_GID) !== 0) {
      data.skipString();
    }
  } else if (prepared) {
    throw corruptWal(record.startLsn, "end of a prepared transaction does not name it");
  }
  const hasOrigin = (xinfo & XACT_XINFO_HAS_ORIGIN) !== 0;
  if (hasOrigin && record.originId === 0) {
    throw corruptWal(record.startLsn, "end of a remote transaction does not name its origin");
  }
  const remoteLsn = hasOrigin ? data.u64() : 0n;
  const commitTime = hasOrigin ? data.i64() : time;
  if (xids[0] === 0) {
    // A transaction without an xid, for example one that only ran invalidations or dropped temp files.
    xids.shift();
  }
  if (xids.length > 0) {
    for (let i = prepared ? 0 : 1; i < xids.length; i++) {
      sink.sawXid(xids[i]!);
    }
    if (commit) {
      sink.commitTimestamps(xids, commitTime, record.originId);
    }
    sink.transactionStatus(xids, commit);
  }
  sink.transactionEnd(time, commit);
  if (hasOrigin) {
    sink.replicationOriginAdvance(record.originId, remoteLsn, false);
  }
  if (dropped !== undefined) {
    dropRelations(dropped, sink);
  }
  if (prepared) {
    sink.twoPhaseForget(xids[0]!);
  }
}

function dropRelations(dropped: Uint8Array, sink: RecordSink): void {
  const view = new DataView(dropped.buffer, dropped.byteOffset, dropped.length);
  for (let at = 0; at < dropped.length; at += 12) {
    sink.relationDrop(
      view.getUint32(at, true),
      view.getUint32(at + 4, true),
      view.getUint32(at + 8, true),
    );
  }
}

function interpretPrepare(record: XLogRecord, sink: RecordSink): void {
  const payload = data.open(record).bytes(record.mainLength);
  if (payload.length < TWO_PHASE_XID_OFFSET + 4) {
    throw corruptWal(record.startLsn, `prepared transaction of ${payload.length} bytes`);
  }
  const xid = record.view.getUint32(record.mainOffset + TWO_PHASE_XID_OFFSET, true);
  if (xid !== record.xid || xid === 0) {
    throw corruptWal(record.startLsn, `prepare of ${xid} in a record of ${record.xid}`);
  }
  sink.twoPhasePrepare(BigInt(xid), payload);
  if (record.originId !== 0) {
    data.open(record).skip(record.version.prepareOriginLsnOffset);
    sink.replicationOriginAdvance(record.originId, data.u64(), false);
  }
}
