// Where BTPageOpaqueData lies on a page of a btree, and its flags.
//
// Source: access/nbtree.h, 14-18.

import { PAGE_SIZE } from "../../postgres/page.ts";

export const SIZE_OF_BTREE_OPAQUE = 16;
export const BTPO_PREV = PAGE_SIZE - 16;
export const BTPO_NEXT = PAGE_SIZE - 12;
export const BTPO_LEVEL = PAGE_SIZE - 8;
export const BTPO_FLAGS = PAGE_SIZE - 4;
export const BTPO_CYCLEID = PAGE_SIZE - 2;

export const BTP_LEAF = 1 << 0;
export const BTP_ROOT = 1 << 1;
export const BTP_DELETED = 1 << 2;
export const BTP_META = 1 << 3;
export const BTP_HALF_DEAD = 1 << 4;
export const BTP_HAS_GARBAGE = 1 << 6;
export const BTP_INCOMPLETE_SPLIT = 1 << 7;
export const BTP_HAS_FULLXID = 1 << 8;
