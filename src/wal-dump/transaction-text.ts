// What transaction, standby, multixact, CLOG and commit timestamp records say. Sources: access/xact.h,
// storage/standbydefs.h, access/multixact.h, clog.h, commit_ts.h and their rmgrdesc files, 14-18.

import {
  XACT_XINFO_HAS_DBINFO,
  XACT_XINFO_HAS_DROPPED_STATS,
  XACT_XINFO_HAS_GID,
  XACT_XINFO_HAS_INVALS,
  XACT_XINFO_HAS_ORIGIN,
  XACT_XINFO_HAS_RELFILELOCATORS,
  XACT_XINFO_HAS_SUBXACTS,
  XACT_XINFO_HAS_TWOPHASE,
  XLOG_XACT_HAS_INFO,
  XLOG_XACT_OPMASK,
} from "../postgres/opcodes.ts";
import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { RecordData } from "./record-data.ts";
import {
  invalidations,
  lsnText,
  type RecordKind,
  type RmgrText,
  relationPath,
  rmgrText,
  timeText,
} from "./text-format.ts";

const XACT_NAMES = [
  "COMMIT",
  "PREPARE",
  "ABORT",
  "COMMIT_PREPARED",
  "ABORT_PREPARED",
  "ASSIGNMENT",
  "INVALIDATION",
] as const;

const APPLY_FEEDBACK = 1 << 29;
const UPDATE_RELCACHE_FILE = 1 << 30;
const FORCE_SYNC_COMMIT = 1 << 31;

const RELATION_SIZE = 12;
const INVALIDATION_SIZE = 16;

export const xactText: RmgrText = {
  name: (info) => XACT_NAMES[(info & XLOG_XACT_OPMASK) >> 4],
  describe: (record, main) => {
    switch ((record.info & XLOG_XACT_OPMASK) >> 4) {
      case 0:
      case 3:
        return endOfTransaction(record, main, true);
      case 2:
      case 4:
        return endOfTransaction(record, main, false);
      case 1:
        return prepare(record, main);
      case 5:
        return `xtop ${main.u32(0)}: subxacts:${xids(main, 8, main.count(4, 8, 4))}`;
      case 6:
        return invalidations(main, 4, main.i32(0));
      default:
        return "";
    }
  },
};

function xids(data: RecordData, offset: number, count: number): string {
  data.check(offset, count, 4);
  let text = "";
  for (let i = 0; i < count; i++) {
    text += ` ${data.u32(offset + 4 * i)}`;
  }
  return text;
}

function subxacts(main: RecordData, offset: number, count: number): string {
  return count > 0 ? `; subxacts:${xids(main, offset, count)}` : "";
}

function relations(
  record: XLogRecord,
  main: RecordData,
  label: string,
  offset: number,
  count: number,
): string {
  main.check(offset, count, RELATION_SIZE);
  let text = count > 0 ? `; ${label}:` : "";
  for (let i = 0; i < count; i++) {
    text += ` ${relationPath(main, offset + i * RELATION_SIZE, record)}`;
  }
  return text;
}

/** xl_xact_stats_item: i32 kind; u32 dboid; u32 objoid, from 18 on a u64 in two halves. */
function droppedStats(
  record: XLogRecord,
  main: RecordData,
  label: string,
  offset: number,
  count: number,
): string {
  const width = record.version.xactStatsItemSize;
  main.check(offset, count, width);
  let text = count > 0 ? `; ${label}dropped stats:` : "";
  for (let at = offset; at < offset + count * width; at += width) {
    const high = width === 16 ? main.u32(at + 12) : 0;
    const object = BigInt(high) * 2n ** 32n + BigInt(main.u32(at + 8));
    text += ` ${main.i32(at)}/${main.u32(at + 4)}/${object}`;
  }
  return text;
}

function originText(record: XLogRecord, main: RecordData, offset: number): string {
  const at = timeText(main.i64(offset + 8));
  return `; origin: node ${record.originId}, lsn ${lsnText(main, offset)}, at ${at}`;
}

