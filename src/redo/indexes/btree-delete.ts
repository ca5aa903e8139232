// Redo of btree VACUUM and DELETE: items go, posting lists lose some of their TIDs.

import {
  indexMultiDelete,
  indexTupleOverwrite,
  itemLength,
  pageSetLsn,
  storedItem,
} from "../page-layout.ts";
import { PAGE, type RedoContext, TUPLE } from "../redo-context.ts";
import { BTP_HAS_GARBAGE, BTPO_CYCLEID, BTPO_FLAGS } from "./btree-page.ts";
import {
  indexTupleSize,
  isPosting,
  postingCount,
  postingOffset,
  SIZE_OF_INDEX_TUPLE,
  SIZE_OF_TID,
  setIndexTupleSize,
  setPlain,
  setPosting,
} from "./btree-tuple.ts";

/**
 * `counts`: u16 ndeleted, u16 nupdated in the main data. Block data: u16 deleted[ndeleted], u16
 * updated[nupdated], then for each updated item u16 ndeletedtids and u16 positions in its posting
 * list, ascending. Updates come first: deletions would renumber the items.
 */
export function redoDeleteItems(c: RedoContext, counts: number, clearCycleId: boolean): void {
  const view = c.view;
  const deleted = view.getUint16(counts, true);
  const updated = view.getUint16(counts + 2, true);
  c.needData(c.data, 2 * (deleted + updated));
  let at = c.data + 2 * (deleted + updated);
  for (let i = 0; i < updated; i++) {
    const offnum = view.getUint16(c.data + 2 * (deleted + i), true);
    c.needData(at, 2);
    const tids = view.getUint16(at, true);
    c.needData(at + 2, 2 * tids);
    updatePosting(c, offnum, at + 2, tids);
    at += 2 + 2 * tids;
  }
  if (deleted > 0) {
    indexMultiDelete(c, PAGE, c.data, deleted);
  }
  view.setUint16(
    PAGE + BTPO_FLAGS,
    view.getUint16(PAGE + BTPO_FLAGS, true) & ~BTP_HAS_GARBAGE,
    true,
  );
  if (clearCycleId) {
    view.setUint16(PAGE + BTPO_CYCLEID, 0, true);
  }
  pageSetLsn(c, PAGE);
}

/** `_bt_update_posting` and the overwrite: drops the TIDs at `count` positions stored at `positions`. */
function updatePosting(c: RedoContext, offnum: number, positions: number, count: number): void {
  const { view, bytes } = c;
  const old = storedItem(c, PAGE, offnum, SIZE_OF_INDEX_TUPLE);
  const total = isPosting(c, old) ? postingCount(c, old) : 0;
  const left = total - count;
  if (left < 1 || count < 1) {
    c.fail(`${count} of ${total} TIDs leave item ${offnum}`, positions - c.delta);
  }
  const keySize = postingOffset(c, old, itemLength(c, PAGE, offnum));
  if (keySize > indexTupleSize(c, old)) {
    c.fail(`item ${offnum} has a key of ${keySize} bytes`);
  }
  const size = left > 1 ? (keySize + left * SIZE_OF_TID + 7) & ~7 : keySize;
  bytes.copyWithin(TUPLE, old, old + keySize);
  bytes.fill(0, TUPLE + keySize, TUPLE + size);
  setIndexTupleSize(c, TUPLE, size);
  let to = TUPLE + keySize;
  let next = 0;
  let kept = old;
  for (let i = 0; i < total; i++) {
    if (next < count && view.getUint16(positions + 2 * next, true) === i) {
      next++;
      continue;
    }
    kept = old + keySize + i * SIZE_OF_TID;
    if (left > 1 && to + SIZE_OF_TID <= TUPLE + size) {
      bytes.copyWithin(to, kept, kept + SIZE_OF_TID);
      to += SIZE_OF_TID;
    }
  }
  if (next !== count) {
    c.fail(
      `TID ${view.getUint16(positions + 2 * next, true)} of item ${offnum}`,
      positions - c.delta,
    );
  }
  if (left > 1) {
    setPosting(c, TUPLE, left, keySize);
  } else {
    setPlain(c, TUPLE, kept);
  }
  bytes.copyWithin(indexTupleOverwrite(c, PAGE, offnum, size), TUPLE, TUPLE + size);
}
