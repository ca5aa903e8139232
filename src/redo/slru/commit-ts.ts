// Redo on pg_commit_ts pages (access/transam/commit_ts.c, 14-18), which have no page header.
//
// An entry is ten bytes, unaligned: i64 time, u16 replication origin; 819 a page.

import { COMMIT_TS_XACTS_PER_PAGE, SLRU_PAGES_PER_SEGMENT } from "../../postgres/slru.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";

const ENTRY_SIZE = 10;
/** Where the xids begin in a delta. */
const DELTA_XIDS = 16;

/** Delta kind 7: u8 kind, u8 zero, u16 count, i64 time, u16 origin, u16 zero, u32 xids[count]. */
export function redoCommitTimestamps(c: RedoContext): void {
  const view = c.view;
  const length = c.deltaEnd - c.delta;
  const count = length >= DELTA_XIDS ? view.getUint16(c.delta + 2, true) : -1;
  if (count < 0 || length !== DELTA_XIDS + 4 * count) {
    c.fail(`delta of ${length} bytes for ${count} transactions`, 0);
  }
  const timestampUs = view.getBigInt64(c.delta + 4, true);
  const originId = view.getUint16(c.delta + 12, true);
  for (let at = c.delta + DELTA_XIDS; at < c.deltaEnd; at += 4) {
    const xid = view.getUint32(at, true);
    if (
      Math.floor(xid / COMMIT_TS_XACTS_PER_PAGE) % SLRU_PAGES_PER_SEGMENT !==
      c.blkno % SLRU_PAGES_PER_SEGMENT
    ) {
      c.fail(`transaction ${xid} is not on this page`, at - c.delta);
    }
    const entry = PAGE + (xid % COMMIT_TS_XACTS_PER_PAGE) * ENTRY_SIZE;
    view.setBigInt64(entry, timestampUs, true);
    view.setUint16(entry + 8, originId, true);
  }
}
