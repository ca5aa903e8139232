// What GIN and BRIN records say, the same in 14-18. Sources: access/ginxlog.h, access/brin_xlog.h,
// rmgrdesc/gindesc.c, rmgrdesc/brindesc.c.

import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { RecordData } from "./record-data.ts";
import { letter, type RecordKind, rmgrText, rmgrTextWithInit } from "./text-format.ts";

const GIN_INSERT_ISDATA = 0x01;
const GIN_INSERT_ISLEAF = 0x02;
const GIN_SPLIT_ROOT = 0x04;

const GIN: Readonly<Record<number, RecordKind>> = {
  16: ["CREATE_PTREE"],
  32: ["INSERT", ginInsert],
  48: [
    "SPLIT",
    (main) => `isrootsplit: ${letter(main.u16(24) & GIN_SPLIT_ROOT)} ${pageKind(main.u16(24))}`,
  ],
  64: ["VACUUM_PAGE"],
  80: ["DELETE_PAGE"],
  96: ["UPDATE_META_PAGE"],
  112: ["INSERT_LISTPAGE"],
  // ginxlogDeleteListPages: 56 bytes of metapage, i32 ndeleted.
  128: ["DELETE_LISTPAGE", (main) => `ndeleted: ${main.i32(56)}`],
  144: [
    "VACUUM_DATA_LEAF_PAGE",
    (_, record) => imageText(record) ?? recompressed(blockData(record)),
  ],
};

function pageKind(flags: number): string {
  return `isdata: ${letter(flags & GIN_INSERT_ISDATA)} isleaf: ${letter(flags & GIN_INSERT_ISLEAF)}`;
}

/** Where block 0 came as an image, there is nothing else to tell. */
function imageText(record: XLogRecord): string | undefined {
  const i = record.findBlock(0);
  if (i < 0 || record.imageLength[i] === 0) {
    return undefined;
  }
  return record.imageApply[i] === 1
    ? " (full page image)"
    : " (full page image, for WAL verification)";
}

function blockData(record: XLogRecord): RecordData {
  const data = RecordData.block(record, 0);
  if (data === undefined) {
    throw corruptWal(record.startLsn, "block 0 has neither an image nor data");
  }
  return data;
}

/** ginxlogInsert: u16 flags; on inner pages then the two children's block ids. */
function ginInsert(main: RecordData, record: XLogRecord): string {
  const flags = main.u16(0);
  let text = pageKind(flags);
  if ((flags & GIN_INSERT_ISLEAF) === 0) {
    text += ` children: ${main.blockId(2)}/${main.blockId(6)}`;
  }
  const image = imageText(record);
  if (image !== undefined) {
    return text + image;
  }
  const data = blockData(record);
  if ((flags & GIN_INSERT_ISDATA) === 0) {
    return `${text} isdelete: ${letter(data.u8(2))}`;
  }
  if ((flags & GIN_INSERT_ISLEAF) !== 0) {
    return text + recompressed(data);
  }
  // u16 offset, PostingItem: child's block id, ItemPointer.
  return `${text} pitem: ${data.blockId(2)}-${data.blockId(6)}/${data.u16(10)}`;
}

/** ginxlogRecompressDataLeaf: u16 nactions; each u8 segno, u8 action and what the action needs. */
function recompressed(data: RecordData): string {
  const count = data.u16(0);
  let text = ` ${count} segments:`;
  let at = 2;
  for (let i = 0; i < count; i++) {
    const segment = data.u8(at);
    const action = data.u8(at + 1);
    at += 2;
    switch (action) {
      case 1:
        text += ` ${segment} (delete)`;
        break;
      case 2:
      case 3:
        text += ` ${segment} (${action === 2 ? "insert" : "replace"})`;
        // GinPostingList: 6 bytes first item, u16 nbytes, bytes; as a whole 2-byte aligned.
        at += 8 + Math.ceil(data.u16(at + 6) / 2) * 2;
        break;
      case 4: {
        const items = data.u16(at);
        text += ` ${segment} (add ${items} items)`;
        at += 2 + items * 6;
        break;
      }
      default:
        return `${text} ${segment} unknown action ${action} ???`;
    }
  }
  return text;
}

/** xl_brin_insert, at `offset`: u32 heapBlk, pagesPerRange; u16 offnum. */
function brinRange(main: RecordData, offset: number): string {
  return `heapBlk ${main.u32(offset)} pagesPerRange ${main.u32(offset + 4)}`;
}

const BRIN: Readonly<Record<number, RecordKind>> = {
  0: ["CREATE_INDEX", (main) => `v${main.u16(4)} pagesPerRange ${main.u32(0)}`],
  16: ["INSERT", (main) => `${brinRange(main, 0)} offnum ${main.u16(8)}`],
  32: [
    "UPDATE",
    (main) => `${brinRange(main, 4)} old offnum ${main.u16(0)}, new offnum ${main.u16(12)}`,
  ],
  48: ["SAMEPAGE_UPDATE", (main) => `offnum ${main.u16(0)}`],
  64: ["REVMAP_EXTEND", (main) => `targetBlk ${main.u32(0)}`],
  80: [
    "DESUMMARIZE",
    (main) => `pagesPerRange ${main.u32(0)}, heapBlk ${main.u32(4)}, page offset ${main.u16(8)}`,
  ],
};

export const ginText = rmgrText(GIN);
export const brinText = rmgrTextWithInit(BRIN, new Set([0x10, 0x20]));
