// Redo of heap records and of the heap2 records that touch single tuples (access/heapam_xlog.h, 14-18).
//
// HeapTupleHeaderData, 23 bytes and a null bitmap:
//   offset size field
//        0    4 t_xmin
//        4    4 t_xmax
//        8    4 t_cid (t_xvac)
//       12    6 t_ctid: block number high half, low half, offset number
//       18    2 t_infomask2
//       20    2 t_infomask
//       22    1 t_hoff
// Redo always writes command id 0: WAL does not carry it.

import {
  XLOG_HEAP_CONFIRM,
  XLOG_HEAP_DELETE,
  XLOG_HEAP_HOT_UPDATE,
  XLOG_HEAP_INIT_PAGE,
  XLOG_HEAP_INPLACE,
  XLOG_HEAP_INSERT,
  XLOG_HEAP_LOCK,
  XLOG_HEAP_OPMASK,
  XLOG_HEAP_UPDATE,
  XLOG_HEAP2_FREEZE_PAGE,
  XLOG_HEAP2_LOCK_UPDATED,
  XLOG_HEAP2_MULTI_INSERT,
  XLOG_HEAP2_PRUNE,
  XLOG_HEAP2_PRUNE_ON_ACCESS,
  XLOG_HEAP2_PRUNE_VACUUM_CLEANUP,
  XLOG_HEAP2_PRUNE_VACUUM_SCAN,
  XLOG_HEAP2_VACUUM,
  XLOG_HEAP2_VISIBLE,
} from "../postgres/opcodes.ts";
import { VM_FORK } from "../postgres/relation-path.ts";
import { RM_HEAP2_ID } from "../postgres/rmgr.ts";
import { redoFreezePage, redoPrune, redoPruneFreeze, redoVacuum } from "./heap-prune.ts";
import {
  HEAP_COMBOCID,
  HEAP_HOT_UPDATED,
  HEAP_KEYS_UPDATED,
  HEAP_MOVED,
  HEAP_XMAX_BITS,
  HEAP_XMAX_EXCL_LOCK,
  HEAP_XMAX_IS_MULTI,
  HEAP_XMAX_KEYSHR_LOCK,
  HEAP_XMAX_LOCK_ONLY,
  SIZE_OF_HEAP_TUPLE_HEADER,
  T_CID,
  T_CTID,
  T_HOFF,
  T_INFOMASK,
  T_INFOMASK2,
  T_XMAX,
} from "./heap-tuple.ts";
import {
  addHeapItem,
  itemLength,
  normalItem,
  pageClearAllVisible,
  pageInit,
  pageSetAllVisible,
  pageSetLsn,
  pageSetPrunable,
} from "./page-layout.ts";
import { PAGE, type RedoContext } from "./redo-context.ts";
import { redoHeapVisible, redoRegisteredClear } from "./visibility-map.ts";

const MAX_HEAP_TUPLE_SIZE = 8160;
const SIZE_OF_HEAP_HEADER = 5;
const SIZE_OF_MULTI_INSERT_TUPLE = 7;

const XLH_INSERT_ALL_VISIBLE_CLEARED = 1 << 0;
const XLH_INSERT_ALL_FROZEN_SET = 1 << 5;
const XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED = 1 << 0;
const XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED = 1 << 1;
const XLH_UPDATE_PREFIX_FROM_OLD = 1 << 5;
const XLH_UPDATE_SUFFIX_FROM_OLD = 1 << 6;
const XLH_DELETE_ALL_VISIBLE_CLEARED = 1 << 0;
const XLH_DELETE_IS_SUPER = 1 << 3;
const XLH_DELETE_IS_PARTITION_MOVE = 1 << 4;

const MOVED_PARTITIONS_BLOCK = 0xffffffff;
const MOVED_PARTITIONS_OFFSET = 0xfffd;
/** Frozen only: what a row lock clears. */
const VM_ALL_FROZEN = 2;
const VM_VALID_BITS = 3;

