// Heap records: their pages, and the visibility-map bits that they clear without saying so.
//
// Source: access/heapam_xlog.h, 14-18. Main data, the parts needed here:
//   INSERT        u16 offnum, u8 flags
//   MULTI_INSERT  u8 flags, ...
//   DELETE, UPDATE, HOT_UPDATE, LOCK, LOCK_UPDATED  7 bytes, u8 flags
//   REWRITE       u32 mapped_xid, u32 mapped_db, u32 mapped_rel, 4 of padding, u64 offset, u32 num_mappings,
//                 4 of padding, u64 start_lsn, then mappings of 36 bytes each
// A flag says that the page's all-visible (for locks: all-frozen) bit was cleared, and with it the one
// in the visibility map. From 17.11 and 18.6 on the map's page is a block reference of the record, and
// then nothing is implied; the page magic is the same, so only the references tell.

import {
  XLOG_HEAP_DELETE,
  XLOG_HEAP_HOT_UPDATE,
  XLOG_HEAP_INSERT,
  XLOG_HEAP_LOCK,
  XLOG_HEAP_OPMASK,
  XLOG_HEAP_UPDATE,
  XLOG_HEAP2_LOCK_UPDATED,
  XLOG_HEAP2_MULTI_INSERT,
  XLOG_HEAP2_REWRITE,
} from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretBlocks, relationForkOf } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

/** Bit 0 of every flags byte here: of the (old) page. */
const VISIBLE_CLEARED = 0x01;
const XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED = 0x02;

const VISIBILITYMAP_ALL_FROZEN = 2;
const VISIBILITYMAP_VALID_BITS = 3;

/** LogicalRewriteMappingData: two relations and two places in them. */
const REWRITE_MAPPING_BYTES = 36;

const data = new MainData();

/** Block reference ids: the (new) heap page, the old one of an update, and the map's pages. */
const BLOCK_HEAP = 0;
const BLOCK_HEAP_OLD = 1;
const BLOCK_VM = 1;
const BLOCK_UPDATE_VM_NEW = 2;
const BLOCK_UPDATE_VM_OLD = 3;

export function interpretHeap(record: XLogRecord, sink: RecordSink): void {
  interpretBlocks(record, sink);
  switch (record.info & XLR_RMGR_INFO_MASK & XLOG_HEAP_OPMASK) {
    case XLOG_HEAP_INSERT:
      clearImplied(record, sink, 2, VISIBILITYMAP_VALID_BITS);
      return;
    case XLOG_HEAP_DELETE:
      clearImplied(record, sink, 7, VISIBILITYMAP_VALID_BITS);
      return;
    case XLOG_HEAP_UPDATE:
    case XLOG_HEAP_HOT_UPDATE:
      clearImpliedByUpdate(record, sink);
      return;
    case XLOG_HEAP_LOCK:
      clearImplied(record, sink, 7, VISIBILITYMAP_ALL_FROZEN);
      return;
    default:
      return;
  }
}

export function interpretHeap2(record: XLogRecord, sink: RecordSink): void {
  interpretBlocks(record, sink);
  switch (record.info & XLR_RMGR_INFO_MASK & XLOG_HEAP_OPMASK) {
    case XLOG_HEAP2_MULTI_INSERT:
      clearImplied(record, sink, 0, VISIBILITYMAP_VALID_BITS);
      return;
    case XLOG_HEAP2_LOCK_UPDATED:
      clearImplied(record, sink, 7, VISIBILITYMAP_ALL_FROZEN);
      return;
    case XLOG_HEAP2_REWRITE:
      interpretRewrite(record, sink);
      return;
    default:
      return;
  }
}

/** Which row of a catalog is which after it was rewritten: the file that heap_xlog_logical_rewrite makes. */
function interpretRewrite(record: XLogRecord, sink: RecordSink): void {
  data.open(record);
  const mappedXid = data.u32();
  const dbOid = data.u32();
  const relOid = data.u32();
  data.skip(4);
  const offset = Number(data.u64());
  const mappings = data.u32();
  data.skip(4);
  const startLsn = data.u64();
  const hex = (value: number) => value.toString(16);
  const lsn = [startLsn >> 32n, startLsn & 0xffff_ffffn].map((half) =>
    half.toString(16).toUpperCase(),
  );
  // LOGICAL_REWRITE_FORMAT (access/rewriteheap.h).
  const name = `map-${hex(dbOid)}-${hex(relOid)}-${lsn.join("_")}-${hex(mappedXid)}-${hex(record.xid)}`;
  sink.auxFile(`pg_logical/mappings/${name}`, offset, data.bytes(mappings * REWRITE_MAPPING_BYTES));
}

function flagsAt(record: XLogRecord, at: number): number {
  if (record.mainLength <= at) {
    const { rmid, info, mainLength } = record;
    throw corruptWal(record.startLsn, "main data is too short", { rmid, info, mainLength });
  }
  return record.view.getUint8(record.mainOffset + at);
}

function clearImplied(record: XLogRecord, sink: RecordSink, flagsOffset: number, bits: number) {
  if ((flagsAt(record, flagsOffset) & VISIBLE_CLEARED) === 0 || record.findBlock(BLOCK_VM) >= 0) {
    return;
  }
  const heap = heapBlock(record);
  sink.visibilityMapClear(relationForkOf(record, heap), record.blockNumber[heap]!, bits);
}

function clearImpliedByUpdate(record: XLogRecord, sink: RecordSink): void {
  const flags = flagsAt(record, 7);
  if (
    (flags & (VISIBLE_CLEARED | XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED)) === 0 ||
    record.findBlock(BLOCK_UPDATE_VM_NEW) >= 0 ||
    record.findBlock(BLOCK_UPDATE_VM_OLD) >= 0
  ) {
    return;
  }
  const newHeap = heapBlock(record);
  const old = record.findBlock(BLOCK_HEAP_OLD);
  const oldHeap = old >= 0 ? old : newHeap;
  const rel = relationForkOf(record, newHeap);
  if ((flags & VISIBLE_CLEARED) !== 0) {
    sink.visibilityMapClear(rel, record.blockNumber[oldHeap]!, VISIBILITYMAP_VALID_BITS);
  }
  if ((flags & XLH_UPDATE_NEW_ALL_VISIBLE_CLEARED) !== 0) {
    sink.visibilityMapClear(rel, record.blockNumber[newHeap]!, VISIBILITYMAP_VALID_BITS);
  }
}

function heapBlock(record: XLogRecord): number {
  const ordinal = record.findBlock(BLOCK_HEAP);
  if (ordinal < 0) {
    throw corruptWal(record.startLsn, "heap record without its block");
  }
  return ordinal;
}
