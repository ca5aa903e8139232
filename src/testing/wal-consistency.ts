// The second oracle: after-images that wal_consistency_checking=all puts into WAL, record by record.
//
// It says which record went wrong, where comparison with recovered files only says that one did. It is
// the weaker of the two: like Postgres's own check it must mask what is not WAL-logged, and here a
// visibility map is compared raw only because Postgres's mask would hide all of it.
// Masks: access/common/bufmask.c, heap_mask, btree_mask, seq_mask, gin_mask,
// gist_mask, spg_mask, hash_mask, brin_mask, generic_mask (14-18).

import { formatLsn } from "../base/lsn.ts";
import { restoreImage } from "../postgres/fpi.ts";
import {
  RM_BRIN_ID,
  RM_BTREE_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
} from "../postgres/rmgr.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { MemoryCluster } from "./memory-cluster.ts";
import { firstDifference } from "./stock-recovery.ts";

const PAGE_SIZE = 8192;
const FORK_VM = 2;
const HINT_FLAGS = 0x0007;
const HEAP_XMIN_FROZEN = 0x0300;
const HEAP_XACT_MASK = 0xfff0;
const HEAP_XMAX_HINTS = 0x0c00;
const SPECULATIVE_OFFSET = 0xfffe;
const BTP_LEAF = 1 << 0;
const BTP_SPLIT_END = 1 << 5;
const BTP_HAS_GARBAGE = 1 << 6;
const GIST_LEAF = 1 << 0;
const GIST_TUPLES_DELETED = 1 << 2;
const GIST_FOLLOW_RIGHT = 1 << 3;
const GIST_HAS_GARBAGE = 1 << 4;
const HASH_TUPLE_PAGE = 0x03;
const HASH_PAGE_TYPE = 0x0f;
const HASH_HAS_DEAD_TUPLES = 1 << 7;
const GIN_DELETED = 1 << 2;
const BRIN_REVMAP_PAGE = 0xf092;
const BRIN_EVACUATE_PAGE = 1 << 0;

/** Compares the replayed pages with the record's after-images; call after it was replayed. */
export class WalConsistencyChecker {
  /** Images compared. */
  compared = 0;
  /** The first 20. */
  readonly mismatches: string[] = [];
  readonly #image = new Uint8Array(PAGE_SIZE);

  check(record: XLogRecord, cluster: MemoryCluster): void {
    for (let i = 0; i < record.blockCount; i++) {
      if (record.imageLength[i]! > 0 && record.imageApply[i] === 0) {
        this.#checkBlock(record, i, cluster);
      }
    }
  }

