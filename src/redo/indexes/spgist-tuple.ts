// Tuples as SP-GiST pages hold them, and what redo does to them (access/spgist_private.h, 14-18).
//
// Every tuple begins with a u32 whose low two bits are its state: LIVE 0, REDIRECT 1, DEAD 2,
// PLACEHOLDER 3.
//   leaf:  u32 state, size << 2; u16 t_info: next in chain 14 bits, has nulls 0x8000; TID 6 bytes; datum
//   dead:  as a leaf of 16 bytes: the TID is where a redirect leads, then u32 xid
//   inner: u32 state, allTheSame << 2, nNodes << 3 (13 bits), prefixSize << 16; u16 size; 2 bytes; the
//          prefix; the nodes, each an IndexTupleData whose TID is its downlink, and a label
// SpGistPageOpaqueData, the 8 bytes of special space:
//   offset size field
//     8184    2 flags           META 1, LEAF 4, NULLS 8
//     8186    2 nRedirection
//     8188    2 nPlaceholder
//     8190    2 spgist_page_id  0xFF82

import { INVALID_BLOCK_NUMBER, PAGE_SIZE } from "../../postgres/page.ts";
import {
  indexMultiDelete,
  indexTupleDelete,
  itemLength,
  maxOffsetNumber,
  pageInit,
  storedItem,
} from "../page-layout.ts";
import { PAGE, type RedoContext, TUPLE } from "../redo-context.ts";
import { indexTupleSize, SIZE_OF_INDEX_TUPLE, setTidBlkno } from "./btree-tuple.ts";
import { addItemFrom } from "./index-tuples.ts";

const SPGIST_META = 1 << 0;
export const SPGIST_LEAF = 1 << 2;
export const SPGIST_NULLS = 1 << 3;

export const SPGIST_REDIRECT = 1;
export const SPGIST_DEAD = 2;
export const SPGIST_PLACEHOLDER = 3;

export const SIZE_OF_SPGIST_OPAQUE = 8;
const FLAGS = PAGE + PAGE_SIZE - 8;
const N_REDIRECTION = PAGE + PAGE_SIZE - 6;
const N_PLACEHOLDER = PAGE + PAGE_SIZE - 4;
const PAGE_ID = PAGE + PAGE_SIZE - 2;
const SPGIST_PAGE_ID = 0xff82;

/** Of a dead tuple; no leaf is smaller. */
export const SIZE_OF_DEAD_TUPLE = 16;
const SIZE_OF_INNER_HEADER = 8;
const T_INFO = 4;
const NEXT_OFFSET_MASK = 0x3fff;
const POINTER = 6;
const DEAD_XID = 12;
/** More line pointers do not fit a page. */
const MAX_ITEMS = 2042;

export function spgistPageInit(c: RedoContext, flags: number): void {
  pageInit(c, PAGE, SIZE_OF_SPGIST_OPAQUE);
  c.view.setUint16(FLAGS, flags, true);
  c.view.setUint16(PAGE_ID, SPGIST_PAGE_ID, true);
}

/** No record changes the metapage, where line pointers would be its contents. */
export function checkNotMeta(c: RedoContext): void {
  if ((c.view.getUint16(FLAGS, true) & SPGIST_META) !== 0) {
    c.fail("the page is a metapage");
  }
}

function count(c: RedoContext, field: number, by: number): void {
  const value = c.view.getUint16(field, true) + by;
  if (value < 0) {
    c.fail(`the page counts ${value - by} tuples of a kind, ${-by} of which are to go`);
  }
  c.view.setUint16(field, value, true);
}

export function countRedirections(c: RedoContext, by: number): void {
  count(c, N_REDIRECTION, by);
}

export function countPlaceholders(c: RedoContext, by: number): void {
  count(c, N_PLACEHOLDER, by);
}

export function tupleState(c: RedoContext, tuple: number): number {
  return c.view.getUint8(tuple) & 3;
}

/** Size that the leaf tuple at `at` of the main data says it has; the main data goes on that far. */
export function takeLeafTuple(c: RedoContext, at: number): number {
  c.needMain(at + SIZE_OF_DEAD_TUPLE - c.main);
  const size = c.view.getUint32(at, true) >>> 2;
  if (size < SIZE_OF_DEAD_TUPLE || size > PAGE_SIZE) {
    c.fail(`leaf tuple of ${size} bytes`, at - c.delta);
  }
  c.needMain(at + size - c.main);
  return size;
}

/** As takeLeafTuple, for an inner tuple. */
export function takeInnerTuple(c: RedoContext, at: number): number {
  c.needMain(at + SIZE_OF_INNER_HEADER - c.main);
  const size = c.view.getUint16(at + T_INFO, true);
  if (size < SIZE_OF_INNER_HEADER) {
    c.fail(`inner tuple of ${size} bytes`, at - c.delta);
  }
  c.needMain(at + size - c.main);
  return size;
}

/** `addOrReplaceTuple`: in the place of a placeholder, or after the last item. */
export function addOrReplaceTuple(
  c: RedoContext,
  from: number,
  size: number,
  offnum: number,
): void {
  if (offnum <= maxOffsetNumber(c, PAGE)) {
    const old = storedItem(c, PAGE, offnum, SIZE_OF_DEAD_TUPLE);
    if (tupleState(c, old) !== SPGIST_PLACEHOLDER) {
      c.fail(`item ${offnum} to be replaced has state ${tupleState(c, old)}: no placeholder`);
    }
    countPlaceholders(c, -1);
    indexTupleDelete(c, PAGE, offnum);
  }
  addItemFrom(c, from, size, offnum);
}

