// One WAL record, decoded in place into one reusable object.
//
// Source: access/xlogrecord.h and DecodeXLogRecord in access/transam/xlogreader.c, 14-18.
// XLogRecord, 24 bytes, 8-byte aligned in WAL, little-endian:
//   offset size field
//        0    4 xl_tot_len   of the whole record, headers included
//        4    4 xl_xid
//        8    8 xl_prev      LSN of the record before
//       16    1 xl_info
//       17    1 xl_rmid
//       18    2 padding, zero
//       20    4 xl_crc       CRC-32C of bytes [24, xl_tot_len), then [0, 20)
// then, unaligned, any of these headers, and after them the data in the same order:
//   id 0-32  block reference: u8 id, u8 fork_flags, u16 data_length; with HAS_IMAGE: u16 length,
//            u16 hole_offset, u8 bimg_info, and u16 hole_length if compressed with a hole; without
//            SAME_REL: u32 spcOid, dbOid, relNumber; u32 blkno. Data: image, then block data
//   253      u16 replication origin
//   252      u32 top-level xid
//   254      u32 main data length, last
//   255      u8 main data length, last
// A reader that finds anything else reports `corrupt` and stops.

import { CRC32C_START, finishCrc32c, updateCrc32c } from "../base/crc32c.ts";
import { INVALID_LSN, type Lsn, lsnHigh, lsnLow } from "../base/lsn.ts";
import { PAGE_SIZE } from "./page.ts";
import { type PgVersion, versionFromPageMagic } from "./versions.ts";
import { corruptWal } from "./wal-page.ts";

export const RECORD_HEADER_SIZE = 24;
/** Offset of xl_crc, and end of what of the header it covers. */
export const RECORD_CRC_OFFSET = 20;
/** XLogRecordMaxSize; 14 and 15 had MaxAllocSize, which is a little more, and never used it. */
export const RECORD_MAX_SIZE = 1020 * 1024 * 1024;
export const MAX_BLOCK_ID = 32;

export const BKPBLOCK_FORK_MASK = 0x0f;
export const BKPBLOCK_HAS_IMAGE = 0x10;
export const BKPBLOCK_HAS_DATA = 0x20;
export const BKPBLOCK_WILL_INIT = 0x40;
export const BKPBLOCK_SAME_REL = 0x80;
export const BKPIMAGE_HAS_HOLE = 0x01;

const BLOCK_ID_DATA_SHORT = 255;
const BLOCK_ID_DATA_LONG = 254;
const BLOCK_ID_ORIGIN = 253;
const BLOCK_ID_TOPLEVEL_XID = 252;

const EMPTY = new Uint8Array(0);
const EMPTY_VIEW = new DataView(EMPTY.buffer);

/**
 * Columns, one entry a block reference in ascending order of id, instead of an object each: nothing
 * is allocated for a record. Offsets are absolute in `bytes`. The contents are valid until the
 * owner (a WalStream) moves to the next record.
 */
export class XLogRecord {
  bytes: Uint8Array = EMPTY;
  view: DataView = EMPTY_VIEW;
  /** Where the record starts in `bytes`. */
  offset = 0;
  /** xl_tot_len. */
  length = 0;
  startLsn: Lsn = INVALID_LSN;
  /** Postgres's EndRecPtr: the next aligned byte, page headers not skipped; segment end for a switch. */
  endLsn: Lsn = INVALID_LSN;
  /** xl_prev. */
  prevLsn: Lsn = INVALID_LSN;
  pageMagic = 0;
  xid = 0;
  /** xl_info, all eight bits. */
  info = 0;
  rmid = 0;

  // From here on: set by decode().
  originId = 0;
  toplevelXid = 0;
  mainOffset = 0;
  mainLength = 0;
  blockCount = 0;
  readonly blockId = new Uint8Array(MAX_BLOCK_ID + 1);
  readonly blockFork = new Uint8Array(MAX_BLOCK_ID + 1);
  /** fork_flags: BKPBLOCK_*. */
  readonly blockFlags = new Uint8Array(MAX_BLOCK_ID + 1);
  readonly blockSpc = new Uint32Array(MAX_BLOCK_ID + 1);
  readonly blockDb = new Uint32Array(MAX_BLOCK_ID + 1);
  readonly blockRel = new Uint32Array(MAX_BLOCK_ID + 1);
  readonly blockNumber = new Uint32Array(MAX_BLOCK_ID + 1);
  readonly dataOffset = new Int32Array(MAX_BLOCK_ID + 1);
  readonly dataLength = new Uint16Array(MAX_BLOCK_ID + 1);
  /** 0 where the reference has no image. */
  readonly imageLength = new Uint16Array(MAX_BLOCK_ID + 1);
  readonly imageOffset = new Int32Array(MAX_BLOCK_ID + 1);
  readonly imageInfo = new Uint8Array(MAX_BLOCK_ID + 1);
  readonly holeOffset = new Uint16Array(MAX_BLOCK_ID + 1);
  readonly holeLength = new Uint16Array(MAX_BLOCK_ID + 1);
  /** 1 where the image is to be restored and not only there for wal_consistency_checking. */
  readonly imageApply = new Uint8Array(MAX_BLOCK_ID + 1);

