// Slotted-page operations of storage/page/bufpage.c, 14-18, exact to the byte.
//
// PageHeaderData, 24 bytes:
//   offset size field
//        0    8 pd_lsn      high half, then low half
//        8    2 pd_checksum
//       10    2 pd_flags    HAS_FREE_LINES 1, PAGE_FULL 2, ALL_VISIBLE 4
//       12    2 pd_lower    end of the line pointers
//       14    2 pd_upper    start of the tuples
//       16    2 pd_special
//       18    2 page size | layout version 4
//       20    4 pd_prune_xid
//       24    4 a line pointer: lp_off 15 bits, lp_flags 2, lp_len 15
// Bytes between pd_lower and pd_upper are never changed except where Postgres changes them: recovered
// pages are compared raw. Every function fails with `corrupt` instead of leaving the page.

import {
  PAGE_SIZE,
  PD_FLAGS,
  PD_LOWER,
  PD_PAGESIZE_VERSION,
  PD_PRUNE_XID,
  PD_SPECIAL,
  PD_UPPER,
  SIZE_OF_PAGE_HEADER,
} from "../postgres/page.ts";
import { type RedoContext, SCRATCH } from "./redo-context.ts";

const PD_HAS_FREE_LINES = 0x0001;
const PD_ALL_VISIBLE = 0x0004;

export const LP_UNUSED = 0;
export const LP_NORMAL = 1;
export const LP_REDIRECT = 2;
export const LP_DEAD = 3;

export const MAX_HEAP_TUPLES_PER_PAGE = 291;

/** `PageInit`: an empty page, all zero but its header. */
export function pageInit(c: RedoContext, page: number, specialSize: number): void {
  c.bytes.fill(0, page, page + PAGE_SIZE);
  const end = PAGE_SIZE - specialSize;
  c.view.setUint16(page + PD_LOWER, SIZE_OF_PAGE_HEADER, true);
  c.view.setUint16(page + PD_UPPER, end, true);
  c.view.setUint16(page + PD_SPECIAL, end, true);
  c.view.setUint16(page + PD_PAGESIZE_VERSION, PAGE_SIZE | 4, true);
}

export function pageIsNew(c: RedoContext, page: number): boolean {
  return c.view.getUint16(page + PD_UPPER, true) === 0;
}

export function pageSetLsn(c: RedoContext, page: number): void {
  c.view.setUint32(page, c.lsnHigh, true);
  c.view.setUint32(page + 4, c.lsnLow, true);
}

/** Whether the page already contains the record, by its LSN. */
export function pageHasLsn(c: RedoContext, page: number): boolean {
  const high = c.view.getUint32(page, true);
  return high > c.lsnHigh || (high === c.lsnHigh && c.view.getUint32(page + 4, true) >= c.lsnLow);
}

export function pageSetAllVisible(c: RedoContext, page: number): void {
  c.view.setUint16(page + PD_FLAGS, c.view.getUint16(page + PD_FLAGS, true) | PD_ALL_VISIBLE, true);
}

export function pageClearAllVisible(c: RedoContext, page: number): void {
  c.view.setUint16(
    page + PD_FLAGS,
    c.view.getUint16(page + PD_FLAGS, true) & ~PD_ALL_VISIBLE,
    true,
  );
}

function setHasFreeLinePointers(c: RedoContext, page: number, has: boolean): void {
  const flags = c.view.getUint16(page + PD_FLAGS, true);
  c.view.setUint16(
    page + PD_FLAGS,
    has ? flags | PD_HAS_FREE_LINES : flags & ~PD_HAS_FREE_LINES,
    true,
  );
}

/** `PageSetPrunable`: keeps the older of the hint and `xid`, in xid arithmetic. */
export function pageSetPrunable(c: RedoContext, page: number, xid: number): void {
  const hint = c.view.getUint32(page + PD_PRUNE_XID, true);
  if (hint === 0 || transactionIdPrecedes(xid, hint)) {
    c.view.setUint32(page + PD_PRUNE_XID, xid, true);
  }
}

