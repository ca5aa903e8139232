// Redo of btree records, each for one of the pages it references (access/nbtxlog.h, 14-18).
//
// BTPageOpaqueData, the 16 bytes of special space:
//   offset size field
//     8176    4 btpo_prev
//     8180    4 btpo_next
//     8184    4 btpo_level
//     8188    2 btpo_flags
//     8190    2 btpo_cycleid
// The other pages of a record are never read: the left half of a split is made of the page's own
// tuples, the right half of the record's.

import {
  XLOG_BTREE_DEDUP,
  XLOG_BTREE_DELETE,
  XLOG_BTREE_INSERT_LEAF,
  XLOG_BTREE_INSERT_META,
  XLOG_BTREE_INSERT_POST,
  XLOG_BTREE_INSERT_UPPER,
  XLOG_BTREE_MARK_PAGE_HALFDEAD,
  XLOG_BTREE_META_CLEANUP,
  XLOG_BTREE_NEWROOT,
  XLOG_BTREE_SPLIT_L,
  XLOG_BTREE_SPLIT_R,
  XLOG_BTREE_UNLINK_PAGE,
  XLOG_BTREE_UNLINK_PAGE_META,
  XLOG_BTREE_VACUUM,
} from "../../postgres/opcodes.ts";
import { PAGE_SIZE, PD_LOWER, PD_SPECIAL } from "../../postgres/page.ts";
import { XLR_RMGR_INFO_MASK } from "../../postgres/rmgr.ts";
import {
  addIndexItem,
  checkPagePointers,
  indexTupleDelete,
  itemLength,
  pageInit,
  pageSetLsn,
  storedItem,
} from "../page-layout.ts";
import { PAGE, type RedoContext, SCRATCH, TUPLE, TUPLE2 } from "../redo-context.ts";
import { redoDedup } from "./btree-dedup.ts";
import { redoDeleteItems } from "./btree-delete.ts";
import {
  BTP_DELETED,
  BTP_HALF_DEAD,
  BTP_HAS_FULLXID,
  BTP_INCOMPLETE_SPLIT,
  BTP_LEAF,
  BTP_META,
  BTP_ROOT,
  BTPO_CYCLEID,
  BTPO_FLAGS,
  BTPO_LEVEL,
  BTPO_NEXT,
  BTPO_PREV,
  SIZE_OF_BTREE_OPAQUE,
} from "./btree-page.ts";
import {
  INDEX_ALT_TID_MASK,
  indexTupleSize,
  SIZE_OF_INDEX_TUPLE,
  setTidBlkno,
  swapPosting,
  tidBlkno,
} from "./btree-tuple.ts";

const P_NONE = 0;
const P_HIKEY = 1;
const BTREE_MAGIC = 0x053162;
const SIZE_OF_META = 48;
const SIZE_OF_XL_METADATA = 28;
const CONTENTS = 24;

/** Whether the record makes this reference's page from nothing. */
export function btreeInitsPage(c: RedoContext): boolean {
  switch (c.info & XLR_RMGR_INFO_MASK) {
    case XLOG_BTREE_INSERT_META:
      return c.blockId === 2;
    case XLOG_BTREE_SPLIT_L:
    case XLOG_BTREE_SPLIT_R:
      return c.blockId === 1;
    case XLOG_BTREE_UNLINK_PAGE:
    case XLOG_BTREE_UNLINK_PAGE_META:
      return c.blockId === 0 || c.blockId === 3 || c.blockId === 4;
    case XLOG_BTREE_NEWROOT:
      return c.blockId === 0 || c.blockId === 2;
    case XLOG_BTREE_MARK_PAGE_HALFDEAD:
    case XLOG_BTREE_META_CLEANUP:
      return c.blockId === 0;
    default:
      return false;
  }
}

/** `P_FIRSTDATAKEY`: pages that have a right sibling begin with their high key. */
export function firstDataKey(c: RedoContext): number {
  return c.view.getUint32(PAGE + BTPO_NEXT, true) === P_NONE ? P_HIKEY : P_HIKEY + 1;
}

