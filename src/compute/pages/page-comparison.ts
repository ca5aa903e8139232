// Whether a page in the data directory may go, because storage's copy of it does as well.
//
// Sources, of 14 to 18: storage/page/bufpage.h, access/htup_details.h, access/nbtree.h, hash.h, gist_private.h, storage/buffer/README
// ("MarkBufferDirtyHint"); what replay does otherwise than the server: access/heap/heapam.c (heap_xlog_*: command ids), nbtxlog.c.
//
// The same are pages of one LSN that are equal but for
// - the checksum, the hint flags of the header (PD_HAS_FREE_LINES, PD_PAGE_FULL), pd_prune_xid, and the free space between the line
//   pointers and the tuples;
// - of a table's rows: hint bits on xmin and xmax, padding, and command ids, where no transaction that wrote them still runs. Replay
//   makes every command id 0, and a statement that came upon its own transaction's rows like that would take them for old;
// - of leaves of B-trees, hash and GiST indexes: entries marked as dead, and the flag that there are some.
// All else that is not in WAL makes a difference, among it a B-tree's cycle id, for which a running VACUUM looks, a row whose
// insertion is speculative, a sequence's position. A page without an LSN was named by no WAL, and is never the same.

import {
  PAGE_SIZE,
  PD_FLAGS,
  PD_LOWER,
  PD_PRUNE_XID,
  PD_SPECIAL,
  PD_UPPER,
  SIZE_OF_PAGE_HEADER,
} from "../../postgres/page.ts";

/** `running`: the same, once no transaction runs that wrote to it. */
export type Comparison = "same" | "differs" | "running";

const PD_CHECKSUM = 8;
/** PD_HAS_FREE_LINES, PD_PAGE_FULL. */
const HINT_FLAGS = 0x0003;
const LP_NORMAL = 1;
const LP_DEAD = 3;
const TUPLE_HEADER_SIZE = 23;
const T_XMIN = 0;
const T_XMAX = 4;
const T_CID = 8;
const T_INFOMASK = 20;
const HEAP_COMBOCID = 0x0020;
const HEAP_XMIN_FROZEN = 0x0300;
/** HEAP_XMIN_ and HEAP_XMAX_, COMMITTED and INVALID. */
const HINT_BITS = 0x0f00;
const HEAP_XMAX_INVALID = 0x0800;
const HEAP_XMAX_IS_MULTI = 0x1000;
const FIRST_NORMAL_XID = 3;
/** Of the special space of B-tree, hash and GiST pages: the last two words. */
const INDEX_SPECIAL_BYTES = 16;
const INDEX_FLAGS = PAGE_SIZE - 4;
const INDEX_ID = PAGE_SIZE - 2;
const MAX_BTREE_CYCLE_ID = 0xff7f;
const HASH_PAGE_ID = 0xff80;
const GIST_PAGE_ID = 0xff81;
const BTP_LEAF = 1 << 0;
const BTP_HAS_GARBAGE = 1 << 6;
const HASH_TUPLE_PAGE = 0x03;
const HASH_HAS_DEAD_TUPLES = 1 << 7;
const GIST_LEAF = 1 << 0;
const GIST_HAS_GARBAGE = 1 << 4;

/**
 * `local` and `stored` are 8192 bytes each, and stay as they are. `oldestRunningXid`: all transactions before it have ended;
 * undefined: not known.
 */
export function comparePages(
  local: Uint8Array,
  stored: Uint8Array,
  oldestRunningXid: number | undefined,
): Comparison {
  // New pages, and what is in no WAL.
  if (local.subarray(0, 8).every((byte) => byte === 0)) {
    return "differs";
  }
  if (Buffer.compare(local, stored) === 0) {
    return "same";
  }
  // Not slice(), which of a Buffer is the same memory.
  const a = new Uint8Array(local);
  const b = new DataView(stored.buffer, stored.byteOffset, PAGE_SIZE);
  const view = new DataView(a.buffer);
  const lower = view.getUint16(PD_LOWER, true);
  const upper = view.getUint16(PD_UPPER, true);
  const special = view.getUint16(PD_SPECIAL, true);
  if (
    lower < SIZE_OF_PAGE_HEADER ||
    lower > upper ||
    upper > special ||
    special > PAGE_SIZE ||
    b.getUint16(PD_LOWER, true) !== lower ||
    b.getUint16(PD_UPPER, true) !== upper ||
    b.getUint16(PD_SPECIAL, true) !== special
  ) {
    return "differs";
  }
  // What does not count is made as it is stored, so that the rest can be compared at once.
  view.setUint16(PD_CHECKSUM, b.getUint16(PD_CHECKSUM, true), true);
  takeBits(view, b, PD_FLAGS, HINT_FLAGS);
  view.setUint32(PD_PRUNE_XID, b.getUint32(PD_PRUNE_XID, true), true);
  // Where nothing is in front of it the space may not be free: pages of GIN may leave pd_lower as it was made.
  if (lower > SIZE_OF_PAGE_HEADER || special === PAGE_SIZE) {
    a.set(stored.subarray(lower, upper), lower);
  }
  let isRunning = false;
  if (special === PAGE_SIZE) {
    isRunning = takeRows(a, view, stored, b, lower, oldestRunningXid);
  } else if (special === PAGE_SIZE - INDEX_SPECIAL_BYTES) {
    takeIndexHints(view, b, lower);
  }
  return Buffer.compare(a, stored) !== 0 ? "differs" : isRunning ? "running" : "same";
}

