// Writes the data directory from which an unmodified Postgres starts, as if it had been shut down at L.

import { closeSync, ftruncateSync, renameSync, rmSync } from "node:fs";
import { join } from "node:path";
import { nowMs } from "../base/clock.ts";
import { crc32c } from "../base/crc32c.ts";
import { writeFully } from "../base/disk.ts";
import { StorageError } from "../base/errors.ts";
import { type Lsn, segmentNumber, segmentOffset, walFileName } from "../base/lsn.ts";
import type { CheckPoint } from "../postgres/checkpoint.ts";
import { type ControlParameters, encodeStartControlFile } from "../postgres/control-file.ts";
import { databaseDirectoryPath, GLOBAL_TABLESPACE_OID } from "../postgres/relation-path.ts";
import { encodeOriginCheckpoint } from "../postgres/replication/origin-checkpoint.ts";
import { type PgVersion, pgVersion } from "../postgres/versions.ts";
import { type AuxFile, placeAuxFiles } from "./aux-files.ts";
import { synthesizeReplayStart } from "./replay-start.ts";
import { SpareFiles } from "./spare-files.ts";
import { decodeStatisticsFiles } from "./statistics-files.ts";
import { type SynthesizedWal, synthesizeWal } from "./synthesized-wal.ts";
import { makeTablespaces, versionDirectory } from "./tablespace-directories.ts";

/** 16 hex digits of epoch and xid from 17 on, 8 of the xid before (TwoPhaseFilePath). */
const FULL_XID_TWO_PHASE_MAJOR = 17;

/** What there is at L beside relations and SLRU segments; a pageserver's ComputeState has it. */
export interface StartState {
  readonly lsn: Lsn;
  /** Start of the record that ends at `lsn`; 0 where it is not known. */
  readonly prevRecordLsn: Lsn;
  readonly systemId: bigint;
  readonly pgVersion: number;
  readonly walSegmentSize: number;
  readonly checkPoint: CheckPoint;
  /** pg_control of the cluster: a template. */
  readonly controlFile: Uint8Array;
  /** pg_filenode.map files; the shared one is spcOid 1664, dbOid 0. */
  readonly relationMaps: readonly { spcOid: number; dbOid: number; bytes: Uint8Array }[];
  /** Directories of databases, and of those with relations in a tablespace of the user's. */
  readonly databases: readonly { spcOid: number; dbOid: number }[];
  /** The user's. `location`: absolute; empty where it is in place. */
  readonly tablespaces: readonly { spcOid: number; location: string }[];
  /** What a clean stop right at `lsn` has left of pg_stat. */
  readonly statistics?: Uint8Array | undefined;
  /** pg_twophase files without their CRC. */
  readonly twoPhase: readonly { fullXid: bigint; payload: Uint8Array }[];
  readonly replicationOrigins: readonly { originId: number; remoteLsn: bigint }[];
}

/** How recovery goes on behind L. */
export interface ReplayStart {
  /** Transactions that ran at L, and the exact next id, 32 bits both; undefined: none did. */
  readonly running: { readonly oldestXid: number; readonly nextXid: number } | undefined;
  /** What is before it is replayed at once, also with recovery_min_apply_delay. */
  readonly consistentLsn: Lsn;
}

export interface DataDirectoryOptions {
  /** As makeSkeleton() left it. */
  readonly path: string;
  /** The state at L, which is `state.lsn`. */
  readonly state: StartState;
  readonly settings: {
    /** Text of postgresql.conf. */
    readonly configuration: string;
    /** Text of pg_hba.conf. */
    readonly hba: string;
    readonly controlParameters: ControlParameters;
  };
  /** Of logical decoding; absent: none, and no replication slot. */
  readonly auxFiles?: readonly AuxFile[];
  /** A standby never writes: for reading at L. */
  readonly standby: boolean;
  /** Of a standby that goes on from L with the timeline's WAL; its controlParameters are to be at least the timeline's. */
  readonly replay?: ReplayStart | undefined;
  /** All tablespaces are as if in place: for a Postgres without the shim. */
  readonly tablespacesInPlace?: boolean;
  /** Absent: none. */
  readonly spares?: SpareFiles;
}

/** In the data directory: a file of this name, and its content. */
type WriteFile = (name: string, content: string | Uint8Array) => void;

/**
 * Writes everything but relations and SLRU segments, which appear when they are first opened; so it
 * takes as long for a terabyte as for an empty database. Owned by the user that Postgres runs as.
 * StorageError `corrupt` where the state lacks what every one has.
 */
