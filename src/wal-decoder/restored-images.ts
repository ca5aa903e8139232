// What redo still changes on a page that the record brings as a full image (14-18).
//
// Where a record has a page's image, redo mostly leaves it as it is. In four records it does not
// (gistRedoClearFollowRight, hash_xlog_split_allocate_page, hash_xlog_split_complete):
//   gist PAGE_UPDATE 1, PAGE_SPLIT 0   the left half of a split: NSN is the record's end, and no
//                                      F_FOLLOW_RIGHT. Set after the record was made: not in the image.
//   hash SPLIT_ALLOCATE_PAGE 0         the bucket being split: hasho_flag, hasho_prevblkno
//   hash SPLIT_COMPLETE 0, 1           both buckets: hasho_flag
// Those of hash are in the image already in every version seen; we do as redo does. An image of the
// gist references is rare: a checkpoint must begin between a split and the downlink's insertion.

import { lsnHigh, lsnLow } from "../base/lsn.ts";
import {
  XLOG_GIST_PAGE_SPLIT,
  XLOG_GIST_PAGE_UPDATE,
  XLOG_HASH_SPLIT_ALLOCATE_PAGE,
  XLOG_HASH_SPLIT_COMPLETE,
} from "../postgres/opcodes.ts";
import { PAGE_SIZE, PD_SPECIAL } from "../postgres/page.ts";
import { RM_GIST_ID, RM_HASH_ID, XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";

/** Of gist and of hash pages. */
const SPECIAL = PAGE_SIZE - 16;
const GIST_NSN = SPECIAL;
const HASHO_PREVBLKNO = SPECIAL;
/** Both managers have their flags here. */
const FLAGS = PAGE_SIZE - 4;
const F_FOLLOW_RIGHT = 1 << 3;

/**
 * Changes the restored image of reference number `ordinal` as redo does. StorageError `corrupt` where
 * the record or the image is too short for that.
 */
export function changeRestoredImage(record: XLogRecord, ordinal: number, page: DataView): void {
  const info = record.info & XLR_RMGR_INFO_MASK;
  const blockId = record.blockId[ordinal]!;
  if (record.rmid === RM_GIST_ID) {
    if (
      info === XLOG_GIST_PAGE_UPDATE
        ? blockId === 1
        : info === XLOG_GIST_PAGE_SPLIT && blockId === 0
    ) {
      checkSpecial(record, page);
      page.setUint32(GIST_NSN, lsnHigh(record.endLsn), true);
      page.setUint32(GIST_NSN + 4, lsnLow(record.endLsn), true);
      page.setUint16(FLAGS, page.getUint16(FLAGS, true) & ~F_FOLLOW_RIGHT, true);
    }
  } else if (record.rmid === RM_HASH_ID) {
    const main = record.mainOffset;
    if (info === XLOG_HASH_SPLIT_ALLOCATE_PAGE && blockId === 0) {
      checkSpecial(record, page, 9);
      page.setUint32(HASHO_PREVBLKNO, record.view.getUint32(main, true), true);
      page.setUint16(FLAGS, record.view.getUint16(main + 4, true), true);
    } else if (info === XLOG_HASH_SPLIT_COMPLETE && blockId <= 1) {
      checkSpecial(record, page, 4);
      page.setUint16(FLAGS, record.view.getUint16(main + 2 * blockId, true), true);
    }
  }
}

function checkSpecial(record: XLogRecord, page: DataView, mainLength = 0): void {
  if (record.mainLength < mainLength) {
    throw corruptWal(
      record.startLsn,
      `main data has ${record.mainLength} bytes, not ${mainLength}`,
    );
  }
  const special = page.getUint16(PD_SPECIAL, true);
  if (special !== SPECIAL) {
    throw corruptWal(record.startLsn, `image has its special space at ${special}, not ${SPECIAL}`);
  }
}
