// The header of a heap tuple: where its fields lie, and their flags.
//
// Source: access/htup_details.h, 14-18.

/** Up to the null bitmap. */
export const SIZE_OF_HEAP_TUPLE_HEADER = 23;
export const T_XMAX = 4;
export const T_CID = 8;
/** Where an old-style VACUUM FULL, of before 9.0, noted itself. */
export const T_XVAC = 8;
export const T_CTID = 12;
export const T_INFOMASK2 = 18;
export const T_INFOMASK = 20;
export const T_HOFF = 22;

export const HEAP_COMBOCID = 0x0020;
export const HEAP_XMAX_EXCL_LOCK = 0x0040;
export const HEAP_XMAX_KEYSHR_LOCK = 0x0010;
export const HEAP_XMAX_LOCK_ONLY = 0x0080;
export const HEAP_XMAX_IS_MULTI = 0x1000;
/** XMAX_COMMITTED | XMAX_INVALID | IS_MULTI | LOCK_MASK | LOCK_ONLY. */
export const HEAP_XMAX_BITS = 0x1cd0;
export const HEAP_MOVED = 0xc000;
export const HEAP_KEYS_UPDATED = 0x2000;
export const HEAP_HOT_UPDATED = 0x4000;