export function checkBtreePage(c: RedoContext): void {
  checkPagePointers(c, PAGE);
  if (c.view.getUint16(PAGE + PD_SPECIAL, true) !== PAGE_SIZE - SIZE_OF_BTREE_OPAQUE) {
    c.fail(`special space at ${c.view.getUint16(PAGE + PD_SPECIAL, true)}: not a btree page`);
  }
}

export function redoBtree(c: RedoContext): void {
  if (!btreeInitsPage(c)) {
    checkBtreePage(c);
  }
  const block = c.blockId;
  switch (c.info & XLR_RMGR_INFO_MASK) {
    case XLOG_BTREE_INSERT_LEAF:
      redoInsertItem(c);
      return;
    case XLOG_BTREE_INSERT_UPPER:
      if (block === 0) {
        redoInsertItem(c);
      } else {
        redoClearIncompleteSplit(c);
      }
      return;
    case XLOG_BTREE_INSERT_META:
      if (block === 0) {
        redoInsertItem(c);
      } else if (block === 1) {
        redoClearIncompleteSplit(c);
      } else {
        redoMeta(c);
      }
      return;
    case XLOG_BTREE_SPLIT_L:
      redoSplit(c, true);
      return;
    case XLOG_BTREE_SPLIT_R:
      redoSplit(c, false);
      return;
    case XLOG_BTREE_INSERT_POST:
      redoInsertPosting(c);
      return;
    case XLOG_BTREE_DEDUP:
      redoDedup(c);
      return;
    case XLOG_BTREE_DELETE:
      // xl_btree_delete: u32 horizon, u16 ndeleted, u16 nupdated.
      c.needMain(8);
      redoDeleteItems(c, c.main + 4, false);
      return;
    case XLOG_BTREE_UNLINK_PAGE:
    case XLOG_BTREE_UNLINK_PAGE_META:
      redoUnlinkPage(c);
      return;
    case XLOG_BTREE_NEWROOT:
      redoNewRoot(c);
      return;
    case XLOG_BTREE_MARK_PAGE_HALFDEAD:
      redoMarkPageHalfDead(c);
      return;
    case XLOG_BTREE_VACUUM:
      // xl_btree_vacuum: u16 ndeleted, u16 nupdated.
      c.needMain(4);
      redoDeleteItems(c, c.main, c.version.btreeVacuumClearsCycleId);
      return;
    case XLOG_BTREE_META_CLEANUP:
      redoMeta(c);
      return;
    default:
      // 0xd0, REUSE_PAGE, references no block.
      c.unsupported();
      return;
  }
}

function btreePageInit(
  c: RedoContext,
  prev: number,
  next: number,
  level: number,
  flags: number,
): void {
  pageInit(c, PAGE, SIZE_OF_BTREE_OPAQUE);
  c.view.setUint32(PAGE + BTPO_PREV, prev, true);
  c.view.setUint32(PAGE + BTPO_NEXT, next, true);
  c.view.setUint32(PAGE + BTPO_LEVEL, level, true);
  c.view.setUint16(PAGE + BTPO_FLAGS, flags, true);
}

/** Main data: u16 offnum. Block data: the tuple. */
function redoInsertItem(c: RedoContext): void {
  c.needMain(2);
  const offnum = c.view.getUint16(c.main, true);
  const item = addIndexItem(c, PAGE, offnum, c.dataEnd - c.data);
  c.copy(item, c.data, c.dataEnd - c.data);
  pageSetLsn(c, PAGE);
}