  get version(): PgVersion {
    const version = versionFromPageMagic(this.pageMagic);
    if (version === undefined) {
      throw corruptWal(this.startLsn, `unknown page magic ${this.pageMagic.toString(16)}`);
    }
    return version;
  }

  /** Points at a record whose length and CRC have been checked; reads the fixed header only. */
  setHeader(
    bytes: Uint8Array,
    view: DataView,
    offset: number,
    startLsn: Lsn,
    endLsn: Lsn,
    pageMagic: number,
  ): void {
    this.bytes = bytes;
    this.view = view;
    this.offset = offset;
    this.length = view.getUint32(offset, true);
    this.xid = view.getUint32(offset + 4, true);
    // Not lsnFromParts: the chain check has already refused what is not a lower LSN.
    this.prevLsn = (view.getUint32(offset + 12, true) * 2 ** 32 +
      view.getUint32(offset + 8, true)) as Lsn;
    this.info = view.getUint8(offset + 16);
    this.rmid = view.getUint8(offset + 17);
    this.startLsn = startLsn;
    this.endLsn = endLsn;
    this.pageMagic = pageMagic;
  }

  /** The ordinal of the reference with id `id`, or -1. */
  findBlock(id: number): number {
    for (let i = 0; i < this.blockCount; i++) {
      if (this.blockId[i] === id) {
        return i;
      }
    }
    return -1;
  }

  /** Reads block references and the places of all data. Throws StorageError `corrupt`. */
  decode(): void {
    const { view } = this;
    const end = this.offset + this.length;
    const version = this.version;
    let at = this.offset + RECORD_HEADER_SIZE;
    let dataTotal = 0;
    let count = 0;
    let hasRel = false;
    this.originId = 0;
    this.toplevelXid = 0;
    this.mainLength = 0;
    while (end - at > dataTotal) {
      const id = view.getUint8(at);
      at += 1;
      if (id <= MAX_BLOCK_ID) {
        if (count > 0 && id <= this.blockId[count - 1]!) {
          throw corruptWal(this.startLsn, `out-of-order block id ${id}`);
        }
        this.blockId[count] = id;
        at = this.#decodeBlock(count, at, end, hasRel, version);
        dataTotal += this.dataLength[count]! + this.imageLength[count]!;
        hasRel = true;
        count++;
        continue;
      }
      const width = id === BLOCK_ID_DATA_SHORT ? 1 : id === BLOCK_ID_ORIGIN ? 2 : 4;
      if (id < BLOCK_ID_TOPLEVEL_XID) {
        throw corruptWal(this.startLsn, `invalid block id ${id}`);
      }
      if (end - at < width) {
        throw this.#badLength();
      }
      if (id === BLOCK_ID_ORIGIN) {
        this.originId = view.getUint16(at, true);
      } else if (id === BLOCK_ID_TOPLEVEL_XID) {
        this.toplevelXid = view.getUint32(at, true);
      } else {
        this.mainLength = id === BLOCK_ID_DATA_LONG ? view.getUint32(at, true) : view.getUint8(at);
        dataTotal += this.mainLength;
        at += width;
        break; // the main data's header is always the last
      }
      at += width;
    }
    if (end - at !== dataTotal) {
      throw this.#badLength();
    }
    this.blockCount = count;
    for (let i = 0; i < count; i++) {
      this.imageOffset[i] = at;
      at += this.imageLength[i]!;
      this.dataOffset[i] = at;
      at += this.dataLength[i]!;
    }
    this.mainOffset = at;
  }

