// Messages of Postgres's physical replication protocol inside CopyData (libpqwalreceiver's view).

import { StorageError } from "../base/errors.ts";
import type { Lsn } from "../base/lsn.ts";
import { ByteReader, ByteWriter } from "./byte-codec.ts";
import type { HotStandbyFeedback } from "./messages.ts";
import { decodePageserverFeedback, type PageserverFeedback } from "./pageserver-feedback.ts";

/*
 * From the server (walsender.c, "Streaming Replication Protocol"), big-endian:
 *   'w'  u64 start LSN, u64 end of WAL on the server, i64 time, WAL bytes
 *   'k'  u64 end of WAL, i64 time, u8 reply requested
 * From the client:
 *   'r'  u64 written, u64 flushed, u64 applied, i64 time, u8 reply requested
 *   'h'  i64 time, u32 xmin, u32 xmin epoch, u32 catalog_xmin, u32 catalog_xmin epoch
 *   'z'  pageserver feedback (Neon)
 * Times are microseconds since 2000-01-01.
 */

const TAG_WAL = "w".charCodeAt(0);
const TAG_KEEPALIVE = "k".charCodeAt(0);
const TAG_STANDBY_STATUS = "r".charCodeAt(0);
const TAG_HOT_STANDBY = "h".charCodeAt(0);
const TAG_PAGESERVER = "z".charCodeAt(0);
/** 2000-01-01 in Unix milliseconds. */
const POSTGRES_EPOCH_MS = 946_684_800_000;

/** Postgres's timestamptz of a Unix time. */
export function postgresTime(unixMs: number): number {
  return Math.max(0, unixMs - POSTGRES_EPOCH_MS) * 1000;
}

export type ReplicationMessage =
  | {
      readonly type: "wal";
      readonly startLsn: Lsn;
      readonly walEnd: Lsn;
      /** A view of the payload. */
      readonly walData: Uint8Array;
    }
  | { readonly type: "keepalive"; readonly walEnd: Lsn; readonly replyRequested: boolean };

export interface StandbyStatus {
  readonly writeLsn: Lsn;
  readonly flushLsn: Lsn;
  readonly applyLsn: Lsn;
  /** Unix milliseconds. */
  readonly timeMs: number;
}

export type StandbyMessage =
  | ({ readonly type: "standby-status"; readonly replyRequested: boolean } & StandbyStatus)
  | ({ readonly type: "hot-standby-feedback" } & HotStandbyFeedback)
  | { readonly type: "pageserver-feedback"; readonly feedback: PageserverFeedback };

/** Header of a 'w' message; the WAL bytes follow in the same CopyData. */
export function encodeWalHeader(startLsn: Lsn, walEnd: Lsn, unixMs: number): Uint8Array {
  const writer = new ByteWriter(25);
  writer.u8(TAG_WAL);
  writer.u64(startLsn);
  writer.u64(walEnd);
  writer.u64(postgresTime(unixMs));
  return writer.finish();
}

export function encodeKeepalive(walEnd: Lsn, unixMs: number, replyRequested: boolean): Uint8Array {
  const writer = new ByteWriter(18);
  writer.u8(TAG_KEEPALIVE);
  writer.u64(walEnd);
  writer.u64(postgresTime(unixMs));
  writer.u8(replyRequested ? 1 : 0);
  return writer.finish();
}

export function decodeReplicationMessage(bytes: Uint8Array): ReplicationMessage {
  const reader = new ByteReader(bytes);
  const tag = reader.u8("tag");
  if (tag === TAG_WAL) {
    const startLsn = reader.u64("start LSN") as Lsn;
    const walEnd = reader.u64("WAL end") as Lsn;
    reader.bigU64("time");
    return { type: "wal", startLsn, walEnd, walData: reader.bytes(reader.remaining, "WAL") };
  }
  if (tag === TAG_KEEPALIVE) {
    const walEnd = reader.u64("WAL end") as Lsn;
    reader.bigU64("time");
    return { type: "keepalive", walEnd, replyRequested: reader.u8("reply requested") !== 0 };
  }
  throw new StorageError("invalid", "bad-message-tag", `unknown replication message tag ${tag}`);
}

export function encodeStandbyStatus(status: StandbyStatus): Uint8Array {
  const writer = new ByteWriter(34);
  writer.u8(TAG_STANDBY_STATUS);
  writer.u64(status.writeLsn);
  writer.u64(status.flushLsn);
  writer.u64(status.applyLsn);
  writer.u64(postgresTime(status.timeMs));
  writer.u8(0);
  return writer.finish();
}

/** Xids with their epochs, as FullTransactionId; 0: none. Its timestamp is not sent, but `unixMs`. */
export function encodeHotStandbyFeedback(
  { xmin, catalogXmin }: HotStandbyFeedback,
  unixMs: number,
): Uint8Array {
  const writer = new ByteWriter(25);
  writer.u8(TAG_HOT_STANDBY);
  writer.u64(postgresTime(unixMs));
  for (const fullXid of [xmin, catalogXmin]) {
    writer.u32(Number(fullXid & 0xffff_ffffn));
    writer.u32(Number(fullXid >> 32n));
  }
  return writer.finish();
}

export function decodeStandbyMessage(bytes: Uint8Array): StandbyMessage {
  const reader = new ByteReader(bytes);
  const tag = reader.u8("tag");
  switch (tag) {
    case TAG_STANDBY_STATUS:
      return {
        type: "standby-status",
        writeLsn: reader.u64("written LSN") as Lsn,
        flushLsn: reader.u64("flushed LSN") as Lsn,
        applyLsn: reader.u64("applied LSN") as Lsn,
        timeMs: reader.u64("time") / 1000 + POSTGRES_EPOCH_MS,
        replyRequested: reader.u8("reply requested") !== 0,
      };
    case TAG_HOT_STANDBY: {
      const timestamp = reader.u64("time");
      const fullXid = (what: string) => {
        const xid = BigInt(reader.u32(what));
        return (BigInt(reader.u32(`${what} epoch`)) << 32n) | xid;
      };
      return {
        type: "hot-standby-feedback",
        timestamp,
        xmin: fullXid("xmin"),
        catalogXmin: fullXid("catalog xmin"),
      };
    }
    case TAG_PAGESERVER:
      return {
        type: "pageserver-feedback",
        feedback: decodePageserverFeedback(bytes.subarray(1)),
      };
    default:
      throw new StorageError("invalid", "bad-message-tag", `unknown standby message tag ${tag}`);
  }
}
