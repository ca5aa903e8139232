// Redo of pruning, vacuuming and freezing heap pages: three record kinds up to 16, one from 17 on.

import {
  XLHP_CLEANUP_LOCK,
  XLHP_HAS_DEAD_ITEMS,
  XLHP_HAS_FREEZE_PLANS,
  XLHP_HAS_NOW_UNUSED_ITEMS,
  XLHP_HAS_REDIRECTIONS,
} from "../postgres/opcodes.ts";
import {
  SIZE_OF_HEAP_TUPLE_HEADER,
  T_INFOMASK,
  T_INFOMASK2,
  T_XMAX,
  T_XVAC,
} from "./heap-tuple.ts";
import {
  LP_DEAD,
  LP_REDIRECT,
  lineNumber,
  makeItemId,
  normalItem,
  pageSetLsn,
  repairFragmentation,
  truncateLinePointerArray,
} from "./page-layout.ts";
import { PAGE, type RedoContext } from "./redo-context.ts";

const FROZEN_TRANSACTION_ID = 2;
const XLH_FREEZE_XVAC = 0x02;
const XLH_INVALID_XVAC = 0x04;

/** xmax u32, t_infomask2 u16, t_infomask u16, frzflags u8, pad, ntuples u16 (16 and later). */
const SIZE_OF_FREEZE_PLAN = 12;
/** xmax u32, offset u16, t_infomask2 u16, t_infomask u16, frzflags u8, pad (14 and 15). */
const SIZE_OF_FREEZE_TUPLE = 12;

/** The line pointers at `at` (uint16 offset numbers, checked to be there) become `id`. */
function setItems(c: RedoContext, at: number, count: number, id: number): void {
  const view = c.view;
  for (let i = 0; i < count; i++) {
    view.setUint32(lineNumber(c, PAGE, view.getUint16(at + 2 * i, true)), id, true);
  }
}

function redirectItems(c: RedoContext, at: number, count: number): void {
  const view = c.view;
  for (let i = 0; i < count; i++) {
    const from = lineNumber(c, PAGE, view.getUint16(at + 4 * i, true));
    const to = view.getUint16(at + 4 * i + 2, true);
    lineNumber(c, PAGE, to);
    view.setUint32(from, makeItemId(to, LP_REDIRECT, 0), true);
  }
}

function freezeTuple(
  c: RedoContext,
  offnum: number,
  xmax: number,
  infomask2: number,
  infomask: number,
  flags: number,
): void {
  const view = c.view;
  const tuple = normalItem(c, PAGE, offnum, SIZE_OF_HEAP_TUPLE_HEADER);
  view.setUint32(tuple + T_XMAX, xmax, true);
  if ((flags & XLH_FREEZE_XVAC) !== 0) {
    view.setUint32(tuple + T_XVAC, FROZEN_TRANSACTION_ID, true);
  }
  if ((flags & XLH_INVALID_XVAC) !== 0) {
    view.setUint32(tuple + T_XVAC, 0, true);
  }
  view.setUint16(tuple + T_INFOMASK, infomask, true);
  view.setUint16(tuple + T_INFOMASK2, infomask2, true);
}

/** `count` plans at `plans`, their offset numbers from `offsets` on; returns the end of those. */
function freezeByPlans(c: RedoContext, plans: number, count: number, offsets: number): number {
  const view = c.view;
  let at = offsets;
  for (let p = 0; p < count; p++) {
    const plan = plans + p * SIZE_OF_FREEZE_PLAN;
    const xmax = view.getUint32(plan, true);
    const infomask2 = view.getUint16(plan + 4, true);
    const infomask = view.getUint16(plan + 6, true);
    const flags = view.getUint8(plan + 8);
    const tuples = view.getUint16(plan + 10, true);
    c.needData(at, 2 * tuples);
    for (let i = 0; i < tuples; i++, at += 2) {
      freezeTuple(c, view.getUint16(at, true), xmax, infomask2, infomask, flags);
    }
  }
  return at;
}

/**
 * 17 and later. Main data: u8 reason, u8 flags. Block data, each part where its flag is set:
 * u16 nplans, u16 pad, plans; u16 n, (from, to)[n]; u16 n, dead[n]; u16 n, unused[n]; then the plans'
 * offset numbers.
 */
