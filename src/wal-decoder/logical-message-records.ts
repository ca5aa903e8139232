// Logical messages: for whoever decodes WAL, but for some, by which a compute tells the pageserver something.
//
// Source: replication/message.h, 14-18. Main data:
//   offset size field
//        0    4 database oid
//        4    1 transactional, 3 of padding
//        8    8 prefix_size    with its closing zero
//       16    8 message_size
//       24      prefix, message
// Anybody who may use SQL can write one with any prefix, so what makes no sense is passed over; only
// sizes that do not fit the record are `corrupt`.

import { XLOG_LOGICAL_MESSAGE } from "../postgres/opcodes.ts";
import { XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { unsupportedRecord } from "./block-references.ts";
import { MainData } from "./main-data.ts";
import type { RecordSink } from "./record-sink.ts";

/**
 * Prefix of the message by which a compute says, after the fact, that the subscriptions which a
 * timeline began with have no slot of their publisher any more. The message: the timeline's id.
 */
export const SUBSCRIPTIONS_DETACHED_PREFIX = "strata_subscriptions_detached";

/**
 * Prefix of the message by which a compute that has stopped leaves its statistics: the files of pg_stat
 * (data-directory/statistics-files.ts). Its database is 0, which no session has: so no user can write
 * one, and no replication slot shows it.
 */
export const STATISTICS_PREFIX = "strata_statistics";

/**
 * Begins the prefix of a message of database 0 by which a compute keeps a file of logical decoding; its path follows
 * (data-directory/aux-files.ts). The message is what is in it; none: it is gone.
 */
export const AUX_FILE_PREFIX = "strata_file:";

const AUX_FILE = Buffer.from(AUX_FILE_PREFIX);
const MAX_AUX_PATH_BYTES = 128;
const STATISTICS = Buffer.from(`${STATISTICS_PREFIX}\0`);
const PREFIX = Buffer.from(`${SUBSCRIPTIONS_DETACHED_PREFIX}\0`);
const TIMELINE_ID = /^[0-9a-f]{32}$/;
const TIMELINE_ID_BYTES = 32;

const data = new MainData();

export function interpretLogicalMessage(record: XLogRecord, sink: RecordSink): void {
  if ((record.info & XLR_RMGR_INFO_MASK) !== XLOG_LOGICAL_MESSAGE) {
    throw unsupportedRecord(record);
  }
  data.open(record);
  const dbOid = data.u32();
  data.skip(4);
  const prefixSize = data.u64();
  const messageSize = data.u64();
  if (dbOid === 0) {
    interpretOwnMessage(prefixSize, messageSize, sink);
    return;
  }
  if (prefixSize !== BigInt(PREFIX.length) || messageSize !== BigInt(TIMELINE_ID_BYTES)) {
    return;
  }
  if (Buffer.compare(PREFIX, data.bytes(PREFIX.length)) !== 0) {
    return;
  }
  const timelineId = Buffer.from(data.bytes(TIMELINE_ID_BYTES)).toString("latin1");
  if (TIMELINE_ID.test(timelineId)) {
    sink.subscriptionsDetached(timelineId);
  }
}

/** The prefix comes next; what no compute of ours writes is passed over. */
function interpretOwnMessage(prefixSize: bigint, messageSize: bigint, sink: RecordSink): void {
  if (prefixSize > BigInt(AUX_FILE.length + MAX_AUX_PATH_BYTES)) {
    return;
  }
  const prefix = Buffer.from(data.bytes(Number(prefixSize)));
  if (prefix.equals(STATISTICS)) {
    sink.statistics(data.bytes(Number(messageSize)));
  } else if (prefix.subarray(0, AUX_FILE.length).equals(AUX_FILE)) {
    const path = prefix.toString("latin1", AUX_FILE.length, prefix.length - 1);
    if (messageSize === 0n) {
      sink.auxFileGone(path);
    } else {
      sink.auxFile(path, 0, data.bytes(Number(messageSize)));
    }
  }
}

/** The main data of the message with `files`. */
export function encodeStatisticsMessage(files: Uint8Array): Uint8Array {
  return encodeOwnMessage(STATISTICS, files);
}

/** The main data of the message that a file is there with `content`; empty: that it is gone. */
export function encodeAuxFileMessage(path: string, content: Uint8Array): Uint8Array {
  return encodeOwnMessage(Buffer.from(`${AUX_FILE_PREFIX}${path}\0`, "latin1"), content);
}

/** Of database 0. */
function encodeOwnMessage(prefix: Uint8Array, message: Uint8Array): Uint8Array {
  const head = new DataView(new ArrayBuffer(24));
  head.setBigUint64(8, BigInt(prefix.length), true);
  head.setBigUint64(16, BigInt(message.length), true);
  return Buffer.concat([new Uint8Array(head.buffer), prefix, message]);
}