/** Block data: u16 position in the posting list before offnum, then the new tuple before the swap. */
function redoInsertPosting(c: RedoContext): void {
  c.needMain(2);
  c.needData(c.data, 2 + SIZE_OF_INDEX_TUPLE);
  const offnum = c.view.getUint16(c.main, true);
  const at = c.view.getUint16(c.data, true);
  const newItem = c.data + 2;
  const posting = storedItem(c, PAGE, offnum - 1, SIZE_OF_INDEX_TUPLE);
  swapPosting(c, newItem, posting, itemLength(c, PAGE, offnum - 1), at);
  const item = addIndexItem(c, PAGE, offnum, c.dataEnd - newItem);
  c.bytes.copyWithin(item, newItem, c.dataEnd);
  pageSetLsn(c, PAGE);
}

function redoClearIncompleteSplit(c: RedoContext): void {
  const flags = c.view.getUint16(PAGE + BTPO_FLAGS, true);
  c.view.setUint16(PAGE + BTPO_FLAGS, flags & ~BTP_INCOMPLETE_SPLIT, true);
  pageSetLsn(c, PAGE);
}

/**
 * Block data, xl_btree_metadata: u32 version, root, level, fastroot, fastlevel,
 * last_cleanup_num_delpages; u8 allequalimage.
 */
function redoMeta(c: RedoContext): void {
  c.needData(c.data, SIZE_OF_XL_METADATA - 3);
  const view = c.view;
  btreePageInit(c, P_NONE, P_NONE, 0, BTP_META);
  const meta = PAGE + CONTENTS;
  view.setUint32(meta, BTREE_MAGIC, true);
  c.bytes.copyWithin(meta + 4, c.data, c.data + 24);
  view.setFloat64(meta + 32, -1, true);
  view.setUint8(meta + 40, view.getUint8(c.data + 24));
  view.setUint16(PAGE + PD_LOWER, CONTENTS + SIZE_OF_META, true);
  pageSetLsn(c, PAGE);
}

/**
 * `_bt_restore_page`: block data is the upper part of a page, so the item with the highest offset
 * number comes first.
 */
function restorePage(c: RedoContext): void {
  const sizes = c.itemLength;
  const starts = c.itemOffset;
  let count = 0;
  for (let at = c.data; at < c.dataEnd; ) {
    c.needData(at, SIZE_OF_INDEX_TUPLE);
    const size = (indexTupleSize(c, at) + 7) & ~7;
    c.needData(at, size);
    if (size < SIZE_OF_INDEX_TUPLE || count === sizes.length) {
      c.fail(`item ${count} of ${size} bytes`, at - c.delta);
    }
    starts[count] = at;
    sizes[count] = size;
    count++;
    at += size;
  }
  for (let i = count - 1, offnum = 1; i >= 0; i--, offnum++) {
    const item = addIndexItem(c, PAGE, offnum, sizes[i]!);
    c.bytes.copyWithin(item, starts[i]!, starts[i]! + sizes[i]!);
  }
}

/**
 * xl_btree_split: u32 level, u16 firstrightoff, u16 newitemoff, u16 postingoff. References: 0 the
 * left half, 1 the new right half, 2 the page to the right of both, 3 the child whose split ends.
 */
function redoSplit(c: RedoContext, newItemOnLeft: boolean): void {
  c.needMain(10);
  const view = c.view;
  switch (c.blockId) {
    case 0:
      redoSplitLeft(c, newItemOnLeft);
      return;
    case 1: {
      const level = view.getUint32(c.main, true);
      const next = c.referenceBlkno(2);
      const left = c.requireReferenceBlkno(0);
      btreePageInit(c, left, next < 0 ? P_NONE : next, level, level === 0 ? BTP_LEAF : 0);
      restorePage(c);
      break;
    }
    case 2:
      view.setUint32(PAGE + BTPO_PREV, c.requireReferenceBlkno(1), true);
      break;
    case 3:
      redoClearIncompleteSplit(c);
      return;
    default:
      c.fail(`a split has no reference ${c.blockId}`, 3);
  }
  pageSetLsn(c, PAGE);
}

