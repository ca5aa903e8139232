// What two copies of a page may differ in without either being wrong: Postgres's masks, and whose page it is.
//
// Sources: access/common/bufmask.c and heap_mask, btree_mask, hash_mask, gin_mask, gist_mask, seq_mask,
// spg_mask, brin_mask, generic_mask (14-18). Two differences from them:
// - A visibility map is compared raw: heap_mask would blank all of it.
// - GiST's TUPLES_DELETED is masked: gistprunepage does not set it but replay of its record does, so
//   that Postgres's own check stops recovery there (seen with 17.10).
// What Postgres changes without WAL and its masks leave, because its own check never meets it, is not masked
// but told by `differsOnlyUnlogged`:
// - lastUsedPages of an SP-GiST metapage (spgutils.c, SpGistUpdateMetaPage), which each backend writes from
//   its own cache at its own time;
// - pd_lsn of a GiST page that a sorted build wrote: up to 16 the page goes into the file before the record
//   is made whose LSN it should have (gistbuild.c, gist_indexsortbuild_flush_ready_pages).
// A page that is not laid out as its mask expects (it may be damaged) stays as it is.

import {
  PAGE_SIZE,
  PD_FLAGS,
  PD_LOWER,
  PD_PRUNE_XID,
  PD_SPECIAL,
  PD_UPPER,
} from "../postgres/page.ts";
import { VM_FORK } from "../postgres/relation-path.ts";
import {
  RM_BRIN_ID,
  RM_BTREE_ID,
  RM_GENERIC_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
  RM_SEQ_ID,
  RM_SPGIST_ID,
} from "../postgres/rmgr.ts";

/** Whose page it is. `other`: of an extension, or not to be told. */
export type PageKind =
  | "visibility-map"
  | "heap"
  | "btree"
  | "hash"
  | "gin"
  | "gist"
  | "sequence"
  | "spgist"
  | "brin"
  | "other";

const HEADER_SIZE = 24;
/** PD_HAS_FREE_LINES, PD_PAGE_FULL, PD_ALL_VISIBLE. */
const HINT_FLAGS = 0x0007;
/** Flags of btree, hash, gist and brin pages; the last two bytes are an id or a cycle id. */
const SPECIAL_FLAGS = PAGE_SIZE - 4;
const SPECIAL_ID = PAGE_SIZE - 2;
const GIST_NSN = PAGE_SIZE - 16;

const HEAP_XMIN_FROZEN = 0x0300;
const HEAP_XACT_MASK = 0xfff0;
const HEAP_XMAX_HINTS = 0x0c00;
const SPECULATIVE_OFFSET = 0xfffe;
const HEAP_TUPLE_HEADER_SIZE = 23;
const BTP_LEAF = 1 << 0;
const BTP_SPLIT_END = 1 << 5;
const BTP_HAS_GARBAGE = 1 << 6;
/** MAX_BT_CYCLE_ID: the ids of other access methods are above. */
const MAX_BTREE_CYCLE_ID = 0xff7f;
const HASH_PAGE_ID = 0xff80;
const GIST_PAGE_ID = 0xff81;
const SPGIST_PAGE_ID = 0xff82;
/** Ids that extensions have taken (contrib/bloom, pgvector) begin here. */
const FIRST_EXTENSION_PAGE_ID = 0xff83;
const GIST_LEAF = 1 << 0;
export const GIST_TUPLES_DELETED = 1 << 2;
const GIST_FOLLOW_RIGHT = 1 << 3;
const GIST_HAS_GARBAGE = 1 << 4;
/** GistBuildLSN: no WAL record has it. */
const GIST_BUILD_LSN = 1;
const HASH_TUPLE_PAGE = 0x03;
const HASH_PAGE_TYPE = 0x0f;
const HASH_HAS_DEAD_TUPLES = 1 << 7;
/** All of GIN's page flags. */
const GIN_FLAGS = 0xff;
const GIN_DELETED = 1 << 2;
const SPGIST_META = 1 << 0;
const SPGIST_MAGIC = 0xba0babee;
/** SpGistMetaPageData: u32 magic, then lastUsedPages, 8 of (u32 block, i32 free space). */
const SPGIST_META_MAGIC = HEADER_SIZE;
const SPGIST_LAST_USED_PAGES = SPGIST_META_MAGIC + 4;
const SPGIST_LAST_USED_PAGES_END = SPGIST_LAST_USED_PAGES + 8 * 8;
const BRIN_META_PAGE = 0xf091;
const BRIN_REVMAP_PAGE = 0xf092;
const BRIN_REGULAR_PAGE = 0xf093;
const BRIN_EVACUATE_PAGE = 1 << 0;
const SEQUENCE_MAGIC = 0x1717;