/** The layout is drawn in wal-decoder/xact-records.ts. */
function endOfTransaction(record: XLogRecord, main: RecordData, commit: boolean): string {
  const time = timeText(main.i64(0));
  let at = 8;
  const xinfo = (record.info & XLOG_XACT_HAS_INFO) !== 0 ? main.u32(at) : 0;
  at += (record.info & XLOG_XACT_HAS_INFO) !== 0 ? 4 : 0;
  const initFile =
    (xinfo & UPDATE_RELCACHE_FILE) === 0
      ? undefined
      : (xinfo & XACT_XINFO_HAS_DBINFO) === 0
        ? { dbOid: 0, spcOid: 0 }
        : { dbOid: main.u32(at), spcOid: main.u32(at + 4) };
  at += (xinfo & XACT_XINFO_HAS_DBINFO) !== 0 ? 8 : 0;
  /** The items behind a count, if `flag` is set. */
  const items = (flag: number, width: number) => {
    if ((xinfo & flag) === 0) {
      return { count: 0, first: at };
    }
    const count = main.count(at, at + 4, width);
    const first = at + 4;
    at = first + count * width;
    return { count, first };
  };
  const sub = items(XACT_XINFO_HAS_SUBXACTS, 4);
  const rels = items(XACT_XINFO_HAS_RELFILELOCATORS, RELATION_SIZE);
  const stats = items(XACT_XINFO_HAS_DROPPED_STATS, record.version.xactStatsItemSize);
  const messages = commit
    ? items(XACT_XINFO_HAS_INVALS, INVALIDATION_SIZE)
    : { count: 0, first: at };
  let prepared = "";
  if ((xinfo & XACT_XINFO_HAS_TWOPHASE) !== 0) {
    const xid = main.u32(at);
    prepared = xid === 0 ? "" : `${xid}: `;
    at += 4;
    if ((xinfo & XACT_XINFO_HAS_GID) !== 0) {
      at = endOfText(record, main, at);
    }
  }
  const statsText = droppedStats(record, main, "", stats.first, stats.count);
  const origin = (xinfo & XACT_XINFO_HAS_ORIGIN) !== 0 ? originText(record, main, at) : "";
  const text =
    prepared +
    time +
    relations(record, main, "rels", rels.first, rels.count) +
    subxacts(main, sub.first, sub.count);
  if (!commit) {
    return text + origin + statsText;
  }
  return (
    text +
    statsText +
    invalidations(main, messages.first, messages.count, initFile) +
    ((xinfo & APPLY_FEEDBACK) !== 0 ? "; apply_feedback" : "") +
    ((xinfo & FORCE_SYNC_COMMIT) !== 0 ? "; sync" : "") +
    origin
  );
}

/** Offset behind a zero-terminated string. */
function endOfText(record: XLogRecord, main: RecordData, offset: number): number {
  const zero = main.bytes(offset, main.length - offset).indexOf(0);
  if (zero < 0) {
    throw corruptWal(record.startLsn, "the global transaction id does not end");
  }
  return offset + zero + 1;
}

/**
 * xl_xact_prepare: u32 magic, total_len, xid, database; i64 prepared_at; u32 owner; i32 nsubxacts,
 * ncommitrels, nabortrels; from 15 on i32 ncommitstats, nabortstats; i32 ninvalmsgs; bool
 * initfileinval; u16 gidlen; u64 origin_lsn; i64 origin_timestamp. Then, each 8-byte aligned: gid,
 * xids, relations, statistics, messages.
 */
function prepare(record: XLogRecord, main: RecordData): string {
  const statsSize = record.version.xactStatsItemSize;
  const counts = [main.i32(28), main.i32(32), main.i32(36)];
  const rest = statsSize === 0 ? 40 : 48;
  counts.push(statsSize === 0 ? 0 : main.i32(40), statsSize === 0 ? 0 : main.i32(44));
  counts.push(main.i32(rest));
  const gidLength = main.u16(rest + 6);
  let at = rest + 8 + 16;
  const section = (count: number, width: number) => {
    main.check(at, count, width);
    const first = at;
    at += Math.ceil((count * width) / 8) * 8;
    return first;
  };
  const gid = Buffer.from(main.bytes(section(gidLength, 1), gidLength)).toString();
  const [nsub, ncommit, nabort, nstats, nabortStats, nmessages] = counts as [
    number,
    number,
    number,
    number,
    number,
    number,
  ];
  const sub = section(nsub, 4);
  const commitRels = section(ncommit, RELATION_SIZE);
  const abortRels = section(nabort, RELATION_SIZE);
  const commitStats = section(nstats, statsSize);
  const abortStats = section(nabortStats, statsSize);
  const initFile = main.u8(rest + 4) === 0 ? undefined : { dbOid: main.u32(12), spcOid: 0 };
  return (
    `gid ${gid.replace(/\0.*$/s, "")}: ${timeText(main.i64(16))}` +
    relations(record, main, "rels(commit)", commitRels, ncommit) +
    relations(record, main, "rels(abort)", abortRels, nabort) +
    droppedStats(record, main, "commit ", commitStats, nstats) +
    droppedStats(record, main, "abort ", abortStats, nabortStats) +
    subxacts(main, sub, nsub) +
    invalidations(main, at, nmessages, initFile) +
    (record.originId === 0 ? "" : originText(record, main, rest + 8))
  );
}

