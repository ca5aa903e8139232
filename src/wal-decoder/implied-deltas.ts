// Encoders of the page changes that no WAL block reference carries (delta.ts, kinds 2 to 7).

import {
  DELTA_CLOG_STATUS,
  DELTA_COMMIT_TS,
  DELTA_MULTIXACT_MEMBERS,
  DELTA_MULTIXACT_OFFSETS,
  DELTA_VM_CLEAR,
  DELTA_VM_TRUNCATE,
} from "./delta.ts";

function start(kind: number, second: number, count: number, lengthBytes: number): DataView {
  const view = new DataView(new ArrayBuffer(lengthBytes));
  view.setUint8(0, kind);
  view.setUint8(1, second);
  view.setUint16(2, count, true);
  return view;
}

function finish(view: DataView): Uint8Array {
  return new Uint8Array(view.buffer);
}

/** `flags`: 1 all-visible, 2 all-frozen, 3 both. */
export function encodeVmClear(heapBlkno: number, flags: number): Uint8Array {
  const view = start(DELTA_VM_CLEAR, flags, 0, 8);
  view.setUint32(4, heapBlkno, true);
  return finish(view);
}

/** Bits of `heapBlkno` and later blocks go. */
export function encodeVmTruncate(heapBlkno: number): Uint8Array {
  const view = start(DELTA_VM_TRUNCATE, 0, 0, 8);
  view.setUint32(4, heapBlkno, true);
  return finish(view);
}

/**
 * All `xids` on one page, so at most 32768; `status`: 1 committed, 2 aborted. Bytes by hand: one
 * commits every few records, and an ArrayBuffer with a DataView costs a microsecond.
 */
export function encodeClogStatus(xids: readonly number[], status: number): Uint8Array {
  const bytes = new Uint8Array(4 + xids.length * 4);
  bytes[0] = DELTA_CLOG_STATUS;
  bytes[1] = status;
  bytes[2] = xids.length;
  bytes[3] = xids.length >>> 8;
  for (let i = 0, at = 4; i < xids.length; i++, at += 4) {
    const xid = xids[i]!;
    bytes[at] = xid;
    bytes[at + 1] = xid >>> 8;
    bytes[at + 2] = xid >>> 16;
    bytes[at + 3] = xid >>> 24;
  }
  return bytes;
}

/** Columns of the same length, all multixacts on one page. */
export function encodeMultixactOffsets(
  multis: readonly number[],
  offsets: readonly number[],
): Uint8Array {
  const view = start(DELTA_MULTIXACT_OFFSETS, 0, multis.length, 4 + multis.length * 8);
  multis.forEach((multi, i) => {
    view.setUint32(4 + i * 8, multi, true);
    view.setUint32(8 + i * 8, offsets[i]!, true);
  });
  return finish(view);
}

/** Members at `firstOffset` and on, all on one page. */
export function encodeMultixactMembers(
  firstOffset: number,
  members: readonly { readonly xid: number; readonly status: number }[],
): Uint8Array {
  const view = start(DELTA_MULTIXACT_MEMBERS, 0, members.length, 4 + members.length * 12);
  members.forEach((member, i) => {
    view.setUint32(4 + i * 12, firstOffset + i, true);
    view.setUint32(8 + i * 12, member.xid, true);
    view.setUint8(12 + i * 12, member.status);
  });
  return finish(view);
}

/** All `xids` on one page, so at most 819; `originId`: the replication origin, 0 for none. */
export function encodeCommitTimestamps(
  xids: readonly number[],
  timestampUs: bigint,
  originId: number,
): Uint8Array {
  const view = start(DELTA_COMMIT_TS, 0, xids.length, 16 + xids.length * 4);
  view.setBigInt64(4, timestampUs, true);
  view.setUint16(12, originId, true);
  xids.forEach((xid, i) => {
    view.setUint32(16 + i * 4, xid, true);
  });
  return finish(view);
}
