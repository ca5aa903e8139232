// What heap and heap2 records say. Sources: access/heapam_xlog.h, rmgrdesc/heapdesc.c, 14-18.
//
// 14 and 15 have a wording of their own; from 16 on it is `key: value`, with lists. The combined prune
// record came with 17, the invalidations of INPLACE with 18.

import {
  XLHP_HAS_CONFLICT_HORIZON,
  XLHP_HAS_DEAD_ITEMS,
  XLHP_HAS_FREEZE_PLANS,
  XLHP_HAS_NOW_UNUSED_ITEMS,
  XLHP_HAS_REDIRECTIONS,
  XLHP_IS_CATALOG_REL,
  XLOG_HEAP_INIT_PAGE,
} from "../postgres/opcodes.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { RecordData } from "./record-data.ts";
import {
  hexByte,
  invalidations,
  letter,
  list,
  offsetNumbers,
  type RecordKind,
  relation,
  rmgrTextWithInit,
} from "./text-format.ts";

const INIT_HEAP = new Set([0x00, 0x20, 0x40]);
const INIT_HEAP2 = new Set([0x50]);

const INFOBITS = ["IS_MULTI", "LOCK_ONLY", "EXCL_LOCK", "KEYSHR_LOCK", "KEYS_UPDATED"];

function bits(names: readonly string[], value: number): string[] {
  return names.filter((_, bit) => (value & (1 << bit)) !== 0);
}

/** Each with a space behind it, as 14 and 15 have them. */
function infobits15(value: number): string {
  return bits(INFOBITS, value)
    .map((name) => `${name} `)
    .join("");
}

function infobits(value: number): string {
  return `[${bits(INFOBITS, value).join(", ")}]`;
}

/** xl_heap_update: u32 old_xmax; u16 old_offnum; u8 old_infobits, flags; u32 new_xmax; u16 new_offnum. */
function update15(main: RecordData): string {
  const old = `off ${main.u16(4)} xmax ${main.u32(0)} flags ${hexByte(main.u8(7))}`;
  return `${old} ${infobits15(main.u8(6))}; new off ${main.u16(12)} xmax ${main.u32(8)}`;
}

function update(main: RecordData): string {
  const old = `old_xmax: ${main.u32(0)}, old_off: ${main.u16(4)}`;
  const flags = `old_infobits: ${infobits(main.u8(6))}, flags: ${hexByte(main.u8(7))}`;
  return `${old}, ${flags}, new_xmax: ${main.u32(8)}, new_off: ${main.u16(12)}`;
}

/** xl_heap_delete, xl_heap_lock, xl_heap_lock_updated: u32 xmax; u16 offnum; u8 infobits, flags. */
function lock(main: RecordData): string {
  const tuple = `xmax: ${main.u32(0)}, off: ${main.u16(4)}`;
  return `${tuple}, infobits: ${infobits(main.u8(6))}, flags: ${hexByte(main.u8(7))}`;
}

/** xl_heap_truncate: u32 dbId, nrelids; u8 flags; u32 relids[] at 12. */
function truncate15(main: RecordData): string {
  const flags = bits(["cascade ", "restart_seqs "], main.u8(8)).join("");
  const count = main.count(4, 12, 4);
  let text = `${flags}nrelids ${count} relids`;
  for (let i = 0; i < count; i++) {
    text += ` ${main.u32(12 + 4 * i)}`;
  }
  return text;
}

function truncate(main: RecordData): string {
  const flags = bits(["CASCADE", "RESTART_SEQS"], main.u8(8)).join(", ");
  const count = main.u32(4);
  const relids = list(main, 12, count, 4, (at) => `${main.u32(at)}`);
  return `flags: [${flags}], nrelids: ${count}, relids: ${relids}`;
}

const HEAP_15: Readonly<Record<number, RecordKind>> = {
  0: ["INSERT", (main) => `off ${main.u16(0)} flags ${hexByte(main.u8(2))}`],
  16: [
    "DELETE",
    (main) => `off ${main.u16(4)} flags ${hexByte(main.u8(7))} ${infobits15(main.u8(6))}`,
  ],
  32: ["UPDATE", update15],
  48: ["TRUNCATE", truncate15],
  64: ["HOT_UPDATE", update15],
  80: ["HEAP_CONFIRM", (main) => `off ${main.u16(0)}`],
  96: [
    "LOCK",
    (main) =>
      `off ${main.u16(4)}: xid ${main.u32(0)}: flags ${hexByte(main.u8(7))} ${infobits15(main.u8(6))}`,
  ],
  112: ["INPLACE", (main) => `off ${main.u16(0)}`],
};

