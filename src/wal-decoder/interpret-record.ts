// Turns one decoded WAL record into calls of a RecordSink: what changes, without doing any redo.

import {
  RM_CLOG_ID,
  RM_COMMIT_TS_ID,
  RM_DBASE_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
  RM_LOGICALMSG_ID,
  RM_MULTIXACT_ID,
  RM_RELMAP_ID,
  RM_REPLORIGIN_ID,
  RM_SMGR_ID,
  RM_STANDBY_ID,
  RM_TBLSPC_ID,
  RM_XACT_ID,
  RM_XLOG_ID,
} from "../postgres/rmgr.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretBlocks } from "./block-references.ts";
import {
  interpretDbase,
  interpretRelmap,
  interpretSmgr,
  interpretTablespace,
} from "./file-records.ts";
import { interpretHeap, interpretHeap2 } from "./heap-records.ts";
import { interpretLogicalMessage } from "./logical-message-records.ts";
import type { RecordSink } from "./record-sink.ts";
import { interpretReplicationOrigin } from "./replication-origin-records.ts";
import { interpretClog, interpretCommitTs, interpretMultixact } from "./slru-records.ts";
import { interpretXact } from "./xact-records.ts";
import { interpretStandby, interpretXlog } from "./xlog-records.ts";

/**
 * Decodes `record` (as WalStream found it) and tells `sink` everything it changes, in the order of
 * Postgres's redo. StorageError `corrupt` where the record is malformed: the sink may have been told
 * a part of it. `unsupported` (code `unsupported-wal-record`) with rmgr, info and LSN where we cannot
 * apply it: the sink has been told `sawXid` at most.
 */
export function interpretRecord(record: XLogRecord, sink: RecordSink): void {
  record.decode();
  if (record.xid !== 0) {
    sink.sawXid(record.xid);
  }
  switch (record.rmid) {
    case RM_HEAP_ID:
      interpretHeap(record, sink);
      return;
    case RM_HEAP2_ID:
      interpretHeap2(record, sink);
      return;
    case RM_XLOG_ID:
      interpretXlog(record, sink);
      return;
    case RM_XACT_ID:
      interpretXact(record, sink);
      return;
    case RM_SMGR_ID:
      interpretSmgr(record, sink);
      return;
    case RM_CLOG_ID:
      interpretClog(record, sink);
      return;
    case RM_DBASE_ID:
      interpretDbase(record, sink);
      return;
    case RM_MULTIXACT_ID:
      interpretMultixact(record, sink);
      return;
    case RM_RELMAP_ID:
      interpretRelmap(record, sink);
      return;
    case RM_STANDBY_ID:
      interpretStandby(record, sink);
      return;
    case RM_COMMIT_TS_ID:
      interpretCommitTs(record, sink);
      return;
    case RM_REPLORIGIN_ID:
      interpretReplicationOrigin(record, sink);
      return;
    case RM_LOGICALMSG_ID:
      interpretLogicalMessage(record, sink);
      return;
    case RM_TBLSPC_ID:
      interpretTablespace(record, sink);
      return;
    default:
      interpretBlocks(record, sink);
  }
}
