// Redo of SP-GiST records, each for one of the pages it references (access/spgxlog.h, 14-18).
//
// All data is in the main data of the record, and not aligned. Pages and tuples: spgist-tuple.ts.
// Records call the page with the leaf tuples the source, the one they move to the destination.

import {
  XLOG_SPGIST_ADD_LEAF,
  XLOG_SPGIST_ADD_NODE,
  XLOG_SPGIST_MOVE_LEAFS,
  XLOG_SPGIST_PICKSPLIT,
  XLOG_SPGIST_SPLIT_TUPLE,
  XLOG_SPGIST_VACUUM_LEAF,
  XLOG_SPGIST_VACUUM_REDIRECT,
  XLOG_SPGIST_VACUUM_ROOT,
} from "../../postgres/opcodes.ts";
import { indexMultiDelete, lineNumber, maxOffsetNumber, pageSetLsn } from "../page-layout.ts";
import { PAGE, type RedoContext, TUPLE } from "../redo-context.ts";
import { checkSpecialSize } from "./index-tuples.ts";
import {
  addOrReplaceTuple,
  checkNotMeta,
  countPlaceholders,
  countRedirections,
  formDeadTuple,
  multiDelete,
  redirectToPlaceholder,
  replaceTuple,
  SIZE_OF_DEAD_TUPLE,
  SIZE_OF_SPGIST_OPAQUE,
  SPGIST_DEAD,
  SPGIST_LEAF,
  SPGIST_NULLS,
  SPGIST_PLACEHOLDER,
  SPGIST_REDIRECT,
  setNextOffset,
  spgistPageInit,
  takeInnerTuple,
  takeLeafTuple,
  updateNodeLink,
} from "./spgist-tuple.ts";

const INVALID_OFFSET = 0;

function main8(c: RedoContext, offset: number): number {
  return c.view.getUint8(c.main + offset);
}

function main16(c: RedoContext, offset: number): number {
  return c.view.getUint16(c.main + offset, true);
}

/** Byte of the main data that says, for each opcode and reference, whether the page is made anew. */
function initFlagOffset(c: RedoContext): number {
  switch (c.info & 0xf0) {
    case XLOG_SPGIST_ADD_LEAF:
      return c.blockId === 0 ? 0 : -1;
    case XLOG_SPGIST_MOVE_LEAFS:
      return c.blockId === 1 ? 2 : -1;
    case XLOG_SPGIST_ADD_NODE:
    case XLOG_SPGIST_SPLIT_TUPLE:
      return c.blockId === 1 ? 4 : -1;
    case XLOG_SPGIST_PICKSPLIT:
      return [6, 7, 10][c.blockId] ?? -1;
    default:
      return -1;
  }
}

/** Whether the record makes this reference's page from nothing. */
export function spgistInitsPage(c: RedoContext): boolean {
  const offset = initFlagOffset(c);
  if (offset < 0) {
    return false;
  }
  c.needMain(offset + 1);
  return main8(c, offset) !== 0;
}

export function redoSpgist(c: RedoContext): void {
  const init = spgistInitsPage(c);
  if (!init) {
    checkSpecialSize(c, SIZE_OF_SPGIST_OPAQUE, "SP-GiST");
    checkNotMeta(c);
  }
  switch (c.info & 0xf0) {
    case XLOG_SPGIST_ADD_LEAF:
      redoAddLeaf(c, init);
      break;
    case XLOG_SPGIST_MOVE_LEAFS:
      redoMoveLeafs(c, init);
      break;
    case XLOG_SPGIST_ADD_NODE:
      redoAddNode(c, init);
      break;
    case XLOG_SPGIST_SPLIT_TUPLE:
      redoSplitTuple(c, init);
      break;
    case XLOG_SPGIST_PICKSPLIT:
      redoPickSplit(c, init);
      break;
    case XLOG_SPGIST_VACUUM_LEAF:
      redoVacuumLeaf(c);
      break;
    case XLOG_SPGIST_VACUUM_ROOT:
      redoVacuumRoot(c);
      break;
    case XLOG_SPGIST_VACUUM_REDIRECT:
      redoVacuumRedirect(c);
      break;
    default:
      c.unsupported();
  }
  pageSetLsn(c, PAGE);
}

