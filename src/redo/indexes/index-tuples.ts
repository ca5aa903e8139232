// Lists of index tuples in block data: how gist, gin and hash records carry what goes onto a page.

import { PAGE_SIZE, PD_SPECIAL } from "../../postgres/page.ts";
import { addIndexItem } from "../page-layout.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";
import { indexTupleSize, SIZE_OF_INDEX_TUPLE } from "./btree-tuple.ts";

/** `corrupt` unless the special space is of `size` bytes, as every page of the index has it. */
export function checkSpecialSize(c: RedoContext, size: number, what: string): void {
  const special = c.view.getUint16(PAGE + PD_SPECIAL, true);
  if (special !== PAGE_SIZE - size) {
    c.fail(`special space at ${special}: not a ${what} page`);
  }
}

/** Size that the index tuple at `at` of the block data says it has; the data goes on that far. */
export function takeIndexTuple(c: RedoContext, at: number): number {
  c.needData(at, SIZE_OF_INDEX_TUPLE);
  const size = indexTupleSize(c, at);
  if (size < SIZE_OF_INDEX_TUPLE) {
    c.fail(`index tuple of ${size} bytes`, at - c.delta);
  }
  c.needData(at, size);
  return size;
}

/** Adds `size` bytes at `from` in the delta as item `offnum`; later items move up. */
export function addItemFrom(c: RedoContext, from: number, size: number, offnum: number): void {
  c.bytes.copyWithin(addIndexItem(c, PAGE, offnum, size), from, from + size);
}
