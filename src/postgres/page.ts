// The header and line pointers of a relation page.
//
// Source: storage/bufpage.h, storage/itemid.h, 14-18. 8192 bytes, little-endian:
//   offset size field
//        0    8 pd_lsn               high half first, each half little-endian
//        8    2 pd_checksum          not kept in storage: page-checksum.ts makes it anew
//       10    2 pd_flags             1 has free lines, 2 page full, 4 all visible
//       12    2 pd_lower             end of the line pointers
//       14    2 pd_upper             start of the tuples; 0: the page is new
//       16    2 pd_special           start of the access method's own space
//       18    2 pd_pagesize_version  8192 | 4
//       20    4 pd_prune_xid
//       24  4*n line pointers

import { type Lsn, lsnFromParts } from "../base/lsn.ts";

export const PAGE_SIZE = 8192;
export const SIZE_OF_PAGE_HEADER = 24;
export const PD_LSN = 0;
export const PD_FLAGS = 10;
export const PD_LOWER = 12;
export const PD_UPPER = 14;
export const PD_SPECIAL = 16;
export const PD_PAGESIZE_VERSION = 18;
export const PD_PRUNE_XID = 20;

/** InvalidBlockNumber (storage/block.h). */
export const INVALID_BLOCK_NUMBER = 0xffff_ffff;
/** HEAPBLOCKS_PER_PAGE (visibilitymap.c): heap blocks that a page of the visibility map covers, two bits each. */
export const HEAP_BLOCKS_PER_VM_PAGE = (PAGE_SIZE - SIZE_OF_PAGE_HEADER) * 4;

/** RangeError where the page holds no LSN below 2^53. */
export function pageLsn(view: DataView, page = 0): Lsn {
  return lsnFromParts(view.getUint32(page + PD_LSN, true), view.getUint32(page + PD_LSN + 4, true));
}