const HEAP_16: Readonly<Record<number, RecordKind>> = {
  0: ["INSERT", (main) => `off: ${main.u16(0)}, flags: ${hexByte(main.u8(2))}`],
  16: ["DELETE", lock],
  32: ["UPDATE", update],
  48: ["TRUNCATE", truncate],
  64: ["HOT_UPDATE", update],
  80: ["HEAP_CONFIRM", (main) => `off: ${main.u16(0)}`],
  96: ["LOCK", lock],
  112: ["INPLACE", (main) => `off: ${main.u16(0)}`],
};

/** xl_heap_inplace of 18: u16 offnum; u32 dbId, tsId; u8 relcacheInitFileInval; i32 nmsgs; messages. */
function inplace18(main: RecordData): string {
  const initFile = main.u8(12) === 0 ? undefined : { dbOid: main.u32(4), spcOid: main.u32(8) };
  return `off: ${main.u16(0)}${invalidations(main, 20, main.i32(16), initFile)}`;
}

const HEAP_18: typeof HEAP_16 = { ...HEAP_16, 112: ["INPLACE", inplace18] };

/** xl_heap_new_cid: u32 top_xid, cmin, cmax, combocid; RelFileLocator; ItemPointer. */
function newCid(separator: string, colon: string): (main: RecordData) => string {
  return (main) => {
    const tid = `tid${colon} ${main.blockId(28)}/${main.u16(32)}`;
    const ids = `cmin: ${main.u32(4)}, cmax: ${main.u32(8)}, combo: ${main.u32(12)}`;
    return `rel${colon} ${relation(main, 16)}${separator} ${tid}${separator} ${ids}`;
  };
}

const HEAP2_15: Readonly<Record<number, RecordKind>> = {
  0: ["REWRITE"],
  16: [
    "PRUNE",
    (main) => `latestRemovedXid ${main.u32(0)} nredirected ${main.u16(4)} ndead ${main.u16(6)}`,
  ],
  32: ["VACUUM", (main) => `nunused ${main.u16(0)}`],
  48: ["FREEZE_PAGE", (main) => `cutoff xid ${main.u32(0)} ntuples ${main.u16(4)}`],
  64: ["VISIBLE", (main) => `cutoff xid ${main.u32(0)} flags ${hexByte(main.u8(4))}`],
  80: ["MULTI_INSERT", (main) => `${main.u16(2)} tuples flags ${hexByte(main.u8(0))}`],
  96: [
    "LOCK_UPDATED",
    (main) =>
      `off ${main.u16(4)}: xmax ${main.u32(0)}: flags ${hexByte(main.u8(7))} ${infobits15(main.u8(6))}`,
  ],
  112: ["NEW_CID", newCid(";", "")],
};

/** xl_heap_multi_insert: u8 flags; u16 ntuples; u16 offsets[] unless the page is initialized. */
function multiInsert(main: RecordData, record: XLogRecord): string {
  const count = main.u16(2);
  const text = `ntuples: ${count}, flags: ${hexByte(main.u8(0))}`;
  const hasOffsets =
    RecordData.block(record, 0) !== undefined && (record.info & XLOG_HEAP_INIT_PAGE) === 0;
  return hasOffsets ? `${text}, offsets: ${offsetNumbers(main, 4, count)}` : text;
}

/** A sub-list of a prune record, left out where it is empty. */
function part(name: string, count: number, items: () => string): string {
  return count === 0 ? "" : `, ${name}: ${items()}`;
}

/** xl_heap_prune of 16: u32 horizon; u16 nredirected, ndead. The rest of the data: unused ones. */
function prune16(main: RecordData, record: XLogRecord): string {
  const [nredirected, ndead] = [main.u16(4), main.u16(6)];
  const text =
    `snapshotConflictHorizon: ${main.u32(0)}, nredirected: ${nredirected}, ` + `ndead: ${ndead}`;
  const data = RecordData.block(record, 0);
  if (data === undefined) {
    return text;
  }
  const dead = nredirected * 4;
  const unused = dead + ndead * 2;
  const nunused = Math.floor((data.length - unused) / 2);
  return (
    `${text}, nunused: ${nunused}, redirected: ${redirections(data, 0, nredirected)}, ` +
    `dead: ${offsetNumbers(data, dead, ndead)}, unused: ${offsetNumbers(data, unused, nunused)}`
  );
}

function redirections(data: RecordData, offset: number, count: number): string {
  return list(data, offset, count, 4, (at) => `${data.u16(at)}->${data.u16(at + 2)}`);
}

function vacuum16(main: RecordData, record: XLogRecord): string {
  const count = main.u16(0);
  const data = RecordData.block(record, 0);
  const unused = data === undefined ? "" : `, unused: ${offsetNumbers(data, 0, count)}`;
  return `nunused: ${count}${unused}`;
}

