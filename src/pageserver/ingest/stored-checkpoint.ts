// The checkpoint value of a timeline: the fields of CheckPoint, whatever the major version.
//
// Ours, format version 1. Little-endian.
//   offset size field
//        0    1 format version = 1
//        1    1 fullPageWrites
//        2    2 zero
//        4    4 walLevel
//        8    8 redo
//       16    8 nextFullXid
//       24    8 time            seconds since the Unix epoch, signed
//       32 4*12 timeLineId, prevTimeLineId, nextOid, nextMulti, nextMultiOffset, oldestXid,
//               oldestXidDb, oldestMulti, oldestMultiDb, oldestCommitTsXid, newestCommitTsXid,
//               oldestActiveXid
// Checksum: the layer block's. A reader that finds another length or version reports `corrupt`.

import { StorageError } from "../../base/errors.ts";
import { lsnFromBigInt } from "../../base/lsn.ts";
import type { CheckPoint } from "../../wal-decoder/record-sink.ts";

const FORMAT_VERSION = 1;
const LENGTH = 80;
const NUMBERS = [
  "timeLineId",
  "prevTimeLineId",
  "nextOid",
  "nextMulti",
  "nextMultiOffset",
  "oldestXid",
  "oldestXidDb",
  "oldestMulti",
  "oldestMultiDb",
  "oldestCommitTsXid",
  "newestCommitTsXid",
  "oldestActiveXid",
] as const;

export function encodeStoredCheckPoint(checkPoint: Readonly<CheckPoint>): Uint8Array {
  const view = new DataView(new ArrayBuffer(LENGTH));
  view.setUint8(0, FORMAT_VERSION);
  view.setUint8(1, checkPoint.fullPageWrites ? 1 : 0);
  view.setUint32(4, checkPoint.walLevel, true);
  view.setBigUint64(8, BigInt(checkPoint.redo), true);
  view.setBigUint64(16, checkPoint.nextFullXid, true);
  view.setBigInt64(24, checkPoint.time, true);
  NUMBERS.forEach((name, i) => {
    view.setUint32(32 + i * 4, checkPoint[name], true);
  });
  return new Uint8Array(view.buffer);
}

export function decodeStoredCheckPoint(bytes: Uint8Array): CheckPoint {
  if (bytes.length !== LENGTH || bytes[0] !== FORMAT_VERSION) {
    throw new StorageError(
      "corrupt",
      "bad-checkpoint",
      `stored checkpoint: ${bytes.length} bytes of format version ${bytes[0]}`,
    );
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const numbers = Object.fromEntries(
    NUMBERS.map((name, i) => [name, view.getUint32(32 + i * 4, true)]),
  ) as Record<(typeof NUMBERS)[number], number>;
  return {
    ...numbers,
    fullPageWrites: bytes[1] === 1,
    walLevel: view.getUint32(4, true),
    redo: lsnFromBigInt(view.getBigUint64(8, true)),
    nextFullXid: view.getBigUint64(16, true),
    time: view.getBigInt64(24, true),
  };
}