/** xl_standby_locks: i32 nlocks; each u32 xid, dbOid, relOid. */
function standbyLocks(main: RecordData): string {
  const count = main.count(0, 4, 12);
  let text = "";
  for (let at = 4; at < 4 + count * 12; at += 12) {
    text += `xid ${main.u32(at)} db ${main.u32(at + 4)} rel ${main.u32(at + 8)} `;
  }
  return text;
}

/**
 * xl_running_xacts: i32 xcnt, subxcnt; bool subxid_overflow; u32 nextXid at 12, oldestRunningXid,
 * latestCompletedXid; u32 xids[xcnt + subxcnt].
 */
function runningXacts(main: RecordData): string {
  const count = main.count(0, 24, 4);
  const range = `nextXid ${main.u32(12)} latestCompletedXid ${main.u32(20)}`;
  const running = count > 0 ? `; ${count} xacts:${xids(main, 24, count)}` : "";
  return `${range} oldestRunningXid ${main.u32(16)}${running}`;
}

function runningXacts15(main: RecordData): string {
  return runningXacts(main) + (main.u8(8) === 0 ? "" : "; subxid ovf");
}

function runningXacts16(main: RecordData): string {
  const first = 24 + 4 * main.i32(0);
  const count = main.count(4, first, 4);
  const sub = count > 0 ? `; ${count} subxacts:${xids(main, first, count)}` : "";
  return runningXacts(main) + (main.u8(8) === 0 ? "" : "; subxid overflowed") + sub;
}

/** xl_invalidations: u32 dbId, tsId; bool relcacheInitFileInval; i32 nmsgs at 12; messages. */
function standbyInvalidations(main: RecordData): string {
  const initFile = main.u8(8) === 0 ? undefined : { dbOid: main.u32(0), spcOid: main.u32(4) };
  return invalidations(main, 16, main.i32(12), initFile);
}

const STANDBY_15: Readonly<Record<number, RecordKind>> = {
  0: ["LOCK", standbyLocks],
  16: ["RUNNING_XACTS", runningXacts15],
  32: ["INVALIDATIONS", standbyInvalidations],
};

export const standbyText15 = rmgrText(STANDBY_15);
export const standbyText16 = rmgrText({ ...STANDBY_15, 16: ["RUNNING_XACTS", runningXacts16] });

/** An SLRU page number: 8 bytes from 17 on, 4 before. */
function pageNumber(main: RecordData, record: XLogRecord): string {
  return `${record.version.slruPageWidth === 8 ? main.i64(0) : main.i32(0)}`;
}

/** What follows the page number in the truncations of CLOG and commit timestamps. */
function oldestXid(main: RecordData, record: XLogRecord): number {
  return main.u32(record.version.slruPageWidth);
}

export const clogText = rmgrText({
  0: ["ZEROPAGE", (main, record) => `page ${pageNumber(main, record)}`],
  16: [
    "TRUNCATE",
    (main, record) => `page ${pageNumber(main, record)}; oldestXact ${oldestXid(main, record)}`,
  ],
});

export const commitTsText = rmgrText({
  0: ["ZEROPAGE", pageNumber],
  16: [
    "TRUNCATE",
    (main, record) => `pageno ${pageNumber(main, record)}, oldestXid ${oldestXid(main, record)}`,
  ],
});

const MEMBER_STATUS = ["keysh", "sh", "fornokeyupd", "forupd", "nokeyupd", "upd"];

/** xl_multixact_create: u32 mid, moff; i32 nmembers; each u32 xid, i32 status. */
function multixactCreate(main: RecordData): string {
  const count = main.count(8, 12, 8);
  let text = `${main.u32(0)} offset ${main.u32(4)} nmembers ${count}: `;
  for (let at = 12; at < 12 + count * 8; at += 8) {
    text += `${main.u32(at)} (${MEMBER_STATUS[main.i32(at + 4)] ?? "unk"}) `;
  }
  return text;
}

export const multixactText = rmgrText({
  0: ["ZERO_OFF_PAGE", pageNumber],
  16: ["ZERO_MEM_PAGE", pageNumber],
  32: ["CREATE_ID", multixactCreate],
  48: [
    "TRUNCATE_ID",
    (main) =>
      `offsets [${main.u32(4)}, ${main.u32(8)}), members [${main.u32(12)}, ${main.u32(16)})`,
  ],
});
