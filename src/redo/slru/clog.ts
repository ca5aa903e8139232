// Redo on pg_xact pages: two bits a transaction, 32768 of them a page, no page header.

import { CLOG_XACTS_PER_PAGE, SLRU_PAGES_PER_SEGMENT } from "../../postgres/slru.ts";
import { PAGE, type RedoContext } from "../redo-context.ts";

/** Delta kind 4: u8 kind, u8 status (1 committed, 2 aborted), u16 count, u32 xids[count]. */
export function redoClogStatus(c: RedoContext): void {
  const view = c.view;
  const length = c.deltaEnd - c.delta;
  const count = length >= 4 ? view.getUint16(c.delta + 2, true) : -1;
  if (count < 0 || length !== 4 + 4 * count) {
    c.fail(`delta of ${length} bytes for ${count} transactions`, 0);
  }
  const status = view.getUint8(c.delta + 1);
  if (status !== 1 && status !== 2) {
    c.fail(`transaction status ${status}`, 1);
  }
  for (let at = c.delta + 4; at < c.deltaEnd; at += 4) {
    const xid = view.getUint32(at, true);
    // The key's block number counts from the segment's start.
    if (
      Math.floor(xid / CLOG_XACTS_PER_PAGE) % SLRU_PAGES_PER_SEGMENT !==
      c.blkno % SLRU_PAGES_PER_SEGMENT
    ) {
      c.fail(`transaction ${xid} is not on this page`, at - c.delta);
    }
    const byte = PAGE + ((xid % CLOG_XACTS_PER_PAGE) >>> 2);
    const shift = (xid & 3) * 2;
    c.bytes[byte] = (c.bytes[byte]! & ~(3 << shift)) | (status << shift);
  }
}
