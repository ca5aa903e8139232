// Restores full-page images: fills the hole, decompresses, stamps the LSN.
//
// Source: RestoreBlockImage in access/transam/xlogreader.c, 14-18. The image is the page without its
// hole (zeros), perhaps compressed (wal_compression: pglz; lz4 and zstd from 15 on).

import { zstdDecompressSync } from "node:zlib";
import { type Lsn, lsnHigh, lsnLow } from "../base/lsn.ts";
import { decompressLz4Block } from "./compression/lz4.ts";
import { decompressPglz } from "./compression/pglz.ts";
import { XLOG_FPI } from "./opcodes.ts";
import { PAGE_SIZE, PD_LSN, PD_UPPER } from "./page.ts";
import { RM_XLOG_ID } from "./rmgr.ts";
import type { PgVersion } from "./versions.ts";
import { corruptWal } from "./wal-page.ts";
import {
  BKPBLOCK_HAS_IMAGE,
  BKPIMAGE_HAS_HOLE,
  RECORD_CRC_OFFSET,
  RECORD_HEADER_SIZE,
  recordCrc,
  type XLogRecord,
} from "./xlog-record.ts";

const decompressed = new Uint8Array(PAGE_SIZE);

/**
 * Writes the page of block reference number `ordinal` of a decoded record into `page` (8192 bytes).
 * The LSN is not stamped: an image for wal_consistency_checking has its own. StorageError `corrupt`.
 */
export function restoreImage(record: XLogRecord, ordinal: number, page: Uint8Array): void {
  const imageLength = record.imageLength[ordinal]!;
  const imageOffset = record.imageOffset[ordinal]!;
  const holeOffset = record.holeOffset[ordinal]!;
  const holeLength = record.holeLength[ordinal]!;
  const info = record.imageInfo[ordinal]!;
  const { imagePglz, imageLz4, imageZstd } = record.version;
  let source = record.bytes.subarray(imageOffset, imageOffset + imageLength);
  if ((info & (imagePglz | imageLz4 | imageZstd)) !== 0) {
    const target = decompressed.subarray(0, PAGE_SIZE - holeLength);
    let whole: boolean;
    if ((info & imagePglz) !== 0) {
      whole = decompressPglz(source, target);
    } else if ((info & imageLz4) !== 0) {
      whole = decompressLz4Block(source, target);
    } else {
      whole = decompressZstd(source, target);
    }
    if (!whole) {
      const blkno = record.blockNumber[ordinal]!;
      throw corruptWal(record.startLsn, `cannot decompress the image of block ${blkno}`);
    }
    source = target;
  }
  if (holeLength === 0) {
    page.set(source);
    return;
  }
  page.set(source.subarray(0, holeOffset));
  page.fill(0, holeOffset, holeOffset + holeLength);
  page.set(source.subarray(holeOffset), holeOffset + holeLength);
}

function decompressZstd(source: Uint8Array, target: Uint8Array): boolean {
  try {
    const bytes = zstdDecompressSync(source, { maxOutputLength: PAGE_SIZE });
    if (bytes.length !== target.length) {
      return false;
    }
    target.set(bytes);
    return true;
  } catch {
    return false;
  }
}

/** Sets pd_lsn of the page under `view` unless it is new, as XLogReadBufferForRedo does after restoring an image. */
export function stampLsn(view: DataView, lsn: Lsn): void {
  if (view.getUint16(PD_UPPER, true) === 0) {
    return;
  }
  view.setUint32(PD_LSN, lsnHigh(lsn), true);
  view.setUint32(PD_LSN + 4, lsnLow(lsn), true);
}

/** Of a block reference with an image, for another relation than the one before. */
const IMAGE_REFERENCE_BYTES = 4 + 5 + 12 + 4;

/** An XLOG_FPI record: the page as it is, but for its longest run of zeros. */
export function encodeImageRecord(image: {
  readonly version: PgVersion;
  readonly prevLsn: Lsn;
  readonly block: {
    readonly spcOid: number;
    readonly dbOid: number;
    readonly relNumber: number;
    readonly fork: number;
    readonly blkno: number;
  };
  readonly page: Uint8Array;
}): Uint8Array {
  const { version, block, page } = image;
  const hole = longestZeros(page);
  const imageLength = PAGE_SIZE - hole.length;
  const bytes = new Uint8Array(RECORD_HEADER_SIZE + IMAGE_REFERENCE_BYTES + imageLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length, true);
  view.setUint32(8, lsnLow(image.prevLsn), true);
  view.setUint32(12, lsnHigh(image.prevLsn), true);
  view.setUint8(16, XLOG_FPI);
  view.setUint8(17, RM_XLOG_ID);
  let at = RECORD_HEADER_SIZE;
  view.setUint8(at + 1, block.fork | BKPBLOCK_HAS_IMAGE);
  view.setUint16(at + 4, imageLength, true);
  view.setUint16(at + 6, hole.offset, true);
  view.setUint8(at + 8, version.imageApply | (hole.length > 0 ? BKPIMAGE_HAS_HOLE : 0));
  at += 9;
  for (const field of [block.spcOid, block.dbOid, block.relNumber, block.blkno]) {
    view.setUint32(at, field, true);
    at += 4;
  }
  bytes.set(page.subarray(0, hole.offset), at);
  bytes.set(page.subarray(hole.offset + hole.length), at + hole.offset);
  view.setUint32(RECORD_CRC_OFFSET, recordCrc(bytes, 0, bytes.length), true);
  return bytes;
}

/** Readers take none that begins at 0; a page of zeros has one from 1 on. */
function longestZeros(page: Uint8Array): { offset: number; length: number } {
  let best = { offset: 0, length: 0 };
  for (let at = 1; at < PAGE_SIZE; at++) {
    const offset = at;
    while (at < PAGE_SIZE && page[at] === 0) {
      at++;
    }
    if (at - offset > best.length) {
      best = { offset, length: at - offset };
    }
  }
  return best;
}
