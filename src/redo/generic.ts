// Redo of generic records, with which extensions change their pages (access/generic_xlog.c, 14-18).
//
// Block data, until its end: u16 offset, u16 length, then length bytes that go to that offset of the
// page. What lies between pd_lower and pd_upper is zeroed afterwards, as the extension's page was.

import {
  PAGE_SIZE,
  PD_LOWER,
  PD_SPECIAL,
  PD_UPPER,
  SIZE_OF_PAGE_HEADER,
} from "../postgres/page.ts";
import { pageSetLsn } from "./page-layout.ts";
import { PAGE, type RedoContext } from "./redo-context.ts";

const FRAGMENT_HEADER = 4;

export function redoGeneric(c: RedoContext): void {
  if ((c.info & 0xf0) !== 0) {
    c.unsupported();
  }
  const { bytes, view } = c;
  for (let at = c.data; at < c.dataEnd; ) {
    c.needData(at, FRAGMENT_HEADER);
    const offset = view.getUint16(at, true);
    const length = view.getUint16(at + 2, true);
    c.needData(at, FRAGMENT_HEADER + length);
    if (offset + length > PAGE_SIZE) {
      c.fail(`${length} bytes for offset ${offset}`, at - c.delta);
    }
    at += FRAGMENT_HEADER;
    bytes.copyWithin(PAGE + offset, at, at + length);
    at += length;
  }
  const lower = view.getUint16(PAGE + PD_LOWER, true);
  const upper = view.getUint16(PAGE + PD_UPPER, true);
  const special = view.getUint16(PAGE + PD_SPECIAL, true);
  if (lower < SIZE_OF_PAGE_HEADER || lower > upper || upper > special || special > PAGE_SIZE) {
    c.fail(`page pointers became wrong: lower ${lower}, upper ${upper}, special ${special}`);
  }
  bytes.fill(0, PAGE + lower, PAGE + upper);
  pageSetLsn(c, PAGE);
}
