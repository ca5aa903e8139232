// What differs between the major versions of Postgres in WAL, control file and SLRUs, as data.

import { StorageError } from "../base/errors.ts";

export const MAJORS = [14, 15, 16, 17, 18] as const;
export type PgMajor = (typeof MAJORS)[number];

/** Sources: access/xlog_internal.h, access/xlogrecord.h, catalog/pg_control.h, commands/dbcommands_xlog.h. */
export interface PgVersion {
  readonly major: PgMajor;
  /** XLOG_PAGE_MAGIC: the first two bytes of every WAL page. */
  readonly pageMagic: number;
  /** CATALOG_VERSION_NO of its releases; betas and forks have others. */
  readonly catalogVersion: number;
  /** PG_CONTROL_VERSION. */
  readonly controlVersion: number;
  /** Offset of the CRC in pg_control on 64-bit little-endian machines. */
  readonly controlCrcOffset: number;
  /** CheckPoint, xl_end_of_recovery and XLOG_CHECKPOINT_REDO carry wal_level. */
  readonly checkPointHasWalLevel: boolean;
  /** Bits of XLogRecordBlockImageHeader.bimg_info; 0 where the version has no such method. */
  readonly imageApply: number;
  readonly imagePglz: number;
  readonly imageLz4: number;
  readonly imageZstd: number;
  /** Opcodes of RM_DBASE_ID; -1 where there is none. */
  readonly dbaseCreateFileCopy: number;
  readonly dbaseCreateWalLog: number;
  readonly dbaseDrop: number;
  /** Bytes of a page number in CLOG and multixact records. */
  readonly slruPageWidth: 4 | 8;
  /** Bytes of a dropped-statistics item in xact records; 0 where there are none. */
  readonly xactStatsItemSize: 0 | 12 | 16;
  /** Offset of origin_lsn in xl_xact_prepare. */
  readonly prepareOriginLsnOffset: 48 | 56;
  /** XLOG opcodes (high four bits of xl_info) that exist, bit n for opcode n << 4. */
  readonly xlogOpcodes: number;
}

const XLOG_OPCODES_14 = 0b0010_1111_1111_1111;

const V14: PgVersion = {
  major: 14,
  pageMagic: 0xd10d,
  catalogVersion: 202107181,
  controlVersion: 1300,
  controlCrcOffset: 288,
  checkPointHasWalLevel: false,
  imageApply: 0x04,
  imagePglz: 0x02,
  imageLz4: 0,
  imageZstd: 0,
  dbaseCreateFileCopy: 0x00,
  dbaseCreateWalLog: -1,
  dbaseDrop: 0x10,
  slruPageWidth: 4,
  xactStatsItemSize: 0,
  prepareOriginLsnOffset: 48,
  xlogOpcodes: XLOG_OPCODES_14,
};

const V15: PgVersion = {
  major: 15,
  pageMagic: 0xd110,
  catalogVersion: 202209061,
  controlVersion: 1300,
  controlCrcOffset: 288,
  checkPointHasWalLevel: false,
  imageApply: 0x02,
  imagePglz: 0x04,
  imageLz4: 0x08,
  imageZstd: 0x10,
  dbaseCreateFileCopy: 0x00,
  dbaseCreateWalLog: 0x10,
  dbaseDrop: 0x20,
  slruPageWidth: 4,
  xactStatsItemSize: 12,
  prepareOriginLsnOffset: 56,
  xlogOpcodes: XLOG_OPCODES_14,
};

const V16: PgVersion = {
  major: 16,
  pageMagic: 0xd113,
  catalogVersion: 202307071,
  controlVersion: 1300,
  controlCrcOffset: 288,
  checkPointHasWalLevel: false,
  imageApply: 0x02,
  imagePglz: 0x04,
  imageLz4: 0x08,
  imageZstd: 0x10,
  dbaseCreateFileCopy: 0x00,
  dbaseCreateWalLog: 0x10,
  dbaseDrop: 0x20,
  slruPageWidth: 4,
  xactStatsItemSize: 12,
  prepareOriginLsnOffset: 56,
  xlogOpcodes: XLOG_OPCODES_14,
};

const V17: PgVersion = {
  major: 17,
  pageMagic: 0xd116,
  catalogVersion: 202406281,
  controlVersion: 1700,
  controlCrcOffset: 288,
  checkPointHasWalLevel: true,
  imageApply: 0x02,
  imagePglz: 0x04,
  imageLz4: 0x08,
  imageZstd: 0x10,
  dbaseCreateFileCopy: 0x00,
  dbaseCreateWalLog: 0x10,
  dbaseDrop: 0x20,
  slruPageWidth: 8,
  xactStatsItemSize: 12,
  prepareOriginLsnOffset: 56,
  xlogOpcodes: XLOG_OPCODES_14 | (1 << 0xe),
};

const V18: PgVersion = {
  major: 18,
  pageMagic: 0xd118,
  catalogVersion: 202506291,
  controlVersion: 1800,
  controlCrcOffset: 292,
  checkPointHasWalLevel: true,
  imageApply: 0x02,
  imagePglz: 0x04,
  imageLz4: 0x08,
  imageZstd: 0x10,
  dbaseCreateFileCopy: 0x00,
  dbaseCreateWalLog: 0x10,
  dbaseDrop: 0x20,
  slruPageWidth: 8,
  xactStatsItemSize: 16,
  prepareOriginLsnOffset: 56,
  xlogOpcodes: XLOG_OPCODES_14 | (1 << 0xe),
};

export const PG_VERSIONS: Readonly<Record<PgMajor, PgVersion>> = {
  14: V14,
  15: V15,
  16: V16,
  17: V17,
  18: V18,
};

/** The version whose WAL pages carry `magic`, or undefined where we know none. */
export function versionFromPageMagic(magic: number): PgVersion | undefined {
  // A switch and not a Map: this runs once a record.
  switch (magic) {
    case 0xd116:
      return V17;
    case 0xd118:
      return V18;
    case 0xd113:
      return V16;
    case 0xd110:
      return V15;
    case 0xd10d:
      return V14;
    default:
      return undefined;
  }
}

/** StorageError `unsupported` where Strata does not know the major. */
export function pgVersion(major: number): PgVersion {
  const found = MAJORS.find((known) => known === major);
  if (found === undefined) {
    throw new StorageError(
      "unsupported",
      "unsupported-pg-version",
      `Postgres ${major} is not supported; known are ${MAJORS.join(", ")}`,
    );
  }
  return PG_VERSIONS[found];
}
