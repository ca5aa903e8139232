// The shutdown checkpoint record with which a compute begins its term, laid out on WAL pages.

import { alignLsn, type Lsn, pageStart } from "../base/lsn.ts";
import { type CheckPoint, encodeCheckPoint } from "../postgres/checkpoint.ts";
import { XLOG_CHECKPOINT_SHUTDOWN } from "../postgres/opcodes.ts";
import { RM_XLOG_ID } from "../postgres/rmgr.ts";
import type { PgVersion } from "../postgres/versions.ts";
import { pageHeaderSize } from "../postgres/wal-page.ts";
import { encodeRecord } from "../postgres/xlog-record.ts";
import { skipPageHeader, WalPages } from "./wal-pages.ts";

export interface SynthesizedWal {
  /** Where the record begins: the asked LSN, past a page header where that falls on or into one. */
  readonly recordStart: Lsn;
  /** Where it ends, aligned (Postgres's EndRecPtr). */
  readonly recordEnd: Lsn;
  /** As it stands in the record, and must in pg_control. */
  readonly checkPoint: CheckPoint;
  /**
   * Whole 8 kB pages, ascending: each segment's first page, the page that holds the start LSN and
   * those the record continues on. All others up to the end of the segment are zeros.
   */
  readonly pages: readonly { readonly pageLsn: Lsn; readonly bytes: Uint8Array }[];
}

/**
 * The record goes to the safekeepers like any other: it is true. No transaction that was open at
 * `startLsn` goes on, because the lower terms that could have continued it are fenced.
 * Bytes of the first page before `startLsn` are zeros here; they exist on the safekeepers, and
 * nobody reads them from here.
 */
export function synthesizeWal(options: {
  startLsn: Lsn;
  /** Start of the record that ends at `startLsn`; 0 where unknown: readers then do not check it. */
  prevRecordLsn: Lsn;
  version: PgVersion;
  systemId: bigint;
  segmentSize: number;
  /** `redo` is set here. */
  checkPoint: CheckPoint;
}): SynthesizedWal {
  const { segmentSize } = options;
  const recordStart = skipPageHeader(alignLsn(options.startLsn), segmentSize);
  const checkPoint = { ...options.checkPoint, redo: recordStart };
  const record = encodeRecord({
    rmid: RM_XLOG_ID,
    info: XLOG_CHECKPOINT_SHUTDOWN,
    xid: 0,
    prevLsn: options.prevRecordLsn,
    mainData: encodeCheckPoint(checkPoint, options.version),
  });
  const pages = new WalPages(options);
  const segmentStart = (lsn: Lsn) => (lsn - (lsn % segmentSize)) as Lsn;

  const firstPage = pageStart(recordStart);
  // Readers that start at the page's beginning take the zeros before the record for the rest of a
  // record from the page before, and skip them.
  const skipped = recordStart - firstPage - pageHeaderSize(firstPage, segmentSize);
  if (segmentStart(recordStart) !== firstPage) {
    pages.pageAt(segmentStart(recordStart), 0);
  }
  pages.pageAt(firstPage, skipped);
  const recordEnd = pages.put(record, recordStart);
  return { recordStart, recordEnd, checkPoint, pages: pages.pages };
}