/** Adds an item of the arena to the page being built in the scratch page. */
function addToScratch(c: RedoContext, from: number, size: number, offnum: number): void {
  const item = addIndexItem(c, SCRATCH, offnum, size);
  c.bytes.copyWithin(item, from, from + size);
}

/** An empty page with this page's special space, in the scratch page. */
export function startScratchPage(c: RedoContext): void {
  pageInit(c, SCRATCH, SIZE_OF_BTREE_OPAQUE);
  c.bytes.copyWithin(SCRATCH + BTPO_PREV, PAGE + BTPO_PREV, PAGE + PAGE_SIZE);
}

/** Copies the item at `at` in the block data to `to`; returns its aligned size. */
function takeItem(c: RedoContext, at: number): number {
  c.needData(at, SIZE_OF_INDEX_TUPLE);
  const size = (indexTupleSize(c, at) + 7) & ~7;
  if (size < SIZE_OF_INDEX_TUPLE) {
    c.fail(`item of ${size} bytes`, at - c.delta);
  }
  c.needData(at, size);
  return size;
}

/**
 * Block data: the new item, if it went left or a posting list was split; then the left page's high
 * key. The left page is built anew in item order, so that tuples lie where Postgres put them.
 */
function redoSplitLeft(c: RedoContext, newItemOnLeft: boolean): void {
  const { view, bytes } = c;
  const leaf = view.getUint32(c.main, true) === 0;
  const firstRight = view.getUint16(c.main + 4, true);
  const newItemOff = view.getUint16(c.main + 6, true);
  const postingOff = view.getUint16(c.main + 8, true);
  let at = c.data;
  let newItem = at;
  let newItemSize = 0;
  let replaced = 0;
  let replacedSize = 0;
  if (newItemOnLeft || postingOff !== 0) {
    newItemSize = takeItem(c, at);
    at += newItemSize;
    if (postingOff !== 0) {
      replaced = newItemOff - 1;
      const old = storedItem(c, PAGE, replaced, SIZE_OF_INDEX_TUPLE);
      const oldLength = itemLength(c, PAGE, replaced);
      replacedSize = (indexTupleSize(c, old) + 7) & ~7;
      if (replacedSize > oldLength) {
        c.fail(`posting list tuple of ${replacedSize} bytes in an item of ${oldLength}`);
      }
      bytes.copyWithin(TUPLE, newItem, newItem + newItemSize);
      bytes.copyWithin(TUPLE2, old, old + replacedSize);
      newItem = TUPLE;
      swapPosting(c, newItem, TUPLE2, replacedSize, postingOff);
    }
  }
  const highKeySize = takeItem(c, at);
  if (at + highKeySize !== c.dataEnd) {
    c.fail(`${c.dataEnd - at - highKeySize} bytes after the high key`, at - c.delta);
  }
  startScratchPage(c);
  addToScratch(c, at, highKeySize, P_HIKEY);
  let to = P_HIKEY + 1;
  for (let off = firstDataKey(c); off < firstRight; off++) {
    if (off === replaced) {
      addToScratch(c, TUPLE2, replacedSize, to++);
      continue;
    }
    if (newItemOnLeft && off === newItemOff) {
      addToScratch(c, newItem, newItemSize, to++);
    }
    const item = storedItem(c, PAGE, off, 1);
    addToScratch(c, item, itemLength(c, PAGE, off), to++);
  }
  if (newItemOnLeft && firstRight === newItemOff) {
    addToScratch(c, newItem, newItemSize, to);
  }
  bytes.copyWithin(PAGE, SCRATCH, SCRATCH + PAGE_SIZE);
  view.setUint16(PAGE + BTPO_FLAGS, BTP_INCOMPLETE_SPLIT | (leaf ? BTP_LEAF : 0), true);
  view.setUint32(PAGE + BTPO_NEXT, c.requireReferenceBlkno(1), true);
  view.setUint16(PAGE + BTPO_CYCLEID, 0, true);
  pageSetLsn(c, PAGE);
}

