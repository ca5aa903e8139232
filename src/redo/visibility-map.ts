// Redo on visibility-map pages: two bits a heap block (1 all-visible, 2 all-frozen), after the header.

import { HEAP_BLOCKS_PER_VM_PAGE, PAGE_SIZE, SIZE_OF_PAGE_HEADER } from "../postgres/page.ts";
import { pageInit, pageIsNew, pageSetAllVisible, pageSetLsn } from "./page-layout.ts";
import { PAGE, type RedoContext } from "./redo-context.ts";

const VALID_BITS = 3;

/** Byte of the map that holds `heapBlkno`; -1 where another page of the map does. */
function mapByte(c: RedoContext, heapBlkno: number): number {
  const inPage = heapBlkno - c.blkno * HEAP_BLOCKS_PER_VM_PAGE;
  if (inPage < 0 || inPage >= HEAP_BLOCKS_PER_VM_PAGE) {
    return -1;
  }
  return PAGE + SIZE_OF_PAGE_HEADER + (inPage >>> 2);
}

function wrongPage(c: RedoContext, heapBlkno: number): never {
  return c.fail(`map page ${c.blkno} does not cover heap block ${heapBlkno}`);
}

/** Returns whether any bit was set. */
function clearBits(c: RedoContext, heapBlkno: number, at: number, flags: number): boolean {
  const mask = (flags & VALID_BITS) << ((heapBlkno & 3) * 2);
  const old = c.bytes[at]!;
  c.bytes[at] = old & ~mask;
  return (old & mask) !== 0;
}

/**
 * HEAP2 VISIBLE: u32 horizon, u8 flags. Reference 0 is the map page, which is stamped only if its bits
 * change; reference 1 the heap page, stamped only with checksums or wal_log_hints.
 */
export function redoHeapVisible(c: RedoContext): void {
  c.needMain(5);
  if (c.blockId === 1) {
    pageSetAllVisible(c, PAGE);
    if (c.walLogHints) {
      pageSetLsn(c, PAGE);
    }
    return;
  }
  if (pageIsNew(c, PAGE)) {
    pageInit(c, PAGE, 0);
  }
  const heapBlkno = c.requireReferenceBlkno(1);
  const at = mapByte(c, heapBlkno);
  if (at < 0) {
    wrongPage(c, heapBlkno);
  }
  const flags = c.view.getUint8(c.main + 4) & VALID_BITS;
  const shift = (heapBlkno & 3) * 2;
  const old = c.bytes[at]!;
  if (((old >>> shift) & VALID_BITS) !== flags) {
    c.bytes[at] = old | (flags << shift);
    pageSetLsn(c, PAGE);
  }
}

/**
 * A heap record that references its map page (17.11, 18.6 and later): the page is stamped if bits go.
 * `required`: the page must cover `heapBlkno`; else one that does not is left alone.
 */
export function redoRegisteredClear(
  c: RedoContext,
  heapBlkno: number,
  flags: number,
  required: boolean,
): void {
  const at = mapByte(c, heapBlkno);
  if (at < 0) {
    if (required) {
      wrongPage(c, heapBlkno);
    }
    return;
  }
  if (clearBits(c, heapBlkno, at, flags)) {
    pageSetLsn(c, PAGE);
  }
}

/** Delta kind 2: u8 kind, u8 flags, u16 zero, u32 heapBlkno. The page's LSN stays, as in Postgres. */
export function redoVisibilityMapClear(c: RedoContext): void {
  if (c.deltaEnd - c.delta !== 8) {
    c.fail(`delta of ${c.deltaEnd - c.delta} bytes, not 8`, 0);
  }
  const heapBlkno = c.view.getUint32(c.delta + 4, true);
  const at = mapByte(c, heapBlkno);
  if (at < 0) {
    wrongPage(c, heapBlkno);
  }
  clearBits(c, heapBlkno, at, c.view.getUint8(c.delta + 1));
}

/** Delta kind 3: u8 kind, 3 zero bytes, u32 first heap block whose bits go. */
export function redoVisibilityMapTruncate(c: RedoContext): void {
  if (c.deltaEnd - c.delta !== 8) {
    c.fail(`delta of ${c.deltaEnd - c.delta} bytes, not 8`, 0);
  }
  if (pageIsNew(c, PAGE)) {
    pageInit(c, PAGE, 0);
  }
  const first = c.view.getUint32(c.delta + 4, true) - c.blkno * HEAP_BLOCKS_PER_VM_PAGE;
  if (first >= HEAP_BLOCKS_PER_VM_PAGE) {
    return;
  }
  const inPage = Math.max(first, 0);
  const at = PAGE + SIZE_OF_PAGE_HEADER + (inPage >>> 2);
  c.bytes.fill(0, at + 1, PAGE + PAGE_SIZE);
  c.bytes[at] = c.bytes[at]! & ((1 << ((inPage & 3) * 2)) - 1);
}
