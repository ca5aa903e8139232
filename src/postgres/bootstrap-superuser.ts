// Finds the name of the role that initdb made, in pages of pg_authid: of a cluster that others made, nobody knows it.
//
// Source: access/htup_details.h, catalog/pg_authid.h, 14-18. A tuple of the heap, little-endian:
//   offset size field
//        4    4 t_xmax
//       20    2 t_infomask   0x0800 HEAP_XMAX_INVALID
//       22    1 t_hoff       where the columns begin: u32 oid, 64 bytes rolname, ...
// A tuple that does not fit its page is passed over.

import { PAGE_SIZE, PD_LOWER, SIZE_OF_PAGE_HEADER } from "./page.ts";

/** BOOTSTRAP_SUPERUSERID: it can be renamed, and not dropped. */
const BOOTSTRAP_SUPERUSER_OID = 10;
/** AuthIdRelationId: shared, so its file is in the shared map. */
export const AUTH_ID_RELATION_ID = 1260;
const NAME_BYTES = 64;
const LP_NORMAL = 1;
const HEAP_XMAX_INVALID = 0x0800;

/**
 * Names that it has or had, most likely first: which version of the row is the newest that is committed cannot be told
 * from the page alone.
 */
export function bootstrapSuperuserNames(pages: readonly Uint8Array[]): string[] {
  const live: string[] = [];
  const ended: string[] = [];
  for (const page of pages) {
    const view = new DataView(page.buffer, page.byteOffset, PAGE_SIZE);
    const end = Math.min(view.getUint16(PD_LOWER, true), PAGE_SIZE);
    for (let pointer = SIZE_OF_PAGE_HEADER; pointer + 4 <= end; pointer += 4) {
      const item = view.getUint32(pointer, true);
      const tuple = item & 0x7fff;
      if (((item >>> 15) & 3) !== LP_NORMAL || tuple + SIZE_OF_PAGE_HEADER > PAGE_SIZE) {
        continue;
      }
      const columns = tuple + view.getUint8(tuple + 22);
      if (columns + 4 + NAME_BYTES > PAGE_SIZE) {
        continue;
      }
      if (view.getUint32(columns, true) === BOOTSTRAP_SUPERUSER_OID) {
        const isEnded =
          view.getUint32(tuple + 4, true) !== 0 &&
          (view.getUint16(tuple + 20, true) & HEAP_XMAX_INVALID) === 0;
        (isEnded ? ended : live).push(nameAt(page, columns + 4));
      }
    }
  }
  // A later version lies behind an earlier one as a rule.
  return [...new Set([...live.reverse(), ...ended.reverse()])];
}

function nameAt(page: Uint8Array, at: number): string {
  const bytes = page.subarray(at, at + NAME_BYTES);
  const end = bytes.indexOf(0);
  return Buffer.from(bytes.subarray(0, end < 0 ? NAME_BYTES : end)).toString("utf8");
}