export function redoPruneFreeze(c: RedoContext): void {
  c.needMain(2);
  const view = c.view;
  const flags = view.getUint8(c.main + 1);
  let at = c.data;
  let plans = at;
  let planCount = 0;
  if ((flags & XLHP_HAS_FREEZE_PLANS) !== 0) {
    c.needData(at, 4);
    planCount = view.getUint16(at, true);
    plans = at + 4;
    at = plans + planCount * SIZE_OF_FREEZE_PLAN;
    c.needData(at, 0);
  }
  const items = flags & (XLHP_HAS_REDIRECTIONS | XLHP_HAS_DEAD_ITEMS | XLHP_HAS_NOW_UNUSED_ITEMS);
  if ((items & XLHP_HAS_REDIRECTIONS) !== 0) {
    const count = countAt(c, at, 4);
    redirectItems(c, at + 2, count);
    at += 2 + 4 * count;
  }
  if ((items & XLHP_HAS_DEAD_ITEMS) !== 0) {
    const count = countAt(c, at, 2);
    setItems(c, at + 2, count, makeItemId(0, LP_DEAD, 0));
    at += 2 + 2 * count;
  }
  if ((items & XLHP_HAS_NOW_UNUSED_ITEMS) !== 0) {
    const count = countAt(c, at, 2);
    setItems(c, at + 2, count, 0);
    at += 2 + 2 * count;
  }
  if (items !== 0) {
    // Without the cleanup lock nothing was moved: line pointers only went from dead to unused.
    if ((flags & XLHP_CLEANUP_LOCK) === 0) {
      truncateLinePointerArray(c, PAGE);
    } else {
      repairFragmentation(c, PAGE, c.version.repairTruncatesLinePointers);
    }
  }
  at = freezeByPlans(c, plans, planCount, at);
  if (at !== c.dataEnd) {
    c.fail(`${c.dataEnd - at} bytes of prune data too many`, at - c.delta);
  }
  pageSetLsn(c, PAGE);
}

function countAt(c: RedoContext, at: number, itemSize: number): number {
  c.needData(at, 2);
  const count = c.view.getUint16(at, true);
  c.needData(at + 2, count * itemSize);
  return count;
}

/**
 * PRUNE, 14 to 16: u32 horizon, u16 nredirected, u16 ndead. Block data: (from, to)[nredirected],
 * dead[ndead], and what is left is unused.
 */
export function redoPrune(c: RedoContext): void {
  c.needMain(8);
  const view = c.view;
  const redirected = view.getUint16(c.main + 4, true);
  const dead = view.getUint16(c.main + 6, true);
  const unusedAt = c.data + 4 * redirected + 2 * dead;
  c.needData(unusedAt, 0);
  redirectItems(c, c.data, redirected);
  setItems(c, c.data + 4 * redirected, dead, makeItemId(0, LP_DEAD, 0));
  setItems(c, unusedAt, (c.dataEnd - unusedAt) >> 1, 0);
  repairFragmentation(c, PAGE, c.version.repairTruncatesLinePointers);
  pageSetLsn(c, PAGE);
}

/** VACUUM, 14 to 16: u16 nunused. Block data: unused[nunused]. */
export function redoVacuum(c: RedoContext): void {
  c.needMain(2);
  const count = c.view.getUint16(c.main, true);
  c.needData(c.data, 2 * count);
  setItems(c, c.data, count, 0);
  truncateLinePointerArray(c, PAGE);
  pageSetLsn(c, PAGE);
}

/** FREEZE_PAGE, 14 to 16: u32 horizon, u16 ntuples (16: nplans). Block data: tuples, or plans and offsets. */
export function redoFreezePage(c: RedoContext): void {
  c.needMain(6);
  const view = c.view;
  const count = view.getUint16(c.main + 4, true);
  c.needData(c.data, count * SIZE_OF_FREEZE_TUPLE);
  if (c.version.pruneFormat === "prune-vacuum-freeze-plans") {
    freezeByPlans(c, c.data, count, c.data + count * SIZE_OF_FREEZE_PLAN);
  } else {
    for (let i = 0, at = c.data; i < count; i++, at += SIZE_OF_FREEZE_TUPLE) {
      freezeTuple(
        c,
        view.getUint16(at + 4, true),
        view.getUint32(at, true),
        view.getUint16(at + 6, true),
        view.getUint16(at + 8, true),
        view.getUint8(at + 10),
      );
    }
  }
  pageSetLsn(c, PAGE);
}
