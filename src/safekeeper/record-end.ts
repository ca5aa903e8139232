// Whether a record ends at an LSN, told by the one page that holds it: no walk through the log.

import { type Lsn, pageOffset } from "../base/lsn.ts";
import { XLOG_SWITCH } from "../postgres/opcodes.ts";
import { RM_XLOG_ID, XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import {
  checkPageHeader,
  pageHeaderSize,
  XLP_FIRST_IS_CONTRECORD,
  XLP_FIRST_IS_OVERWRITE_CONTRECORD,
} from "../postgres/wal-page.ts";
import { RECORD_HEADER_SIZE } from "../postgres/xlog-record.ts";

/** xlp_rem_len: bytes that a record begun on an earlier page still has. */
const REMAINING_OFFSET = 16;
/** xl_info and xl_rmid of a record's header. */
const INFO_OFFSET = 16;
const RMGR_OFFSET = 17;

export interface CheckedLog {
  /** Bytes of the log, which were checked when they were written. */
  read(lsn: Lsn, length: number): Uint8Array;
  readonly segmentSize: number;
  /** A record end, the first one there is. */
  readonly startLsn: Lsn;
}

/**
 * `lsn` is inside the log: at or above its start, below its end. StorageError `corrupt` where the page
 * has no valid header.
 */
export function isRecordEnd(log: CheckedLog, lsn: Lsn): boolean {
  if (lsn === log.startLsn) {
    return true;
  }
  if (lsn % log.segmentSize === 0) {
    // The segment before may be gone, or end in padding. The next one says whether a record goes on in it.
    return !pageStart(log, lsn).continues;
  }
  const pageLsn = (lsn - 1 - pageOffset((lsn - 1) as Lsn)) as Lsn;
  const isFirstPage = pageLsn < log.startLsn;
  let at = isFirstPage ? log.startLsn : pageStart(log, pageLsn).firstRecord;
  if (!isFirstPage && at === lsn && at === pageLsn + pageHeaderSize(pageLsn, log.segmentSize)) {
    // Behind a header, where none ended: that was before the header.
    return false;
  }
  while (at + RECORD_HEADER_SIZE <= lsn) {
    const bytes = log.read(at, RECORD_HEADER_SIZE);
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);
    // Padding, or the record that padding follows: it ends with the segment.
    if (length < RECORD_HEADER_SIZE || isSwitch(bytes)) {
      return false;
    }
    at = (at + Math.ceil(length / 8) * 8) as Lsn;
  }
  return at === lsn;
}

function isSwitch(header: Uint8Array): boolean {
  const isXlog = header[RMGR_OFFSET] === RM_XLOG_ID;
  return isXlog && (header[INFO_OFFSET]! & XLR_RMGR_INFO_MASK) === XLOG_SWITCH;
}

/** What the header of the page at `pageLsn` says. */
function pageStart(log: CheckedLog, pageLsn: Lsn): { continues: boolean; firstRecord: Lsn } {
  const { segmentSize } = log;
  const size = pageHeaderSize(pageLsn, segmentSize);
  const bytes = log.read(pageLsn, size);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const expected = { pageMagic: undefined, segmentSize, systemId: undefined };
  const info = checkPageHeader(view, 0, pageLsn, expected);
  const isGivenUp = (info & XLP_FIRST_IS_OVERWRITE_CONTRECORD) !== 0;
  const isContinued = (info & XLP_FIRST_IS_CONTRECORD) !== 0;
  const remaining = isContinued && !isGivenUp ? view.getUint32(REMAINING_OFFSET, true) : 0;
  return {
    continues: isContinued || isGivenUp,
    firstRecord: (pageLsn + size + Math.ceil(remaining / 8) * 8) as Lsn,
  };
}
