// The header and line pointers of a relation page.
//
// Source: storage/bufpage.h, storage/itemid.h, 14-18. 8192 bytes, little-endian:
//   offset size field
//        0    8 pd_lsn               high half first, each half little-endian
//        8    2 pd_checksum          not kept in storage
//       10    2 pd_flags             1 has free lines, 2 page full, 4 all visible
//       12    2 pd_lower             end of the line pointers
//       14    2 pd_upper             start of the tuples; 0: the page is new
//       16    2 pd_special           start of the access method's own space
//       18    2 pd_pagesize_version  8192 | 4
//       20    4 pd_prune_xid
//       24  4*n line pointers: 15 bits offset, 2 bits flags (LP_*), 15 bits length

import { type Lsn, lsnFromParts } from "../base/lsn.ts";

export const PAGE_SIZE = 8192;
export const PD_LSN = 0;
export const PD_CHECKSUM = 8;
export const PD_FLAGS = 10;
export const PD_LOWER = 12;
export const PD_UPPER = 14;
export const PD_SPECIAL = 16;
export const PD_PAGESIZE_VERSION = 18;
export const PD_PRUNE_XID = 20;
export const PAGE_HEADER_SIZE = 24;
export const LINE_POINTER_SIZE = 4;

export const PD_ALL_VISIBLE = 0x0004;

export const LP_UNUSED = 0;
export const LP_NORMAL = 1;
export const LP_REDIRECT = 2;
export const LP_DEAD = 3;

/** RangeError where the page holds no LSN below 2^53. */
export function pageLsn(view: DataView, page = 0): Lsn {
  return lsnFromParts(view.getUint32(page + PD_LSN, true), view.getUint32(page + PD_LSN + 4, true));
}

/** PageIsNew: never initialised. */
export function pageIsNew(view: DataView, page = 0): boolean {
  return view.getUint16(page + PD_UPPER, true) === 0;
}