/** What a record does to a page is told by its opcode alone; true where it starts from nothing. */
export function heapInitsPage(c: RedoContext): boolean {
  return (c.info & XLOG_HEAP_INIT_PAGE) !== 0 && c.referenceFork !== VM_FORK && c.blockId === 0;
}

export function redoHeap(c: RedoContext): void {
  if (c.referenceFork === VM_FORK) {
    redoHeapOnVisibilityMap(c);
    return;
  }
  switch (c.info & XLOG_HEAP_OPMASK) {
    case XLOG_HEAP_INSERT:
      redoInsert(c);
      return;
    case XLOG_HEAP_DELETE:
      redoDelete(c);
      return;
    case XLOG_HEAP_UPDATE:
      redoUpdate(c, false);
      return;
    case XLOG_HEAP_HOT_UPDATE:
      redoUpdate(c, true);
      return;
    case XLOG_HEAP_CONFIRM:
      redoConfirm(c);
      return;
    case XLOG_HEAP_LOCK:
      redoLock(c, true);
      return;
    case XLOG_HEAP_INPLACE:
      redoInplace(c);
      return;
    default:
      // 0x30, TRUNCATE, exists for logical decoding and references no block.
      c.unsupported();
      return;
  }
}

export function redoHeap2(c: RedoContext): void {
  const opcode = c.info & XLOG_HEAP_OPMASK;
  if (c.referenceFork === VM_FORK && opcode !== XLOG_HEAP2_VISIBLE) {
    redoHeapOnVisibilityMap(c);
    return;
  }
  switch (opcode) {
    case XLOG_HEAP2_VISIBLE:
      redoHeapVisible(c);
      return;
    case XLOG_HEAP2_MULTI_INSERT:
      redoMultiInsert(c);
      return;
    case XLOG_HEAP2_LOCK_UPDATED:
      redoLock(c, false);
      return;
    default:
      redoPruneOrFreeze(c, opcode);
      return;
  }
}

function redoPruneOrFreeze(c: RedoContext, opcode: number): void {
  if (c.version.pruneFormat === "combined") {
    switch (opcode) {
      case XLOG_HEAP2_PRUNE_ON_ACCESS:
      case XLOG_HEAP2_PRUNE_VACUUM_SCAN:
      case XLOG_HEAP2_PRUNE_VACUUM_CLEANUP:
        redoPruneFreeze(c);
        return;
      default:
        c.unsupported();
        return;
    }
  }
  switch (opcode) {
    case XLOG_HEAP2_PRUNE:
      redoPrune(c);
      return;
    case XLOG_HEAP2_VACUUM:
      redoVacuum(c);
      return;
    case XLOG_HEAP2_FREEZE_PAGE:
      redoFreezePage(c);
      return;
    default:
      c.unsupported();
      return;
  }
}

/** The form of the 2026 minor releases: the visibility map page is one of the record's references. */
function redoHeapOnVisibilityMap(c: RedoContext): void {
  const heap2 = c.rmid === RM_HEAP2_ID;
  const opcode = c.info & XLOG_HEAP_OPMASK;
  if (!heap2 && (opcode === XLOG_HEAP_UPDATE || opcode === XLOG_HEAP_HOT_UPDATE)) {
    c.needMain(8);
    const flags = c.view.getUint8(c.main + 7);
    const newBlkno = c.requireReferenceBlkno(0);
    const oldReference = c.referenceBlkno(1);
    const oldBlkno = oldReference < 0 ? newBlkno : oldReference;
    // Reference 2 covers the new heap block and, where it is on the same map page, the old one;
    // reference 3 the old one.
    if (c.blockId === 3 || (flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED) !== 0) {
      redoRegisteredClear(c, oldBlkno, VM_VALID_BITS, c.blockId === 3);
    }
    if (c.blockId === 2) {
      redoRegisteredClear(c, newBlkno, VM_VALID_BITS, true);
    }
    return;
  }
  // LOCK and heap2 LOCK_UPDATED have the same opcode.
  const lock = opcode === XLOG_HEAP_LOCK;
  const clears =
    lock ||
    (heap2
      ? opcode === XLOG_HEAP2_MULTI_INSERT
      : opcode === XLOG_HEAP_INSERT || opcode === XLOG_HEAP_DELETE);
  if (!clears) {
    c.fail("the record references a visibility map page", 3);
  }
  redoRegisteredClear(c, c.requireReferenceBlkno(0), lock ? VM_ALL_FROZEN : VM_VALID_BITS, true);
}

