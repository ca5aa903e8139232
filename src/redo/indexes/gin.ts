// Redo of GIN records, each for one of the pages it references (access/ginxlog.h, alike in 14-18).
//
// GinPageOpaqueData, the 8 bytes of special space:
//   offset size field
//     8184    4 rightlink
//     8188    2 maxoff      posting items of an inner posting-tree page; heap tuples of a list page
//     8190    2 flags       DATA 1, LEAF 2, DELETED 4, META 8, LIST 0x10, LIST_FULLROW 0x20,
//                           INCOMPLETE_SPLIT 0x40, COMPRESSED 0x80
// Entry-tree and pending-list pages hold index tuples behind line pointers. Posting-tree pages
// (DATA) have none: 24 right bound (6 bytes and 2 of padding), then from 32 on posting lists in a leaf
// (gin-posting.ts), posting items of 10 bytes in others: child block number high half, low half, key
// item of 6 bytes. Splits and vacuumed entry pages come as full images and never get here.

import {
  XLOG_GIN_CREATE_PTREE,
  XLOG_GIN_DELETE_LISTPAGE,
  XLOG_GIN_DELETE_PAGE,
  XLOG_GIN_INSERT,
  XLOG_GIN_INSERT_LISTPAGE,
  XLOG_GIN_SPLIT,
  XLOG_GIN_UPDATE_META_PAGE,
  XLOG_GIN_VACUUM_DATA_LEAF_PAGE,
  XLOG_GIN_VACUUM_PAGE,
} from "../../postgres/opcodes.ts";
import {
  INVALID_BLOCK_NUMBER,
  PAGE_SIZE,
  PD_LOWER,
  PD_PRUNE_XID,
  PD_UPPER,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";
import { XLR_RMGR_INFO_MASK } from "../../postgres/rmgr.ts";
import {
  checkPagePointers,
  indexTupleDelete,
  maxOffsetNumber,
  pageInit,
  pageSetLsn,
  storedItem,
} from "../page-layout.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";
import { SIZE_OF_INDEX_TUPLE } from "./btree-tuple.ts";
import {
  compressOldLeaf,
  GIN_DATA_END,
  GIN_DATA_START,
  redoRecompress,
  SIZE_OF_GIN_OPAQUE,
} from "./gin-posting.ts";
import { addItemFrom, checkSpecialSize, takeIndexTuple } from "./index-tuples.ts";

const RIGHTLINK = PAGE + PAGE_SIZE - 8;
const MAXOFF = PAGE + PAGE_SIZE - 4;
const FLAGS = PAGE + PAGE_SIZE - 2;

const GIN_DATA = 1 << 0;
const GIN_LEAF = 1 << 1;
const GIN_DELETED = 1 << 2;
const GIN_META = 1 << 3;
const GIN_LIST = 1 << 4;
const GIN_LIST_FULLROW = 1 << 5;
const GIN_INCOMPLETE_SPLIT = 1 << 6;
const GIN_COMPRESSED = 1 << 7;

const INSERT_ISDATA = 0x01;
const INSERT_ISLEAF = 0x02;

const SIZE_OF_META = 56;
const SIZE_OF_POSTING_ITEM = 10;

/** Whether the record makes this reference's page from nothing. */
export function ginInitsPage(c: RedoContext): boolean {
  switch (c.info & XLR_RMGR_INFO_MASK) {
    case XLOG_GIN_CREATE_PTREE:
    case XLOG_GIN_UPDATE_META_PAGE:
    case XLOG_GIN_INSERT_LISTPAGE:
      return c.blockId === 0;
    case XLOG_GIN_DELETE_LISTPAGE:
      return true;
    default:
      return false;
  }
}

export function redoGin(c: RedoContext): void {
  if (!ginInitsPage(c)) {
    checkGinPage(c);
  }
  switch (c.info & XLR_RMGR_INFO_MASK) {
    case XLOG_GIN_CREATE_PTREE:
      redoCreatePostingTree(c);
      break;
    case XLOG_GIN_INSERT:
      redoInsert(c);
      break;
    case XLOG_GIN_SPLIT:
      if (c.blockId !== 3) {
        c.fail("a split without the page's image", 3);
      }
      clearIncompleteSplit(c);
      break;
    case XLOG_GIN_VACUUM_PAGE:
      c.fail("a vacuumed page without its image", 1);
      break;
    case XLOG_GIN_VACUUM_DATA_LEAF_PAGE:
      redoDataLeaf(c);
      break;
    case XLOG_GIN_DELETE_PAGE:
      redoDeletePage(c);
      break;
    case XLOG_GIN_UPDATE_META_PAGE:
      redoUpdateMetaPage(c);
      break;
    case XLOG_GIN_INSERT_LISTPAGE:
      redoInsertListPage(c);
      break;
    case XLOG_GIN_DELETE_LISTPAGE:
      redoDeleteListPages(c);
      break;
    default:
      c.unsupported();
  }
  pageSetLsn(c, PAGE);
}

function pageFlags(c: RedoContext): number {
  return c.view.getUint16(FLAGS, true);
}

/** pd_lower of posting-tree pages is no end of line pointers, and before 9.4 was not kept at all. */
function checkGinPage(c: RedoContext): void {
  checkSpecialSize(c, SIZE_OF_GIN_OPAQUE, "GIN");
  if ((pageFlags(c) & GIN_DATA) === 0) {
    checkPagePointers(c, PAGE);
  } else if (c.view.getUint16(PAGE + PD_UPPER, true) > GIN_DATA_END) {
    c.fail(`upper ${c.view.getUint16(PAGE + PD_UPPER, true)} of a posting-tree page`);
  }
}

/** `corrupt` unless the flags of `mask` that the page has are `expected`. */
function requireFlags(c: RedoContext, mask: number, expected: number): void {
  if ((pageFlags(c) & mask) !== expected) {
    c.fail(`a page with flags 0x${pageFlags(c).toString(16)} is of the wrong kind`);
  }
}

function ginInitPage(c: RedoContext, flags: number): void {
  pageInit(c, PAGE, SIZE_OF_GIN_OPAQUE);
  c.view.setUint32(RIGHTLINK, INVALID_BLOCK_NUMBER, true);
  c.view.setUint16(FLAGS, flags, true);
}

/** The metapage with the GinMetaPageData at `metadata`, 56 bytes. */
function initMetaPage(c: RedoContext, metadata: number): void {
  ginInitPage(c, GIN_META);
  const contents = PAGE + SIZE_OF_PAGE_HEADER;
  c.bytes.copyWithin(contents, metadata, metadata + SIZE_OF_META);
  c.view.setUint16(PAGE + PD_LOWER, SIZE_OF_PAGE_HEADER + SIZE_OF_META, true);
}

/** Main data: u32 size, then the posting lists of the new root, a leaf. */
function redoCreatePostingTree(c: RedoContext): void {
  c.needMain(4);
  const size = c.view.getUint32(c.main, true);
  c.needMain(4 + size);
  if (GIN_DATA_START + size > GIN_DATA_END) {
    c.fail(`a posting tree of ${size} bytes on one page`, c.main - c.delta);
  }
  ginInitPage(c, GIN_DATA | GIN_LEAF | GIN_COMPRESSED);
  c.bytes.copyWithin(PAGE + GIN_DATA_START, c.main + 4, c.main + 4 + size);
  c.view.setUint16(PAGE + PD_LOWER, GIN_DATA_START + size, true);
}

function clearIncompleteSplit(c: RedoContext): void {
  c.view.setUint16(FLAGS, pageFlags(c) & ~GIN_INCOMPLETE_SPLIT, true);
}

/**
 * Main data: u16 flags; on a page that is no leaf, left and right child whose split this ends, each
 * block number high half, low half. References: 0 the page, 1 the left child.
 */
function redoInsert(c: RedoContext): void {
  c.needMain(2);
  if (c.blockId === 1) {
    clearIncompleteSplit(c);
    return;
  }
  const flags = c.view.getUint16(c.main, true);
  const isLeaf = (flags & INSERT_ISLEAF) !== 0;
  const isData = (flags & INSERT_ISDATA) !== 0;
  requireFlags(
    c,
    GIN_DATA | GIN_LEAF | GIN_META | GIN_LIST,
    (isData ? GIN_DATA : 0) | (isLeaf ? GIN_LEAF : 0),
  );
  if (!isLeaf) {
    c.needMain(10);
  }
  if (!isData) {
    redoInsertEntry(c, isLeaf);
  } else if (isLeaf) {
    redoDataLeaf(c);
  } else {
    redoInsertPostingItem(c);
  }
}

/** Block data: u16 offset, u8 isDelete, pad, the index tuple. */
function redoInsertEntry(c: RedoContext, isLeaf: boolean): void {
  c.needData(c.data, 4);
  const offnum = c.view.getUint16(c.data, true);
  const from = c.data + 4;
  const size = takeIndexTuple(c, from);
  if (!isLeaf) {
    const child = storedItem(c, PAGE, offnum, SIZE_OF_INDEX_TUPLE);
    c.bytes.copyWithin(child, c.main + 6, c.main + 10);
    c.view.setUint16(child + 4, 0, true);
  }
  if (c.view.getUint8(c.data + 2) !== 0) {
    indexTupleDelete(c, PAGE, offnum);
  }
  addItemFrom(c, from, size, offnum);
}

function redoDataLeaf(c: RedoContext): void {
  requireFlags(c, GIN_DATA | GIN_LEAF, GIN_DATA | GIN_LEAF);
  if ((pageFlags(c) & GIN_COMPRESSED) === 0) {
    compressOldLeaf(c);
    c.view.setUint16(FLAGS, pageFlags(c) | GIN_COMPRESSED, true);
  }
  redoRecompress(c);
}

/** Position of posting item `offset` of an inner page; `corrupt` unless it is 1 to `count`. */
function postingItem(c: RedoContext, offset: number, count: number): number {
  const end = GIN_DATA_START + count * SIZE_OF_POSTING_ITEM;
  if (offset < 1 || offset > count || end > GIN_DATA_END) {
    c.fail(`posting item ${offset} of ${count}`);
  }
  return PAGE + GIN_DATA_START + (offset - 1) * SIZE_OF_POSTING_ITEM;
}

function setPostingItemCount(c: RedoContext, count: number): void {
  c.view.setUint16(MAXOFF, count, true);
  c.view.setUint16(PAGE + PD_LOWER, GIN_DATA_START + count * SIZE_OF_POSTING_ITEM, true);
}

/** Block data: u16 offset, the new posting item: goes before that one, which gets the right child. */
function redoInsertPostingItem(c: RedoContext): void {
  c.needData(c.data, 2 + SIZE_OF_POSTING_ITEM);
  const offset = c.view.getUint16(c.data, true);
  const count = c.view.getUint16(MAXOFF, true);
  const item = postingItem(c, offset, count);
  const end = postingItem(c, count + 1, count + 1);
  c.bytes.copyWithin(item, c.main + 6, c.main + 10);
  c.bytes.copyWithin(item + SIZE_OF_POSTING_ITEM, item, end);
  c.bytes.copyWithin(item, c.data + 2, c.data + 2 + SIZE_OF_POSTING_ITEM);
  setPostingItemCount(c, count + 1);
}

/**
 * Main data: u16 parentOffset, pad, u32 rightLink, u32 deleteXid. References: 0 the page, 1 its
 * parent, 2 its left sibling.
 */
function redoDeletePage(c: RedoContext): void {
  c.needMain(12);
  const { view } = c;
  requireFlags(c, GIN_DATA, GIN_DATA);
  switch (c.blockId) {
    case 0:
      view.setUint16(FLAGS, pageFlags(c) | GIN_DELETED, true);
      view.setUint32(PAGE + PD_PRUNE_XID, view.getUint32(c.main + 8, true), true);
      return;
    case 1: {
      requireFlags(c, GIN_LEAF, 0);
      const offset = view.getUint16(c.main, true);
      const count = view.getUint16(MAXOFF, true);
      const item = postingItem(c, offset, count);
      const end = postingItem(c, count, count) + SIZE_OF_POSTING_ITEM;
      c.bytes.copyWithin(item, item + SIZE_OF_POSTING_ITEM, end);
      setPostingItemCount(c, count - 1);
      return;
    }
    case 2:
      view.setUint32(RIGHTLINK, view.getUint32(c.main + 4, true), true);
      return;
    default:
      c.fail(`deleting a page has no reference ${c.blockId}`, 3);
  }
}

/** Adds `count` index tuples that follow each other in the block data, and nothing else does. */
function addTuples(c: RedoContext, count: number): void {
  let at = c.data;
  let offnum = maxOffsetNumber(c, PAGE) + 1;
  for (let i = 0; i < count; i++, offnum++) {
    const size = takeIndexTuple(c, at);
    addItemFrom(c, at, size, offnum);
    at += size;
  }
  if (at !== c.dataEnd) {
    c.fail(`${c.dataEnd - at} bytes after the last of ${count} tuples`, at - c.delta);
  }
}

/**
 * Main data: relation (12 bytes), pad, GinMetaPageData at 16, u32 prevTail at 72, u32 newRightlink,
 * i32 ntuples, pad. References: 0 the metapage, 1 the tail of the pending list, which gets tuples or,
 * if ntuples is 0, a right link.
 */
function redoUpdateMetaPage(c: RedoContext): void {
  c.needMain(84);
  const { view } = c;
  if (c.blockId === 0) {
    initMetaPage(c, c.main + 16);
    return;
  }
  requireFlags(c, GIN_LIST, GIN_LIST);
  const count = view.getInt32(c.main + 80, true);
  if (count > 0) {
    addTuples(c, count);
    view.setUint16(MAXOFF, view.getUint16(MAXOFF, true) + 1, true);
  } else if (view.getUint32(c.main + 72, true) !== INVALID_BLOCK_NUMBER) {
    view.setUint32(RIGHTLINK, view.getUint32(c.main + 76, true), true);
  } else {
    c.fail("the metapage's update means nothing for this page", c.main - c.delta);
  }
}

/** Main data: u32 rightlink, i32 ntuples. Block data: the tuples. */
function redoInsertListPage(c: RedoContext): void {
  c.needMain(8);
  const { view } = c;
  const rightlink = view.getUint32(c.main, true);
  const isTail = rightlink === INVALID_BLOCK_NUMBER;
  ginInitPage(c, isTail ? GIN_LIST | GIN_LIST_FULLROW : GIN_LIST);
  view.setUint32(RIGHTLINK, rightlink, true);
  view.setUint16(MAXOFF, isTail ? 1 : 0, true);
  addTuples(c, view.getInt32(c.main + 4, true));
}

/** Main data: GinMetaPageData, i32 ndeleted, pad. References: 0 the metapage, then the pages. */
function redoDeleteListPages(c: RedoContext): void {
  c.needMain(SIZE_OF_META + 4);
  if (c.blockId === 0) {
    initMetaPage(c, c.main);
  } else if (c.blockId <= c.view.getInt32(c.main + SIZE_OF_META, true)) {
    ginInitPage(c, GIN_DELETED);
  } else {
    c.fail(`reference ${c.blockId} is beyond the deleted pages`, 3);
  }
}