function noSuchReference(c: RedoContext): never {
  c.fail(`the record has no reference ${c.blockId}`, 3);
}

function initLeafPage(c: RedoContext, storesNulls: boolean): void {
  spgistPageInit(c, SPGIST_LEAF | (storesNulls ? SPGIST_NULLS : 0));
}

/**
 * spgxlogAddLeaf: u8 newPage, u8 storesNulls, u16 offnumLeaf, u16 offnumHeadLeaf, u16 offnumParent, u16
 * nodeI; the leaf tuple. References: 0 its page, 1 the parent's, if the downlink changes.
 */
function redoAddLeaf(c: RedoContext, init: boolean): void {
  c.needMain(10);
  const leaf = main16(c, 2);
  if (c.blockId !== 0) {
    updateNodeLink(c, main16(c, 6), main16(c, 8), c.requireReferenceBlkno(0), leaf);
    return;
  }
  if (init) {
    initLeafPage(c, main8(c, 1) !== 0);
  }
  const head = main16(c, 4);
  const tuple = c.main + 10;
  const size = takeLeafTuple(c, tuple);
  if (leaf === head) {
    // In the place of a dead tuple, which the chain still begins with.
    replaceTuple(c, tuple, size, leaf);
    return;
  }
  addOrReplaceTuple(c, tuple, size, leaf);
  if (head !== INVALID_OFFSET) {
    setNextOffset(c, head, leaf);
  }
}

/**
 * spgxlogMoveLeafs: u16 nMoves, u8 newPage, u8 replaceDead, u8 storesNulls, pad, u16 offnumParent, u16
 * nodeI, pad, state (12); u16 offsets that go, u16 offsets to insert at, the leaf tuples. References: 0
 * source, 1 destination, 2 parent.
 */
function redoMoveLeafs(c: RedoContext, init: boolean): void {
  c.needMain(20);
  const { view } = c;
  const moves = main16(c, 0);
  // The new tuple comes last, and alone where it takes the place of a dead one.
  const inserts = main8(c, 3) !== 0 ? 1 : moves + 1;
  const toDelete = c.main + 20;
  const toInsert = toDelete + 2 * moves;
  c.needMain(20 + 2 * (moves + inserts));
  const destination = c.requireReferenceBlkno(1);
  const last = view.getUint16(toInsert + 2 * (inserts - 1), true);
  switch (c.blockId) {
    case 0:
      multiDelete(
        c,
        toDelete,
        moves,
        main8(c, 16) !== 0 ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT,
        SPGIST_PLACEHOLDER,
        { blkno: destination, offnum: last, xid: view.getUint32(c.main + 12, true) },
      );
      return;
    case 1: {
      if (init) {
        initLeafPage(c, main8(c, 4) !== 0);
      }
      let at = toInsert + 2 * inserts;
      for (let i = 0; i < inserts; i++) {
        const size = takeLeafTuple(c, at);
        addOrReplaceTuple(c, at, size, view.getUint16(toInsert + 2 * i, true));
        at += size;
      }
      return;
    }
    case 2:
      updateNodeLink(c, main16(c, 6), main16(c, 8), destination, last);
      return;
    default:
      noSuchReference(c);
  }
}

/**
 * spgxlogAddNode: u16 offnum, u16 offnumNew, u8 newPage, i8 parentBlk, u16 offnumParent, u16 nodeI, pad,
 * state (12); the inner tuple. References: 0 its old page; where it moves, 1 the new one and perhaps 2
 * the parent's. parentBlk says which reference has the parent.
 */
