// Restores full-page images: fills the hole, decompresses, stamps the LSN.
//
// Source: RestoreBlockImage in access/transam/xlogreader.c, 14-18. The image is the page without its
// hole (zeros), perhaps compressed (wal_compression: pglz; lz4 and zstd from 15 on).

import { zstdDecompressSync } from "node:zlib";
import { type Lsn, lsnHigh, lsnLow } from "../base/lsn.ts";
import { decompressLz4Block } from "./compression/lz4.ts";
import { decompressPglz } from "./compression/pglz.ts";
import { PAGE_SIZE, PD_LSN, PD_UPPER } from "./page.ts";
import { corruptWal } from "./wal-page.ts";
import type { XLogRecord } from "./xlog-record.ts";

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