/** Puts another tuple in the place of item `offnum`, whatever that is. */
export function replaceTuple(c: RedoContext, from: number, size: number, offnum: number): void {
  indexTupleDelete(c, PAGE, offnum);
  addItemFrom(c, from, size, offnum);
}

/** Links leaf tuple `offnum` to the next of its chain, `next`. */
export function setNextOffset(c: RedoContext, offnum: number, next: number): void {
  const at = storedItem(c, PAGE, offnum, SIZE_OF_DEAD_TUPLE) + T_INFO;
  const info = c.view.getUint16(at, true);
  c.view.setUint16(at, (info & ~NEXT_OFFSET_MASK) | (next & NEXT_OFFSET_MASK), true);
}

function setPointer(c: RedoContext, tuple: number, blkno: number, offnum: number): void {
  setTidBlkno(c, tuple + POINTER, blkno);
  c.view.setUint16(tuple + POINTER + 4, offnum, true);
}

/** `spgFormDeadTuple`, into the arena's tuple space; `xid` and the target count for a redirect only. */
export function formDeadTuple(
  c: RedoContext,
  state: number,
  blkno: number,
  offnum: number,
  xid: number,
): void {
  const redirect = state === SPGIST_REDIRECT;
  c.view.setUint32(TUPLE, state | (SIZE_OF_DEAD_TUPLE << 2), true);
  c.view.setUint16(TUPLE + T_INFO, 0, true);
  setPointer(c, TUPLE, redirect ? blkno : INVALID_BLOCK_NUMBER, redirect ? offnum : 0);
  c.view.setUint32(TUPLE + DEAD_XID, redirect ? xid : 0, true);
}

/** Makes a placeholder of redirect tuple `offnum`, which keeps its xid. */
export function redirectToPlaceholder(c: RedoContext, offnum: number): void {
  const tuple = storedItem(c, PAGE, offnum, SIZE_OF_DEAD_TUPLE);
  if (tupleState(c, tuple) !== SPGIST_REDIRECT) {
    c.fail(`item ${offnum} has state ${tupleState(c, tuple)}: no redirect`);
  }
  c.view.setUint8(tuple, c.view.getUint8(tuple) | SPGIST_PLACEHOLDER);
  setPointer(c, tuple, INVALID_BLOCK_NUMBER, 0);
}

/** Where a redirect leads, and since which transaction. */
export interface RedirectTarget {
  readonly blkno: number;
  readonly offnum: number;
  readonly xid: number;
}

const NO_TARGET: RedirectTarget = { blkno: INVALID_BLOCK_NUMBER, offnum: 0, xid: 0 };

/**
 * `spgPageIndexMultiDelete`: dead tuples take the places of the `items` items whose offset numbers, in
 * any order, are u16 at `offsets` in the delta. The first listed gets state `firstState`, the others
 * `restState`.
 */
export function multiDelete(
  c: RedoContext,
  offsets: number,
  items: number,
  firstState: number,
  restState: number,
  target: RedirectTarget = NO_TARGET,
): void {
  if (items === 0) {
    return;
  }
  if (items > MAX_ITEMS) {
    c.fail(`${items} tuples to delete from a page`, offsets - c.delta);
  }
  const { view } = c;
  const firstItem = view.getUint16(offsets, true);
  // Sorted in the delta itself: it is a private copy, and its order is not asked for again.
  const sorted = new Uint16Array(items);
  for (let i = 0; i < items; i++) {
    sorted[i] = view.getUint16(offsets + 2 * i, true);
  }
  sorted.sort();
  for (let i = 0; i < items; i++) {
    if (i > 0 && sorted[i] === sorted[i - 1]) {
      c.fail(`item ${sorted[i]} is to be deleted twice`, offsets - c.delta);
    }
    view.setUint16(offsets + 2 * i, sorted[i]!, true);
  }
  indexMultiDelete(c, PAGE, offsets, items);
  for (let i = 0; i < items; i++) {
    const state = sorted[i] === firstItem ? firstState : restState;
    formDeadTuple(c, state, target.blkno, target.offnum, target.xid);
    addItemFrom(c, TUPLE, SIZE_OF_DEAD_TUPLE, sorted[i]!);
    if (state === SPGIST_REDIRECT) {
      countRedirections(c, 1);
    } else if (state === SPGIST_PLACEHOLDER) {
      countPlaceholders(c, 1);
    }
  }
}

/** `spgUpdateNodeLink`: node number `node` of inner tuple `offnum` leads to another place now. */
export function updateNodeLink(
  c: RedoContext,
  offnum: number,
  node: number,
  blkno: number,
  target: number,
): void {
  const tuple = storedItem(c, PAGE, offnum, SIZE_OF_INNER_HEADER);
  const end = tuple + itemLength(c, PAGE, offnum);
  const head = c.view.getUint32(tuple, true);
  const nodes = (head >>> 3) & 0x1fff;
  if (node >= nodes) {
    c.fail(`inner tuple ${offnum} has ${nodes} nodes, none with number ${node}`);
  }
  let at = tuple + SIZE_OF_INNER_HEADER + (head >>> 16);
  for (let i = 0; ; i++) {
    const size = at + SIZE_OF_INDEX_TUPLE <= end ? indexTupleSize(c, at) : 0;
    if (size < SIZE_OF_INDEX_TUPLE || at + size > end) {
      c.fail(`node ${i} of inner tuple ${offnum} leaves the tuple`);
    }
    if (i === node) {
      setTidBlkno(c, at, blkno);
      c.view.setUint16(at + 4, target, true);
      return;
    }
    at += size;
  }
}
