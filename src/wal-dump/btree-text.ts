// What btree records say. Sources: access/nbtxlog.h, rmgrdesc/nbtdesc.c, 14-18.

import type { XLogRecord } from "../postgres/xlog-record.ts";
import { RecordData } from "./record-data.ts";
import {
  fullXid,
  letter,
  offsetNumbers,
  type RecordKind,
  relation,
  rmgrText,
} from "./text-format.ts";

/** 14 and 15: `key value; key value`. */
const BTREE_15: Readonly<Record<number, RecordKind>> = {
  ...insertions((main) => `off ${main.u16(0)}`),
  48: ["SPLIT_L", split15],
  64: ["SPLIT_R", split15],
  96: ["DEDUP", (main) => `nintervals ${main.u16(0)}`],
  112: [
    "DELETE",
    (main) => `latestRemovedXid ${main.u32(0)}; ndeleted ${main.u16(4)}; nupdated ${main.u16(6)}`,
  ],
  128: ["UNLINK_PAGE", (main) => unlink(main, "", ";")],
  144: ["UNLINK_PAGE_META", (main) => unlink(main, "", ";")],
  160: ["NEWROOT", (main) => `lev ${main.u32(4)}`],
  176: ["MARK_PAGE_HALFDEAD", (main) => halfDead(main, "", ";")],
  192: ["VACUUM", (main) => `ndeleted ${main.u16(0)}; nupdated ${main.u16(2)}`],
  208: ["REUSE_PAGE", (main) => `rel ${relation(main, 0)}; latestRemovedXid ${fullXid(main, 16)}`],
  224: ["META_CLEANUP", (_, record) => `last_cleanup_num_delpages ${metaDeletedPages(record)}`],
};

/** 16: `key: value, key: value`, and the offset numbers too. */
const BTREE_16: Readonly<Record<number, RecordKind>> = {
  ...insertions((main) => `off: ${main.u16(0)}`),
  48: ["SPLIT_L", split],
  64: ["SPLIT_R", split],
  96: ["DEDUP", (main) => `nintervals: ${main.u16(0)}`],
  112: [
    "DELETE",
    (main, record) =>
      `snapshotConflictHorizon: ${main.u32(0)}, ndeleted: ${main.u16(4)}, ` +
      `nupdated: ${main.u16(6)}${deletions(record, main.u16(4), main.u16(6))}`,
  ],
  128: ["UNLINK_PAGE", (main) => unlink(main, ":", ",")],
  144: ["UNLINK_PAGE_META", (main) => unlink(main, ":", ",")],
  160: ["NEWROOT", (main) => `level: ${main.u32(4)}`],
  176: ["MARK_PAGE_HALFDEAD", (main) => halfDead(main, ":", ",")],
  192: [
    "VACUUM",
    (main, record) =>
      `ndeleted: ${main.u16(0)}, nupdated: ${main.u16(2)}` +
      deletions(record, main.u16(0), main.u16(2)),
  ],
  208: [
    "REUSE_PAGE",
    (main) => `rel: ${relation(main, 0)}, snapshotConflictHorizon: ${fullXid(main, 16)}`,
  ],
  224: ["META_CLEANUP", (_, record) => `last_cleanup_num_delpages: ${metaDeletedPages(record)}`],
};

/** From 17 on isCatalogRel, which 16 has but does not tell. */
const BTREE_17: typeof BTREE_16 = {
  ...BTREE_16,
  112: [
    "DELETE",
    (main, record) =>
      `snapshotConflictHorizon: ${main.u32(0)}, ndeleted: ${main.u16(4)}, ` +
      `nupdated: ${main.u16(6)}, isCatalogRel: ${letter(main.u8(8))}` +
      deletions(record, main.u16(4), main.u16(6)),
  ],
  208: [
    "REUSE_PAGE",
    (main) =>
      `rel: ${relation(main, 0)}, snapshotConflictHorizon: ${fullXid(main, 16)}, ` +
      `isCatalogRel: ${letter(main.u8(24))}`,
  ],
};

function insertions(text: (main: RecordData) => string): Readonly<Record<number, RecordKind>> {
  return {
    0: ["INSERT_LEAF", text],
    16: ["INSERT_UPPER", text],
    32: ["INSERT_META", text],
    80: ["INSERT_POST", text],
  };
}

/** xl_btree_split: u32 level; u16 firstrightoff, newitemoff, postingoff. */
function split15(main: RecordData): string {
  const offsets = `firstrightoff ${main.u16(4)}, newitemoff ${main.u16(6)}`;
  return `level ${main.u32(0)}, ${offsets}, postingoff ${main.u16(8)}`;
}

function split(main: RecordData): string {
  const offsets = `firstrightoff: ${main.u16(4)}, newitemoff: ${main.u16(6)}`;
  return `level: ${main.u32(0)}, ${offsets}, postingoff: ${main.u16(8)}`;
}

/** xl_btree_mark_page_halfdead: u16 poffset; u32 leafblk at 4, leftblk, rightblk, topparent. */
function halfDead(main: RecordData, colon: string, comma: string): string {
  return (
    `topparent${colon} ${main.u32(16)}${comma} leaf${colon} ${main.u32(4)}${comma} ` +
    `left${colon} ${main.u32(8)}${comma} right${colon} ${main.u32(12)}`
  );
}

/**
 * xl_btree_unlink_page: u32 leftsib, rightsib, level; u64 safexid at 16; u32 leafleftsib, leafrightsib,
 * leaftopparent.
 */
function unlink(main: RecordData, colon: string, comma: string): string {
  return [
    `left${colon} ${main.u32(0)}`,
    `right${colon} ${main.u32(4)}`,
    `level${colon} ${main.u32(8)}`,
    `safexid${colon} ${fullXid(main, 16)}`,
    `leafleft${colon} ${main.u32(24)}`,
    `leafright${colon} ${main.u32(28)}`,
    `leaftopparent${colon} ${main.u32(32)}`,
  ].join(`${comma} `);
}

/** Of the xl_btree_metadata that is the data of block 0. */
function metaDeletedPages(record: XLogRecord): number | string {
  return RecordData.block(record, 0)?.u32(20) ?? "?";
}

/**
 * Block data of DELETE and VACUUM: u16 deleted offsets, u16 updated offsets, then for each updated
 * one: u16 ndeletedtids, u16 positions in its posting list.
 */
function deletions(record: XLogRecord, ndeleted: number, nupdated: number): string {
  const data = RecordData.block(record, 0);
  if (data === undefined) {
    return "";
  }
  const updatedAt = ndeleted * 2;
  let at = updatedAt + nupdated * 2;
  const updated: string[] = [];
  for (let i = 0; i < nupdated; i++) {
    const count = data.u16(at);
    const ptids = offsetNumbers(data, at + 2, count);
    updated.push(`{ off: ${data.u16(updatedAt + i * 2)}, nptids: ${count}, ptids: ${ptids} }`);
    at += 2 + count * 2;
  }
  const deleted = offsetNumbers(data, 0, ndeleted);
  return `, deleted: ${deleted}, updated: [${updated.join(", ")}]`;
}

export const btreeText15 = rmgrText(BTREE_15);
export const btreeText16 = rmgrText(BTREE_16);
export const btreeText17 = rmgrText(BTREE_17);
