// Redo of hash records, each for one of the pages it references (access/hash_xlog.h, 14-18).
//
// HashPageOpaqueData, the 16 bytes of special space:
//   offset size field
//     8176    4 hasho_prevblkno  of an overflow page; in a bucket page a cached hashm_maxbucket
//     8180    4 hasho_nextblkno
//     8184    4 hasho_bucket
//     8188    2 hasho_flag       OVERFLOW 1, BUCKET 2, BITMAP 4, META 8, BEING_POPULATED 0x10,
//                                BEING_SPLIT 0x20, NEEDS_SPLIT_CLEANUP 0x40, HAS_DEAD_TUPLES 0x80
//     8190    2 hasho_page_id    0xFF80
// A bitmap page has its bits from byte 24 on; the metapage: hash-meta.ts. Many records reference the
// primary bucket page only for a lock: that delta changes nothing, not even the LSN.

import {
  XLOG_HASH_ADD_OVFL_PAGE,
  XLOG_HASH_DELETE,
  XLOG_HASH_INIT_BITMAP_PAGE,
  XLOG_HASH_INIT_META_PAGE,
  XLOG_HASH_INSERT,
  XLOG_HASH_MOVE_PAGE_CONTENTS,
  XLOG_HASH_SPLIT_ALLOCATE_PAGE,
  XLOG_HASH_SPLIT_CLEANUP,
  XLOG_HASH_SPLIT_COMPLETE,
  XLOG_HASH_SPLIT_PAGE,
  XLOG_HASH_SQUEEZE_PAGE,
  XLOG_HASH_UPDATE_META_PAGE,
  XLOG_HASH_VACUUM_ONE_PAGE,
} from "../../postgres/opcodes.ts";
import {
  INVALID_BLOCK_NUMBER,
  PAGE_SIZE,
  PD_LOWER,
  PD_SPECIAL,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";
import { indexMultiDelete, pageInit, pageSetLsn } from "../page-layout.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";
import {
  addBitmapPage,
  addMetaTuples,
  addSpare,
  initMetaContents,
  META_FIRSTFREE,
  META_HIGHMASK,
  META_LOWMASK,
  META_MAXBUCKET,
  META_NTUPLES,
  META_OVFLPOINT,
  spares,
} from "./hash-meta.ts";
import { addItemFrom, checkSpecialSize, takeIndexTuple } from "./index-tuples.ts";

const SIZE_OF_HASH_OPAQUE = 16;
const PREVBLKNO = PAGE + PAGE_SIZE - 16;
const NEXTBLKNO = PAGE + PAGE_SIZE - 12;
const BUCKET = PAGE + PAGE_SIZE - 8;
const FLAG = PAGE + PAGE_SIZE - 4;
const PAGE_ID = PAGE + PAGE_SIZE - 2;
const HASHO_PAGE_ID = 0xff80;

const LH_UNUSED_PAGE = 0;
const LH_OVERFLOW_PAGE = 1 << 0;
const LH_BUCKET_PAGE = 1 << 1;
const LH_BITMAP_PAGE = 1 << 2;
const LH_META_PAGE = 1 << 3;
const LH_PAGE_TYPE = 0x0f;
/** Pages with tuples. */
const LH_TUPLES = LH_OVERFLOW_PAGE | LH_BUCKET_PAGE;
const LH_BUCKET_NEEDS_SPLIT_CLEANUP = 1 << 6;
const LH_PAGE_HAS_DEAD_TUPLES = 1 << 7;

const SPLIT_UPDATES_MASKS = 1 << 0;
const SPLIT_UPDATES_SPLITPOINT = 1 << 1;

/** Whether the record makes this reference's page from nothing. */
export function hashInitsPage(c: RedoContext): boolean {
  switch (c.info & 0xf0) {
    case XLOG_HASH_INIT_META_PAGE:
    case XLOG_HASH_INIT_BITMAP_PAGE:
      return c.blockId === 0;
    case XLOG_HASH_ADD_OVFL_PAGE:
      return c.blockId === 0 || c.blockId === 3;
    case XLOG_HASH_SPLIT_ALLOCATE_PAGE:
      return c.blockId === 1;
    default:
      return false;
  }
}

export function redoHash(c: RedoContext): void {
  if (!hashInitsPage(c)) {
    checkSpecialSize(c, SIZE_OF_HASH_OPAQUE, "hash");
  }
  if (applyHash(c)) {
    pageSetLsn(c, PAGE);
  }
}

/** False where the reference is there for a lock only. */
function applyHash(c: RedoContext): boolean {
  switch (c.info & 0xf0) {
    case XLOG_HASH_INIT_META_PAGE:
      return redoInitMetaPage(c);
    case XLOG_HASH_INIT_BITMAP_PAGE:
      return redoInitBitmapPage(c);
    case XLOG_HASH_INSERT:
      return redoInsert(c);
    case XLOG_HASH_ADD_OVFL_PAGE:
      return redoAddOverflowPage(c);
    case XLOG_HASH_SPLIT_ALLOCATE_PAGE:
      return redoSplitAllocatePage(c);
    case XLOG_HASH_SPLIT_PAGE:
      return c.fail("only an image can stand for a page of a split", 2);
    case XLOG_HASH_SPLIT_COMPLETE:
      // u16 flags of the old bucket, u16 of the new one; references 0 and 1.
      c.needMain(4);
      requireReference(c, 1);
      c.view.setUint16(FLAG, c.view.getUint16(c.main + 2 * c.blockId, true), true);
      return true;
    case XLOG_HASH_MOVE_PAGE_CONTENTS:
      return redoMovePageContents(c);
    case XLOG_HASH_SQUEEZE_PAGE:
      return redoSqueezePage(c);
    case XLOG_HASH_DELETE:
      return redoDelete(c);
    case XLOG_HASH_SPLIT_CLEANUP:
      clearFlag(c, LH_BUCKET_NEEDS_SPLIT_CLEANUP);
      return true;
    case XLOG_HASH_UPDATE_META_PAGE:
      c.needMain(8);
      requirePage(c, LH_META_PAGE);
      c.view.setFloat64(META_NTUPLES, c.view.getFloat64(c.main, true), true);
      return true;
    case XLOG_HASH_VACUUM_ONE_PAGE:
      return redoVacuumOnePage(c);
    default:
      return c.unsupported();
  }
}

function requireReference(c: RedoContext, last: number): void {
  if (c.blockId > last) {
    c.fail(`the record has no reference ${c.blockId}`, 3);
  }
}

/** What lies from byte 24 on depends on the kind of page: line pointers, bits or the metadata. */
function requirePage(c: RedoContext, types: number): void {
  if ((c.view.getUint16(FLAG, true) & LH_PAGE_TYPE & types) === 0) {
    c.fail(`a page with hasho_flag ${c.view.getUint16(FLAG, true)} cannot be changed so`);
  }
}

function clearFlag(c: RedoContext, bit: number): void {
  c.view.setUint16(FLAG, c.view.getUint16(FLAG, true) & ~bit, true);
}

/** `_hash_pageinit` and the special space. */
function initPage(c: RedoContext, prevBlkno: number, bucket: number, flag: number): void {
  pageInit(c, PAGE, SIZE_OF_HASH_OPAQUE);
  c.view.setUint32(PREVBLKNO, prevBlkno, true);
  c.view.setUint32(NEXTBLKNO, INVALID_BLOCK_NUMBER, true);
  c.view.setUint32(BUCKET, bucket, true);
  c.view.setUint16(FLAG, flag, true);
  c.view.setUint16(PAGE_ID, HASHO_PAGE_ID, true);
}

/** An empty bitmap has all pages in use: they do not exist yet. `size` in bytes. */
function initBitmapPage(c: RedoContext, size: number): void {
  initPage(c, INVALID_BLOCK_NUMBER, INVALID_BLOCK_NUMBER, LH_BITMAP_PAGE);
  const end = SIZE_OF_PAGE_HEADER + size;
  if (end > PAGE_SIZE - SIZE_OF_HASH_OPAQUE || (size & 3) !== 0) {
    c.fail(`bitmap of ${size} bytes`, c.main - c.delta);
  }
  c.bytes.fill(0xff, PAGE + SIZE_OF_PAGE_HEADER, PAGE + end);
  c.view.setUint16(PAGE + PD_LOWER, end, true);
}

/** The block data is u32 number of the bit to set or to clear on this bitmap page. */
function changeBitmapBit(c: RedoContext, set: boolean): void {
  requirePage(c, LH_BITMAP_PAGE);
  c.needData(c.data, 4);
  const bit = c.view.getUint32(c.data, true);
  const at = SIZE_OF_PAGE_HEADER + (bit >>> 3);
  if (at >= c.view.getUint16(PAGE + PD_SPECIAL, true)) {
    c.fail(`bit ${bit} of a bitmap page`, c.data - c.delta);
  }
  const mask = 1 << (bit & 7);
  c.bytes[PAGE + at] = set ? c.bytes[PAGE + at]! | mask : c.bytes[PAGE + at]! & ~mask;
}

/** xl_hash_init_meta_page: f64 num_tuples, u32 procid, u16 ffactor. */
function redoInitMetaPage(c: RedoContext): boolean {
  c.needMain(14);
  requireReference(c, 0);
  const { view } = c;
  initPage(c, INVALID_BLOCK_NUMBER, INVALID_BLOCK_NUMBER, LH_META_PAGE);
  initMetaContents(
    c,
    view.getFloat64(c.main, true),
    view.getUint32(c.main + 8, true),
    view.getUint16(c.main + 12, true),
  );
  return true;
}

/** xl_hash_init_bitmap_page: u16 bmsize. References: 0 the bitmap page, 1 the metapage. */
function redoInitBitmapPage(c: RedoContext): boolean {
  c.needMain(2);
  requireReference(c, 1);
  if (c.blockId === 0) {
    initBitmapPage(c, c.view.getUint16(c.main, true));
  } else {
    requirePage(c, LH_META_PAGE);
    // It comes right after the first buckets, and those after the metapage.
    addBitmapPage(c, c.view.getUint32(META_MAXBUCKET, true) + 2);
  }
  return true;
}

/** xl_hash_insert: u16 offnum. References: 0 the page, with the tuple; 1 the metapage. */
function redoInsert(c: RedoContext): boolean {
  c.needMain(2);
  requireReference(c, 1);
  if (c.blockId === 1) {
    requirePage(c, LH_META_PAGE);
    addMetaTuples(c, 1);
  } else {
    requirePage(c, LH_TUPLES);
    addItemFrom(c, c.data, c.dataEnd - c.data, c.view.getUint16(c.main, true));
  }
  return true;
}

/**
 * xl_hash_add_ovfl_page: u16 bmsize, u8 bmpage_found. References: 0 the new page, with u32 its bucket; 1
 * the page before it; 2 the bitmap page, with the bit, where the page is a freed one; 3 a new bitmap
 * page; 4 the metapage, with u32 firstfree.
 */
function redoAddOverflowPage(c: RedoContext): boolean {
  c.needMain(3);
  requireReference(c, 4);
  const { view } = c;
  switch (c.blockId) {
    case 0:
      c.needData(c.data, 4);
      initPage(c, c.requireReferenceBlkno(1), view.getUint32(c.data, true), LH_OVERFLOW_PAGE);
      break;
    case 1:
      view.setUint32(NEXTBLKNO, c.requireReferenceBlkno(0), true);
      break;
    case 2:
      changeBitmapBit(c, true);
      break;
    case 3:
      initBitmapPage(c, view.getUint16(c.main, true));
      break;
    default: {
      c.needData(c.data, 4);
      requirePage(c, LH_META_PAGE);
      view.setUint32(META_FIRSTFREE, view.getUint32(c.data, true), true);
      const bitmapFound = view.getUint8(c.main + 2) !== 0;
      const newBitmap = c.referenceBlkno(3);
      if (!bitmapFound) {
        addSpare(c);
        if (newBitmap >= 0) {
          addBitmapPage(c, newBitmap);
          addSpare(c);
        }
      }
    }
  }
  return true;
}

/**
 * xl_hash_split_allocate_page: u32 new_bucket, u16 old_bucket_flag, u16 new_bucket_flag, u8 flags.
 * References: 0 the old bucket's page, 1 the new one's, 2 the metapage, with u32 lowmask, u32 highmask
 * (flag 1) and u32 ovflpoint, u32 spares there (flag 2).
 */
function redoSplitAllocatePage(c: RedoContext): boolean {
  c.needMain(9);
  requireReference(c, 2);
  const { view } = c;
  const newBucket = view.getUint32(c.main, true);
  if (c.blockId === 0) {
    view.setUint16(FLAG, view.getUint16(c.main + 4, true), true);
    view.setUint32(PREVBLKNO, newBucket, true);
    return true;
  }
  if (c.blockId === 1) {
    initPage(c, newBucket, newBucket, view.getUint16(c.main + 6, true));
    return true;
  }
  requirePage(c, LH_META_PAGE);
  view.setUint32(META_MAXBUCKET, newBucket, true);
  const flags = view.getUint8(c.main + 8);
  let at = c.data;
  if ((flags & SPLIT_UPDATES_MASKS) !== 0) {
    c.needData(at, 8);
    view.setUint32(META_LOWMASK, view.getUint32(at, true), true);
    view.setUint32(META_HIGHMASK, view.getUint32(at + 4, true), true);
    at += 8;
  }
  if ((flags & SPLIT_UPDATES_SPLITPOINT) !== 0) {
    c.needData(at, 8);
    const splitpoint = view.getUint32(at, true);
    view.setUint32(spares(c, splitpoint), view.getUint32(at + 4, true), true);
    view.setUint32(META_OVFLPOINT, splitpoint, true);
  }
  return true;
}

/** Block data: u16 offset numbers for `count` tuples, then the tuples, each aligned to 8. */
function insertMoved(c: RedoContext, count: number): void {
  requirePage(c, LH_TUPLES);
  c.needData(c.data, 2 * count);
  let at = c.data + 2 * count;
  for (let i = 0; i < count; i++) {
    const size = (takeIndexTuple(c, at) + 7) & ~7;
    c.needData(at, size);
    addItemFrom(c, at, size, c.view.getUint16(c.data + 2 * i, true));
    at += size;
  }
  if (at !== c.dataEnd) {
    c.fail(`${c.dataEnd - at} bytes after ${count} tuples`, at - c.delta);
  }
}

/** Block data: u16 offset numbers of tuples to delete, ascending, perhaps none. */
function deleteListed(c: RedoContext): void {
  requirePage(c, LH_TUPLES);
  indexMultiDelete(c, PAGE, c.data, (c.dataEnd - c.data) >> 1);
}

/**
 * xl_hash_move_page_contents: u16 ntups, u8 is_prim_bucket_same_wrt. References: 0 the primary bucket
 * page, 1 the page that tuples move to, 2 the one they leave.
 */
function redoMovePageContents(c: RedoContext): boolean {
  c.needMain(3);
  requireReference(c, 2);
  if (c.blockId === 0) {
    return false;
  }
  if (c.blockId === 1) {
    const count = c.view.getUint16(c.main, true);
    if (count > 0) {
      insertMoved(c, count);
    }
  } else {
    deleteListed(c);
  }
  return true;
}

/**
 * xl_hash_squeeze_page: u32 prevblkno, u32 nextblkno, u16 ntups, u8 is_prim_bucket_same_wrt, u8
 * is_prev_bucket_same_wrt. References: 0 the primary bucket page, 1 the page that tuples move to, 2 the
 * overflow page freed, 3 the one before and 4 the one after it, 5 the bitmap page, with the bit, 6 the
 * metapage, with u32 firstfree.
 */
function redoSqueezePage(c: RedoContext): boolean {
  c.needMain(12);
  requireReference(c, 6);
  const { view } = c;
  const next = view.getUint32(c.main + 4, true);
  switch (c.blockId) {
    case 0:
      return false;
    case 1: {
      const count = view.getUint16(c.main + 8, true);
      const isPrevious = view.getUint8(c.main + 11) !== 0;
      if (count > 0) {
        insertMoved(c, count);
      }
      if (isPrevious) {
        view.setUint32(NEXTBLKNO, next, true);
      }
      return count > 0 || isPrevious || c.version.hashSqueezeStampsUnchangedPage;
    }
    case 2:
      initPage(c, INVALID_BLOCK_NUMBER, INVALID_BLOCK_NUMBER, LH_UNUSED_PAGE);
      return true;
    case 3:
      view.setUint32(NEXTBLKNO, next, true);
      return true;
    case 4:
      view.setUint32(PREVBLKNO, view.getUint32(c.main, true), true);
      return true;
    case 5:
      changeBitmapBit(c, false);
      return true;
    default:
      c.needData(c.data, 4);
      requirePage(c, LH_META_PAGE);
      view.setUint32(META_FIRSTFREE, view.getUint32(c.data, true), true);
      return true;
  }
}

/**
 * xl_hash_delete: u8 clear_dead_marking, u8 is_primary_bucket_page. References: 0 the primary bucket
 * page, 1 the page that tuples go from.
 */
function redoDelete(c: RedoContext): boolean {
  c.needMain(2);
  requireReference(c, 1);
  if (c.blockId === 0) {
    return false;
  }
  deleteListed(c);
  if (c.view.getUint8(c.main) !== 0) {
    clearFlag(c, LH_PAGE_HAS_DEAD_TUPLES);
  }
  return true;
}

/**
 * xl_hash_vacuum_one_page: u32 horizon, ntuples as i32 up to 15, else u16, u8 isCatalogRel and padding;
 * u16 offset numbers from byte 8 on. References: 0 the page, 1 the metapage.
 */
function redoVacuumOnePage(c: RedoContext): boolean {
  c.needMain(8);
  requireReference(c, 1);
  const { view } = c;
  const count = c.version.hashVacuumCountIsInt
    ? view.getUint32(c.main + 4, true)
    : view.getUint16(c.main + 4, true);
  c.needMain(8 + 2 * count);
  if (c.blockId === 1) {
    requirePage(c, LH_META_PAGE);
    addMetaTuples(c, -count);
    return true;
  }
  requirePage(c, LH_TUPLES);
  indexMultiDelete(c, PAGE, c.main + 8, count);
  clearFlag(c, LH_PAGE_HAS_DEAD_TUPLES);
  return true;
}