/** The mask that Postgres uses for a record of that manager on that fork. */
export function pageKindOfRmgr(rmid: number, fork: number): PageKind {
  if (fork === VM_FORK) {
    return "visibility-map";
  }
  switch (rmid) {
    case RM_HEAP_ID:
    case RM_HEAP2_ID:
      return "heap";
    case RM_BTREE_ID:
      return "btree";
    case RM_HASH_ID:
      return "hash";
    case RM_GIN_ID:
      return "gin";
    case RM_GIST_ID:
      return "gist";
    case RM_SEQ_ID:
      return "sequence";
    case RM_SPGIST_ID:
      return "spgist";
    case RM_BRIN_ID:
      return "brin";
    case RM_GENERIC_ID:
      return "other";
    default:
      return "other";
  }
}

/** Told from the page alone: its special space and what stands at its end. */
export function pageKindOf(page: DataView, fork: number, blkno: number): PageKind {
  if (fork === VM_FORK) {
    return "visibility-map";
  }
  const special = page.getUint16(PD_SPECIAL, true);
  const id = page.getUint16(SPECIAL_ID, true);
  if (special === PAGE_SIZE) {
    return "heap";
  }
  if (special === PAGE_SIZE - 16) {
    return id === HASH_PAGE_ID
      ? "hash"
      : id === GIST_PAGE_ID
        ? "gist"
        : id <= MAX_BTREE_CYCLE_ID
          ? "btree"
          : "other";
  }
  if (special !== PAGE_SIZE - 8 || id >= FIRST_EXTENSION_PAGE_ID) {
    return "other";
  }
  if (id === SPGIST_PAGE_ID) {
    return "spgist";
  }
  if (id === BRIN_META_PAGE || id === BRIN_REVMAP_PAGE || id === BRIN_REGULAR_PAGE) {
    return "brin";
  }
  // GIN's first page is its metapage, with a flag in these bytes.
  if (blkno === 0 && id === 0 && page.getUint32(PAGE_SIZE - 8, true) === SEQUENCE_MAGIC) {
    return "sequence";
  }
  return (id & ~GIN_FLAGS) === 0 ? "gin" : "other";
}

export interface MaskOptions {
  /** pd_lsn stays: where both copies had the same WAL, it must be the same. */
  readonly keepLsn?: boolean;
}

/** Zeroes in `page` (8192 bytes) all that does not count. `view` is of the same bytes. */
export function maskPage(
  page: Uint8Array,
  view: DataView,
  kind: PageKind,
  blkno: number,
  options: MaskOptions = {},
): void {
  page.fill(0, options.keepLsn === true ? 8 : 0, 10);
  const lower = view.getUint16(PD_LOWER, true);
  const upper = view.getUint16(PD_UPPER, true);
  const special = view.getUint16(PD_SPECIAL, true);
  const sane = lower >= HEADER_SIZE && lower <= upper && upper <= special && special <= PAGE_SIZE;
  if (kind !== "sequence" && kind !== "other") {
    view.setUint16(PD_FLAGS, view.getUint16(PD_FLAGS, true) & ~HINT_FLAGS, true);
    view.setUint32(PD_PRUNE_XID, 0, true);
  }
  if (kind === "visibility-map") {
    return;
  }
  if (kind === "brin") {
    view.setUint16(SPECIAL_FLAGS, view.getUint16(SPECIAL_FLAGS, true) & ~BRIN_EVACUATE_PAGE, true);
    if (view.getUint16(SPECIAL_ID, true) === BRIN_REVMAP_PAGE) {
      return;
    }
  } else if (kind === "gin" && (view.getUint16(SPECIAL_ID, true) & GIN_DELETED) !== 0) {
    // A deleted page of the pending list is made anew in replay only.
    maskContent(page);
    return;
  } else if (kind === "hash" && (view.getUint16(SPECIAL_FLAGS, true) & HASH_PAGE_TYPE) === 0) {
    maskContent(page);
    return;
  }
  if (!sane) {
    return;
  }
  page.fill(0, lower, upper);
  switch (kind) {
    case "heap":
      maskHeapItems(page, view, lower, blkno);
      return;
    case "btree":
      maskBtree(view, lower);
      return;
    case "gist":
      maskGist(page, view, lower);
      return;
    case "hash":
      maskHash(view, lower);
      return;
    default:
      return;
  }
}