function setCtid(c: RedoContext, tuple: number, blkno: number, offnum: number): void {
  c.view.setUint16(tuple + T_CTID, blkno >>> 16, true);
  c.view.setUint16(tuple + T_CTID + 2, blkno & 0xffff, true);
  c.view.setUint16(tuple + T_CTID + 4, offnum, true);
}

/** Clears xmax's infomask bits, then sets those that `infobits` (XLHL_*) names. */
function fixInfomask(c: RedoContext, tuple: number, infobits: number, clearMask2: number): number {
  const view = c.view;
  let infomask = view.getUint16(tuple + T_INFOMASK, true) & ~(HEAP_XMAX_BITS | HEAP_MOVED);
  let infomask2 = view.getUint16(tuple + T_INFOMASK2, true) & ~(HEAP_KEYS_UPDATED | clearMask2);
  if ((infobits & 0x01) !== 0) infomask |= HEAP_XMAX_IS_MULTI;
  if ((infobits & 0x02) !== 0) infomask |= HEAP_XMAX_LOCK_ONLY;
  if ((infobits & 0x04) !== 0) infomask |= HEAP_XMAX_EXCL_LOCK;
  if ((infobits & 0x08) !== 0) infomask |= HEAP_XMAX_KEYSHR_LOCK;
  if ((infobits & 0x10) !== 0) infomask2 |= HEAP_KEYS_UPDATED;
  view.setUint16(tuple + T_INFOMASK, infomask, true);
  view.setUint16(tuple + T_INFOMASK2, infomask2, true);
  return infomask;
}

/** `HeapTupleHeaderSetCmax(tuple, FirstCommandId, false)`. */
function clearCommandId(c: RedoContext, tuple: number): void {
  const view = c.view;
  view.setUint32(tuple + T_CID, 0, true);
  view.setUint16(
    tuple + T_INFOMASK,
    view.getUint16(tuple + T_INFOMASK, true) & ~HEAP_COMBOCID,
    true,
  );
}

/** Header of a new tuple. `header`: t_infomask2, t_infomask and t_hoff as WAL stores them. */
function writeTupleHeader(
  c: RedoContext,
  tuple: number,
  xmax: number,
  header: number,
  offnum: number,
): void {
  const view = c.view;
  view.setUint32(tuple, c.xid, true);
  view.setUint32(tuple + T_XMAX, xmax, true);
  view.setUint32(tuple + T_CID, 0, true);
  setCtid(c, tuple, c.blkno, offnum);
  view.setUint16(tuple + T_INFOMASK2, view.getUint16(header, true), true);
  view.setUint16(tuple + T_INFOMASK, view.getUint16(header + 2, true) & ~HEAP_COMBOCID, true);
  view.setUint8(tuple + T_HOFF, view.getUint8(header + 4));
}