function redoAddNode(c: RedoContext, init: boolean): void {
  c.needMain(20);
  const tuple = c.main + 20;
  const offnum = main16(c, 0);
  const newOffnum = main16(c, 2);
  const newBlkno = c.referenceBlkno(1);
  if (c.blockId > 2) {
    noSuchReference(c);
  }
  if (newBlkno < 0) {
    replaceTuple(c, tuple, takeInnerTuple(c, tuple), offnum);
    return;
  }
  if (c.blockId === 1) {
    if (init) {
      spgistPageInit(c, 0);
    }
    addOrReplaceTuple(c, tuple, takeInnerTuple(c, tuple), newOffnum);
  } else if (c.blockId === 0) {
    const build = main8(c, 16) !== 0;
    const xid = c.view.getUint32(c.main + 12, true);
    formDeadTuple(c, build ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT, newBlkno, newOffnum, xid);
    replaceTuple(c, TUPLE, SIZE_OF_DEAD_TUPLE, offnum);
    if (build) {
      countPlaceholders(c, 1);
    } else {
      countRedirections(c, 1);
    }
  }
  if (main8(c, 5) === c.blockId) {
    updateNodeLink(c, main16(c, 6), main16(c, 8), newBlkno, newOffnum);
  }
}

/**
 * spgxlogSplitTuple: u16 offnumPrefix, u16 offnumPostfix, u8 newPage, u8 postfixBlkSame; the prefix and
 * the postfix tuple. References: 0 the prefix's page, 1 the postfix's, if it is another.
 */
function redoSplitTuple(c: RedoContext, init: boolean): void {
  c.needMain(6);
  const prefix = c.main + 6;
  const prefixSize = takeInnerTuple(c, prefix);
  const postfix = prefix + prefixSize;
  const postfixSize = takeInnerTuple(c, postfix);
  if (c.blockId === 0) {
    replaceTuple(c, prefix, prefixSize, main16(c, 0));
    if (main8(c, 5) === 0) {
      return;
    }
  } else if (init) {
    spgistPageInit(c, 0);
  }
  addOrReplaceTuple(c, postfix, postfixSize, main16(c, 2));
}

/**
 * spgxlogPickSplit: u8 isRootSplit, pad, u16 nDelete, u16 nInsert, u8 initSrc, u8 initDest, u16
 * offnumInner, u8 initInner, u8 storesNulls, u8 innerIsParent, pad, u16 offnumParent, u16 nodeI, pad,
 * state (20); u16 offsets that go, u16 offsets to insert at, u8 page of each (0 source, else
 * destination), the inner tuple, the leaf tuples. References: 0 source (not the root), 1 destination, 2
 * the inner tuple's page, 3 the parent's, if it is another.
 */
function redoPickSplit(c: RedoContext, init: boolean): void {
  c.needMain(28);
  const { view } = c;
  const deletes = main16(c, 2);
  const inserts = main16(c, 4);
  const toDelete = c.main + 28;
  const toInsert = toDelete + 2 * deletes;
  const pageSelect = toInsert + 2 * inserts;
  const inner = pageSelect + inserts;
  const innerSize = takeInnerTuple(c, inner);
  const innerBlkno = c.requireReferenceBlkno(2);
  const innerOffnum = main16(c, 8);
  const storesNulls = main8(c, 11) !== 0;
  switch (c.blockId) {
    case 0:
    case 1:
      if (init) {
        initLeafPage(c, storesNulls);
      } else if (c.blockId === 0) {
        const build = main8(c, 24) !== 0;
        multiDelete(
          c,
          toDelete,
          deletes,
          build ? SPGIST_PLACEHOLDER : SPGIST_REDIRECT,
          SPGIST_PLACEHOLDER,
          { blkno: innerBlkno, offnum: innerOffnum, xid: view.getUint32(c.main + 20, true) },
        );
      }
      insertPicked(c, toInsert, pageSelect, inserts, inner + innerSize);
      return;
    case 2:
      if (init) {
        spgistPageInit(c, storesNulls ? SPGIST_NULLS : 0);
      }
      addOrReplaceTuple(c, inner, innerSize, innerOffnum);
      if (main8(c, 12) === 0) {
        return;
      }
      break;
    case 3:
      break;
    default:
      noSuchReference(c);
  }
  updateNodeLink(c, main16(c, 14), main16(c, 16), innerBlkno, innerOffnum);
}