/** A half-dead leaf holds one dummy high key, which names the top parent of the subtree. */
function initHalfDeadLeaf(c: RedoContext, left: number, right: number, topParent: number): void {
  btreePageInit(c, left, right, 0, BTP_HALF_DEAD | BTP_LEAF);
  const item = addIndexItem(c, PAGE, P_HIKEY, SIZE_OF_INDEX_TUPLE);
  setTidBlkno(c, item, topParent);
  c.view.setUint16(item + 4, 0, true);
  c.view.setUint16(item + 6, SIZE_OF_INDEX_TUPLE | INDEX_ALT_TID_MASK, true);
}

/**
 * xl_btree_mark_page_halfdead: u16 poffset, pad, u32 leafblk, u32 leftblk, u32 rightblk, u32
 * topparent. References: 0 the leaf, 1 its parent.
 */
function redoMarkPageHalfDead(c: RedoContext): void {
  c.needMain(20);
  const view = c.view;
  if (c.blockId === 0) {
    initHalfDeadLeaf(
      c,
      view.getUint32(c.main + 8, true),
      view.getUint32(c.main + 12, true),
      view.getUint32(c.main + 16, true),
    );
  } else {
    // The deleted page's downlink takes over its right sibling's, whose own item goes.
    const offnum = view.getUint16(c.main, true);
    const item = storedItem(c, PAGE, offnum, SIZE_OF_INDEX_TUPLE);
    const next = storedItem(c, PAGE, offnum + 1, SIZE_OF_INDEX_TUPLE);
    setTidBlkno(c, item, tidBlkno(c, next));
    indexTupleDelete(c, PAGE, offnum + 1);
  }
  pageSetLsn(c, PAGE);
}

/**
 * xl_btree_unlink_page: u32 leftsib, u32 rightsib, u32 level, pad, u64 safexid, u32 leafleftsib, u32
 * leafrightsib, u32 leaftopparent. References: 0 the page, 1 left and 2 right sibling, 3 the leaf of
 * the subtree, 4 the metapage.
 */
function redoUnlinkPage(c: RedoContext): void {
  c.needMain(36);
  const view = c.view;
  const left = view.getUint32(c.main, true);
  const right = view.getUint32(c.main + 4, true);
  const level = view.getUint32(c.main + 8, true);
  switch (c.blockId) {
    case 0:
      btreePageInit(
        c,
        left,
        right,
        level,
        BTP_DELETED | BTP_HAS_FULLXID | (level === 0 ? BTP_LEAF : 0),
      );
      c.bytes.copyWithin(PAGE + CONTENTS, c.main + 16, c.main + 24);
      view.setUint16(PAGE + PD_LOWER, CONTENTS + 8, true);
      break;
    case 1:
      view.setUint32(PAGE + BTPO_NEXT, right, true);
      break;
    case 2:
      view.setUint32(PAGE + BTPO_PREV, left, true);
      break;
    case 3:
      initHalfDeadLeaf(
        c,
        view.getUint32(c.main + 24, true),
        view.getUint32(c.main + 28, true),
        view.getUint32(c.main + 32, true),
      );
      break;
    case 4:
      redoMeta(c);
      return;
    default:
      c.fail(`unlinking a page has no reference ${c.blockId}`, 3);
  }
  pageSetLsn(c, PAGE);
}

/** xl_btree_newroot: u32 rootblk, u32 level. References: 0 the root, 1 its left child, 2 the metapage. */
function redoNewRoot(c: RedoContext): void {
  c.needMain(8);
  switch (c.blockId) {
    case 0: {
      const level = c.view.getUint32(c.main + 4, true);
      btreePageInit(c, P_NONE, P_NONE, level, BTP_ROOT | (level === 0 ? BTP_LEAF : 0));
      if (level > 0) {
        restorePage(c);
      }
      pageSetLsn(c, PAGE);
      return;
    }
    case 1:
      redoClearIncompleteSplit(c);
      return;
    default:
      redoMeta(c);
      return;
  }
}