const FREEZE_PLAN_SIZE = 12;

/** xl_heap_freeze_plan: u32 xmax; u16 infomask2, infomask; u8 flags; u16 ntuples. Offsets follow all plans. */
function freezePlans(data: RecordData, offset: number, count: number, offsets: number): string {
  let next = offsets;
  return list(data, offset, count, FREEZE_PLAN_SIZE, (at) => {
    const ntuples = data.u16(at + 10);
    const masks = `infomask: ${data.u16(at + 6)}, infomask2: ${data.u16(at + 4)}`;
    const tuples = `ntuples: ${ntuples}, offsets: ${offsetNumbers(data, next, ntuples)}`;
    next += ntuples * 2;
    return `{ xmax: ${data.u32(at)}, ${masks}, ${tuples} }`;
  });
}

function freeze16(main: RecordData, record: XLogRecord): string {
  const count = main.u16(4);
  const text = `snapshotConflictHorizon: ${main.u32(0)}, nplans: ${count}`;
  const data = RecordData.block(record, 0);
  return data === undefined
    ? text
    : `${text}, plans: ${freezePlans(data, 0, count, count * FREEZE_PLAN_SIZE)}`;
}

const HEAP2_16: Readonly<Record<number, RecordKind>> = {
  0: ["REWRITE"],
  16: ["PRUNE", prune16],
  32: ["VACUUM", vacuum16],
  48: ["FREEZE_PAGE", freeze16],
  64: [
    "VISIBLE",
    (main) => `snapshotConflictHorizon: ${main.u32(0)}, flags: ${hexByte(main.u8(4))}`,
  ],
  80: ["MULTI_INSERT", multiInsert],
  96: ["LOCK_UPDATED", lock],
  112: ["NEW_CID", newCid(",", ":")],
};

/**
 * xl_heap_prune of 17: u8 reason, flags; u32 horizon if flagged. Block data: each part that is flagged
 * with a u16 count in front (the plans 4-byte aligned), then the offsets of the freeze plans.
 */
function prune17(main: RecordData, record: XLogRecord): string {
  const flags = main.u8(1);
  const horizon =
    (flags & XLHP_HAS_CONFLICT_HORIZON) === 0 ? "" : `snapshotConflictHorizon: ${main.u32(2)}`;
  const text = `${horizon}, isCatalogRel: ${letter(flags & XLHP_IS_CATALOG_REL)}`;
  const data = RecordData.block(record, 0);
  if (data === undefined) {
    return text;
  }
  let at = 0;
  const section = (flag: number, width: number, head = 2) => {
    if ((flags & flag) === 0) {
      return { count: 0, first: at };
    }
    const found = { count: data.u16(at), first: at + head };
    at = found.first + found.count * width;
    return found;
  };
  const plans = section(XLHP_HAS_FREEZE_PLANS, FREEZE_PLAN_SIZE, 4);
  const redirected = section(XLHP_HAS_REDIRECTIONS, 4);
  const dead = section(XLHP_HAS_DEAD_ITEMS, 2);
  const unused = section(XLHP_HAS_NOW_UNUSED_ITEMS, 2);
  const offsets = at;
  return (
    `${text}, nplans: ${plans.count}, nredirected: ${redirected.count}, ` +
    `ndead: ${dead.count}, nunused: ${unused.count}` +
    part("plans", plans.count, () => freezePlans(data, plans.first, plans.count, offsets)) +
    part("redirected", redirected.count, () =>
      redirections(data, redirected.first, redirected.count),
    ) +
    part("dead", dead.count, () => offsetNumbers(data, dead.first, dead.count)) +
    part("unused", unused.count, () => offsetNumbers(data, unused.first, unused.count))
  );
}

const HEAP2_17: Readonly<Record<number, RecordKind>> = {
  ...HEAP2_16,
  16: ["PRUNE_ON_ACCESS", prune17],
  32: ["PRUNE_VACUUM_SCAN", prune17],
  48: ["PRUNE_VACUUM_CLEANUP", prune17],
};

export const heapText15 = rmgrTextWithInit(HEAP_15, INIT_HEAP);
export const heapText16 = rmgrTextWithInit(HEAP_16, INIT_HEAP);
export const heapText18 = rmgrTextWithInit(HEAP_18, INIT_HEAP);
export const heap2Text15 = rmgrTextWithInit(HEAP2_15, INIT_HEAP2);
export const heap2Text16 = rmgrTextWithInit(HEAP2_16, INIT_HEAP2);
export const heap2Text17 = rmgrTextWithInit(HEAP2_17, INIT_HEAP2);