/** The leaf tuples of a picksplit that go to this page, from `tuples` on. */
function insertPicked(
  c: RedoContext,
  toInsert: number,
  pageSelect: number,
  inserts: number,
  tuples: number,
): void {
  const { view } = c;
  let at = tuples;
  for (let i = 0; i < inserts; i++) {
    const size = takeLeafTuple(c, at);
    if ((view.getUint8(pageSelect + i) !== 0) === (c.blockId === 1)) {
      addOrReplaceTuple(c, at, size, view.getUint16(toInsert + 2 * i, true));
    }
    at += size;
  }
}

/**
 * spgxlogVacuumLeaf: u16 nDead, u16 nPlaceholder, u16 nMove, u16 nChain, state (8); u16 arrays: to make
 * dead, to make placeholders, to move from, to move to, to chain, to chain to.
 */
function redoVacuumLeaf(c: RedoContext): void {
  c.needMain(16);
  const { view } = c;
  const [dead, placeholders, moves, chains] = [0, 2, 4, 6].map((at) => main16(c, at)) as [
    number,
    number,
    number,
    number,
  ];
  c.needMain(16 + 2 * (dead + placeholders + 2 * moves + 2 * chains));
  const toDead = c.main + 16;
  const toPlaceholder = toDead + 2 * dead;
  const moveFrom = toPlaceholder + 2 * placeholders;
  const moveTo = moveFrom + 2 * moves;
  const chainFrom = moveTo + 2 * moves;
  const chainTo = chainFrom + 2 * chains;
  multiDelete(c, toDead, dead, SPGIST_DEAD, SPGIST_DEAD);
  multiDelete(c, toPlaceholder, placeholders, SPGIST_PLACEHOLDER, SPGIST_PLACEHOLDER);
  for (let i = 0; i < 2 * moves; i += 2) {
    const from = lineNumber(c, PAGE, view.getUint16(moveFrom + i, true));
    const to = lineNumber(c, PAGE, view.getUint16(moveTo + i, true));
    const id = view.getUint32(from, true);
    view.setUint32(from, view.getUint32(to, true), true);
    view.setUint32(to, id, true);
  }
  multiDelete(c, moveFrom, moves, SPGIST_PLACEHOLDER, SPGIST_PLACEHOLDER);
  for (let i = 0; i < 2 * chains; i += 2) {
    setNextOffset(c, view.getUint16(chainFrom + i, true), view.getUint16(chainTo + i, true));
  }
}

/** spgxlogVacuumRoot: u16 nDelete, pad, state (4); u16 offsets, ascending. */
function redoVacuumRoot(c: RedoContext): void {
  c.needMain(12);
  const deletes = main16(c, 0);
  c.needMain(12 + 2 * deletes);
  indexMultiDelete(c, PAGE, c.main + 12, deletes);
}

/**
 * spgxlogVacuumRedirect: u16 nToPlaceholder, u16 firstPlaceholder, u32 horizon, from 16 on u8
 * isCatalogRel and padding; u16 offsets of redirects. Placeholders from firstPlaceholder on go.
 */
function redoVacuumRedirect(c: RedoContext): void {
  const offsets = c.version.spgistRedirectOffsets;
  c.needMain(offsets);
  const { view } = c;
  const redirects = main16(c, 0);
  const firstPlaceholder = main16(c, 2);
  c.needMain(offsets + 2 * redirects);
  for (let i = 0; i < redirects; i++) {
    redirectToPlaceholder(c, view.getUint16(c.main + offsets + 2 * i, true));
  }
  countRedirections(c, -redirects);
  countPlaceholders(c, redirects);
  const last = maxOffsetNumber(c, PAGE);
  const placeholders = last - firstPlaceholder + 1;
  if (firstPlaceholder === INVALID_OFFSET || placeholders <= 0) {
    return;
  }
  for (let i = 0; i < placeholders; i++) {
    view.setUint16(TUPLE + 2 * i, firstPlaceholder + i, true);
  }
  countPlaceholders(c, -placeholders);
  indexMultiDelete(c, PAGE, TUPLE, placeholders);
}
