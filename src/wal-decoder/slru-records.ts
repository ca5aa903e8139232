// Records about SLRU pages: transaction status, commit timestamps and multixacts.
//
// Sources: access/{clog,commit_ts,multixact}.h, 14-18. A page number is i32 up to 16, i64 from 17 on.
//   CLOG ZEROPAGE 0x00          page number
//   CLOG TRUNCATE 0x10          page number, u32 oldestXid, u32 oldestXidDb
//   COMMIT_TS ZEROPAGE 0x00     page number
//   COMMIT_TS TRUNCATE 0x10     page number, u32 oldestXid
//   MULTIXACT ZERO_OFF_PAGE 0x00, ZERO_MEM_PAGE 0x10  page number
//   MULTIXACT CREATE_ID 0x20    u32 multi, u32 offset, i32 n, n * (u32 xid, i32 status)
//   MULTIXACT TRUNCATE_ID 0x30  u32 oldestMultiDb, startTruncOff, endTruncOff, startTruncMemb, endTruncMemb

import {
  CLOG_TRUNCATE,
  CLOG_ZEROPAGE,
  COMMIT_TS_TRUNCATE,
  COMMIT_TS_ZEROPAGE,
  XLOG_MULTIXACT_CREATE_ID,
  XLOG_MULTIXACT_TRUNCATE_ID,
  XLOG_MULTIXACT_ZERO_MEM_PAGE,
  XLOG_MULTIXACT_ZERO_OFF_PAGE,
} from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { MAX_MULTIXACT_STATUS } from "../postgres/slru.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import {
  type RecordSink,
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
} from "./record-sink.ts";

/** More than the pages of any: 2^32 commit timestamps at 819 a page are the most. */
const PAGE_NUMBER_LIMIT = 8 * 1024 * 1024;

const data = new MainData();

export function interpretClog(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case CLOG_ZEROPAGE:
      sink.slruZeroPage(SLRU_CLOG, pageNumber(record));
      return;
    case CLOG_TRUNCATE: {
      const cutoffPage = pageNumber(record);
      const oldestXid = data.u32();
      sink.clogTruncate(cutoffPage, oldestXid, data.u32());
      return;
    }
    default:
      throw unsupportedRecord(record);
  }
}

export function interpretCommitTs(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case COMMIT_TS_ZEROPAGE:
      sink.slruZeroPage(SLRU_COMMIT_TS, pageNumber(record));
      return;
    case COMMIT_TS_TRUNCATE: {
      const cutoffPage = pageNumber(record);
      sink.commitTsTruncate(cutoffPage, data.u32());
      return;
    }
    default:
      throw unsupportedRecord(record);
  }
}

export function interpretMultixact(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  switch (record.info & XLR_RMGR_INFO_MASK) {
    case XLOG_MULTIXACT_ZERO_OFF_PAGE:
      sink.slruZeroPage(SLRU_MULTIXACT_OFFSETS, pageNumber(record));
      return;
    case XLOG_MULTIXACT_ZERO_MEM_PAGE:
      sink.slruZeroPage(SLRU_MULTIXACT_MEMBERS, pageNumber(record));
      return;
    case XLOG_MULTIXACT_CREATE_ID:
      interpretCreate(record, sink);
      return;
    case XLOG_MULTIXACT_TRUNCATE_ID: {
      const oldestMultiDb = data.u32();
      const startTruncOff = data.u32();
      const endTruncOff = data.u32();
      const startTruncMemb = data.u32();
      sink.multixactTruncate(oldestMultiDb, startTruncOff, endTruncOff, startTruncMemb, data.u32());
      return;
    }
    default:
      throw unsupportedRecord(record);
  }
}

function interpretCreate(record: XLogRecord, sink: RecordSink): void {
  const multi = data.u32();
  const offset = data.u32();
  const count = data.count(8);
  if (multi === 0 || count === 0) {
    throw corruptWal(record.startLsn, `multixact ${multi} of ${count} members`);
  }
  const members: { xid: number; status: number }[] = [];
  for (let i = 0; i < count; i++) {
    const xid = data.u32();
    const status = data.u32();
    if (status > MAX_MULTIXACT_STATUS) {
      throw corruptWal(record.startLsn, `multixact member with status ${status}`);
    }
    members.push({ xid, status });
  }
  for (const { xid } of members) {
    sink.sawXid(xid);
  }
  sink.multixactCreate(multi, offset, members);
}

function pageNumber(record: XLogRecord): number {
  const value = record.version.slruPageWidth === 8 ? Number(data.i64()) : data.i32();
  if (value < 0 || value > PAGE_NUMBER_LIMIT) {
    throw corruptWal(record.startLsn, `SLRU page ${value}`);
  }
  return value;
}
