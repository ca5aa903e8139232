// Redo of gist records, each for one of the pages it references (access/gistxlog.h, 14-18).
//
// GISTPageOpaqueData, the 16 bytes of special space:
//   offset size field
//     8176    8 nsn         high half, then low half: LSN of the split that made this page's right link
//     8184    4 rightlink
//     8188    2 flags       LEAF 1, DELETED 2, TUPLES_DELETED 4, FOLLOW_RIGHT 8, HAS_GARBAGE 16
//     8190    2 gist_page_id 0xFF81
// A deleted page has no line pointers but the u64 deleteXid at byte 24.
// The left half of a split below this page gets its new NSN even where the record has its image: see
// wal-decoder/restored-images.ts.

import {
  XLOG_GIST_DELETE,
  XLOG_GIST_PAGE_DELETE,
  XLOG_GIST_PAGE_SPLIT,
  XLOG_GIST_PAGE_UPDATE,
} from "../../postgres/opcodes.ts";
import {
  INVALID_BLOCK_NUMBER,
  PAGE_SIZE,
  PD_LOWER,
  PD_UPPER,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";
import {
  indexMultiDelete,
  indexTupleDelete,
  indexTupleOverwrite,
  maxOffsetNumber,
  pageInit,
  pageSetLsn,
} from "../page-layout.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";
import { addItemFrom, checkSpecialSize, takeIndexTuple } from "./index-tuples.ts";

const SIZE_OF_GIST_OPAQUE = 16;
const NSN = PAGE + PAGE_SIZE - 16;
const RIGHTLINK = PAGE + PAGE_SIZE - 8;
const FLAGS = PAGE + PAGE_SIZE - 4;
const PAGE_ID = PAGE + PAGE_SIZE - 2;
const GIST_PAGE_ID = 0xff81;
const GIST_ROOT_BLKNO = 0;

const F_LEAF = 1 << 0;
const F_DELETED = 1 << 1;
const F_TUPLES_DELETED = 1 << 2;
const F_FOLLOW_RIGHT = 1 << 3;
const F_HAS_GARBAGE = 1 << 4;

const SIZE_OF_DELETED_CONTENTS = 8;

/** Whether the record makes this reference's page from nothing. */
export function gistInitsPage(c: RedoContext): boolean {
  return (c.info & 0xf0) === XLOG_GIST_PAGE_SPLIT && c.blockId !== 0;
}

export function redoGist(c: RedoContext): void {
  if (!gistInitsPage(c)) {
    checkSpecialSize(c, SIZE_OF_GIST_OPAQUE, "gist");
  }
  switch (c.info & 0xf0) {
    case XLOG_GIST_PAGE_UPDATE:
      if (c.blockId === 0) {
        redoPageUpdate(c);
      } else {
        clearFollowRight(c);
      }
      break;
    case XLOG_GIST_DELETE:
      redoDelete(c);
      break;
    case XLOG_GIST_PAGE_SPLIT:
      if (c.blockId === 0) {
        clearFollowRight(c);
      } else {
        redoPageSplit(c);
      }
      break;
    case XLOG_GIST_PAGE_DELETE:
      redoPageDelete(c);
      break;
    default:
      // 0x20, PAGE_REUSE, and 0x70, ASSIGN_LSN, reference no block.
      c.unsupported();
  }
  pageSetLsn(c, PAGE);
}

function changeFlags(c: RedoContext, set: number, clear: number): void {
  c.view.setUint16(FLAGS, (c.view.getUint16(FLAGS, true) & ~clear) | set, true);
}

/** A deleted page has no line pointers, though pd_lower looks as if. */
function requireItems(c: RedoContext): void {
  if ((c.view.getUint16(FLAGS, true) & F_DELETED) !== 0) {
    c.fail("the page is deleted");
  }
}

/** The downlink of this page's right sibling is now there. */
function clearFollowRight(c: RedoContext): void {
  c.view.setUint32(NSN, c.lsnHigh, true);
  c.view.setUint32(NSN + 4, c.lsnLow, true);
  changeFlags(c, 0, F_FOLLOW_RIGHT);
}

/**
 * gistxlogPageUpdate: u16 ntodelete, u16 ntoinsert. References: 0 the page, with u16 offsets to delete,
 * then tuples to add at the end; 1 the left half of the split that this downlink completes.
 */
function redoPageUpdate(c: RedoContext): void {
  c.needMain(4);
  requireItems(c);
  const { view, bytes } = c;
  const deletes = view.getUint16(c.main, true);
  const inserts = view.getUint16(c.main + 2, true);
  c.needData(c.data, 2 * deletes);
  let at = c.data + 2 * deletes;
  let inserted = 0;
  if (deletes === 1 && inserts === 1) {
    const size = takeIndexTuple(c, at);
    const item = indexTupleOverwrite(c, PAGE, view.getUint16(c.data, true), size);
    bytes.copyWithin(item, at, at + size);
    at += size;
    inserted = 1;
  } else if (deletes > 0) {
    indexMultiDelete(c, PAGE, c.data, deletes);
    if ((view.getUint16(FLAGS, true) & F_LEAF) !== 0) {
      changeFlags(c, F_TUPLES_DELETED, 0);
    }
  }
  inserted += appendTuples(c, at);
  if (inserted !== inserts) {
    c.fail(`${inserted} tuples to insert, not ${inserts}`, c.main - c.delta);
  }
}

/** Adds the tuples from `at` to the end of the block data; returns how many. */
function appendTuples(c: RedoContext, at: number): number {
  let offnum = maxOffsetNumber(c, PAGE) + 1;
  const first = offnum;
  while (at < c.dataEnd) {
    const size = takeIndexTuple(c, at);
    addItemFrom(c, at, size, offnum++);
    at += size;
  }
  return offnum - first;
}

/** gistxlogDelete: u32 horizon, u16 ntodelete, from 16 on u8 isCatalogRel and padding, u16 offsets. */
function redoDelete(c: RedoContext): void {
  c.needMain(6);
  requireItems(c);
  const count = c.view.getUint16(c.main + 4, true);
  const offsets = c.version.gistDeleteOffsets;
  c.needMain(offsets + 2 * count);
  indexMultiDelete(c, PAGE, c.main + offsets, count);
  changeFlags(c, F_TUPLES_DELETED, F_HAS_GARBAGE);
}

/**
 * gistxlogPageSplit: u32 origrlink, pad, u64 orignsn, u8 origleaf, pad, u16 npage, u8 markfollowright.
 * References: 0 the left half of the split below that this one completes; 1 to npage the new halves,
 * each with i32 number of tuples and the tuples. The first is the page that was split, or the root with
 * the downlinks to the others.
 */
function redoPageSplit(c: RedoContext): void {
  c.needMain(21);
  const { view, bytes } = c;
  const pages = view.getUint16(c.main + 18, true);
  if (c.blockId > pages) {
    c.fail(`a split into ${pages} pages has no reference ${c.blockId}`, 3);
  }
  const root = c.blkno === GIST_ROOT_BLKNO;
  const last = c.blockId === pages;
  pageInit(c, PAGE, SIZE_OF_GIST_OPAQUE);
  view.setUint16(PAGE_ID, GIST_PAGE_ID, true);
  let flags = view.getUint8(c.main + 16) !== 0 && !root ? F_LEAF : 0;
  c.needData(c.data, 4);
  const inserted = appendTuples(c, c.data + 4);
  if (inserted !== view.getUint32(c.data, true)) {
    c.fail(`${inserted} tuples, not ${view.getUint32(c.data, true)}`, c.data - c.delta);
  }
  let rightLink = INVALID_BLOCK_NUMBER;
  if (!root) {
    rightLink = last ? view.getUint32(c.main, true) : c.requireReferenceBlkno(c.blockId + 1);
    const rootSplit = c.requireReferenceBlkno(1) === GIST_ROOT_BLKNO;
    if (!last && !rootSplit && view.getUint8(c.main + 20) !== 0) {
      flags |= F_FOLLOW_RIGHT;
    }
  }
  view.setUint32(RIGHTLINK, rightLink, true);
  view.setUint16(FLAGS, flags, true);
  // The record has a number, the page two halves, the high one first.
  bytes.copyWithin(NSN, c.main + 12, c.main + 16);
  bytes.copyWithin(NSN + 4, c.main + 8, c.main + 12);
}

/** gistxlogPageDelete: u64 deleteXid, u16 downlinkOffset. References: 0 the page, 1 its parent. */
function redoPageDelete(c: RedoContext): void {
  c.needMain(10);
  requireItems(c);
  const { view, bytes } = c;
  if (c.blockId !== 0) {
    indexTupleDelete(c, PAGE, view.getUint16(c.main + 8, true));
    return;
  }
  const lower = SIZE_OF_PAGE_HEADER + SIZE_OF_DELETED_CONTENTS;
  if (maxOffsetNumber(c, PAGE) !== 0 || view.getUint16(PAGE + PD_UPPER, true) < lower) {
    c.fail(`a page with ${maxOffsetNumber(c, PAGE)} items is to be deleted`);
  }
  changeFlags(c, F_DELETED, 0);
  view.setUint16(PAGE + PD_LOWER, lower, true);
  bytes.copyWithin(PAGE + SIZE_OF_PAGE_HEADER, c.main, c.main + 8);
}