/** Whether two masked pages of that kind, a server's and a replayed one, differ in nothing but that. */
export function differsOnlyUnlogged(kind: PageKind, disk: DataView, replayed: DataView): boolean {
  if (kind === "spgist" && isSpgistMetaPage(disk) && isSpgistMetaPage(replayed)) {
    return sameOutside(disk, replayed, SPGIST_LAST_USED_PAGES, SPGIST_LAST_USED_PAGES_END);
  }
  const built = disk.getUint32(0, true) === 0 && disk.getUint32(4, true) === GIST_BUILD_LSN;
  return kind === "gist" && built && sameOutside(disk, replayed, 0, 8);
}

function sameOutside(a: DataView, b: DataView, start: number, end: number): boolean {
  for (let at = 0; at < PAGE_SIZE; at++) {
    if ((at < start || at >= end) && a.getUint8(at) !== b.getUint8(at)) {
      return false;
    }
  }
  return true;
}

function isSpgistMetaPage(page: DataView): boolean {
  return (
    (page.getUint16(PAGE_SIZE - 8, true) & SPGIST_META) !== 0 &&
    page.getUint32(SPGIST_META_MAGIC, true) === SPGIST_MAGIC
  );
}

/** mask_page_content: of a page that nothing refers to only the header's other fields count. */
function maskContent(page: Uint8Array): void {
  page.fill(0, PD_LOWER, PD_SPECIAL);
  page.fill(0, HEADER_SIZE);
}

function maskHeapItems(page: Uint8Array, view: DataView, lower: number, blkno: number): void {
  for (let at = HEADER_SIZE; at + 4 <= lower; at += 4) {
    const id = view.getUint32(at, true);
    const offset = id & 0x7fff;
    const length = id >>> 17;
    if (length === 0 || offset + length > PAGE_SIZE) {
      continue;
    }
    if (((id >>> 15) & 3) === 1 && length >= HEAP_TUPLE_HEADER_SIZE) {
      maskHeapTuple(view, offset, blkno, (at - 20) >> 2);
    }
    page.fill(0, offset + length, Math.min(offset + ((length + 7) & ~7), PAGE_SIZE));
  }
}

function maskHeapTuple(view: DataView, tuple: number, blkno: number, offnum: number): void {
  const infomask = view.getUint16(tuple + 20, true);
  const frozen = (infomask & HEAP_XMIN_FROZEN) === HEAP_XMIN_FROZEN;
  view.setUint16(tuple + 20, infomask & ~(frozen ? HEAP_XMAX_HINTS : HEAP_XACT_MASK), true);
  view.setUint32(tuple + 8, 0, true);
  if (view.getUint16(tuple + 16, true) === SPECULATIVE_OFFSET) {
    view.setUint16(tuple + 12, blkno >>> 16, true);
    view.setUint16(tuple + 14, blkno & 0xffff, true);
    view.setUint16(tuple + 16, offnum, true);
  }
}

function maskLinePointerFlags(view: DataView, lower: number): void {
  for (let at = HEADER_SIZE; at + 4 <= lower; at += 4) {
    view.setUint32(at, (view.getUint32(at, true) & ~(3 << 15)) >>> 0, true);
  }
}

function maskBtree(view: DataView, lower: number): void {
  const flags = view.getUint16(SPECIAL_FLAGS, true);
  if ((flags & BTP_LEAF) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  view.setUint16(SPECIAL_FLAGS, flags & ~(BTP_HAS_GARBAGE | BTP_SPLIT_END), true);
  view.setUint16(SPECIAL_ID, 0, true);
}

/** The NSN and FOLLOW_RIGHT of a left half change after the image was taken. */
function maskGist(page: Uint8Array, view: DataView, lower: number): void {
  const flags = view.getUint16(SPECIAL_FLAGS, true);
  if ((flags & GIST_LEAF) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  page.fill(0, GIST_NSN, GIST_NSN + 8);
  const unlogged = GIST_TUPLES_DELETED | GIST_FOLLOW_RIGHT | GIST_HAS_GARBAGE;
  view.setUint16(SPECIAL_FLAGS, flags & ~unlogged, true);
}

function maskHash(view: DataView, lower: number): void {
  const flags = view.getUint16(SPECIAL_FLAGS, true);
  if ((flags & HASH_TUPLE_PAGE) !== 0) {
    maskLinePointerFlags(view, lower);
  }
  view.setUint16(SPECIAL_FLAGS, flags & ~HASH_HAS_DEAD_TUPLES, true);
}
