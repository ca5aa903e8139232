// One page's share of a WAL record, as the pageserver stores it and redo applies it.
//
// Ours, format version 1. Little-endian. Source of what goes in: access/xlogrecord.h, 14-18.
//
// kind 1, a record's part for one block reference:
//   offset size field
//        0    1 kind = 1
//        1    1 rmid
//        2    1 info        xl_info, all eight bits
//        3    1 blockId     the reference of the record that this delta is for
//        4    4 xid
//        8    1 blockCount  references of the record, ascending ids
//        9    1 zero
//       10    2 pageMagic   of the WAL page the record began on: tells the major (0xD116 is 17)
//       12    4 mainLength
//       16    4 dataLength  of this block's data
//       20  8*n references: u8 id; u8 fork (low 4 bits) + BKPBLOCK_HAS_IMAGE 0x10, HAS_DATA 0x20,
//               WILL_INIT 0x40, SAME_REL 0x80; u16 zero; u32 blkno
//        .    . main data, then this block's data
// Nothing of the other blocks' data is kept: no redo routine needs it (checked for every rmgr).
//
// kind 2, clear visibility-map bits that a heap record only implies: u8 kind, u8 flags, u16 zero,
//   u32 heapBlkno
// kind 3, truncate a visibility map inside this page: u8 kind, u8 zero, u16 zero, u32 first heap
//   block whose bits go (the page's blkno comes from the key)
// kind 4, transaction status: u8 kind, u8 status (1 committed, 2 aborted), u16 count, count * u32 xid
//   (all of this CLOG page)
// kind 5, multixact offsets: u8 kind, u8 zero, u16 count, count * (u32 multi, u32 offset)
//   (all of this page)
// kind 6, multixact members: u8 kind, u8 zero, u16 count, count * (u32 offset, u32 xid, u8 status,
//   3 bytes zero) (all of this page)
// kind 7, commit timestamps: u8 kind, u8 zero, u16 count, i64 microseconds since 2000-01-01, u16
//   replication origin, u16 zero, count * u32 xid (all of this pg_commit_ts page)
// No checksum of its own: the layer block that holds it has one. A reader that finds a wrong length
// or kind reports `corrupt`.

import { StorageError } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";

export const DELTA_RECORD = 1;
export const DELTA_VM_CLEAR = 2;
export const DELTA_VM_TRUNCATE = 3;
export const DELTA_CLOG_STATUS = 4;
export const DELTA_MULTIXACT_OFFSETS = 5;
export const DELTA_MULTIXACT_MEMBERS = 6;
export const DELTA_COMMIT_TS = 7;

export const DELTA_HEADER_SIZE = 20;
export const DELTA_REFERENCE_SIZE = 8;

/** Main and block data of one page's part; no rmgr comes near it, so more is refused. */
const DELTA_DATA_LIMIT = 1024 * 1024;

/** Views of one buffer's first n bytes, made once per n: handing out a delta allocates nothing. */
const VIEW_LIMIT = 16 * 1024;
let buffer: Uint8Array<ArrayBuffer> = new Uint8Array(64 * 1024);
let bufferView = new DataView(buffer.buffer);
let views: (Uint8Array | undefined)[] = new Array(VIEW_LIMIT + 1);

function prefix(length: number): Uint8Array {
  if (length > VIEW_LIMIT) {
    return new Uint8Array(buffer.buffer, 0, length);
  }
  let view = views[length];
  if (view === undefined) {
    view = new Uint8Array(buffer.buffer, 0, length);
    views[length] = view;
  }
  return view;
}

function reserve(length: number): void {
  if (length > buffer.length) {
    buffer = new Uint8Array(length * 2);
    bufferView = new DataView(buffer.buffer);
    views = new Array(VIEW_LIMIT + 1);
  }
}

/**
 * Kind 1: the share of block reference number `ordinal` (not id) in a decoded record. The result is
 * valid until the next encode call of this module. StorageError `unsupported` above 1 MiB of data.
 */
export function encodeRecordDelta(record: XLogRecord, ordinal: number): Uint8Array {
  const { blockCount, mainLength } = record;
  const dataLength = record.dataLength[ordinal]!;
  const dataStart = DELTA_HEADER_SIZE + blockCount * DELTA_REFERENCE_SIZE;
  const length = dataStart + mainLength + dataLength;
  if (length > buffer.length) {
    if (length > DELTA_DATA_LIMIT) {
      const lsn = formatLsn(record.startLsn);
      const message = `record at ${lsn} has ${mainLength} bytes of data for one page`;
      throw new StorageError("unsupported", "huge-page-record", message, { fields: { lsn } });
    }
    reserve(length);
  }
  const view = bufferView;
  view.setUint32(
    0,
    DELTA_RECORD | (record.rmid << 8) | (record.info << 16) | (record.blockId[ordinal]! << 24),
    true,
  );
  view.setUint32(4, record.xid, true);
  view.setUint32(8, blockCount | (record.pageMagic << 16), true);
  view.setUint32(12, mainLength, true);
  view.setUint32(16, dataLength, true);
  for (let i = 0, at = DELTA_HEADER_SIZE; i < blockCount; i++, at += DELTA_REFERENCE_SIZE) {
    view.setUint32(at, record.blockId[i]! | (record.blockFlags[i]! << 8), true);
    view.setUint32(at + 4, record.blockNumber[i]!, true);
  }
  copyBytes(record, record.mainOffset, mainLength, dataStart);
  copyBytes(record, record.dataOffset[ordinal]!, dataLength, dataStart + mainLength);
  return prefix(length);
}

/** Making a view of the source for `set` costs as much as copying 160 bytes, eight at a time. */
function copyBytes(record: XLogRecord, from: number, length: number, to: number): void {
  const { bytes, view } = record;
  if (length > 160) {
    buffer.set(bytes.subarray(from, from + length), to);
    return;
  }
  let i = 0;
  for (const stop = length - 7; i < stop; i += 8) {
    bufferView.setBigInt64(to + i, view.getBigInt64(from + i, true), true);
  }
  for (; i < length; i++) {
    buffer[to + i] = bytes[from + i]!;
  }
}