function transactionIdPrecedes(a: number, b: number): boolean {
  // Xids below 3 are permanent: older than every normal one, and compared without wrap-around.
  return a < 3 || b < 3 ? a < b : ((a - b) | 0) < 0;
}

/** What every reader of line pointers relies on: 24 <= lower <= upper <= special <= 8192. */
export function checkPagePointers(c: RedoContext, page: number): void {
  const lower = c.view.getUint16(page + PD_LOWER, true);
  const upper = c.view.getUint16(page + PD_UPPER, true);
  const special = c.view.getUint16(page + PD_SPECIAL, true);
  if (
    lower < SIZE_OF_PAGE_HEADER ||
    lower > upper ||
    upper > special ||
    special > PAGE_SIZE ||
    (special & 7) !== 0 ||
    (lower & 3) !== 0
  ) {
    c.fail(`page pointers are wrong: lower ${lower}, upper ${upper}, special ${special}`);
  }
}

/** What holds on every page with a header: lower <= upper <= special <= 8192. */
export function checkPageBounds(c: RedoContext, page: number): void {
  const lower = c.view.getUint16(page + PD_LOWER, true);
  const upper = c.view.getUint16(page + PD_UPPER, true);
  const special = c.view.getUint16(page + PD_SPECIAL, true);
  if (lower > upper || upper > special || special > PAGE_SIZE) {
    c.fail(`page pointers are wrong: lower ${lower}, upper ${upper}, special ${special}`);
  }
}

export function maxOffsetNumber(c: RedoContext, page: number): number {
  return (c.view.getUint16(page + PD_LOWER, true) - SIZE_OF_PAGE_HEADER) >> 2;
}

/** Position of line pointer `offnum`; `corrupt` where the page has none. */
export function lineNumber(c: RedoContext, page: number, offnum: number): number {
  if (offnum < 1 || offnum > maxOffsetNumber(c, page)) {
    c.fail(`line pointer ${offnum} of ${maxOffsetNumber(c, page)}`);
  }
  return page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2);
}

export function makeItemId(offset: number, flags: number, length: number): number {
  return (offset | (flags << 15) | (length << 17)) >>> 0;
}

/** A heap tuple in normal use: its position in the arena. At least `minimum` bytes of it exist. */
export function normalItem(c: RedoContext, page: number, offnum: number, minimum: number): number {
  const id = c.view.getUint32(lineNumber(c, page, offnum), true);
  if (((id >>> 15) & 3) !== LP_NORMAL) {
    c.fail(`line pointer ${offnum} has flags ${(id >>> 15) & 3}, not a tuple`);
  }
  return itemPosition(c, page, offnum, id, minimum);
}

/** An index tuple, dead or alive: its position in the arena. */
export function storedItem(c: RedoContext, page: number, offnum: number, minimum: number): number {
  const id = c.view.getUint32(lineNumber(c, page, offnum), true);
  return itemPosition(c, page, offnum, id, minimum);
}

function itemPosition(
  c: RedoContext,
  page: number,
  offnum: number,
  id: number,
  minimum: number,
): number {
  const offset = id & 0x7fff;
  const length = id >>> 17;
  if (
    length < minimum ||
    offset < c.view.getUint16(page + PD_UPPER, true) ||
    offset + length > c.view.getUint16(page + PD_SPECIAL, true)
  ) {
    c.fail(`line pointer ${offnum} names bytes ${offset} to ${offset + length}`);
  }
  return page + offset;
}

/** lp_len of a line pointer that has been checked. */
export function itemLength(c: RedoContext, page: number, offnum: number): number {
  return c.view.getUint32(page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2), true) >>> 17;
}

/**
 * `PageAddItem` with overwrite and is_heap set, but for the copy: reserves `size` bytes for line
 * pointer `offnum` and returns where the tuple goes. The caller fills all `size` bytes; the padding
 * after them keeps what the page had there, as in C.
 */
export function addHeapItem(c: RedoContext, page: number, offnum: number, size: number): number {
  if (offnum > MAX_HEAP_TUPLES_PER_PAGE) {
    c.fail(`line pointer ${offnum} for a new tuple`);
  }
  return addItemAtUnused(c, page, offnum, size);
}

