// Index tuples as btree pages hold them: posting lists, downlinks (access/nbtree.h, 14-18).
//
// IndexTupleData, 8 bytes, then key data:
//   offset size field
//        0    6 t_tid: block number high half, low half, offset number
//        6    2 t_info: size 13 bits, INDEX_ALT_TID 0x2000, has varwidth 0x4000, has nulls 0x8000
// With INDEX_ALT_TID, t_tid means something else: in a pivot tuple the downlink and the number of
// attributes; in a posting list tuple (offset number has 0x2000) the block number is where in the
// tuple its TIDs begin and the low 12 bits of the offset number how many there are, 6 bytes each.

import type { RedoContext } from "../redo-context.ts";

export const SIZE_OF_INDEX_TUPLE = 8;
export const SIZE_OF_TID = 6;
export const INDEX_SIZE_MASK = 0x1fff;
export const INDEX_ALT_TID_MASK = 0x2000;
const T_INFO = 6;
const BT_OFFSET_MASK = 0x0fff;
const BT_IS_POSTING = 0x2000;

export function indexTupleSize(c: RedoContext, tuple: number): number {
  return c.view.getUint16(tuple + T_INFO, true) & INDEX_SIZE_MASK;
}

export function isPosting(c: RedoContext, tuple: number): boolean {
  return (
    (c.view.getUint16(tuple + T_INFO, true) & INDEX_ALT_TID_MASK) !== 0 &&
    (c.view.getUint16(tuple + 4, true) & BT_IS_POSTING) !== 0
  );
}

export function isPivot(c: RedoContext, tuple: number): boolean {
  return (
    (c.view.getUint16(tuple + T_INFO, true) & INDEX_ALT_TID_MASK) !== 0 &&
    (c.view.getUint16(tuple + 4, true) & BT_IS_POSTING) === 0
  );
}

/** The block number in t_tid: a downlink, or where a posting list begins. */
export function tidBlkno(c: RedoContext, tid: number): number {
  return c.view.getUint16(tid, true) * 65536 + c.view.getUint16(tid + 2, true);
}

export function setTidBlkno(c: RedoContext, tid: number, blkno: number): void {
  c.view.setUint16(tid, blkno >>> 16, true);
  c.view.setUint16(tid + 2, blkno & 0xffff, true);
}

export function postingCount(c: RedoContext, tuple: number): number {
  return c.view.getUint16(tuple + 4, true) & BT_OFFSET_MASK;
}

/**
 * Offset of the TIDs within a posting list tuple that has `length` bytes (its line pointer's);
 * `corrupt` unless the whole list lies inside.
 */
export function postingOffset(c: RedoContext, tuple: number, length: number): number {
  const offset = tidBlkno(c, tuple);
  const size = indexTupleSize(c, tuple);
  if (
    size > length ||
    offset < SIZE_OF_INDEX_TUPLE ||
    (offset & 7) !== 0 ||
    offset + postingCount(c, tuple) * SIZE_OF_TID > size
  ) {
    c.fail(`posting list of ${postingCount(c, tuple)} at ${offset} in a tuple of ${size} bytes`);
  }
  return offset;
}

/** Gives the tuple at `tuple` a new size, keeping the other bits of t_info. */
export function setIndexTupleSize(c: RedoContext, tuple: number, size: number): void {
  const info = c.view.getUint16(tuple + T_INFO, true);
  c.view.setUint16(tuple + T_INFO, (info & ~INDEX_SIZE_MASK) | size, true);
}

/** `BTreeTupleSetPosting`. */
export function setPosting(c: RedoContext, tuple: number, count: number, offset: number): void {
  const info = c.view.getUint16(tuple + T_INFO, true);
  c.view.setUint16(tuple + T_INFO, info | INDEX_ALT_TID_MASK, true);
  c.view.setUint16(tuple + 4, count | BT_IS_POSTING, true);
  setTidBlkno(c, tuple, offset);
}

/** A plain tuple for the one TID left at `tid` of a posting list. */
export function setPlain(c: RedoContext, tuple: number, tid: number): void {
  const info = c.view.getUint16(tuple + T_INFO, true);
  c.view.setUint16(tuple + T_INFO, info & ~INDEX_ALT_TID_MASK, true);
  c.bytes.copyWithin(tuple, tid, tid + SIZE_OF_TID);
}

/**
 * `_bt_swap_posting`, in place: the posting list tuple at `posting` (`length` bytes) takes the TID of
 * the new item at `newItem` at position `at`, and the new item takes the list's last TID.
 */
export function swapPosting(
  c: RedoContext,
  newItem: number,
  posting: number,
  length: number,
  at: number,
): void {
  const count = isPosting(c, posting) ? postingCount(c, posting) : 0;
  if (at < 1 || at >= count) {
    c.fail(`posting list of ${count} cannot be split at ${at}`);
  }
  const list = posting + postingOffset(c, posting, length);
  const last = list + (count - 1) * SIZE_OF_TID;
  const view = c.view;
  const high = view.getUint16(last, true);
  const low = view.getUint16(last + 2, true);
  const offnum = view.getUint16(last + 4, true);
  const position = list + at * SIZE_OF_TID;
  c.bytes.copyWithin(position + SIZE_OF_TID, position, last);
  c.bytes.copyWithin(position, newItem, newItem + SIZE_OF_TID);
  view.setUint16(newItem, high, true);
  view.setUint16(newItem + 2, low, true);
  view.setUint16(newItem + 4, offnum, true);
}
