// pg_control: decode, check, and the file from which a Postgres starts as if it had been shut down.
//
// Source: catalog/pg_control.h, 14-18, 64-bit little-endian; the file is 8192 bytes, the struct:
//   offset size field
//        0    8 system_identifier
//        8    4 pg_control_version
//       12    4 catalog_version_no
//       16    4 state                 1 DB_SHUTDOWNED
//       24    8 time                  of the last update, seconds since the Unix epoch
//       32    8 checkPoint            LSN of the last checkpoint record
//       40   88 checkPointCopy        (checkpoint.ts)
//      128    8 unloggedLSN
//      136    8 minRecoveryPoint
//      144    4 minRecoveryPointTLI
//      152    8 backupStartPoint
//      160    8 backupEndPoint
//      168    1 backupEndRequired
//      172    4 wal_level
//      176    1 wal_log_hints
//      180    4 MaxConnections
//      184    4 max_worker_processes
//      188    4 max_wal_senders
//      192    4 max_prepared_xacts
//      196    4 max_locks_per_xact
//      200    1 track_commit_timestamp
//      204    4 maxAlign
//      208    8 floatFormat           1234567.0
//      216    4 blcksz
//      220    4 relseg_size           blocks
//      224    4 xlog_blcksz
//      228    4 xlog_seg_size         bytes
//      232 4*5  nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize, float8ByVal (1 byte)
//      252    4 data_checksum_version
//      256   32 mock_authentication_nonce; in 18 a byte default_char_signedness comes before it
//      288    4 crc                   CRC-32C of all before it; at 292 in 18
// A reader reports `corrupt` where no known place holds the right checksum.

import { crc32c } from "../base/crc32c.ts";
import { StorageError } from "../base/errors.ts";
import { type Lsn, lsnFromBigInt, lsnToBigInt } from "../base/lsn.ts";
import { type CheckPoint, decodeCheckPoint, encodeCheckPoint } from "./checkpoint.ts";
import { PG_VERSIONS, type PgMajor, type PgVersion } from "./versions.ts";

export const CONTROL_FILE_SIZE = 8192;
const CRC_OFFSETS = [284, 288, 292, 296];
export const DB_SHUTDOWNED = 1;
export const DB_SHUTDOWNED_IN_RECOVERY = 2;
/** FirstNormalUnloggedLSN (access/xlogdefs.h). */
const FIRST_NORMAL_UNLOGGED_LSN = 1000n;

export interface ControlFile {
  readonly version: PgVersion;
  readonly systemId: bigint;
  readonly catalogVersion: number;
  /** DBState: 1 is a clean shutdown. */
  readonly state: number;
  readonly checkPointLsn: Lsn;
  readonly checkPoint: CheckPoint;
  /** Where archive recovery must have come to before the files are consistent; 0 without one. */
  readonly minRecoveryPoint: Lsn;
  readonly segmentSize: number;
  /** Bytes in a block; blocks in a file of a relation; bytes in a page of WAL: what Postgres was built with. */
  readonly blockSize: number;
  readonly relationSegmentBlocks: number;
  readonly walBlockSize: number;
  readonly walLogHints: boolean;
  readonly dataChecksums: boolean;
  readonly trackCommitTimestamp: boolean;
}

/** GUCs that pg_control repeats; where they differ from it Postgres writes XLOG_PARAMETER_CHANGE. */
export interface ControlParameters {
  /** 0 minimal, 1 replica, 2 logical. */
  readonly walLevel: number;
  readonly maxConnections: number;
  readonly maxWorkerProcesses: number;
  readonly maxWalSenders: number;
  readonly maxPreparedTransactions: number;
  readonly maxLocksPerTransaction: number;
}

/** xl_parameter_change (access/xlog_internal.h): all that pg_control repeats. */
export interface ParameterChange extends ControlParameters {
  readonly walLogHints: boolean;
  readonly trackCommitTimestamp: boolean;
}

/**
 * `major` says which one it is where pg_control cannot: 14 to 16 share a control version. StorageError
 * `corrupt` (checksum, length) or `unsupported` (version).
 */
export function decodeControlFile(bytes: Uint8Array, major?: PgMajor): ControlFile {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const crcOffset = findCrc(bytes, view);
  const controlVersion = view.getUint32(8, true);
  const version = Object.values(PG_VERSIONS).findLast(
    (known) =>
      known.controlVersion === controlVersion &&
      known.controlCrcOffset === crcOffset &&
      (major === undefined || known.major === major),
  );
  if (version === undefined) {
    const message = `pg_control version ${controlVersion} (major ${major ?? "unknown"})`;
    throw new StorageError("unsupported", "unsupported-pg-version", message);
  }
  const checkPointLsn = view.getBigUint64(32, true);
  const minRecoveryPoint = view.getBigUint64(136, true);
  if (checkPointLsn >= 2n ** 53n || minRecoveryPoint >= 2n ** 53n) {
    const message = `checkpoint at ${checkPointLsn}, recovery to ${minRecoveryPoint}`;
    throw new StorageError("corrupt", "corrupt-control-file", message);
  }
  return {
    version,
    systemId: view.getBigUint64(0, true),
    catalogVersion: view.getUint32(12, true),
    state: view.getUint32(16, true),
    checkPointLsn: lsnFromBigInt(checkPointLsn),
    checkPoint: decodeCheckPoint(bytes, 40, bytes.length - 40, version),
    minRecoveryPoint: lsnFromBigInt(minRecoveryPoint),
    segmentSize: view.getUint32(228, true),
    blockSize: view.getUint32(216, true),
    relationSegmentBlocks: view.getUint32(220, true),
    walBlockSize: view.getUint32(224, true),
    walLogHints: view.getUint8(176) !== 0,
    dataChecksums: view.getUint32(252, true) !== 0,
    trackCommitTimestamp: view.getUint8(200) !== 0,
  };
}