  #badLength(): Error {
    return corruptWal(this.startLsn, "record with invalid length");
  }

  #decodeBlock(i: number, start: number, end: number, hasRel: boolean, version: PgVersion): number {
    const { view } = this;
    let at = start;
    if (end - at < 3) {
      throw this.#badLength();
    }
    const flags = view.getUint8(at);
    const dataLength = view.getUint16(at + 1, true);
    at += 3;
    this.blockFlags[i] = flags;
    this.blockFork[i] = flags & BKPBLOCK_FORK_MASK;
    this.dataLength[i] = dataLength;
    if (((flags & BKPBLOCK_HAS_DATA) !== 0) !== dataLength > 0) {
      throw corruptWal(this.startLsn, `HAS_DATA flag and data length ${dataLength} disagree`);
    }
    if ((flags & BKPBLOCK_HAS_IMAGE) !== 0) {
      at = this.#decodeImageHeader(i, at, end, version);
    } else {
      this.imageLength[i] = 0;
      this.imageApply[i] = 0;
    }
    if ((flags & BKPBLOCK_SAME_REL) === 0) {
      if (end - at < 16) {
        throw this.#badLength();
      }
      this.blockSpc[i] = view.getUint32(at, true);
      this.blockDb[i] = view.getUint32(at + 4, true);
      this.blockRel[i] = view.getUint32(at + 8, true);
      at += 12;
    } else {
      if (!hasRel) {
        throw corruptWal(this.startLsn, "SAME_REL set but there is no previous relation");
      }
      if (end - at < 4) {
        throw this.#badLength();
      }
      this.blockSpc[i] = this.blockSpc[i - 1]!;
      this.blockDb[i] = this.blockDb[i - 1]!;
      this.blockRel[i] = this.blockRel[i - 1]!;
    }
    this.blockNumber[i] = view.getUint32(at, true);
    return at + 4;
  }

  #decodeImageHeader(i: number, start: number, end: number, version: PgVersion): number {
    const { view } = this;
    let at = start;
    if (end - at < 5) {
      throw this.#badLength();
    }
    const length = view.getUint16(at, true);
    const holeOffset = view.getUint16(at + 2, true);
    const info = view.getUint8(at + 4);
    at += 5;
    const hasHole = (info & BKPIMAGE_HAS_HOLE) !== 0;
    const compressed = (info & (version.imagePglz | version.imageLz4 | version.imageZstd)) !== 0;
    let holeLength = PAGE_SIZE - length;
    if (compressed) {
      holeLength = 0;
      if (hasHole) {
        if (end - at < 2) {
          throw this.#badLength();
        }
        holeLength = view.getUint16(at, true);
        at += 2;
      }
    }
    if (
      length === 0 ||
      length > PAGE_SIZE ||
      (compressed && length === PAGE_SIZE) ||
      (hasHole && (holeOffset === 0 || holeLength === 0)) ||
      (!hasHole && (holeOffset !== 0 || holeLength !== 0)) ||
      holeOffset + holeLength > PAGE_SIZE
    ) {
      const hole = `hole at ${holeOffset} of ${holeLength} bytes`;
      throw corruptWal(this.startLsn, `bad page image: ${length} bytes, ${hole}, info ${info}`);
    }
    this.imageLength[i] = length;
    this.holeOffset[i] = holeOffset;
    this.holeLength[i] = holeLength;
    this.imageInfo[i] = info;
    this.imageApply[i] = (info & version.imageApply) !== 0 ? 1 : 0;
    return at;
  }
}

/** xl_crc of the record of `length` bytes at `at`. */
export function recordCrc(bytes: Uint8Array, at: number, length: number): number {
  const body = updateCrc32c(CRC32C_START, bytes, at + RECORD_HEADER_SIZE, at + length);
  return finishCrc32c(updateCrc32c(body, bytes, at, at + 20));
}

/** A record without block references: header, main data, CRC. */
export function encodeRecord(record: {
  readonly rmid: number;
  readonly info: number;
  readonly xid: number;
  readonly prevLsn: Lsn;
  readonly mainData: Uint8Array;
}): Uint8Array {
  const { mainData } = record;
  const short = mainData.length <= 255;
  const headerSize = RECORD_HEADER_SIZE + (mainData.length === 0 ? 0 : short ? 2 : 5);
  const bytes = new Uint8Array(headerSize + mainData.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(4, record.xid, true);
  view.setUint32(8, lsnLow(record.prevLsn), true);
  view.setUint32(12, lsnHigh(record.prevLsn), true);
  view.setUint8(16, record.info);
  view.setUint8(17, record.rmid);
  if (mainData.length > 0) {
    view.setUint8(RECORD_HEADER_SIZE, short ? BLOCK_ID_DATA_SHORT : BLOCK_ID_DATA_LONG);
    if (short) {
      view.setUint8(RECORD_HEADER_SIZE + 1, mainData.length);
    } else {
      view.setUint32(RECORD_HEADER_SIZE + 1, mainData.length, true);
    }
    bytes.set(mainData, headerSize);
  }
  view.setUint32(20, recordCrc(bytes, 0, bytes.length), true);
  return bytes;
}
