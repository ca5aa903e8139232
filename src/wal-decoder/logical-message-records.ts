// Logical messages: for whoever decodes WAL, but for two, by which a compute tells the pageserver something.
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
    if (
      prefixSize === BigInt(STATISTICS.length) &&
      Buffer.compare(STATISTICS, data.bytes(STATISTICS.length)) === 0
    ) {
      sink.statistics(data.bytes(Number(messageSize)));
    }
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

/** The main data of the message with `files`. */
export function encodeStatisticsMessage(files: Uint8Array): Uint8Array {
  const head = new DataView(new ArrayBuffer(24));
  head.setBigUint64(8, BigInt(STATISTICS.length), true);
  head.setBigUint64(16, BigInt(files.length), true);
  return Buffer.concat([new Uint8Array(head.buffer), STATISTICS, files]);
}
