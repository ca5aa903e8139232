// pg_replslot/NAME/state: of a replication slot, what is to be known before Postgres runs.
//
// Source: replication/slot.c (ReplicationSlotOnDisk), replication/slot.h, 14-18, little-endian:
//   offset size field
//        0    4 magic            0x1051CA1
//        4    4 checksum         CRC-32C of all behind it
//        8    4 version          2 to 5; what follows `confirmed_flush` differs, and is left as it is
//       12    4 length           of the rest
//       16   64 name             with its closing zero
//       80    4 database         0: a physical slot
//       84    4 persistency      0 persistent, 1 while it is being made, 2 of a session
//       88    4 xmin
//       92    4 catalog_xmin
//       96    8 restart_lsn      decoding begins here
//      104    8 invalidated_at   up to 15: an LSN; 0: valid
//      104    4 invalidated      from 16 on: the cause; 0: valid. Then 4 of padding
//      112    8 confirmed_flush  transactions that committed below were received
// A reader reports `corrupt` for a wrong magic, checksum or length.

import { crc32c } from "../../base/crc32c.ts";
import { StorageError } from "../../base/errors.ts";
import { type Lsn, lsnFromBigInt, MAX_LSN } from "../../base/lsn.ts";

const MAGIC = 0x0105_1ca1;
const CHECKSUM = 4;
const CHECKSUMMED_FROM = 8;
const REST_LENGTH = 12;
const REST = 16;
const NAME_LENGTH = 64;
const DATABASE = 80;
const PERSISTENCY = 84;
const RESTART_LSN = 96;
const INVALIDATED = 104;
const CONFIRMED_FLUSH = 112;
const LEAST_BYTES = 120;
const RS_PERSISTENT = 0;
/** From 16 on `invalidated` is a cause. */
const CAUSE_MAJOR = 16;
const RS_INVAL_WAL_REMOVED = 1;

export interface ReplicationSlot {
  /** 1 to 63 of `a-z0-9_`. */
  readonly name: string;
  /** 0: a physical slot. */
  readonly dbOid: number;
  /** It outlives the session that made it, and is whole. */
  readonly isPersistent: boolean;
  /** 0: none. */
  readonly restartLsn: Lsn;
  readonly confirmedFlush: Lsn;
}

/** StorageError `corrupt`. */
export function decodeReplicationSlot(bytes: Uint8Array): ReplicationSlot {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (
    bytes.length < LEAST_BYTES ||
    view.getUint32(0, true) !== MAGIC ||
    view.getUint32(REST_LENGTH, true) !== bytes.length - REST
  ) {
    throw corrupt(`${bytes.length} bytes do not hold one`);
  }
  if (view.getUint32(CHECKSUM, true) !== crc32c(bytes, CHECKSUMMED_FROM, bytes.length)) {
    throw corrupt("wrong checksum");
  }
  const name = /^[a-z0-9_]{1,63}(?=\0)/.exec(
    Buffer.from(bytes.subarray(REST, REST + NAME_LENGTH)).toString("latin1"),
  )?.[0];
  if (name === undefined) {
    throw corrupt("it has no name");
  }
  const lsn = (offset: number) => {
    const value = view.getBigUint64(offset, true);
    if (value > BigInt(MAX_LSN)) {
      throw corrupt(`LSN ${value} of '${name}'`);
    }
    return lsnFromBigInt(value);
  };
  return {
    name,
    dbOid: view.getUint32(DATABASE, true),
    isPersistent: view.getUint32(PERSISTENCY, true) === RS_PERSISTENT,
    restartLsn: lsn(RESTART_LSN),
    confirmedFlush: lsn(CONFIRMED_FLUSH),
  };
}

/** The state of the same slot once Postgres has found that its WAL is gone. StorageError `corrupt`. */
export function withoutWal(bytes: Uint8Array, major: number): Uint8Array {
  const { restartLsn } = decodeReplicationSlot(bytes);
  const changed = Uint8Array.from(bytes);
  const view = new DataView(changed.buffer);
  if (major >= CAUSE_MAJOR) {
    view.setUint32(INVALIDATED, RS_INVAL_WAL_REMOVED, true);
  } else {
    view.setBigUint64(INVALIDATED, BigInt(restartLsn), true);
  }
  view.setBigUint64(RESTART_LSN, 0n, true);
  view.setUint32(CHECKSUM, crc32c(changed, CHECKSUMMED_FROM, changed.length), true);
  return changed;
}

function corrupt(what: string): StorageError {
  return new StorageError(
    "corrupt",
    "bad-replication-slot",
    `state of a replication slot: ${what}`,
  );
}