export function writeDataDirectory(options: DataDirectoryOptions): SynthesizedWal {
  const { path, state, spares = SpareFiles.none() } = options;
  const write = (name: string, content: string | Uint8Array) =>
    spares.write(join(path, name), content);
  const version = pgVersion(state.pgVersion);
  const wal = synthesizeStart(options, version);
  write("PG_VERSION", `${version.major}\n`);
  write("postgresql.conf", options.settings.configuration);
  write("postgresql.auto.conf", "");
  write("pg_hba.conf", options.settings.hba);
  write("pg_ident.conf", "");
  if (options.standby) {
    write("standby.signal", "");
  }
  makeTablespaces(path, state, options.tablespacesInPlace === true);
  writeDatabases(options, write, spares);
  writeTwoPhaseFiles(state, version, write);
  for (const { name, bytes } of decodeStatisticsFiles(state.statistics)) {
    write(`pg_stat/${name}`, bytes);
  }
  placeAuxFiles(path, options.auxFiles ?? [], write);
  write("pg_logical/replorigin_checkpoint", encodeOriginCheckpoint(state.replicationOrigins));
  writeWalSegments(path, wal, state.walSegmentSize, spares);
  write(
    "global/pg_control",
    encodeStartControlFile(state.controlFile, {
      version,
      systemId: state.systemId,
      checkPoint: wal.checkPoint,
      minRecoveryPoint: options.replay?.consistentLsn,
      parameters: options.standby ? options.settings.controlParameters : undefined,
    }),
  );
  return wal;
}

function synthesizeStart(options: DataDirectoryOptions, version: PgVersion): SynthesizedWal {
  const { state, replay } = options;
  const checkPoint: CheckPoint = {
    ...state.checkPoint,
    timeLineId: 1,
    prevTimeLineId: 1,
    fullPageWrites: false,
    walLevel: options.settings.controlParameters.walLevel,
    time: BigInt(Math.floor(nowMs() / 1000)),
    oldestActiveXid: 0,
  };
  const place = {
    startLsn: state.lsn,
    prevRecordLsn: state.prevRecordLsn,
    version,
    systemId: state.systemId,
    segmentSize: state.walSegmentSize,
  };
  if (replay === undefined) {
    return synthesizeWal({ ...place, checkPoint });
  }
  const { running } = replay;
  if (running === undefined) {
    return synthesizeReplayStart({ ...place, kind: "shutdown", checkPoint });
  }
  // Storage's is up to 1023 ahead. Recovery would take the ids in between for known, and those of them that run for aborted.
  const ahead = Number(BigInt.asIntN(32, checkPoint.nextFullXid - BigInt(running.nextXid)));
  return synthesizeReplayStart({
    ...place,
    kind: "online",
    checkPoint: {
      ...checkPoint,
      nextFullXid: checkPoint.nextFullXid - BigInt(ahead),
      oldestActiveXid: running.oldestXid,
    },
  });
}

/** Another text of postgresql.conf, under a Postgres that runs: it finds the old file or the new one. */
export function replaceConfiguration(path: string, configuration: string): void {
  const fresh = "postgresql.conf.new";
  rmSync(join(path, fresh), { force: true });
  SpareFiles.none().write(join(path, fresh), configuration);
  renameSync(join(path, fresh), join(path, "postgresql.conf"));
}

/**
 * pg_filenode.map of the shared relations and, with PG_VERSION, of every database: in its own tablespace. In
 * another one it has a directory without either.
 */
function writeDatabases(
  { path, state }: DataDirectoryOptions,
  write: WriteFile,
  spares: SpareFiles,
): void {
  const version = pgVersion(state.pgVersion);
  const inTablespaces = versionDirectory(state);
  const directoryOf = ({ spcOid, dbOid }: { spcOid: number; dbOid: number }) =>
    databaseDirectoryPath(spcOid, dbOid, inTablespaces);
  for (const database of state.databases) {
    if (database.spcOid !== GLOBAL_TABLESPACE_OID) {
      spares.directory(join(path, directoryOf(database)));
    }
  }
  for (const map of state.relationMaps) {
    if (map.dbOid !== 0) {
      write(`${directoryOf(map)}/PG_VERSION`, `${version.major}\n`);
    }
    write(`${directoryOf(map)}/pg_filenode.map`, map.bytes);
  }
  if (!state.relationMaps.some(({ dbOid }) => dbOid === 0)) {
    throw new StorageError("corrupt", "no-shared-map", "storage has no shared relation map");
  }
}

/** The prepare record's payload and its CRC-32C are byte for byte Postgres's own file. */
function writeTwoPhaseFiles(state: StartState, version: PgVersion, write: WriteFile): void {
  for (const { fullXid, payload } of state.twoPhase) {
    const name =
      version.major >= FULL_XID_TWO_PHASE_MAJOR
        ? fullXid.toString(16).toUpperCase().padStart(16, "0")
        : BigInt.asUintN(32, fullXid).toString(16).toUpperCase().padStart(8, "0");
    const bytes = new Uint8Array(payload.length + 4);
    bytes.set(payload);
    new DataView(bytes.buffer).setUint32(payload.length, crc32c(payload), true);
    write(`pg_twophase/${name}`, bytes);
  }
}

/** Sparse files of full size: a few pages are real. */
function writeWalSegments(
  path: string,
  wal: SynthesizedWal,
  segmentSize: number,
  spares: SpareFiles,
): void {
  const bySegment = Map.groupBy(wal.pages, (page) => segmentNumber(page.pageLsn, segmentSize));
  for (const [segment, pages] of bySegment) {
    const file = join(path, "pg_wal", walFileName(segment, 1, segmentSize));
    const fd = spares.file(file);
    try {
      ftruncateSync(fd, segmentSize);
      for (const page of pages) {
        writeFully(fd, page.bytes, segmentOffset(page.pageLsn, segmentSize));
      }
    } finally {
      closeSync(fd);
    }
  }
}