/** What a standby's settings must not be below (CheckRequiredParameterValues in xlogrecovery.c). StorageError as decodeControlFile. */
export function decodeControlParameters(bytes: Uint8Array): ControlParameters {
  decodeControlFile(bytes);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return {
    walLevel: view.getUint32(172, true),
    maxConnections: view.getUint32(180, true),
    maxWorkerProcesses: view.getUint32(184, true),
    maxWalSenders: view.getUint32(188, true),
    maxPreparedTransactions: view.getUint32(192, true),
    maxLocksPerTransaction: view.getUint32(196, true),
  };
}

function findCrc(bytes: Uint8Array, view: DataView): number {
  const found = CRC_OFFSETS.find(
    (at) => bytes.length >= at + 4 && view.getUint32(at, true) === crc32c(bytes, 0, at),
  );
  if (found === undefined) {
    const message = `pg_control of ${bytes.length} bytes has no valid checksum`;
    throw new StorageError("corrupt", "corrupt-control-file", message);
  }
  return found;
}

/**
 * The control file of a cluster that was shut down at `checkPoint`, whose record starts at its redo.
 * Layout constants, the nonce and settings come from `template`, the cluster's newest
 * pg_control or initdb's: where a setting changes now, Postgres says so in WAL by itself, so that replicas know. What
 * writes no WAL gives its own.
 * Data checksums stay as they are there, and nothing of a recovery that was is left.
 */
export function encodeStartControlFile(
  template: Uint8Array,
  start: {
    readonly version: PgVersion;
    readonly systemId: bigint;
    readonly checkPoint: Readonly<CheckPoint>;
    /** Of a standby, on timeline 1: before it, it is not consistent. Absent: it is at once. */
    readonly minRecoveryPoint?: Lsn | undefined;
    readonly parameters?: ControlParameters | undefined;
  },
): Uint8Array {
  const { version, checkPoint, minRecoveryPoint, parameters } = start;
  decodeControlFile(template, version.major);
  const bytes = new Uint8Array(CONTROL_FILE_SIZE);
  bytes.set(template.subarray(0, version.controlCrcOffset));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, start.systemId, true);
  view.setUint32(16, DB_SHUTDOWNED, true);
  view.setBigInt64(24, checkPoint.time, true);
  view.setBigUint64(32, lsnToBigInt(checkPoint.redo), true);
  bytes.set(encodeCheckPoint(checkPoint, version), 40);
  view.setBigUint64(128, FIRST_NORMAL_UNLOGGED_LSN, true);
  bytes.fill(0, 136, 172);
  if (minRecoveryPoint !== undefined) {
    view.setBigUint64(136, lsnToBigInt(minRecoveryPoint), true);
    view.setUint32(144, 1, true);
  }
  if (parameters !== undefined) {
    setParameters(view, parameters);
  }
  view.setUint8(176, 0); // wal_log_hints
  const crcOffset = version.controlCrcOffset;
  view.setUint32(crcOffset, crc32c(bytes, 0, crcOffset), true);
  return bytes;
}

/**
 * What redo of XLOG_PARAMETER_CHANGE makes of pg_control: fresh bytes. StorageError as
 * decodeControlFile.
 */
export function applyParameterChange(controlFile: Uint8Array, change: ParameterChange): Uint8Array {
  const crcOffset = decodeControlFile(controlFile).version.controlCrcOffset;
  const bytes = controlFile.slice();
  const view = new DataView(bytes.buffer);
  setParameters(view, change);
  view.setUint8(176, change.walLogHints ? 1 : 0);
  view.setUint8(200, change.trackCommitTimestamp ? 1 : 0);
  view.setUint32(crcOffset, crc32c(bytes, 0, crcOffset), true);
  return bytes;
}

function setParameters(view: DataView, parameters: ControlParameters): void {
  view.setUint32(172, parameters.walLevel, true);
  view.setUint32(180, parameters.maxConnections, true);
  view.setUint32(184, parameters.maxWorkerProcesses, true);
  view.setUint32(188, parameters.maxWalSenders, true);
  view.setUint32(192, parameters.maxPreparedTransactions, true);
  view.setUint32(196, parameters.maxLocksPerTransaction, true);
}
