// What records about the server and its files say: XLOG, storage, databases, tablespaces, relation
// maps, sequences, replication origins, logical messages, generic records. Sources: the rmgrdesc files
// and headers of access/, commands/, replication/ and storage/, 14-18.

import { corruptWal } from "../postgres/wal-page.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { RecordData } from "./record-data.ts";
import {
  fullXid,
  lsnText,
  type RecordText,
  type RmgrText,
  relation,
  relationPath,
  rmgrText,
  timeText,
} from "./text-format.ts";

/** WalLevel of access/xlog.h. */
const WAL_LEVELS = ["minimal", "replica", "logical"];

function walLevel(value: number): string {
  return WAL_LEVELS[value] ?? "?";
}

/** The CheckPoint struct is drawn in postgres/checkpoint.ts. */
function checkpoint(kind: string): RecordText {
  return (main, record) => {
    const level = record.version.checkPointHasWalLevel
      ? `; wal_level ${walLevel(main.i32(20))}`
      : "";
    return [
      `redo ${lsnText(main, 0)}`,
      `tli ${main.u32(8)}`,
      `prev tli ${main.u32(12)}`,
      `fpw ${main.u8(16) !== 0}${level}`,
      `xid ${fullXid(main, 24)}`,
      `oid ${main.u32(32)}`,
      `multi ${main.u32(36)}`,
      `offset ${main.u32(40)}`,
      `oldest xid ${main.u32(44)} in DB ${main.u32(48)}`,
      `oldest multi ${main.u32(52)} in DB ${main.u32(56)}`,
      `oldest/newest commit timestamp xid: ${main.u32(72)}/${main.u32(76)}`,
      `oldest running xid ${main.u32(80)}`,
      kind,
    ].join("; ");
  };
}

function onOff(value: number): string {
  return value !== 0 ? "on" : "off";
}

/** xl_parameter_change: six i32, bool wal_log_hints, track_commit_timestamp. */
function parameterChange(main: RecordData): string {
  return (
    `max_connections=${main.i32(0)} max_worker_processes=${main.i32(4)} ` +
    `max_wal_senders=${main.i32(8)} max_prepared_xacts=${main.i32(12)} ` +
    `max_locks_per_xact=${main.i32(16)} wal_level=${walLevel(main.i32(20))} ` +
    `wal_log_hints=${onOff(main.u8(24))} track_commit_timestamp=${onOff(main.u8(25))}`
  );
}

/** xl_end_of_recovery: i64 end_time; u32 ThisTimeLineID, PrevTimeLineID; from 17 on i32 wal_level. */
function endOfRecovery(main: RecordData, record: XLogRecord): string {
  const level = record.version.checkPointHasWalLevel ? `; wal_level ${walLevel(main.i32(16))}` : "";
  return `tli ${main.u32(8)}; prev tli ${main.u32(12)}; time ${timeText(main.i64(0))}${level}`;
}

export const xlogText = rmgrText({
  0: ["CHECKPOINT_SHUTDOWN", checkpoint("shutdown")],
  16: ["CHECKPOINT_ONLINE", checkpoint("online")],
  32: ["NOOP"],
  48: ["NEXTOID", (main) => `${main.u32(0)}`],
  64: ["SWITCH"],
  80: ["BACKUP_END", (main) => lsnText(main, 0)],
  96: ["PARAMETER_CHANGE", parameterChange],
  // xl_restore_point: i64 time, char name[64].
  112: ["RESTORE_POINT", (main) => main.text(8)],
  128: ["FPW_CHANGE", (main) => `${main.u8(0) !== 0}`],
  144: ["END_OF_RECOVERY", endOfRecovery],
  160: ["FPI_FOR_HINT"],
  176: ["FPI"],
  208: ["OVERWRITE_CONTRECORD", (main) => `lsn ${lsnText(main, 0)}; time ${timeText(main.i64(8))}`],
  224: ["CHECKPOINT_REDO", (main) => `wal_level ${walLevel(main.i32(0))}`],
});

export const smgrText = rmgrText({
  16: ["CREATE", (main, record) => relationPath(main, 0, record, main.u32(12))],
  32: [
    "TRUNCATE",
    (main, record) =>
      `${relationPath(main, 4, record)} to ${main.u32(0)} blocks flags ${main.i32(16)}`,
  ],
});

/** xl_dbase_create_file_copy_rec: u32 db_id, tablespace_id, src_db_id, src_tablespace_id. */
function createFileCopy(main: RecordData): string {
  return `copy dir ${main.u32(12)}/${main.u32(8)} to ${main.u32(4)}/${main.u32(0)}`;
}

/** xl_dbase_drop_rec: u32 db_id; i32 ntablespaces; u32 tablespace_ids[]. */
function dropDatabase(main: RecordData): string {
  const count = main.count(4, 8, 4);
  let text = "dir";
  for (let i = 0; i < count; i++) {
    text += ` ${main.u32(8 + 4 * i)}/${main.u32(0)}`;
  }
  return text;
}

export const dbaseText14 = rmgrText({
  0: ["CREATE", createFileCopy],
  16: ["DROP", dropDatabase],
});

export const dbaseText15 = rmgrText({
  0: ["CREATE_FILE_COPY", createFileCopy],
  16: ["CREATE_WAL_LOG", (main) => `create dir ${main.u32(4)}/${main.u32(0)}`],
  32: ["DROP", dropDatabase],
});

export const tablespaceText = rmgrText({
  0: ["CREATE", (main) => `${main.u32(0)} "${main.text(4)}"`],
  16: ["DROP", (main) => `${main.u32(0)}`],
});

export const relmapText = rmgrText({
  0: ["UPDATE", (main) => `database ${main.u32(0)} tablespace ${main.u32(4)} size ${main.i32(8)}`],
});

export const sequenceText = rmgrText({ 0: ["LOG", (main) => `rel ${relation(main, 0)}`] });

export const replicationOriginText = rmgrText({
  0: ["SET", (main) => `set ${main.u16(8)}; lsn ${lsnText(main, 0)}; force: ${main.u8(10)}`],
  16: ["DROP", (main) => `drop ${main.u16(0)}`],
});

const HEX = Array.from({ length: 256 }, (_, byte) =>
  byte.toString(16).toUpperCase().padStart(2, "0"),
);

/** xl_logical_message: u32 dbId; bool transactional; u64 prefix_size at 8, message_size; both texts. */
function logicalMessage(main: RecordData, record: XLogRecord): string {
  const [prefixSize, size] = [Number(main.u64(8)), Number(main.u64(16))];
  if (prefixSize + size > main.length) {
    throw corruptWal(record.startLsn, `message of ${size} bytes behind ${prefixSize} of prefix`);
  }
  const kind = main.u8(4) !== 0 ? "transactional" : "non-transactional";
  const payload: string[] = [];
  for (const byte of main.bytes(24 + prefixSize, size)) {
    payload.push(HEX[byte]!);
  }
  return `${kind}, prefix "${main.text(24)}"; payload (${size} bytes): ${payload.join(" ")}`;
}

export const logicalMessageText = rmgrText({ 0: ["MESSAGE", logicalMessage] });

/** Regions of a page that change: u16 offset, u16 length, and the new bytes, again and again. */
function genericRegions(main: RecordData): string {
  const regions: string[] = [];
  for (let at = 0; at < main.length; at += 4 + main.u16(at + 2)) {
    regions.push(`offset ${main.u16(at)}, length ${main.u16(at + 2)}`);
  }
  return regions.join("; ");
}

export const genericText: RmgrText = {
  name: () => "Generic",
  describe: (_, main) => genericRegions(main),
};
