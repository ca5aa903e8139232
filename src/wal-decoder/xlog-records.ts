// Records of the WAL machinery itself and of standbys: checkpoints, counters, full-page images.
//
// Sources: catalog/pg_control.h, access/xlog_internal.h, storage/standbydefs.h, 14-18. Main data:
//   CHECKPOINT_SHUTDOWN, CHECKPOINT_ONLINE  CheckPoint (postgres/checkpoint.ts)
//   NEXTOID           u32
//   PARAMETER_CHANGE  i32 max_connections, max_worker_processes, max_wal_senders,
//                     max_prepared_xacts, max_locks_per_xact, wal_level; u8 wal_log_hints,
//                     u8 track_commit_timestamp
//   END_OF_RECOVERY   i64 time, u32 timeline, u32 previous; i32 wal_level from 17 on
//   CHECKPOINT_REDO   i32 wal_level; 17 and later
//   RUNNING_XACTS     i32 n, i32 n, u8 and padding, u32 nextXid, u32 oldestRunningXid, ...

import { errorMessage } from "../base/errors.ts";
import { type CheckPoint, decodeCheckPoint } from "../postgres/checkpoint.ts";
import {
  XLOG_BACKUP_END,
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_REDO,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_END_OF_RECOVERY,
  XLOG_FPI,
  XLOG_FPI_FOR_HINT,
  XLOG_FPW_CHANGE,
  XLOG_INVALIDATIONS,
  XLOG_NEXTOID,
  XLOG_NOOP,
  XLOG_OVERWRITE_CONTRECORD,
  XLOG_PARAMETER_CHANGE,
  XLOG_RESTORE_POINT,
  XLOG_RUNNING_XACTS,
  XLOG_STANDBY_LOCK,
  XLOG_SWITCH,
} from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretImage, unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

const data = new MainData();

export function interpretXlog(record: XLogRecord, sink: RecordSink): void {
  const { version } = record;
  const opcode = record.info & XLR_RMGR_INFO_MASK;
  if ((version.xlogOpcodes & (1 << (opcode >>> 4))) === 0) {
    throw unsupportedRecord(record);
  }
  data.open(record);
  switch (opcode) {
    case XLOG_FPI:
    case XLOG_FPI_FOR_HINT:
      interpretImages(record, sink, opcode);
      return;
    case XLOG_CHECKPOINT_SHUTDOWN:
    case XLOG_CHECKPOINT_ONLINE:
      sink.checkpoint(checkPointOf(record), opcode === XLOG_CHECKPOINT_SHUTDOWN);
      return;
    case XLOG_NEXTOID:
      sink.nextOid(data.u32());
      return;
    case XLOG_PARAMETER_CHANGE:
      sink.parameterChange({
        maxConnections: data.i32(),
        maxWorkerProcesses: data.i32(),
        maxWalSenders: data.i32(),
        maxPreparedTransactions: data.i32(),
        maxLocksPerTransaction: data.i32(),
        walLevel: data.i32(),
        walLogHints: data.u8() !== 0,
        trackCommitTimestamp: data.u8() !== 0,
      });
      return;
    case XLOG_END_OF_RECOVERY:
      data.skip(16);
      if (version.checkPointHasWalLevel) {
        sink.walLevel(data.i32());
      }
      return;
    case XLOG_CHECKPOINT_REDO:
      sink.walLevel(data.i32());
      return;
    case XLOG_NOOP:
    case XLOG_SWITCH:
    case XLOG_BACKUP_END:
    case XLOG_RESTORE_POINT:
    case XLOG_FPW_CHANGE:
    case XLOG_OVERWRITE_CONTRECORD:
      return;
    default:
      throw unsupportedRecord(record);
  }
}

function checkPointOf(record: XLogRecord): CheckPoint {
  const { bytes, mainOffset, mainLength, version } = record;
  try {
    return decodeCheckPoint(bytes, mainOffset, mainLength, version);
  } catch (error) {
    throw corruptWal(record.startLsn, errorMessage(error));
  }
}

/** FPI_FOR_HINT may come without an image (full_page_writes switched off meanwhile): no effect. */
function interpretImages(record: XLogRecord, sink: RecordSink, opcode: number): void {
  for (let i = 0; i < record.blockCount; i++) {
    if (record.blockFork[i]! > 3) {
      throw corruptWal(record.startLsn, `block of fork ${record.blockFork[i]}`);
    }
    if (record.imageApply[i] === 1) {
      interpretImage(record, i, sink);
    } else if (opcode === XLOG_FPI) {
      throw corruptWal(record.startLsn, "FPI record without an image to restore");
    }
  }
}

export function interpretStandby(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_RUNNING_XACTS:
      interpretRunningTransactions(sink);
      return;
    case XLOG_STANDBY_LOCK:
    case XLOG_INVALIDATIONS:
      return;
    default:
      throw unsupportedRecord(record);
  }
}

function interpretRunningTransactions(sink: RecordSink): void {
  data.skip(12);
  const nextXid = data.u32();
  sink.runningTransactions(data.u32(), nextXid);
}