/** `PageAddItem` with overwrite set: at the end or at an unused line pointer. Else as addHeapItem. */
export function addItemAtUnused(
  c: RedoContext,
  page: number,
  offnum: number,
  size: number,
): number {
  const limit = maxOffsetNumber(c, page) + 1;
  if (offnum < 1 || offnum > limit) {
    c.fail(`line pointer ${offnum} for a new tuple, but ${limit} is the next`);
  }
  const at = page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2);
  const view = c.view;
  let lower = view.getUint16(page + PD_LOWER, true);
  if (offnum === limit) {
    lower += 4;
  } else {
    const id = view.getUint32(at, true);
    if (((id >>> 15) & 3) !== LP_UNUSED || id >>> 17 !== 0) {
      c.fail(`line pointer ${offnum} for a new tuple is in use`);
    }
  }
  const upper = view.getUint16(page + PD_UPPER, true) - ((size + 7) & ~7);
  if (lower > upper) {
    c.fail(`no room for a tuple of ${size} bytes`);
  }
  view.setUint32(at, makeItemId(upper, LP_NORMAL, size), true);
  view.setUint16(page + PD_LOWER, lower, true);
  view.setUint16(page + PD_UPPER, upper, true);
  return page + upper;
}

/** `PageAddItem` as indexes call it: later line pointers move up by one. Else as addHeapItem. */
export function addIndexItem(c: RedoContext, page: number, offnum: number, size: number): number {
  const limit = maxOffsetNumber(c, page) + 1;
  if (offnum < 1 || offnum > limit) {
    c.fail(`line pointer ${offnum} for a new item, but ${limit} is the next`);
  }
  const view = c.view;
  const lower = view.getUint16(page + PD_LOWER, true) + 4;
  const upper = view.getUint16(page + PD_UPPER, true) - ((size + 7) & ~7);
  if (lower > upper || size === 0 || size > 0x7fff) {
    c.fail(`no room for an item of ${size} bytes`);
  }
  const at = page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2);
  if (offnum < limit) {
    c.bytes.copyWithin(at + 4, at, page + lower - 4);
  }
  view.setUint32(at, makeItemId(upper, LP_NORMAL, size), true);
  view.setUint16(page + PD_LOWER, lower, true);
  view.setUint16(page + PD_UPPER, upper, true);
  return page + upper;
}

/**
 * `compactify_tuples`: moves all items to the end of the page, in line pointer order from the back, and
 * clears unused line pointers; returns how many those are. Neighbours that stay neighbours move in one
 * copy. Bytes below the new pd_upper stay as they were.
 *
 * Which line pointers have an item is as good as random, so a branch on it would cost more than all
 * else here: masks, all ones or zero, take its place.
 */
function compactifyTuples(c: RedoContext, page: number, lines: number): number {
  const { view, ints, itemOffset, itemLength, itemTarget } = c;
  const oldUpper = view.getUint16(page + PD_UPPER, true);
  const special = view.getUint16(page + PD_SPECIAL, true);
  let upper = special;
  let unused = 0;
  // Negative where an item is not between pd_upper and pd_special, or not below the one before.
  let inside = 0;
  let descending = 0;
  // Items that lie side by side, [head, tail), go to `upper` together.
  let head = special;
  let tail = special;
  let runs = 0;
  const first = (page + SIZE_OF_PAGE_HEADER) >>> 2;
  for (let at = first; at < first + lines; at++) {
    const inUse = -((((ints[at]! >>> 15) & 3) + 3) >>> 2);
    const id = ints[at]! & inUse;
    unused += 1 + inUse;
    const offset = id & 0x7fff;
    const length = ((id >>> 17) + 7) & ~7;
    const stored = -length >> 31;
    inside |= ((offset - oldUpper) | -(offset & 7) | (special - offset - length)) & stored;
    descending |= (head - 1 - offset) & stored;
    if (((head - offset - length) & stored) !== 0) {
      itemOffset[runs] = head;
      itemLength[runs] = tail - head;
      itemTarget[runs++] = upper;
      tail = offset + length;
    }
    upper -= length;
    head += (offset - head) & stored;
    ints[at] = (id & ~(0x7fff & stored)) | (upper & stored);
  }
  if (inside < 0) {
    c.fail(`a line pointer names bytes that are not in ${oldUpper} to ${special}, or not aligned`);
  }
  if (upper < view.getUint16(page + PD_LOWER, true)) {
    c.fail(`tuples of ${special - upper} bytes on ${special} bytes of page`);
  }
  itemOffset[runs] = head;
  itemLength[runs] = tail - head;
  itemTarget[runs++] = upper;
  let source = page;
  if (descending < 0) {
    // Moving in place could overwrite a tuple that has yet to move. (`page` is never the scratch page.)
    source = SCRATCH;
    c.bytes.copyWithin(source + oldUpper, page + oldUpper, page + special);
  }
  for (let run = 0; run < runs; run++) {
    const from = itemOffset[run]!;
    const to = itemTarget[run]!;
    if (from !== to) {
      c.moveUp(page + to, source + from, itemLength[run]!);
    }
  }
  view.setUint16(page + PD_UPPER, upper, true);
  return unused;
}

