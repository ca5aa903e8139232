// Redo of BRIN records, each for one of the pages it references (access/brin_xlog.h, alike in 14-18).
//
// The 8 bytes of special space end with u16 flags (8188) and u16 page type (8190). A revmap page is an
// array of 1360 TIDs from byte 24 on: block number high half, low half, offset number; its pd_lower
// stays 24. The metapage has BrinMetaPageData at 24: u32 magic, version, pagesPerRange,
// lastRevmapPage. Regular pages hold one summary tuple a line pointer; line pointers keep their
// numbers for good, since the revmap names them.

import {
  XLOG_BRIN_CREATE_INDEX,
  XLOG_BRIN_DESUMMARIZE,
  XLOG_BRIN_INIT_PAGE,
  XLOG_BRIN_INSERT,
  XLOG_BRIN_OPMASK,
  XLOG_BRIN_REVMAP_EXTEND,
  XLOG_BRIN_SAMEPAGE_UPDATE,
  XLOG_BRIN_UPDATE,
} from "../../postgres/opcodes.ts";
import {
  INVALID_BLOCK_NUMBER,
  PAGE_SIZE,
  PD_LOWER,
  PD_SPECIAL,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";
import {
  addItemAtUnused,
  checkPagePointers,
  indexTupleDeleteNoCompact,
  indexTupleOverwrite,
  pageInit,
  pageSetLsn,
} from "../page-layout.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";
import { SIZE_OF_TID, setTidBlkno } from "./btree-tuple.ts";

const SIZE_OF_SPECIAL = 8;
const PAGE_TYPE = PAGE + PAGE_SIZE - 2;
const META_PAGE = 0xf091;
const REVMAP_PAGE = 0xf092;
const REGULAR_PAGE = 0xf093;

const META = PAGE + SIZE_OF_PAGE_HEADER;
const SIZE_OF_META = 16;
const BRIN_META_MAGIC = 0xa8109cfa;
const REVMAP_PAGE_MAX_ITEMS = 1360;

/** Whether the record makes this reference's page from nothing. */
export function brinInitsPage(c: RedoContext): boolean {
  switch (c.info & XLOG_BRIN_OPMASK) {
    case XLOG_BRIN_CREATE_INDEX:
      return c.blockId === 0;
    case XLOG_BRIN_INSERT:
    case XLOG_BRIN_UPDATE:
      return c.blockId === 0 && (c.info & XLOG_BRIN_INIT_PAGE) !== 0;
    case XLOG_BRIN_REVMAP_EXTEND:
      return c.blockId === 1;
    default:
      return false;
  }
}

export function redoBrin(c: RedoContext): void {
  if (!brinInitsPage(c)) {
    checkPagePointers(c, PAGE);
  }
  switch (c.info & XLOG_BRIN_OPMASK) {
    case XLOG_BRIN_CREATE_INDEX:
      redoCreateIndex(c);
      break;
    case XLOG_BRIN_INSERT:
      redoInsert(c, 0);
      break;
    case XLOG_BRIN_UPDATE:
      redoUpdate(c);
      break;
    case XLOG_BRIN_SAMEPAGE_UPDATE:
      redoSamePageUpdate(c);
      break;
    case XLOG_BRIN_REVMAP_EXTEND:
      redoRevmapExtend(c);
      break;
    case XLOG_BRIN_DESUMMARIZE:
      redoDesummarize(c);
      break;
    default:
      c.unsupported();
  }
  pageSetLsn(c, PAGE);
}

function requirePageType(c: RedoContext, expected: number): void {
  const type = c.view.getUint16(PAGE_TYPE, true);
  const special = c.view.getUint16(PAGE + PD_SPECIAL, true);
  if (type !== expected || special !== PAGE_SIZE - SIZE_OF_SPECIAL) {
    c.fail(`page type 0x${type.toString(16)}, not 0x${expected.toString(16)}`);
  }
}

function brinPageInit(c: RedoContext, type: number): void {
  pageInit(c, PAGE, SIZE_OF_SPECIAL);
  c.view.setUint16(PAGE_TYPE, type, true);
}

/** Main data: u32 pagesPerRange, u16 version. */
function redoCreateIndex(c: RedoContext): void {
  c.needMain(6);
  const { view } = c;
  brinPageInit(c, META_PAGE);
  view.setUint32(META, BRIN_META_MAGIC, true);
  view.setUint32(META + 4, view.getUint16(c.main + 4, true), true);
  view.setUint32(META + 8, view.getUint32(c.main, true), true);
  view.setUint16(PAGE + PD_LOWER, SIZE_OF_PAGE_HEADER + SIZE_OF_META, true);
}

/** `brinSetHeapBlockItemptr`: offset number 0 stands for no summary. */
function setRevmapItem(
  c: RedoContext,
  heapBlk: number,
  pagesPerRange: number,
  blkno: number,
  offnum: number,
): void {
  requirePageType(c, REVMAP_PAGE);
  if (pagesPerRange === 0) {
    c.fail("ranges of no pages", c.main - c.delta);
  }
  const index = Math.floor(heapBlk / pagesPerRange) % REVMAP_PAGE_MAX_ITEMS;
  const item = PAGE + SIZE_OF_PAGE_HEADER + index * SIZE_OF_TID;
  setTidBlkno(c, item, blkno);
  c.view.setUint16(item + 4, offnum, true);
}

/**
 * Main data from `skip` on: u32 heapBlk, u32 pagesPerRange, u16 offnum. References: 0 the regular
 * page, whose block data is the tuple; 1 the revmap page.
 */
function redoInsert(c: RedoContext, skip: number): void {
  c.needMain(skip + 10);
  const { view } = c;
  const main = c.main + skip;
  const offnum = view.getUint16(main + 8, true);
  if (c.blockId === 0) {
    if ((c.info & XLOG_BRIN_INIT_PAGE) !== 0) {
      brinPageInit(c, REGULAR_PAGE);
    } else {
      requirePageType(c, REGULAR_PAGE);
    }
    const item = addItemAtUnused(c, PAGE, offnum, c.dataEnd - c.data);
    c.bytes.copyWithin(item, c.data, c.dataEnd);
  } else if (c.blockId === 1) {
    if (offnum === 0) {
      c.fail("a summary without an offset number", main + 8 - c.delta);
    }
    const heapBlk = view.getUint32(main, true);
    const pagesPerRange = view.getUint32(main + 4, true);
    setRevmapItem(c, heapBlk, pagesPerRange, c.requireReferenceBlkno(0), offnum);
  } else {
    c.fail(`a summary has no reference ${c.blockId}`, 3);
  }
}

/** Main data: u16 oldOffnum, pad, then as an insertion. Reference 2: the page of the old tuple. */
function redoUpdate(c: RedoContext): void {
  if (c.blockId !== 2) {
    redoInsert(c, 4);
    return;
  }
  c.needMain(2);
  deleteTuple(c, c.view.getUint16(c.main, true));
}

function deleteTuple(c: RedoContext, offnum: number): void {
  requirePageType(c, REGULAR_PAGE);
  indexTupleDeleteNoCompact(c, PAGE, offnum);
}

/** Main data: u16 offnum. Block data: the tuple. */
function redoSamePageUpdate(c: RedoContext): void {
  c.needMain(2);
  requirePageType(c, REGULAR_PAGE);
  const size = c.dataEnd - c.data;
  if (size === 0) {
    c.fail("a summary of no bytes", c.data - c.delta);
  }
  const item = indexTupleOverwrite(c, PAGE, c.view.getUint16(c.main, true), size);
  c.bytes.copyWithin(item, c.data, c.dataEnd);
}

/** Main data: u32 targetBlk. References: 0 the metapage, 1 the new revmap page. */
function redoRevmapExtend(c: RedoContext): void {
  c.needMain(4);
  if (c.blockId === 1) {
    brinPageInit(c, REVMAP_PAGE);
    return;
  }
  requirePageType(c, META_PAGE);
  c.bytes.copyWithin(META + 12, c.main, c.main + 4);
  c.view.setUint16(PAGE + PD_LOWER, SIZE_OF_PAGE_HEADER + SIZE_OF_META, true);
}

/**
 * Main data: u32 pagesPerRange, u32 heapBlk, u16 regOffset. References: 0 the revmap page, 1 the
 * regular page.
 */
function redoDesummarize(c: RedoContext): void {
  c.needMain(10);
  const { view } = c;
  if (c.blockId === 0) {
    const pagesPerRange = view.getUint32(c.main, true);
    setRevmapItem(c, view.getUint32(c.main + 4, true), pagesPerRange, INVALID_BLOCK_NUMBER, 0);
  } else {
    deleteTuple(c, view.getUint16(c.main + 8, true));
  }
}
