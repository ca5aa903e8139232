// What GiST, SP-GiST and hash records say. Sources: access/gistxlog.h, access/spgxlog.h,
// access/hash_xlog.h, rmgrdesc/gistdesc.c, spgdesc.c, hashdesc.c. From 16 on the horizons have
// another name, and isCatalogRel follows them, which is told from 17 on.

import type { RecordData } from "./record-data.ts";
import { fullXid, letter, type RecordKind, relation, rmgrText, shortFloat } from "./text-format.ts";

type Kinds = Readonly<Record<number, RecordKind>>;

/** gistxlogPageReuse: RelFileLocator; u32 block; u64 horizon at 16; bool isCatalogRel from 16 on. */
function gistReuse(main: RecordData): string {
  return `rel ${relation(main, 0)}; blk ${main.u32(12)}`;
}

const GIST_15: Kinds = {
  0: ["PAGE_UPDATE"],
  16: ["DELETE", (main) => `delete: latestRemovedXid ${main.u32(0)}, nitems: ${main.u16(4)}`],
  32: ["PAGE_REUSE", (main) => `${gistReuse(main)}; latestRemovedXid ${fullXid(main, 16)}`],
  // gistxlogPageSplit: u32 origrlink; u64 orignsn; bool origleaf; u16 npage.
  48: ["PAGE_SPLIT", (main) => `page_split: splits to ${main.u16(18)} pages`],
  96: ["PAGE_DELETE", (main) => `deleteXid ${fullXid(main, 0)}; downlink ${main.u16(8)}`],
  112: ["ASSIGN_LSN"],
};

const GIST_16: Kinds = {
  ...GIST_15,
  16: ["DELETE", gistDelete],
  32: ["PAGE_REUSE", gistReuse16],
};

function gistDelete(main: RecordData): string {
  return `delete: snapshotConflictHorizon ${main.u32(0)}, nitems: ${main.u16(4)}`;
}

function gistReuse16(main: RecordData): string {
  return `${gistReuse(main)}; snapshotConflictHorizon ${fullXid(main, 16)}`;
}

const GIST_17: Kinds = {
  ...GIST_15,
  16: ["DELETE", (main) => `${gistDelete(main)}, isCatalogRel ${letter(main.u8(6))}`],
  32: ["PAGE_REUSE", (main) => `${gistReuse16(main)}, isCatalogRel ${letter(main.u8(24))}`],
};

function when(value: number, text: string): string {
  return value !== 0 ? text : "";
}

const SPGIST_15: Kinds = {
  16: [
    "ADD_LEAF",
    (main) =>
      `off: ${main.u16(2)}, headoff: ${main.u16(4)}, parentoff: ${main.u16(6)}, ` +
      `nodeI: ${main.u16(8)}${when(main.u8(0), " (newpage)")}${when(main.u8(1), " (nulls)")}`,
  ],
  32: [
    "MOVE_LEAFS",
    (main) =>
      `nmoves: ${main.u16(0)}, parentoff: ${main.u16(6)}, nodeI: ${main.u16(8)}` +
      when(main.u8(2), " (newpage)") +
      when(main.u8(3), " (replacedead)") +
      when(main.u8(4), " (nulls)"),
  ],
  48: [
    "ADD_NODE",
    (main) =>
      `off: ${main.u16(0)}, newoff: ${main.u16(2)}, parentBlk: ${main.i8(5)}, ` +
      `parentoff: ${main.u16(6)}, nodeI: ${main.u16(8)}${when(main.u8(4), " (newpage)")}`,
  ],
  64: [
    "SPLIT_TUPLE",
    (main) =>
      `prefixoff: ${main.u16(0)}, postfixoff: ${main.u16(2)}` +
      when(main.u8(4), " (newpage)") +
      when(main.u8(5), " (same)"),
  ],
  80: [
    "PICKSPLIT",
    (main) =>
      `ndelete: ${main.u16(2)}, ninsert: ${main.u16(4)}, inneroff: ${main.u16(8)}, ` +
      `parentoff: ${main.u16(14)}, nodeI: ${main.u16(16)}` +
      when(main.u8(12), " (innerIsParent)") +
      when(main.u8(11), " (nulls)") +
      when(main.u8(0), " (isRootSplit)"),
  ],
  96: [
    "VACUUM_LEAF",
    (main) =>
      `ndead: ${main.u16(0)}, nplaceholder: ${main.u16(2)}, nmove: ${main.u16(4)}, ` +
      `nchain: ${main.u16(6)}`,
  ],
  112: ["VACUUM_ROOT", (main) => `ndelete: ${main.u16(0)}`],
  128: ["VACUUM_REDIRECT", (main) => `${redirect(main)}, newestredirectxid: ${main.u32(4)}`],
};

