// Redo of XLOG records on pages: only full-page images name blocks, and images are no deltas.

import { XLOG_FPI_FOR_HINT } from "../postgres/opcodes.ts";
import type { RedoContext } from "./redo-context.ts";

/** XLOG_FPI_FOR_HINT may name a block without an image, which then means nothing. */
export function redoXlog(c: RedoContext): void {
  if ((c.info & 0xf0) !== XLOG_FPI_FOR_HINT) {
    c.fail("only an image can stand for this block", 1);
  }
}