/** xl_heap_insert: u16 offnum, u8 flags. Block data: xl_heap_header, tuple data. */
function redoInsert(c: RedoContext): void {
  c.needMain(3);
  const view = c.view;
  if ((c.info & XLOG_HEAP_INIT_PAGE) !== 0) {
    pageInit(c, PAGE, 0);
  }
  const offnum = view.getUint16(c.main, true);
  const flags = view.getUint8(c.main + 2);
  c.needData(c.data, SIZE_OF_HEAP_HEADER);
  const from = c.data + SIZE_OF_HEAP_HEADER;
  const size = SIZE_OF_HEAP_TUPLE_HEADER + (c.dataEnd - from);
  if (size > MAX_HEAP_TUPLE_SIZE) {
    c.fail(`tuple of ${size} bytes`, c.data - c.delta);
  }
  const tuple = addHeapItem(c, PAGE, offnum, size);
  c.copy(tuple + SIZE_OF_HEAP_TUPLE_HEADER, from, c.dataEnd - from);
  writeTupleHeader(c, tuple, 0, c.data, offnum);
  pageSetLsn(c, PAGE);
  if ((flags & XLH_INSERT_ALL_VISIBLE_CLEARED) !== 0) {
    pageClearAllVisible(c, PAGE);
  }
}

/**
 * xl_heap_multi_insert: u8 flags, u8 pad, u16 ntuples, u16 offsets[] (absent where the page is new).
 * Block data: for each tuple, at an even distance from the data's start, u16 datalen, u16
 * t_infomask2, u16 t_infomask, u8 t_hoff, then datalen bytes.
 */
function redoMultiInsert(c: RedoContext): void {
  c.needMain(4);
  const view = c.view;
  const init = (c.info & XLOG_HEAP_INIT_PAGE) !== 0;
  const flags = view.getUint8(c.main);
  const count = view.getUint16(c.main + 2, true);
  if (init) {
    pageInit(c, PAGE, 0);
  } else {
    c.needMain(4 + 2 * count);
  }
  let at = c.data;
  for (let i = 0; i < count; i++) {
    const offnum = init ? i + 1 : view.getUint16(c.main + 4 + 2 * i, true);
    at += (at - c.data) & 1;
    c.needData(at, SIZE_OF_MULTI_INSERT_TUPLE);
    const length = view.getUint16(at, true);
    const from = at + SIZE_OF_MULTI_INSERT_TUPLE;
    c.needData(from, length);
    const size = SIZE_OF_HEAP_TUPLE_HEADER + length;
    if (size > MAX_HEAP_TUPLE_SIZE) {
      c.fail(`tuple of ${size} bytes`, at - c.delta);
    }
    const tuple = addHeapItem(c, PAGE, offnum, size);
    c.copy(tuple + SIZE_OF_HEAP_TUPLE_HEADER, from, length);
    writeTupleHeader(c, tuple, 0, at + 2, offnum);
    at = from + length;
  }
  if (at !== c.dataEnd) {
    c.fail(`${count} tuples leave ${c.dataEnd - at} bytes of data`, at - c.delta);
  }
  pageSetLsn(c, PAGE);
  if ((flags & XLH_INSERT_ALL_VISIBLE_CLEARED) !== 0) {
    pageClearAllVisible(c, PAGE);
  }
  if ((flags & XLH_INSERT_ALL_FROZEN_SET) !== 0) {
    pageSetAllVisible(c, PAGE);
  }
}

/** xl_heap_delete: u32 xmax, u16 offnum, u8 infobits_set, u8 flags. */
function redoDelete(c: RedoContext): void {
  c.needMain(8);
  const view = c.view;
  const offnum = view.getUint16(c.main + 4, true);
  const flags = view.getUint8(c.main + 7);
  const tuple = normalItem(c, PAGE, offnum, SIZE_OF_HEAP_TUPLE_HEADER);
  fixInfomask(c, tuple, view.getUint8(c.main + 6), HEAP_HOT_UPDATED);
  if ((flags & XLH_DELETE_IS_SUPER) !== 0) {
    view.setUint32(tuple, 0, true);
  } else {
    view.setUint32(tuple + T_XMAX, view.getUint32(c.main, true), true);
  }
  clearCommandId(c, tuple);
  pageSetPrunable(c, PAGE, c.xid);
  if ((flags & XLH_DELETE_ALL_VISIBLE_CLEARED) !== 0) {
    pageClearAllVisible(c, PAGE);
  }
  if ((flags & XLH_DELETE_IS_PARTITION_MOVE) !== 0) {
    setCtid(c, tuple, MOVED_PARTITIONS_BLOCK, MOVED_PARTITIONS_OFFSET);
  } else {
    setCtid(c, tuple, c.blkno, offnum);
  }
  pageSetLsn(c, PAGE);
}

