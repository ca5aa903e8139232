// Records about whole files: relation creation and truncation, databases, relation maps.
//
// Sources: catalog/storage_xlog.h, commands/{dbcommands_xlog,tablespace}.h, utils/relmapper.h, 14-18.
// Main data:
//   SMGR CREATE 0x10    u32 spcOid, dbOid, relNumber, fork
//   SMGR TRUNCATE 0x20  u32 blocks, u32 spcOid, dbOid, relNumber, i32 flags
//   DBASE (opcodes in versions.ts)
//     CREATE_FILE_COPY  u32 dbOid, spcOid, source dbOid, source spcOid
//     CREATE_WAL_LOG    u32 dbOid, spcOid
//     DROP              u32 dbOid, i32 n, n * u32 spcOid
//   TBLSPC CREATE 0x00  u32 spcOid, zero-terminated path; empty: in place
//   TBLSPC DROP 0x10    u32 spcOid
//   RELMAP UPDATE 0x00  u32 dbOid, u32 spcOid, i32 n, n bytes

import {
  XLOG_RELMAP_UPDATE,
  XLOG_SMGR_CREATE,
  XLOG_SMGR_TRUNCATE,
  XLOG_TBLSPC_CREATE,
  XLOG_TBLSPC_DROP,
} from "../postgres/opcodes.ts";
import { INIT_FORK } from "../postgres/relation-path.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

/** sizeof(RelMapFile) is 512 up to 15 and 524 from 16 on. */
const RELATION_MAP_LIMIT = 1024;
/** MAXPGPATH. */
const MAX_LOCATION_BYTES = 1024;

const data = new MainData();

export function interpretSmgr(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_SMGR_CREATE: {
      const rel = {
        spcOid: data.u32(),
        dbOid: data.u32(),
        relNumber: data.u32(),
        fork: data.u32(),
      };
      if (rel.fork > INIT_FORK) {
        throw corruptWal(record.startLsn, `creation of fork ${rel.fork}`);
      }
      sink.relationCreate(rel);
      return;
    }
    case XLOG_SMGR_TRUNCATE: {
      const blocks = data.u32();
      const rel = { spcOid: data.u32(), dbOid: data.u32(), relNumber: data.u32(), fork: 0 };
      sink.relationTruncate(rel, blocks, data.u32());
      return;
    }
    default:
      throw unsupportedRecord(record);
  }
}

export function interpretDbase(record: XLogRecord, sink: RecordSink): void {
  const { version } = record;
  const opcode = record.info & XLR_RMGR_INFO_MASK;
  data.open(record);
  if (opcode === version.dbaseCreateFileCopy) {
    const dbOid = data.u32();
    const spcOid = data.u32();
    const srcDbOid = data.u32();
    sink.databaseCreateFileCopy(spcOid, dbOid, data.u32(), srcDbOid);
  } else if (opcode === version.dbaseCreateWalLog) {
    const dbOid = data.u32();
    sink.databaseCreateWalLog(data.u32(), dbOid);
  } else if (opcode === version.dbaseDrop) {
    const dbOid = data.u32();
    const spcOids = Array.from({ length: data.count(4) }, () => data.u32());
    sink.databaseDrop(dbOid, spcOids);
  } else {
    throw unsupportedRecord(record);
  }
}

/** A tablespace is dropped when nothing is in it, so only its directories go. */
export function interpretTablespace(record: XLogRecord, sink: RecordSink): void {
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_TBLSPC_CREATE:
      data.open(record);
      sink.tablespaceCreate(data.u32(), data.text(MAX_LOCATION_BYTES));
      return;
    case XLOG_TBLSPC_DROP:
      sink.tablespaceDrop(data.open(record).u32());
      return;
    default:
      throw unsupportedRecord(record);
  }
}

export function interpretRelmap(record: XLogRecord, sink: RecordSink): void {
  if ((record.info & XLR_RMGR_INFO_MASK) !== XLOG_RELMAP_UPDATE) {
    throw unsupportedRecord(record);
  }
  data.open(record);
  const dbOid = data.u32();
  const spcOid = data.u32();
  const length = data.count(1);
  if (length === 0 || length > RELATION_MAP_LIMIT) {
    throw corruptWal(record.startLsn, `relation map of ${length} bytes`);
  }
  sink.relationMapUpdate(spcOid, dbOid, data.bytes(length));
}