  #checkBlock(record: XLogRecord, ordinal: number, cluster: MemoryCluster): void {
    const fork = record.blockFork[ordinal]!;
    const blkno = record.blockNumber[ordinal]!;
    const rel = {
      spcOid: record.blockSpc[ordinal]!,
      dbOid: record.blockDb[ordinal]!,
      relNumber: record.blockRel[ordinal]!,
      fork,
    };
    restoreImage(record, ordinal, this.#image);
    const actual = (cluster.readPage(rel, blkno) ?? new Uint8Array(PAGE_SIZE)).slice();
    for (const page of [this.#image, actual]) {
      maskPage(page, fork === FORK_VM ? undefined : record.rmid, blkno);
    }
    this.compared++;
    const offset = firstDifference(this.#image, actual);
    if (offset >= 0 && this.mismatches.length < 20) {
      const what = `rmgr ${record.rmid} info 0x${record.info.toString(16)} reference ${record.blockId[ordinal]}`;
      const where = `${rel.relNumber}/${fork} block ${blkno}`;
      this.mismatches.push(`${formatLsn(record.startLsn)} ${what}, ${where}: byte ${offset}`);
    }
  }
}

/** `rmid` undefined: a visibility map, whose content stays. */
function maskPage(page: Uint8Array, rmid: number | undefined, blkno: number): void {
  const view = new DataView(page.buffer, page.byteOffset, PAGE_SIZE);
  page.fill(0, 0, 10);
  view.setUint16(10, view.getUint16(10, true) & ~HINT_FLAGS, true);
  view.setUint32(20, 0, true);
  if (rmid === undefined) {
    return;
  }
  const lower = view.getUint16(12, true);
  if (rmid === RM_BRIN_ID) {
    view.setUint16(8188, view.getUint16(8188, true) & ~BRIN_EVACUATE_PAGE, true);
    if (view.getUint16(8190, true) === BRIN_REVMAP_PAGE) {
      return;
    }
  } else if (rmid === RM_GIN_ID && (view.getUint16(8190, true) & GIN_DELETED) !== 0) {
    // A deleted page of the pending list is made anew in replay only.
    page.fill(0, 12);
    return;
  }
  page.fill(0, lower, view.getUint16(14, true));
  if (rmid === RM_HEAP_ID || rmid === RM_HEAP2_ID) {
    for (let at = 24; at < lower; at += 4) {
      maskHeapItem(page, view, view.getUint32(at, true), blkno, (at - 20) >> 2);
    }
  } else if (rmid === RM_BTREE_ID) {
    maskBtree(view, lower);
  } else if (rmid === RM_GIST_ID) {
    maskGist(page, view, lower);
  } else if (rmid === RM_HASH_ID) {
    maskHash(page, view, lower);
  }
}

function maskHeapItem(
  page: Uint8Array,
  view: DataView,
  id: number,
  blkno: number,
  offnum: number,
): void {
  const offset = id & 0x7fff;
  const length = id >>> 17;
  if (length === 0) {
    return;
  }
  if (((id >>> 15) & 3) === 1) {
    const infomask = view.getUint16(offset + 20, true);
    const frozen = (infomask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN;
    view.setUint16(offset + 20, infomask & ~(frozen ? HEAP_XMAX_HINTS : HEAP_XACT_MASK), true);
    view.setUint32(offset + 8, 0, true);
    if (view.getUint16(offset + 16, true) === SPECULATIVE_OFFSET) {
      view.setUint16(offset + 12, blkno >>> 16, true);
      view.setUint16(offset + 14, blkno & 0xffff, true);
      view.setUint16(offset + 16, offnum, true);
    }
  }
  page.fill(0, offset + length, offset + ((length + 7) & ~7));
}

function maskLinePointerFlags(view: DataView, lower: number): void {
  for (let at = 24; at < lower; at += 4) {
    view.setUint32(at, (view.getUint32(at, true) & ~(3 << 15)) >>> 0, true);
  }
}

function maskBtree(view: DataView, lower: number): void {
  const flags = view.getUint16(8188, true);
  if ((flags & BTP_LEAF) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  view.setUint16(8188, flags & ~(BTP_HAS_GARBAGE | BTP_SPLIT_END), true);
  view.setUint16(8190, 0, true);
}

/**
 * The NSN and FOLLOW_RIGHT of a left half change after the image was taken. TUPLES_DELETED is not in
 * gist_mask: gistprunepage does not set it but replay of its record does, so that Postgres's own check
 * stops recovery there (seen with 17.10).
 */
function maskGist(page: Uint8Array, view: DataView, lower: number): void {
  const flags = view.getUint16(8188, true);
  if ((flags & GIST_LEAF) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  page.fill(0, 8176, 8184);
  const unlogged = GIST_TUPLES_DELETED | GIST_FOLLOW_RIGHT | GIST_HAS_GARBAGE;
  view.setUint16(8188, flags & ~unlogged, true);
}

function maskHash(page: Uint8Array, view: DataView, lower: number): void {
  const flags = view.getUint16(8188, true);
  if ((flags & HASH_PAGE_TYPE) === 0) {
    // An unused page has nothing that counts.
    page.fill(0, 12, 16);
    page.fill(0, 24);
    return;
  }
  if ((flags & HASH_TUPLE_PAGE) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  view.setUint16(8188, flags & ~HASH_HAS_DEAD_TUPLES, true);
}