/**
 * xl_heap_update: u32 old_xmax, u16 old_offnum, u8 old_infobits_set, u8 flags, u32 new_xmax, u16
 * new_offnum. Reference 0 is the page of the new tuple, 1 that of the old one if it is another.
 */
function redoUpdate(c: RedoContext, hot: boolean): void {
  c.needMain(14);
  const view = c.view;
  const newBlkno = c.requireReferenceBlkno(0);
  const samePage = c.referenceBlkno(1) < 0;
  const newOffnum = view.getUint16(c.main + 12, true);
  const flags = view.getUint8(c.main + 7);
  let oldTuple = -1;
  let oldLength = 0;
  if (samePage || c.blockId === 1) {
    const oldOffnum = view.getUint16(c.main + 4, true);
    oldTuple = normalItem(c, PAGE, oldOffnum, SIZE_OF_HEAP_TUPLE_HEADER);
    oldLength = itemLength(c, PAGE, oldOffnum);
    fixInfomask(c, oldTuple, view.getUint8(c.main + 6), HEAP_HOT_UPDATED);
    if (hot) {
      const infomask2 = view.getUint16(oldTuple + T_INFOMASK2, true);
      view.setUint16(oldTuple + T_INFOMASK2, infomask2 | HEAP_HOT_UPDATED, true);
    }
    view.setUint32(oldTuple + T_XMAX, view.getUint32(c.main, true), true);
    clearCommandId(c, oldTuple);
    setCtid(c, oldTuple, newBlkno, newOffnum);
    pageSetPrunable(c, PAGE, c.xid);
    if ((flags & XLH_UPDATE_OLD_ALL_VISIBLE_CLEARED) !== 0) {
      pageClearAllVisible(c, PAGE);
    }
  }
  if (c.blockId === 0) {
    if (!samePage && (c.info & XLOG_HEAP_INIT_PAGE) !== 0) {
      pageInit(c, PAGE, 0);
    }
    addUpdatedTuple(c, newOffnum, flags, oldTuple, oldLength);
    if ((flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) !== 0) {
      pageClearAllVisible(c, PAGE);
    }
  }
  pageSetLsn(c, PAGE);
}

/**
 * Block data: u16 prefix length and u16 suffix length where their flags say so, xl_heap_header, null
 * bitmap and padding up to t_hoff, the middle of the tuple's data. Prefix and suffix of the data come
 * from the old tuple, which is then on the same page.
 */
