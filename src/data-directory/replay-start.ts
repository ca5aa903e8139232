// WAL from which stock recovery goes on with a timeline's own at R, as a standby: a checkpoint that ends where the last
// record before R begins, and in that record's place one that says nothing.

import {
  addLsn,
  alignLsn,
  INVALID_LSN,
  type Lsn,
  pageOffset,
  pageStart,
  segmentStart,
  XLOG_BLCKSZ,
} from "../base/lsn.ts";
import { type CheckPoint, encodeCheckPoint } from "../postgres/checkpoint.ts";
import {
  XLOG_CHECKPOINT_ONLINE,
  XLOG_CHECKPOINT_SHUTDOWN,
  XLOG_NOOP,
} from "../postgres/opcodes.ts";
import { RM_XLOG_ID } from "../postgres/rmgr.ts";
import type { PgVersion } from "../postgres/versions.ts";
import { pageHeaderSize } from "../postgres/wal-page.ts";
import { encodeRecord, RECORD_HEADER_SIZE } from "../postgres/xlog-record.ts";
import type { SynthesizedWal } from "./synthesized-wal.ts";
import { WalPages } from "./wal-pages.ts";

/** Of a record with so little main data that one byte says how much. */
const SHORT_HEADER = RECORD_HEADER_SIZE + 2;
const LONG_HEADER = RECORD_HEADER_SIZE + 5;
const SHORT_MAX = 255;

/**
 * Recovery reads the checkpoint, then record after record, and checks of each that its back link is the one before. So what
 * ends at R must begin where the true record does that ends there: there is one of its length that changes
 * nothing. Both are never seen but by the recovery that begins here; true WAL follows at R, and may later replace them.
 *
 * A checkpoint that is online says that transactions run (`oldestActiveXid`): recovery opens for readers once it has replayed a
 * record that names them. Its redo is its own place, which needs no XLOG_CHECKPOINT_REDO from 17 on.
 */
export function synthesizeReplayStart(options: {
  /** R, where a record ends. */
  startLsn: Lsn;
  /** Start of the record that ends at R; 0 where unknown: then recovery refuses the first record that comes. */
  prevRecordLsn: Lsn;
  version: PgVersion;
  systemId: bigint;
  segmentSize: number;
  kind: "online" | "shutdown";
  /** `redo` is set here. */
  checkPoint: CheckPoint;
}): SynthesizedWal {
  const { version, segmentSize, prevRecordLsn } = options;
  const end = alignLsn(options.startLsn);
  const checkPointEnd = prevRecordLsn === INVALID_LSN ? end : prevRecordLsn;
  const pages = new WalPages(options);
  const record = (prevLsn: Lsn, info: number, mainData: Uint8Array) =>
    encodeRecord({ rmid: RM_XLOG_ID, xid: 0, info, prevLsn, mainData });

  const isShutdown = options.kind === "shutdown";
  const info = isShutdown ? XLOG_CHECKPOINT_SHUTDOWN : XLOG_CHECKPOINT_ONLINE;
  const size = record(INVALID_LSN, info, encodeCheckPoint(options.checkPoint, version)).length;
  const recordStart = startBefore(checkPointEnd, alignLsn(size as Lsn), segmentSize);
  const checkPoint = { ...options.checkPoint, redo: recordStart };
  pages.put(record(INVALID_LSN, info, encodeCheckPoint(checkPoint, version)), recordStart);
  if (prevRecordLsn !== INVALID_LSN) {
    const length = bytesOfRecords(prevRecordLsn, end, segmentSize);
    pages.put(record(recordStart, XLOG_NOOP, new Uint8Array(mainDataOf(length))), prevRecordLsn);
  }
  // Recovery looks at the first page of each segment that it reads from.
  for (const { pageLsn } of pages.pages) {
    pages.pageAt(segmentStart(pageLsn, segmentSize), 0);
  }
  if (pageOffset(end) !== 0) {
    pages.pageAt(pageStart(end), 0);
  }
  return { recordStart, recordEnd: end, checkPoint, pages: pages.pages };
}

/** Where a record of `size` aligned bytes begins that ends where the one at `next` begins. */
function startBefore(next: Lsn, size: number, segmentSize: number): Lsn {
  let at = next;
  for (let left = size; ; ) {
    if (pageOffset(at) <= pageHeaderSize(pageStart(at), segmentSize)) {
      at = pageStart(at);
    }
    const page = pageStart(addLsn(at, -1));
    const first = addLsn(page, pageHeaderSize(page, segmentSize));
    if (left <= at - first) {
      return addLsn(at, -left);
    }
    left -= at - first;
    at = page;
  }
}

/** How many bytes of [start, end) are not of page headers. */
function bytesOfRecords(start: Lsn, end: Lsn, segmentSize: number): number {
  let bytes = 0;
  for (let at = start; at < end; ) {
    const page = pageStart(at);
    const first = Math.max(at, page + pageHeaderSize(page, segmentSize));
    const next = Math.min(end, page + XLOG_BLCKSZ);
    bytes += Math.max(0, next - first);
    at = next as Lsn;
  }
  return bytes;
}

/** Of a record that takes `length` aligned bytes: how many are main data. */
function mainDataOf(length: number): number {
  return length - SHORT_HEADER <= SHORT_MAX
    ? Math.max(0, length - SHORT_HEADER)
    : length - LONG_HEADER;
}