/** `PageRepairFragmentation`, heap pages only; `truncate` (15 and later): also cut the array. */
export function repairFragmentation(c: RedoContext, page: number, truncate: boolean): void {
  checkPagePointers(c, page);
  const lines = maxOffsetNumber(c, page);
  let unused = compactifyTuples(c, page, lines);
  let kept = lines;
  while (truncate && kept > 0 && c.ints[((page + SIZE_OF_PAGE_HEADER) >>> 2) + kept - 1] === 0) {
    kept--;
    unused--;
  }
  c.view.setUint16(page + PD_LOWER, SIZE_OF_PAGE_HEADER + (kept << 2), true);
  setHasFreeLinePointers(c, page, unused > 0);
}

/** `PageTruncateLinePointerArray`: cuts unused line pointers off the end, but leaves one. */
export function truncateLinePointerArray(c: RedoContext, page: number): void {
  const view = c.view;
  let lines = maxOffsetNumber(c, page);
  const flagsOf = (offnum: number) =>
    (view.getUint32(page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2), true) >>> 15) & 3;
  while (lines > 1 && flagsOf(lines) === LP_UNUSED) {
    lines--;
  }
  let hint = false;
  for (let i = lines; i >= 1 && !hint; i--) {
    hint = flagsOf(i) === LP_UNUSED;
  }
  view.setUint16(page + PD_LOWER, SIZE_OF_PAGE_HEADER + (lines << 2), true);
  setHasFreeLinePointers(c, page, hint);
}

/** Shifts lp_off of the items at or below `offset` by `by`. */
function shiftItems(c: RedoContext, page: number, offset: number, by: number): void {
  const view = c.view;
  const end = page + view.getUint16(page + PD_LOWER, true);
  for (let at = page + SIZE_OF_PAGE_HEADER; at < end; at += 4) {
    const id = view.getUint32(at, true);
    const own = id & 0x7fff;
    if (id >>> 17 !== 0 && own <= offset) {
      view.setUint32(at, ((id & ~0x7fff) | ((own + by) & 0x7fff)) >>> 0, true);
    }
  }
}

/** Checks an index item that is to move or go; returns its offset within the page. */
function indexItemOffset(c: RedoContext, page: number, offnum: number): number {
  const offset = storedItem(c, page, offnum, 0) - page;
  if ((offset & 7) !== 0 || offset + ((itemLength(c, page, offnum) + 7) & ~7) > PAGE_SIZE) {
    c.fail(`line pointer ${offnum} names byte ${offset}, which is not aligned`);
  }
  return offset;
}