function addUpdatedTuple(
  c: RedoContext,
  offnum: number,
  flags: number,
  oldTuple: number,
  oldLength: number,
): void {
  const { view } = c;
  let at = c.data;
  let prefix = 0;
  let suffix = 0;
  if ((flags & XLH_UPDATE_PREFIX_FROM_OLD) !== 0) {
    c.needData(at, 2);
    prefix = view.getUint16(at, true);
    at += 2;
  }
  if ((flags & XLH_UPDATE_SUFFIX_FROM_OLD) !== 0) {
    c.needData(at, 2);
    suffix = view.getUint16(at, true);
    at += 2;
  }
  c.needData(at, SIZE_OF_HEAP_HEADER);
  const header = at;
  at += SIZE_OF_HEAP_HEADER;
  const logged = c.dataEnd - at;
  const size = SIZE_OF_HEAP_TUPLE_HEADER + logged + prefix + suffix;
  let oldHoff = 0;
  if (prefix + suffix > 0) {
    oldHoff = oldTuple < 0 ? 0 : view.getUint8(oldTuple + T_HOFF);
    if (oldTuple < 0 || oldHoff + prefix > oldLength || suffix > oldLength) {
      c.fail(
        `prefix ${prefix} and suffix ${suffix} of an old tuple of ${oldLength}`,
        c.data - c.delta,
      );
    }
  }
  if (size > MAX_HEAP_TUPLE_SIZE) {
    c.fail(`tuple of ${size} bytes`, c.data - c.delta);
  }
  const tuple = addHeapItem(c, PAGE, offnum, size);
  let to = tuple + SIZE_OF_HEAP_TUPLE_HEADER;
  if (prefix > 0) {
    const bitmap = view.getUint8(header + 4) - SIZE_OF_HEAP_TUPLE_HEADER;
    if (bitmap < 0 || bitmap > logged) {
      c.fail(`t_hoff ${bitmap + SIZE_OF_HEAP_TUPLE_HEADER} with ${logged} bytes`, header - c.delta);
    }
    c.copy(to, at, bitmap);
    at += bitmap;
    to += bitmap;
    c.copy(to, oldTuple + oldHoff, prefix);
    to += prefix;
  }
  c.copy(to, at, c.dataEnd - at);
  to += c.dataEnd - at;
  if (suffix > 0) {
    c.copy(to, oldTuple + oldLength - suffix, suffix);
  }
  writeTupleHeader(c, tuple, view.getUint32(c.main + 8, true), header, offnum);
}

/** xl_heap_confirm: u16 offnum. A speculative insertion became real. */
function redoConfirm(c: RedoContext): void {
  c.needMain(2);
  const offnum = c.view.getUint16(c.main, true);
  setCtid(c, normalItem(c, PAGE, offnum, SIZE_OF_HEAP_TUPLE_HEADER), c.blkno, offnum);
  pageSetLsn(c, PAGE);
}

/**
 * xl_heap_lock and xl_heap_lock_updated: u32 xmax, u16 offnum, u8 infobits_set, u8 flags. Locking an
 * updated version (`!plain`) leaves its ctid and command id alone.
 */
function redoLock(c: RedoContext, plain: boolean): void {
  c.needMain(8);
  const view = c.view;
  const offnum = view.getUint16(c.main + 4, true);
  const tuple = normalItem(c, PAGE, offnum, SIZE_OF_HEAP_TUPLE_HEADER);
  const infomask = fixInfomask(c, tuple, view.getUint8(c.main + 6), 0);
  if (plain) {
    const lockedOnly =
      (infomask & HEAP_XMAX_LOCK_ONLY) !== 0 ||
      (infomask & (HEAP_XMAX_IS_MULTI | HEAP_XMAX_EXCL_LOCK | HEAP_XMAX_KEYSHR_LOCK)) ===
        HEAP_XMAX_EXCL_LOCK;
    if (lockedOnly) {
      const infomask2 = view.getUint16(tuple + T_INFOMASK2, true);
      view.setUint16(tuple + T_INFOMASK2, infomask2 & ~HEAP_HOT_UPDATED, true);
      setCtid(c, tuple, c.blkno, offnum);
    }
    clearCommandId(c, tuple);
  }
  view.setUint32(tuple + T_XMAX, view.getUint32(c.main, true), true);
  pageSetLsn(c, PAGE);
}

/** xl_heap_inplace: u16 offnum, more from 18 on. Block data: the tuple's data, same length. */
function redoInplace(c: RedoContext): void {
  c.needMain(2);
  const offnum = c.view.getUint16(c.main, true);
  const tuple = normalItem(c, PAGE, offnum, SIZE_OF_HEAP_TUPLE_HEADER);
  const hoff = c.view.getUint8(tuple + T_HOFF);
  const length = itemLength(c, PAGE, offnum) - hoff;
  if (length !== c.dataEnd - c.data) {
    c.fail(`in-place data of ${c.dataEnd - c.data} bytes for ${length}`, c.data - c.delta);
  }
  c.bytes.copyWithin(tuple + hoff, c.data, c.dataEnd);
  pageSetLsn(c, PAGE);
}
