// Redo of btree deduplication: runs of equal tuples on a leaf become posting lists.

import { PAGE_SIZE } from "../../postgres/page.ts";
import {
  addIndexItem,
  itemLength,
  maxOffsetNumber,
  pageInit,
  pageSetLsn,
  storedItem,
} from "../page-layout.ts";
import { PAGE, type RedoContext, SCRATCH, TUPLE, TUPLE2 } from "../redo-context.ts";
import { BTP_HAS_GARBAGE, BTPO_FLAGS, BTPO_NEXT } from "./btree-page.ts";
import {
  indexTupleSize,
  isPivot,
  isPosting,
  postingCount,
  postingOffset,
  SIZE_OF_INDEX_TUPLE,
  SIZE_OF_TID,
  setIndexTupleSize,
  setPosting,
} from "./btree-tuple.ts";

const BTPO = PAGE_SIZE - 16;
/** BTMaxItemSize: a third of a page. */
const MAX_POSTING_SIZE = 2704;

/**
 * Main data: u16 nintervals. Block data: intervals of u16 baseoff, u16 nitems: the items baseoff to
 * baseoff + nitems - 1 become one. The page is built anew in item order.
 */
export function redoDedup(c: RedoContext): void {
  c.needMain(2);
  const { view, bytes } = c;
  const intervals = view.getUint16(c.main, true);
  c.needData(c.data, 4 * intervals);
  const last = maxOffsetNumber(c, PAGE);
  pageInit(c, SCRATCH, 16);
  bytes.copyWithin(SCRATCH + BTPO, PAGE + BTPO, PAGE + PAGE_SIZE);
  let off = 1;
  let to = 1;
  if (view.getUint32(PAGE + BTPO_NEXT, true) !== 0) {
    copyItem(c, off++, to++, itemLength(c, PAGE, 1));
  }
  let next = 0;
  while (off <= last) {
    const base = next < intervals ? view.getUint16(c.data + 4 * next, true) : 0;
    if (base !== off) {
      const item = storedItem(c, PAGE, off, SIZE_OF_INDEX_TUPLE);
      copyItem(c, off++, to++, indexTupleSize(c, item));
      continue;
    }
    const count = view.getUint16(c.data + 4 * next + 2, true);
    if (count < 2 || off + count - 1 > last) {
      c.fail(`interval of ${count} items at ${off} of ${last}`, c.data + 4 * next - c.delta);
    }
    mergeItems(c, off, count, to++);
    off += count;
    next++;
  }
  if (next !== intervals) {
    c.fail(`${intervals - next} of ${intervals} intervals are not on the page`, c.data - c.delta);
  }
  const flags = view.getUint16(SCRATCH + BTPO_FLAGS, true);
  view.setUint16(SCRATCH + BTPO_FLAGS, flags & ~BTP_HAS_GARBAGE, true);
  bytes.copyWithin(PAGE, SCRATCH, SCRATCH + PAGE_SIZE);
  pageSetLsn(c, PAGE);
}

function copyItem(c: RedoContext, from: number, to: number, size: number): void {
  const item = storedItem(c, PAGE, from, size);
  const target = addIndexItem(c, SCRATCH, to, size);
  c.bytes.copyWithin(target, item, item + size);
}

/** Items [first, first + count) of the page become item `to` of the scratch page. */
function mergeItems(c: RedoContext, first: number, count: number, to: number): void {
  const { bytes } = c;
  const base = storedItem(c, PAGE, first, SIZE_OF_INDEX_TUPLE);
  const keySize = isPosting(c, base)
    ? postingOffset(c, base, itemLength(c, PAGE, first))
    : indexTupleSize(c, base);
  if (keySize < SIZE_OF_INDEX_TUPLE || keySize > itemLength(c, PAGE, first)) {
    c.fail(`item ${first} has a key of ${keySize} bytes`);
  }
  let tids = 0;
  for (let i = 0; i < count; i++) {
    const item = storedItem(c, PAGE, first + i, SIZE_OF_INDEX_TUPLE);
    if (isPivot(c, item)) {
      c.fail(`item ${first + i} is a pivot tuple`);
    }
    const posting = isPosting(c, item);
    const added = posting ? postingCount(c, item) : 1;
    if (((keySize + (tids + added) * SIZE_OF_TID + 7) & ~7) > MAX_POSTING_SIZE) {
      c.fail(`posting list of ${tids + added} TIDs`);
    }
    const from = posting ? item + postingOffset(c, item, itemLength(c, PAGE, first + i)) : item;
    bytes.copyWithin(TUPLE2 + tids * SIZE_OF_TID, from, from + added * SIZE_OF_TID);
    tids += added;
  }
  const size = (keySize + tids * SIZE_OF_TID + 7) & ~7;
  bytes.copyWithin(TUPLE, base, base + keySize);
  bytes.fill(0, TUPLE + keySize, TUPLE + size);
  bytes.copyWithin(TUPLE + keySize, TUPLE2, TUPLE2 + tids * SIZE_OF_TID);
  setIndexTupleSize(c, TUPLE, size);
  setPosting(c, TUPLE, tids, keySize);
  const target = addIndexItem(c, SCRATCH, to, size);
  bytes.copyWithin(target, TUPLE, TUPLE + size);
}
