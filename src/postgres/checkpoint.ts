// The CheckPoint struct of pg_control and of checkpoint records.
//
// Source: catalog/pg_control.h, 14-18, 64-bit little-endian layout, 88 bytes:
//   offset size field
//        0    8 redo
//        8    4 ThisTimeLineID
//       12    4 PrevTimeLineID
//       16    1 fullPageWrites
//       17    3 padding
//       20    4 wal_level           (17 and later; padding before)
//       24    8 nextXid             epoch << 32 | xid
//       32    4 nextOid
//       36    4 nextMulti
//       40    4 nextMultiOffset
//       44    4 oldestXid
//       48    4 oldestXidDB
//       52    4 oldestMulti
//       56    4 oldestMultiDB
//       60    4 padding
//       64    8 time                seconds since the Unix epoch
//       72    4 oldestCommitTsXid
//       76    4 newestCommitTsXid
//       80    4 oldestActiveXid     0 in a shutdown checkpoint
//       84    4 padding
// The checksum is that of the record or file around it.

import { StorageError } from "../base/errors.ts";
import { type Lsn, lsnFromBigInt, lsnToBigInt } from "../base/lsn.ts";
import type { PgVersion } from "./versions.ts";

export const CHECKPOINT_SIZE = 88;
/** WalLevel of access/xlog.h; what versions without the field are taken to mean. */
const WAL_LEVEL_REPLICA = 1;

/** A CheckPoint struct with the version differences taken out. */
export interface CheckPoint {
  redo: Lsn;
  timeLineId: number;
  prevTimeLineId: number;
  fullPageWrites: boolean;
  /** 17 and later; 1 (replica) before. */
  walLevel: number;
  /** FullTransactionId: epoch * 2^32 + xid. */
  nextFullXid: bigint;
  nextOid: number;
  nextMulti: number;
  nextMultiOffset: number;
  oldestXid: number;
  oldestXidDb: number;
  oldestMulti: number;
  oldestMultiDb: number;
  /** Seconds since the Unix epoch. */
  time: bigint;
  oldestCommitTsXid: number;
  newestCommitTsXid: number;
  oldestActiveXid: number;
}

/** Reads 88 bytes at `at`. StorageError `corrupt` where they are not there or hold no LSN. */
export function decodeCheckPoint(
  bytes: Uint8Array,
  at: number,
  length: number,
  version: PgVersion,
): CheckPoint {
  if (length < CHECKPOINT_SIZE || at + CHECKPOINT_SIZE > bytes.length) {
    throw new StorageError("corrupt", "corrupt-checkpoint", `checkpoint of ${length} bytes`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset + at, CHECKPOINT_SIZE);
  const redo = view.getBigUint64(0, true);
  if (redo >= 2n ** 53n) {
    throw new StorageError("corrupt", "corrupt-checkpoint", `checkpoint with redo at ${redo}`);
  }
  return {
    redo: lsnFromBigInt(redo),
    timeLineId: view.getUint32(8, true),
    prevTimeLineId: view.getUint32(12, true),
    fullPageWrites: view.getUint8(16) !== 0,
    walLevel: version.checkPointHasWalLevel ? view.getInt32(20, true) : WAL_LEVEL_REPLICA,
    nextFullXid: view.getBigUint64(24, true),
    nextOid: view.getUint32(32, true),
    nextMulti: view.getUint32(36, true),
    nextMultiOffset: view.getUint32(40, true),
    oldestXid: view.getUint32(44, true),
    oldestXidDb: view.getUint32(48, true),
    oldestMulti: view.getUint32(52, true),
    oldestMultiDb: view.getUint32(56, true),
    time: view.getBigInt64(64, true),
    oldestCommitTsXid: view.getUint32(72, true),
    newestCommitTsXid: view.getUint32(76, true),
    oldestActiveXid: view.getUint32(80, true),
  };
}

export function encodeCheckPoint(checkPoint: Readonly<CheckPoint>, version: PgVersion): Uint8Array {
  const bytes = new Uint8Array(CHECKPOINT_SIZE);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, lsnToBigInt(checkPoint.redo), true);
  view.setUint32(8, checkPoint.timeLineId, true);
  view.setUint32(12, checkPoint.prevTimeLineId, true);
  view.setUint8(16, checkPoint.fullPageWrites ? 1 : 0);
  if (version.checkPointHasWalLevel) {
    view.setInt32(20, checkPoint.walLevel, true);
  }
  view.setBigUint64(24, checkPoint.nextFullXid, true);
  view.setUint32(32, checkPoint.nextOid, true);
  view.setUint32(36, checkPoint.nextMulti, true);
  view.setUint32(40, checkPoint.nextMultiOffset, true);
  view.setUint32(44, checkPoint.oldestXid, true);
  view.setUint32(48, checkPoint.oldestXidDb, true);
  view.setUint32(52, checkPoint.oldestMulti, true);
  view.setUint32(56, checkPoint.oldestMultiDb, true);
  view.setBigInt64(64, checkPoint.time, true);
  view.setUint32(72, checkPoint.oldestCommitTsXid, true);
  view.setUint32(76, checkPoint.newestCommitTsXid, true);
  view.setUint32(80, checkPoint.oldestActiveXid, true);
  return bytes;
}
