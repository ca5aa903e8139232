// Redo on pg_multixact pages, which have no page header (access/transam/multixact.c, 14-18).
//
// offsets: a u32 for each multixact, 2048 a page.
// members: groups of four, 20 bytes: four status bytes, then four u32 xids; 409 groups a page.

import {
  MAX_MULTIXACT_STATUS,
  MULTIXACT_MEMBERS_PER_GROUP,
  MULTIXACT_MEMBERS_PER_PAGE,
  MULTIXACT_OFFSETS_PER_PAGE,
  SLRU_PAGES_PER_SEGMENT,
} from "../../postgres/slru.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";

const GROUP_SIZE = 20;

function checkLength(c: RedoContext, itemSize: number): void {
  const length = c.deltaEnd - c.delta;
  const count = length >= 4 ? c.view.getUint16(c.delta + 2, true) : -1;
  if (count < 0 || length !== 4 + itemSize * count) {
    c.fail(`delta of ${length} bytes for ${count} entries`, 0);
  }
}

function checkPage(c: RedoContext, value: number, perPage: number, at: number): void {
  if (Math.floor(value / perPage) % SLRU_PAGES_PER_SEGMENT !== c.blkno % SLRU_PAGES_PER_SEGMENT) {
    c.fail(`entry ${value} is not on this page`, at - c.delta);
  }
}

/** Delta kind 5: u8 kind, u8 zero, u16 count, (u32 multi, u32 offset)[count]. */
export function redoMultixactOffsets(c: RedoContext): void {
  checkLength(c, 8);
  for (let at = c.delta + 4; at < c.deltaEnd; at += 8) {
    const multi = c.view.getUint32(at, true);
    checkPage(c, multi, MULTIXACT_OFFSETS_PER_PAGE, at);
    const offset = c.view.getUint32(at + 4, true);
    c.view.setUint32(PAGE + (multi % MULTIXACT_OFFSETS_PER_PAGE) * 4, offset, true);
  }
}

/** Delta kind 6: u8 kind, u8 zero, u16 count, (u32 offset, u32 xid, u8 status, 3 zero bytes)[count]. */
export function redoMultixactMembers(c: RedoContext): void {
  checkLength(c, 12);
  for (let at = c.delta + 4; at < c.deltaEnd; at += 12) {
    const offset = c.view.getUint32(at, true);
    checkPage(c, offset, MULTIXACT_MEMBERS_PER_PAGE, at);
    const status = c.view.getUint8(at + 8);
    if (status > MAX_MULTIXACT_STATUS) {
      c.fail(`member status ${status}`, at + 8 - c.delta);
    }
    const inPage = offset % MULTIXACT_MEMBERS_PER_PAGE;
    const group = PAGE + Math.floor(inPage / MULTIXACT_MEMBERS_PER_GROUP) * GROUP_SIZE;
    const inGroup = inPage % MULTIXACT_MEMBERS_PER_GROUP;
    c.view.setUint8(group + inGroup, status);
    c.view.setUint32(
      group + MULTIXACT_MEMBERS_PER_GROUP + inGroup * 4,
      c.view.getUint32(at + 4, true),
      true,
    );
  }
}
