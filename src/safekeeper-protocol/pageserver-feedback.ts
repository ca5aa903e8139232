// What a pageserver tells safekeepers, and they the compute, about how far it has got ('z' messages).

import { StorageError } from "../base/errors.ts";
import { INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { ByteReader, ByteWriter } from "./byte-codec.ts";

/**
 * Neon's libs/utils/src/pageserver_feedback.rs: u8 number of keys, then each key as a C string,
 * i32 length of its value, value (big-endian). Unknown keys are skipped.
 */
export interface PageserverFeedback {
  /** Logical size of the timeline in bytes. */
  readonly currentTimelineSize: number;
  /** Ingested; readable without waiting. */
  readonly lastReceivedLsn: Lsn;
  /** Survives a crash of the pageserver. */
  readonly diskConsistentLsn: Lsn;
  /** Survives the loss of the pageserver: WAL below may go. */
  readonly remoteConsistentLsn: Lsn;
  /** Microseconds since 2000-01-01. */
  readonly replyTime: number;
  readonly shardNumber: number;
  readonly corruptionDetected: boolean;
}

export const NO_PAGESERVER_FEEDBACK: PageserverFeedback = {
  currentTimelineSize: 0,
  lastReceivedLsn: INVALID_LSN,
  diskConsistentLsn: INVALID_LSN,
  remoteConsistentLsn: INVALID_LSN,
  replyTime: 0,
  shardNumber: 0,
  corruptionDetected: false,
};

export function encodePageserverFeedback(feedback: PageserverFeedback): Uint8Array {
  const writer = new ByteWriter(192);
  const keyCount = 5 + (feedback.shardNumber > 0 ? 1 : 0) + (feedback.corruptionDetected ? 1 : 0);
  writer.u8(keyCount);
  const u64 = (key: string, value: number) => {
    writer.cstring(key);
    writer.u32(8);
    writer.u64(value);
  };
  u64("current_timeline_size", feedback.currentTimelineSize);
  u64("ps_writelsn", feedback.lastReceivedLsn);
  u64("ps_flushlsn", feedback.diskConsistentLsn);
  u64("ps_applylsn", feedback.remoteConsistentLsn);
  u64("ps_replytime", feedback.replyTime);
  if (feedback.shardNumber > 0) {
    writer.cstring("shard_number");
    writer.u32(4);
    writer.u32(feedback.shardNumber);
  }
  if (feedback.corruptionDetected) {
    writer.cstring("corruption_detected");
    writer.u32(1);
    writer.u8(1);
  }
  return writer.finish();
}

/** Decodes from the reader's position; StorageError `invalid` names the key that is wrong. */
export function readPageserverFeedback(reader: ByteReader): PageserverFeedback {
  const feedback = { ...NO_PAGESERVER_FEEDBACK };
  const keyCount = reader.u8("number of feedback keys");
  for (let i = 0; i < keyCount; i++) {
    const key = reader.cstring("feedback key");
    const length = reader.u32("feedback value length");
    const value = new ByteReader(reader.bytes(length, `feedback ${key}`));
    const wide = () => {
      if (length !== 8) {
        throw new StorageError("invalid", "bad-feedback", `feedback ${key} has ${length} bytes`);
      }
      return value.u64(key);
    };
    switch (key) {
      case "current_timeline_size":
        feedback.currentTimelineSize = wide();
        break;
      case "ps_writelsn":
      case "last_received_lsn":
        feedback.lastReceivedLsn = wide() as Lsn;
        break;
      case "ps_flushlsn":
      case "disk_consistent_lsn":
        feedback.diskConsistentLsn = wide() as Lsn;
        break;
      case "ps_applylsn":
      case "remote_consistent_lsn":
        feedback.remoteConsistentLsn = wide() as Lsn;
        break;
      case "ps_replytime":
      case "replytime":
        feedback.replyTime = wide();
        break;
      case "shard_number":
        feedback.shardNumber = value.u32(key);
        break;
      case "corruption_detected":
        feedback.corruptionDetected = value.u8(key) !== 0;
        break;
      default:
        break;
    }
  }
  return feedback;
}

export function decodePageserverFeedback(bytes: Uint8Array): PageserverFeedback {
  return readPageserverFeedback(new ByteReader(bytes));
}