/** `PageIndexTupleDelete`: the line pointer goes too. */
export function indexTupleDelete(c: RedoContext, page: number, offnum: number): void {
  checkPagePointers(c, page);
  const { bytes, view } = c;
  const offset = indexItemOffset(c, page, offnum);
  const size = (itemLength(c, page, offnum) + 7) & ~7;
  const lower = view.getUint16(page + PD_LOWER, true);
  const upper = view.getUint16(page + PD_UPPER, true);
  const at = page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2);
  bytes.copyWithin(at, at + 4, page + lower);
  bytes.copyWithin(page + upper + size, page + upper, page + offset);
  view.setUint16(page + PD_UPPER, upper + size, true);
  view.setUint16(page + PD_LOWER, lower - 4, true);
  shiftItems(c, page, offset, size);
}

/** `PageIndexTupleDeleteNoCompact`: line pointers keep their numbers; only the last one can go. */
export function indexTupleDeleteNoCompact(c: RedoContext, page: number, offnum: number): void {
  checkPagePointers(c, page);
  const { bytes, view } = c;
  const offset = indexItemOffset(c, page, offnum);
  const size = (itemLength(c, page, offnum) + 7) & ~7;
  const upper = view.getUint16(page + PD_UPPER, true);
  if (offnum < maxOffsetNumber(c, page)) {
    view.setUint32(page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2), 0, true);
  } else {
    view.setUint16(page + PD_LOWER, view.getUint16(page + PD_LOWER, true) - 4, true);
  }
  bytes.copyWithin(page + upper + size, page + upper, page + offset);
  view.setUint16(page + PD_UPPER, upper + size, true);
  shiftItems(c, page, offset, size);
}

/**
 * `PageIndexMultiDelete` of `count` offset numbers, ascending, stored as uint16 at `offsets` in the
 * arena (checked by the caller to be there).
 */
export function indexMultiDelete(
  c: RedoContext,
  page: number,
  offsets: number,
  count: number,
): void {
  const { view, ints } = c;
  if (count <= 2) {
    // Postgres takes this path too, and the bytes left in the hole differ from the other one's.
    for (let i = count - 1; i >= 0; i--) {
      indexTupleDelete(c, page, view.getUint16(offsets + 2 * i, true));
    }
    return;
  }
  checkPagePointers(c, page);
  const lines = maxOffsetNumber(c, page);
  const first = (page + SIZE_OF_PAGE_HEADER) >>> 2;
  let kept = 0;
  let next = 0;
  for (let offnum = 1; offnum <= lines; offnum++) {
    if (next < count && view.getUint16(offsets + 2 * next, true) === offnum) {
      next++;
    } else {
      // Line pointers only move down, so those still to be read are untouched.
      ints[first + kept++] = ints[first + offnum - 1]!;
    }
  }
  if (next !== count) {
    c.fail(`${count - next} of ${count} items to delete are not there, or not in order`);
  }
  view.setUint16(page + PD_LOWER, SIZE_OF_PAGE_HEADER + (kept << 2), true);
  compactifyTuples(c, page, kept);
}

/**
 * `PageIndexTupleOverwrite` but for the copy: gives line pointer `offnum` a room of `size` bytes at
 * the same place and returns where the new tuple goes.
 */
export function indexTupleOverwrite(
  c: RedoContext,
  page: number,
  offnum: number,
  size: number,
): number {
  checkPagePointers(c, page);
  const { bytes, view } = c;
  const offset = indexItemOffset(c, page, offnum);
  const oldSize = (itemLength(c, page, offnum) + 7) & ~7;
  const newSize = (size + 7) & ~7;
  const lower = view.getUint16(page + PD_LOWER, true);
  const upper = view.getUint16(page + PD_UPPER, true);
  if (newSize > oldSize + (upper - lower) || size > 0x7fff) {
    c.fail(`no room to make item ${offnum} ${size} bytes`);
  }
  const by = oldSize - newSize;
  if (by !== 0) {
    bytes.copyWithin(page + upper + by, page + upper, page + offset);
    view.setUint16(page + PD_UPPER, upper + by, true);
    shiftItems(c, page, offset, by);
  }
  const at = page + SIZE_OF_PAGE_HEADER + ((offnum - 1) << 2);
  const flags = (view.getUint32(at, true) >>> 15) & 3;
  view.setUint32(at, makeItemId(offset + by, flags, size), true);
  return page + offset + by;
}
