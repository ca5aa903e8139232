// Redo of sequence records: the page is always written anew (commands/sequence.c, 14-18).

import { PAGE_SIZE } from "../postgres/page.ts";
import { addIndexItem, pageInit, pageSetLsn } from "./page-layout.ts";
import { PAGE, type RedoContext } from "./redo-context.ts";

const SEQ_MAGIC = 0x1717;
const SIZE_OF_XL_SEQ_REC = 12;
const SIZE_OF_SPECIAL = 8;

/** Main data: the relation (12 bytes), then the whole heap tuple. */
export function redoSequence(c: RedoContext): void {
  if ((c.info & 0xf0) !== 0) {
    c.unsupported();
  }
  c.needMain(SIZE_OF_XL_SEQ_REC);
  pageInit(c, PAGE, SIZE_OF_SPECIAL);
  c.view.setUint32(PAGE + PAGE_SIZE - SIZE_OF_SPECIAL, SEQ_MAGIC, true);
  const from = c.main + SIZE_OF_XL_SEQ_REC;
  const item = addIndexItem(c, PAGE, 1, c.mainEnd - from);
  c.bytes.copyWithin(item, from, c.mainEnd);
  pageSetLsn(c, PAGE);
}