/** Bits `mask` of the word at `at` as `from` has them. */
function takeBits(to: DataView, from: DataView, at: number, mask: number): void {
  to.setUint16(at, (to.getUint16(at, true) & ~mask) | (from.getUint16(at, true) & mask), true);
}

/** Hints, padding and command ids of a table's rows; whether a command id may count yet. */
function takeRows(
  a: Uint8Array,
  view: DataView,
  stored: Uint8Array,
  b: DataView,
  lower: number,
  oldestRunningXid: number | undefined,
): boolean {
  let isRunning = false;
  for (let at = SIZE_OF_PAGE_HEADER; at + 4 <= lower; at += 4) {
    const pointer = view.getUint32(at, true);
    const tuple = pointer & 0x7fff;
    const end = tuple + (pointer >>> 17);
    if (
      ((pointer >>> 15) & 3) !== LP_NORMAL ||
      pointer !== b.getUint32(at, true) ||
      tuple < lower ||
      tuple + TUPLE_HEADER_SIZE > end ||
      end > PAGE_SIZE
    ) {
      continue;
    }
    const mask = view.getUint16(tuple + T_INFOMASK, true);
    const storedMask = b.getUint16(tuple + T_INFOMASK, true);
    if (
      ((mask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN) ===
      ((storedMask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN)
    ) {
      takeBits(view, b, tuple + T_INFOMASK, HINT_BITS);
    }
    const padded = Math.min((end + 7) & ~7, PAGE_SIZE);
    a.set(stored.subarray(end, padded), end);
    const command = view.getUint32(tuple + T_CID, true);
    if (command !== b.getUint32(tuple + T_CID, true) || (mask ^ storedMask) & HEAP_COMBOCID) {
      isRunning ||= !hasEnded(view, tuple, mask, oldestRunningXid);
      view.setUint32(tuple + T_CID, b.getUint32(tuple + T_CID, true), true);
      takeBits(view, b, tuple + T_INFOMASK, HEAP_COMBOCID);
    }
  }
  return isRunning;
}

/** Whether all transactions have ended that the row names. Of a multixact, which may have several, nothing is known. */
function hasEnded(
  view: DataView,
  tuple: number,
  mask: number,
  oldest: number | undefined,
): boolean {
  if (oldest === undefined) {
    return false;
  }
  const isOver = (xid: number) => xid < FIRST_NORMAL_XID || ((xid - oldest) | 0) < 0;
  const xmax = view.getUint32(tuple + T_XMAX, true);
  const hasNoXmax = xmax === 0 || (mask & HEAP_XMAX_INVALID) !== 0;
  return (
    isOver(view.getUint32(tuple + T_XMIN, true)) &&
    (hasNoXmax || ((mask & HEAP_XMAX_IS_MULTI) === 0 && isOver(xmax)))
  );
}

/** Entries of an index's leaf that are marked as dead, and the flag that tells of them. */
function takeIndexHints(view: DataView, b: DataView, lower: number): void {
  const id = view.getUint16(INDEX_ID, true);
  const flags = view.getUint16(INDEX_FLAGS, true);
  const [isLeaf, hint] =
    id <= MAX_BTREE_CYCLE_ID
      ? [(flags & BTP_LEAF) !== 0, BTP_HAS_GARBAGE]
      : id === HASH_PAGE_ID
        ? [(flags & HASH_TUPLE_PAGE) !== 0, HASH_HAS_DEAD_TUPLES]
        : id === GIST_PAGE_ID
          ? [(flags & GIST_LEAF) !== 0, GIST_HAS_GARBAGE]
          : [false, 0];
  if (!isLeaf) {
    return;
  }
  takeBits(view, b, INDEX_FLAGS, hint);
  for (let at = SIZE_OF_PAGE_HEADER; at + 4 <= lower; at += 4) {
    const pointer = view.getUint32(at, true);
    const storedPointer = b.getUint32(at, true);
    if (((pointer >>> 15) & 3) === LP_DEAD && ((storedPointer >>> 15) & 3) === LP_NORMAL) {
      view.setUint32(at, ((pointer & ~(3 << 15)) | (LP_NORMAL << 15)) >>> 0, true);
    }
  }
}
