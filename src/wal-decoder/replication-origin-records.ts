// Records about replication origins: how far changes from elsewhere have been replayed here.
//
// Source: replication/origin.h, 14-18. Commits say it too (xact-records.ts). Main data:
//   SET 0x00   u64 remote_lsn, u16 node_id, u8 force, padding
//   DROP 0x10  u16 node_id

import { XLOG_REPLORIGIN_DROP, XLOG_REPLORIGIN_SET } from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

const data = new MainData();

export function interpretReplicationOrigin(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_REPLORIGIN_SET: {
      const remoteLsn = data.u64();
      const originId = originNumber(record);
      sink.replicationOriginAdvance(originId, remoteLsn, data.u8() !== 0);
      return;
    }
    case XLOG_REPLORIGIN_DROP:
      sink.replicationOriginDrop(originNumber(record));
      return;
    default:
      throw unsupportedRecord(record);
  }
}

function originNumber(record: XLogRecord): number {
  const originId = data.u16();
  if (originId === 0) {
    throw corruptWal(record.startLsn, "record about replication origin 0");
  }
  return originId;
}