/** spgxlogVacuumRedirect: u16 nToPlaceholder, firstPlaceholder; u32 xid; bool isCatalogRel from 16 on. */
function redirect(main: RecordData): string {
  return `ntoplaceholder: ${main.u16(0)}, firstplaceholder: ${main.u16(2)}`;
}

function redirect16(main: RecordData): string {
  return `${redirect(main)}, snapshotConflictHorizon: ${main.u32(4)}`;
}

const SPGIST_16: Kinds = { ...SPGIST_15, 128: ["VACUUM_REDIRECT", redirect16] };

const SPGIST_17: Kinds = {
  ...SPGIST_15,
  128: ["VACUUM_REDIRECT", (main) => `${redirect16(main)}, isCatalogRel: ${letter(main.u8(8))}`],
};

const HASH_15: Kinds = {
  0: [
    "INIT_META_PAGE",
    (main) => `num_tuples ${shortFloat(main.f64(0))}, fillfactor ${main.u16(12)}`,
  ],
  16: ["INIT_BITMAP_PAGE", (main) => `bmsize ${main.u16(0)}`],
  32: ["INSERT", (main) => `off ${main.u16(0)}`],
  48: ["ADD_OVFL_PAGE", (main) => `bmsize ${main.u16(0)}, bmpage_found ${letter(main.u8(2))}`],
  64: [
    "SPLIT_ALLOCATE_PAGE",
    (main) =>
      `new_bucket ${main.u32(0)}, meta_page_masks_updated ${letter(main.u8(8) & 1)}, ` +
      `issplitpoint_changed ${letter(main.u8(8) & 2)}`,
  ],
  80: ["SPLIT_PAGE"],
  96: [
    "SPLIT_COMPLETE",
    (main) => `old_bucket_flag ${main.u16(0)}, new_bucket_flag ${main.u16(2)}`,
  ],
  112: ["MOVE_PAGE_CONTENTS", (main) => `ntups ${main.u16(0)}, is_primary ${letter(main.u8(2))}`],
  128: [
    "SQUEEZE_PAGE",
    (main) =>
      `prevblkno ${main.u32(0)}, nextblkno ${main.u32(4)}, ntups ${main.u16(8)}, ` +
      `is_primary ${letter(main.u8(10))}`,
  ],
  144: [
    "DELETE",
    (main) => `clear_dead_marking ${letter(main.u8(0))}, is_primary ${letter(main.u8(1))}`,
  ],
  160: ["SPLIT_CLEANUP"],
  176: ["UPDATE_META_PAGE", (main) => `ntuples ${shortFloat(main.f64(0))}`],
  192: ["VACUUM_ONE_PAGE", (main) => `ntuples ${main.i32(4)}, latestRemovedXid ${main.u32(0)}`],
};

function vacuumOnePage16(main: RecordData): string {
  return `ntuples ${main.u16(4)}, snapshotConflictHorizon ${main.u32(0)}`;
}

const HASH_16: Kinds = { ...HASH_15, 192: ["VACUUM_ONE_PAGE", vacuumOnePage16] };

const HASH_17: Kinds = {
  ...HASH_15,
  192: [
    "VACUUM_ONE_PAGE",
    (main) => `${vacuumOnePage16(main)}, isCatalogRel ${letter(main.u8(6))}`,
  ],
};

export const gistText15 = rmgrText(GIST_15);
export const gistText16 = rmgrText(GIST_16);
export const gistText17 = rmgrText(GIST_17);
export const spgistText15 = rmgrText(SPGIST_15);
export const spgistText16 = rmgrText(SPGIST_16);
export const spgistText17 = rmgrText(SPGIST_17);
export const hashText15 = rmgrText(HASH_15);
export const hashText16 = rmgrText(HASH_16);
export const hashText17 = rmgrText(HASH_17);
