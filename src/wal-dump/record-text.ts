// One record as pg_waldump prints it, and as JSON.

import { errorMessage, StorageError } from "../base/errors.ts";
import { formatLsn, type Lsn, lsnHigh, lsnLow } from "../base/lsn.ts";
import { rmgrName } from "../postgres/rmgr.ts";
import type { PgMajor, PgVersion } from "../postgres/versions.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { btreeText15, btreeText16, btreeText17 } from "./btree-text.ts";
import { brinText, ginText } from "./gin-brin-text.ts";
import {
  gistText15,
  gistText16,
  gistText17,
  hashText15,
  hashText16,
  hashText17,
  spgistText15,
  spgistText16,
  spgistText17,
} from "./gist-spgist-hash-text.ts";
import {
  heap2Text15,
  heap2Text16,
  heap2Text17,
  heapText15,
  heapText16,
  heapText18,
} from "./heap-text.ts";
import { RecordData } from "./record-data.ts";
import {
  dbaseText14,
  dbaseText15,
  genericText,
  logicalMessageText,
  relmapText,
  replicationOriginText,
  sequenceText,
  smgrText,
  tablespaceText,
  xlogText,
} from "./system-text.ts";
import { FORK_NAMES, type RmgrText } from "./text-format.ts";
import {
  clogText,
  commitTsText,
  multixactText,
  standbyText15,
  standbyText16,
  xactText,
} from "./transaction-text.ts";

/** Built-in managers by number; those that all majors share. */
const SHARED: Readonly<Record<number, RmgrText>> = {
  0: xlogText,
  1: xactText,
  2: smgrText,
  3: clogText,
  5: tablespaceText,
  6: multixactText,
  7: relmapText,
  13: ginText,
  15: sequenceText,
  17: brinText,
  18: commitTsText,
  19: replicationOriginText,
  20: genericText,
  21: logicalMessageText,
};

const V14: Readonly<Record<number, RmgrText>> = {
  ...SHARED,
  4: dbaseText14,
  8: standbyText15,
  9: heap2Text15,
  10: heapText15,
  11: btreeText15,
  12: hashText15,
  14: gistText15,
  16: spgistText15,
};
const V15: typeof V14 = { ...V14, 4: dbaseText15 };
const V16: typeof V14 = {
  ...SHARED,
  4: dbaseText15,
  8: standbyText16,
  9: heap2Text16,
  10: heapText16,
  11: btreeText16,
  12: hashText16,
  14: gistText16,
  16: spgistText16,
};
const V17: typeof V14 = {
  ...V16,
  9: heap2Text17,
  11: btreeText17,
  12: hashText17,
  14: gistText17,
  16: spgistText17,
};
const V18: typeof V14 = { ...V17, 10: heapText18 };

const TEXTS: Readonly<Record<PgMajor, Readonly<Record<number, RmgrText>>>> = {
  14: V14,
  15: V15,
  16: V16,
  17: V17,
  18: V18,
};

/** What kind of record it is, by all eight bits of xl_info: `INSERT+INIT`. */
export function recordName(version: PgVersion, rmid: number, info: number): string {
  const opcode = info & 0xf0;
  return TEXTS[version.major][rmid]?.name(opcode) ?? `UNKNOWN (${opcode.toString(16)})`;
}

/** What a decoded record says. One whose data does not fit its kind is said to be malformed. */
export function describeRecord(record: XLogRecord): string {
  const text = TEXTS[record.version.major][record.rmid];
  if (text === undefined) {
    return `rmid: ${record.rmid}`; // of an extension
  }
  try {
    return text.describe(record, RecordData.main(record));
  } catch (error) {
    if (!(error instanceof StorageError)) {
      throw error;
    }
    return `(malformed: ${errorMessage(error)})`;
  }
}

/** Bytes of page images in a decoded record. */
export function imageBytes(record: XLogRecord): number {
  let bytes = 0;
  for (let i = 0; i < record.blockCount; i++) {
    bytes += record.imageLength[i]!;
  }
  return bytes;
}

/** Postgres's `%X/%08X`. */
function paddedLsn(lsn: Lsn): string {
  const hex = (value: number) => value.toString(16).toUpperCase();
  return `${hex(lsnHigh(lsn))}/${hex(lsnLow(lsn)).padStart(8, "0")}`;
}

