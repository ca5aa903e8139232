// The part of interpretation that all resource managers share: one delta or image for each block reference.

import { StorageError } from "../base/errors.ts";
import { formatLsn } from "../base/lsn.ts";
import { restoreImage, stampLsn } from "../postgres/fpi.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { INIT_FORK } from "../postgres/relation-path.ts";
import {
  RM_BRIN_ID,
  RM_BTREE_ID,
  RM_GENERIC_ID,
  RM_GIN_ID,
  RM_GIST_ID,
  RM_HASH_ID,
  RM_HEAP_ID,
  RM_HEAP2_ID,
  RM_SEQ_ID,
  RM_SPGIST_ID,
  rmgrName,
  XLR_RMGR_INFO_MASK,
} from "../postgres/rmgr.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import { BKPBLOCK_WILL_INIT, type XLogRecord } from "../postgres/xlog-record.ts";
import { encodeRecordDelta } from "./delta.ts";
import type { RecordSink, RelationFork } from "./record-sink.ts";
import { changeRestoredImage } from "./restored-images.ts";

/**
 * What redo can apply to a page, by resource manager: bit n for opcode n << 4 of xl_info. A manager
 * whose redo is written is added here; records of others are refused unless all their pages come as
 * full images.
 */
const REDO_OPCODES = new Uint16Array(256);
REDO_OPCODES[RM_HEAP_ID] = 0b0001_0101_1111_1111;
REDO_OPCODES[RM_HEAP2_ID] = 0b0010_0000_1111_1111;
REDO_OPCODES[RM_BTREE_ID] = 0b0111_1111_1111_1111;
REDO_OPCODES[RM_GIN_ID] = 0b0000_0011_1111_1110;
REDO_OPCODES[RM_HASH_ID] = 0b0001_1111_1111_1111;
REDO_OPCODES[RM_GIST_ID] = 0b0000_0000_0100_1011;
REDO_OPCODES[RM_SPGIST_ID] = 0b0000_0001_1111_1110;
REDO_OPCODES[RM_SEQ_ID] = 0b0000_0000_0000_0001;
REDO_OPCODES[RM_BRIN_ID] = 0b0000_0110_0011_1111;
REDO_OPCODES[RM_GENERIC_ID] = 0b0000_0000_0000_0001;

/**
 * Records whose redo in Postgres changes nothing either: two of gist, one for conflicts, one that
 * only takes an LSN.
 */
const NO_EFFECT_OPCODES = new Uint16Array(256);
NO_EFFECT_OPCODES[RM_GIST_ID] = 0b1000_0100;

const page = new Uint8Array(PAGE_SIZE);
const pageView = new DataView(page.buffer);

/** Recently named relation forks, so that a record costs no object; entries never change once made. */
const RECENT = 256;
const recentForks: (RelationFork | undefined)[] = new Array(RECENT).fill(undefined);

/** The relation fork of reference number `ordinal`; immutable, may be kept. */
export function relationForkOf(record: XLogRecord, ordinal: number): RelationFork {
  const relNumber = record.blockRel[ordinal]!;
  const dbOid = record.blockDb[ordinal]!;
  const fork = record.blockFork[ordinal]!;
  const spcOid = record.blockSpc[ordinal]!;
  const slot = (relNumber * 4 + fork + dbOid * 67) & (RECENT - 1);
  const recent = recentForks[slot];
  if (
    recent !== undefined &&
    recent.relNumber === relNumber &&
    recent.fork === fork &&
    recent.dbOid === dbOid &&
    recent.spcOid === spcOid
  ) {
    return recent;
  }
  const made: RelationFork = { spcOid, dbOid, relNumber, fork };
  recentForks[slot] = made;
  return made;
}

/** Tells `sink` of every block reference, or throws `unsupported` before it told anything. */
export function interpretBlocks(record: XLogRecord, sink: RecordSink): void {
  const { blockCount } = record;
  const opcodeBit = 1 << (record.info >>> 4);
  if ((REDO_OPCODES[record.rmid]! & opcodeBit) === 0) {
    if ((NO_EFFECT_OPCODES[record.rmid]! & opcodeBit) !== 0) {
      return;
    }
    requireOnlyImages(record);
  }
  for (let i = 0; i < blockCount; i++) {
    if (record.blockFork[i]! > INIT_FORK) {
      throw corruptWal(record.startLsn, `block of fork ${record.blockFork[i]}`);
    }
    if (record.imageApply[i] === 1) {
      interpretImage(record, i, sink);
    } else {
      const delta = encodeRecordDelta(record, i);
      const willInit = (record.blockFlags[i]! & BKPBLOCK_WILL_INIT) !== 0;
      sink.blockDelta(relationForkOf(record, i), record.blockNumber[i]!, delta, willInit);
    }
  }
}

/** The image of reference number `ordinal`, which has one, as the page is after redo. */
export function interpretImage(record: XLogRecord, ordinal: number, sink: RecordSink): void {
  restoreImage(record, ordinal, page);
  stampLsn(pageView, record.endLsn);
  changeRestoredImage(record, ordinal, pageView);
  sink.blockImage(relationForkOf(record, ordinal), record.blockNumber[ordinal]!, page);
}

function requireOnlyImages(record: XLogRecord): void {
  for (let i = 0; i < record.blockCount; i++) {
    if (record.imageApply[i] !== 1) {
      throw unsupportedRecord(record);
    }
  }
  if (record.blockCount === 0) {
    throw unsupportedRecord(record);
  }
}

export function unsupportedRecord(record: XLogRecord): StorageError {
  const rmgr = rmgrName(record.rmid);
  const info = `0x${(record.info & XLR_RMGR_INFO_MASK).toString(16).padStart(2, "0")}`;
  const lsn = formatLsn(record.startLsn);
  return new StorageError(
    "unsupported",
    "unsupported-wal-record",
    `WAL record of ${rmgr} with info ${info} at ${lsn} is not supported`,
    { fields: { rmgr, info, lsn } },
  );
}
