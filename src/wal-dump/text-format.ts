// How pg_waldump writes what many records have in common: identifiers, times, lists.

import { DEFAULT_TABLESPACE_OID, GLOBAL_TABLESPACE_OID } from "../postgres/relation-path.ts";
import type { PgMajor } from "../postgres/versions.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import type { RecordData } from "./record-data.ts";

/** What one resource manager's records are called and say; `rm_identify` and `rm_desc`. */
export interface RmgrText {
  /** By the high four bits of xl_info; undefined where there is no such record. */
  name(info: number): string | undefined;
  /** Of a decoded record. StorageError `corrupt` where its data is shorter than it must be. */
  describe(record: XLogRecord, main: RecordData): string;
}

export type RecordText = (main: RecordData, record: XLogRecord) => string;

/** One record kind: its name and text. Absent text: there is nothing to say. */
export type RecordKind = readonly [name: string, text?: RecordText];

/** A manager whose records differ by all high four bits of xl_info. */
export function rmgrText(kinds: Readonly<Record<number, RecordKind>>): RmgrText {
  return {
    name: (info) => kinds[info]?.[0],
    describe: (record, main) => kinds[record.info & 0xf0]?.[1]?.(main, record) ?? "",
  };
}

/** As `rmgrText`, for those whose highest bit says that the record initializes its page. */
export function rmgrTextWithInit(
  kinds: Readonly<Record<number, RecordKind>>,
  initializing: ReadonlySet<number>,
): RmgrText {
  return {
    name: (info) => {
      const name = kinds[info & 0x70]?.[0];
      const init = (info & 0x80) !== 0;
      return init ? (initializing.has(info & 0x70) ? `${name}+INIT` : undefined) : name;
    },
    describe: (record, main) => kinds[record.info & 0x70]?.[1]?.(main, record) ?? "",
  };
}

export const FORK_NAMES = ["main", "fsm", "vm", "init"] as const;

/** The catalog version is part of the path of a tablespace (catalog/catversion.h). */
const CATALOG_VERSIONS: Readonly<Record<PgMajor, number>> = {
  14: 202107181,
  15: 202209061,
  16: 202307071,
  17: 202406281,
  18: 202506291,
};

/** RelFileLocator: u32 spcOid, dbOid, relNumber. */
export function relation(data: RecordData, offset: number): string {
  return `${data.u32(offset)}/${data.u32(offset + 4)}/${data.u32(offset + 8)}`;
}

/** GetRelationPath, of the RelFileLocator at `offset`. */
export function relationPath(
  data: RecordData,
  offset: number,
  record: XLogRecord,
  fork = 0,
): string {
  const [spc, db, rel] = [data.u32(offset), data.u32(offset + 4), data.u32(offset + 8)];
  const file = fork === 0 ? `${rel}` : `${rel}_${FORK_NAMES[fork] ?? fork}`;
  if (spc === GLOBAL_TABLESPACE_OID) {
    return `global/${file}`;
  }
  if (spc === DEFAULT_TABLESPACE_OID) {
    return `base/${db}/${file}`;
  }
  const { major } = record.version;
  return `pg_tblspc/${spc}/PG_${major}_${CATALOG_VERSIONS[major]}/${db}/${file}`;
}

/** FullTransactionId as `epoch:xid`. */
export function fullXid(data: RecordData, offset: number): string {
  return `${data.u32(offset + 4)}:${data.u32(offset)}`;
}

export function lsnText(data: RecordData, offset: number): string {
  const hex = (value: number) => value.toString(16).toUpperCase();
  return `${hex(data.u32(offset + 4))}/${hex(data.u32(offset))}`;
}

export function letter(value: number): "T" | "F" {
  return value !== 0 ? "T" : "F";
}

/** C's `0x%02X`. */
export function hexByte(value: number): string {
  return `0x${value.toString(16).toUpperCase().padStart(2, "0")}`;
}

/** Microseconds from 1970 to 2000, where Postgres's times begin. */
const POSTGRES_EPOCH_US = 946_684_800_000_000n;
const MAX_UNIX_US = 8_640_000_000_000_000_000n;

/** A TimestampTz. pg_waldump takes the time zone of its environment; this is always UTC. */
export function timeText(time: bigint): string {
  const unixUs = time + POSTGRES_EPOCH_US;
  if (unixUs > MAX_UNIX_US || unixUs < -MAX_UNIX_US) {
    return `${time} us after 2000-01-01`;
  }
  const us = ((unixUs % 1_000_000n) + 1_000_000n) % 1_000_000n;
  const iso = new Date(Number((unixUs - us) / 1000n)).toISOString();
  return `${iso.slice(0, -5).replace("T", " ")}.${us.toString().padStart(6, "0")} UTC`;
}

/** C's `%g`. */
export function shortFloat(value: number): string {
  if (!Number.isFinite(value)) {
    return Number.isNaN(value) ? "nan" : value < 0 ? "-inf" : "inf";
  }
  const [mantissa, exponent] = value.toExponential(5).split("e") as [string, string];
  const power = Number(exponent);
  if (power < -4 || power >= 6) {
    const digits = `${Math.abs(power)}`.padStart(2, "0");
    return `${Number(mantissa)}e${power < 0 ? "-" : "+"}${digits}`;
  }
  return `${Number(value.toPrecision(6))}`;
}

/** `count` texts of items `width` bytes apart. */
export function list(
  data: RecordData,
  offset: number,
  count: number,
  width: number,
  item: (at: number) => string,
): string {
  data.check(offset, count, width);
  const items: string[] = [];
  for (let i = 0; i < count; i++) {
    items.push(item(offset + i * width));
  }
  return `[${items.join(", ")}]`;
}

export function offsetNumbers(data: RecordData, offset: number, count: number): string {
  return list(data, offset, count, 2, (at) => `${data.u16(at)}`);
}

const INVALIDATION_SIZE = 16;

/**
 * `count` SharedInvalidationMessages: i8 id, 3 bytes padding, then by id; and in front, where the
 * relation cache's init file goes too, whose.
 */
export function invalidations(
  data: RecordData,
  offset: number,
  count: number,
  initFile?: { readonly dbOid: number; readonly spcOid: number },
): string {
  if (count <= 0) {
    return "";
  }
  data.check(offset, count, INVALIDATION_SIZE);
  let text =
    initFile === undefined
      ? ""
      : `; relcache init file inval dbid ${initFile.dbOid} tsid ${initFile.spcOid}`;
  text += "; inval msgs:";
  for (let i = 0; i < count; i++) {
    text += ` ${invalidation(data, offset + i * INVALIDATION_SIZE)}`;
  }
  return text;
}

function invalidation(data: RecordData, at: number): string {
  const id = data.i8(at);
  switch (id) {
    case -1:
      return `catalog ${data.u32(at + 8)}`;
    case -2:
      return `relcache ${data.u32(at + 8)}`;
    case -3:
      return "smgr";
    case -4:
      return `relmap db ${data.u32(at + 4)}`;
    case -5:
      return `snapshot ${data.u32(at + 8)}`;
    case -6:
      return `relsync ${data.u32(at + 8)}`;
    default:
      return id >= 0 ? `catcache ${id}` : `unrecognized id ${id}`;
  }
}