function blockRelation(record: XLogRecord, i: number): string {
  return `${record.blockSpc[i]}/${record.blockDb[i]}/${record.blockRel[i]}`;
}

function forkName(record: XLogRecord, i: number): string {
  const fork = record.blockFork[i]!;
  return FORK_NAMES[fork] ?? `${fork}`;
}

function compression(record: XLogRecord, i: number): string | undefined {
  const { imagePglz, imageLz4, imageZstd } = record.version;
  const info = record.imageInfo[i]!;
  return (info & imagePglz) !== 0
    ? "pglz"
    : (info & imageLz4) !== 0
      ? "lz4"
      : (info & imageZstd) !== 0
        ? "zstd"
        : undefined;
}

function shortReference(record: XLogRecord, i: number): string {
  const fork = record.blockFork[i] === 0 ? "" : ` fork ${forkName(record, i)}`;
  const image =
    record.imageLength[i] === 0
      ? ""
      : record.imageApply[i] === 1
        ? " FPW"
        : " FPW for WAL verification";
  const block = `rel ${blockRelation(record, i)}${fork} blk ${record.blockNumber[i]}`;
  return `, blkref #${record.blockId[i]}: ${block}${image}`;
}

function detailedReference(record: XLogRecord, i: number): string {
  const block = `rel ${blockRelation(record, i)} fork ${forkName(record, i)}`;
  const text = `\tblkref #${record.blockId[i]}: ${block} blk ${record.blockNumber[i]}`;
  const length = record.imageLength[i]!;
  if (length === 0) {
    return text;
  }
  const use = record.imageApply[i] === 1 ? "FPW" : "FPW for WAL verification";
  const hole = `hole: offset: ${record.holeOffset[i]}, length: ${record.holeLength[i]}`;
  const method = compression(record, i);
  if (method === undefined) {
    return `${text} (${use}); ${hole}`;
  }
  const saved = `compression saved: ${8192 - record.holeLength[i]! - length}`;
  // 14 knows one method and does not name it.
  const named = record.version.imageLz4 === 0 ? saved : `${saved}, method: ${method}`;
  return `${text} (${use}); ${hole}, ${named}`;
}

/** A decoded record on one line, as pg_waldump of its major prints it; times are UTC. */
export function recordLine(record: XLogRecord, details: boolean): string {
  const recordLength = record.length - imageBytes(record);
  let line =
    `rmgr: ${rmgrName(record.rmid).padEnd(11)} ` +
    `len (rec/tot): ${`${recordLength}`.padStart(6)}/${`${record.length}`.padStart(6)}, ` +
    `tx: ${`${record.xid}`.padStart(10)}, lsn: ${paddedLsn(record.startLsn)}, ` +
    `prev ${paddedLsn(record.prevLsn)}, ` +
    `desc: ${recordName(record.version, record.rmid, record.info)} ${describeRecord(record)}`;
  for (let i = 0; i < record.blockCount; i++) {
    line += details ? `\n${detailedReference(record, i)}` : shortReference(record, i);
  }
  return line;
}

/** A decoded record as one JSON object; lengths are bytes, LSNs `X/X`. */
export function recordJson(record: XLogRecord): string {
  const images = imageBytes(record);
  const blocks: object[] = [];
  for (let i = 0; i < record.blockCount; i++) {
    const length = record.imageLength[i]!;
    blocks.push({
      id: record.blockId[i],
      rel: blockRelation(record, i),
      fork: forkName(record, i),
      block: record.blockNumber[i],
      data_length: record.dataLength[i],
      ...(length === 0
        ? {}
        : {
            image: {
              length,
              hole_offset: record.holeOffset[i],
              hole_length: record.holeLength[i],
              compression: compression(record, i) ?? null,
              apply: record.imageApply[i] === 1,
            },
          }),
    });
  }
  return JSON.stringify({
    lsn: formatLsn(record.startLsn),
    end_lsn: formatLsn(record.endLsn),
    prev_lsn: formatLsn(record.prevLsn),
    xid: record.xid,
    rmgr: rmgrName(record.rmid),
    type: recordName(record.version, record.rmid, record.info),
    info: record.info,
    length: record.length - images,
    total_length: record.length,
    description: describeRecord(record),
    ...(record.originId === 0 ? {} : { origin: record.originId }),
    ...(record.toplevelXid === 0 ? {} : { toplevel_xid: record.toplevelXid }),
    blocks,
  });
}
