// Reads the files of a stock Postgres data directory as keys and values, in key order, a piece at a time.
//
// Of a server that was shut down they are its state there. Those of a base backup are of various moments
// between its start and its end: WAL from its start on makes one state of them. The first change of a
// page after the start comes with the whole page (full_page_writes is on while a backup is taken), so what
// is in a file, torn or from later, does not matter; SLRU pages have no images and are set to what they
// are anyway. Sources: storage/smgr/md.c, access/transam/slru.c, backup/basebackup.c, 14-18.

import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "../../base/crc32c.ts";
import { readFileIfExists } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import {
  formatLsn,
  INVALID_LSN,
  type Lsn,
  lsnFromParts,
  segmentNumber,
  walFileName,
} from "../../base/lsn.ts";
import type { BaseBackup } from "../../data-directory/base-backup.ts";
import { type ControlFile, DB_SHUTDOWNED, decodeControlFile } from "../../postgres/control-file.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { hasRightChecksum } from "../../postgres/page-checksum.ts";
import {
  DEFAULT_TABLESPACE_OID,
  GLOBAL_TABLESPACE_OID,
  INIT_FORK,
  RELATION_SEGMENT_BLOCKS,
} from "../../postgres/relation-path.ts";
import { decodeOriginCheckpoint } from "../../postgres/replication/origin-checkpoint.ts";
import { SLRU_PAGES_PER_SEGMENT } from "../../postgres/slru.ts";
import type { PgMajor } from "../../postgres/versions.ts";
import {
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
} from "../../wal-decoder/record-sink.ts";
import { WalStream } from "../../wal-decoder/wal-stream.ts";
import { preparedSlots } from "../ingest/prepared-transactions.ts";
import { encodeSize } from "../ingest/relation-heads.ts";
import { encodeRemoteLsn } from "../ingest/replication-origins.ts";
import { encodeStoredCheckPoint } from "../ingest/stored-checkpoint.ts";
import {
  CHECKPOINT_INDEX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  comparePrefixes,
  dbDirPrefix,
  type KeyPrefix,
  PREPARED_SLOT_PREFIX,
  REPLICATION_ORIGIN_PREFIX,
  relBlockPrefix,
  relmapPrefix,
  relSizePrefix,
  slruBlockPrefix,
  slruSizePrefix,
} from "../layers/key.ts";

/** Pages that are read at once. */
const CHUNK_PAGES = 64;
const FORK_NUMBERS: Readonly<Record<string, number>> = { "": 0, _fsm: 1, _vm: 2, _init: 3 };
const RELATION_FILE = /^([1-9]\d*)(_fsm|_vm|_init|)(?:\.(\d+))?$/;
const SLRU_DIRECTORIES: readonly (readonly [kind: number, path: string])[] = [
  [SLRU_CLOG, "pg_xact"],
  [SLRU_MULTIXACT_MEMBERS, "pg_multixact/members"],
  [SLRU_MULTIXACT_OFFSETS, "pg_multixact/offsets"],
  [SLRU_COMMIT_TS, "pg_commit_ts"],
];

/** One stored version; `value` is lent until the next one is taken. */
export interface ImportedValue {
  readonly prefix: KeyPrefix;
  readonly index: number;
  readonly value: Uint8Array;
}

export interface DataDirectoryImage {
  readonly lsn: Lsn;
  /** Start of the record that ends at `lsn`; 0 where it is not known. */
  readonly prevRecordLsn: Lsn;
  readonly control: ControlFile;
  /** What `values` reads of files with pages. */
  readonly totalBytes: number;
  /** Their rows are not there afterwards, as after a crash: WAL has nothing of them. */
  readonly unloggedRelations: number;
  /** Ascending keys, each once. */
  values(): Generator<ImportedValue>;
}

interface KeyRun {
  readonly prefix: KeyPrefix;
  readonly sizeBytes: number;
  /** Values at indexes 0, 1, ..., each lent until the next. */
  read(): Generator<{ index: number; value: Uint8Array }>;
}

/** What is expected of the files. */
interface FileRules {
  /** Nothing changed them while they were copied: sizes must make sense, every page has its checksum. */
  readonly atRest: boolean;
  readonly checksums: boolean;
  /** A page from later than this may be torn. */
  readonly startLsn: Lsn;
}

/**
 * The state at the end of the shutdown checkpoint, where WAL goes on. StorageError `invalid` where the
 * cluster was not shut down cleanly; `corrupt` where its files make no sense, or a page has a wrong checksum
 * and they are on.
 */
export function readDataDirectory(pgdata: string, major: PgMajor): DataDirectoryImage {
  const control = decodeControlFile(readControl(pgdata), major);
  if (control.state !== DB_SHUTDOWNED) {
    throw invalid(`it was not shut down cleanly (state ${control.state})`);
  }
  const { lsn, prevRecordLsn } = findCheckpointEnd(pgdata, control);
  return { ...imageOf(pgdata, control, true, lsn), lsn, prevRecordLsn };
}

/** The files as of the backup's start: they mean something after its WAL only. Errors as readDataDirectory. */
export function readBackupFiles({ directory, control, startLsn }: BaseBackup): DataDirectoryImage {
  return {
    ...imageOf(directory, control, false, startLsn),
    lsn: startLsn,
    prevRecordLsn: INVALID_LSN,
  };
}

function readControl(pgdata: string): Buffer {
  return readFileSync(join(pgdata, "global", "pg_control"));
}

function imageOf(pgdata: string, control: ControlFile, atRest: boolean, startLsn: Lsn) {
  const rules = { atRest, checksums: control.dataChecksums, startLsn };
  const databases = [
    { spcOid: GLOBAL_TABLESPACE_OID, dbOid: 0, directory: join(pgdata, "global") },
    ...readdirSync(join(pgdata, "base"))
      .filter((name) => /^[1-9]\d*$/.test(name))
      .map((name) => ({
        spcOid: DEFAULT_TABLESPACE_OID,
        dbOid: Number(name),
        directory: join(pgdata, "base", name),
      })),
  ].map((database) => databaseRuns(database, rules));
  const runs = [
    ...databases.flatMap((database) => database.runs),
    ...SLRU_DIRECTORIES.flatMap(([kind, path]) => slruRuns(join(pgdata, path), kind, rules)),
    controlRun(readControl(pgdata), control),
    preparedRun(join(pgdata, "pg_twophase"), control),
    ...originRuns(join(pgdata, "pg_logical", "replorigin_checkpoint")),
  ].sort((a, b) => comparePrefixes(a.prefix, b.prefix));
  return {
    control,
    totalBytes: runs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    unloggedRelations: databases.reduce((sum, { unlogged }) => sum + unlogged, 0),
    *values() {
      for (const run of runs) {
        for (const { index, value } of run.read()) {
          yield { prefix: run.prefix, index, value };
        }
      }
    },
  };
}

function invalid(why: string): StorageError {
  return new StorageError("invalid", "bad-data-directory", `cannot import this cluster: ${why}`);
}

/** Reads the checkpoint record, to know where it ends. */
function findCheckpointEnd(pgdata: string, control: ControlFile): { lsn: Lsn; prevRecordLsn: Lsn } {
  const start = control.checkPointLsn;
  const stream = new WalStream({
    startLsn: start,
    pageMagic: control.version.pageMagic,
    segmentSize: control.segmentSize,
    systemId: control.systemId,
  });
  const segno = segmentNumber(start, control.segmentSize);
  let offset = start % control.segmentSize;
  // Two segments at most hold a record this small.
  for (const number of [segno, segno + 1]) {
    const name = walFileName(number, control.checkPoint.timeLineId, control.segmentSize);
    stream.feed(readFileSync(join(pgdata, "pg_wal", name)), offset);
    offset = 0;
    if (stream.next()) {
      return { lsn: stream.recordEndLsn, prevRecordLsn: stream.prevRecordLsn };
    }
  }
  throw new StorageError("corrupt", "no-checkpoint", `no checkpoint record at ${formatLsn(start)}`);
}

function single(prefix: KeyPrefix, value: Uint8Array): KeyRun {
  return {
    prefix,
    sizeBytes: 0,
    *read() {
      yield { index: 0, value };
    },
  };
}

interface RelationFiles {
  readonly rel: number;
  readonly fork: number;
  /** By segment. */
  readonly files: string[];
}

function databaseRuns(
  { spcOid, dbOid, directory }: { spcOid: number; dbOid: number; directory: string },
  rules: FileRules,
): { runs: KeyRun[]; unlogged: number } {
  const runs: KeyRun[] = [];
  if (dbOid !== 0) {
    runs.push(single(dbDirPrefix(spcOid, dbOid), new Uint8Array([1])));
  }
  const forks = new Map<string, RelationFiles>();
  const unlogged = new Set<number>();
  for (const name of readdirSync(directory)) {
    if (name === "pg_filenode.map") {
      runs.push(single(relmapPrefix(spcOid, dbOid), readFileSync(join(directory, name))));
    }
    const match = RELATION_FILE.exec(name);
    if (match !== null) {
      const key = match[1]! + match[2]!;
      const fork = FORK_NUMBERS[match[2]!]!;
      const relation = forks.get(key) ?? { rel: Number(match[1]), fork, files: [] };
      forks.set(key, relation);
      relation.files[Number(match[3] ?? 0)] = join(directory, name);
      if (fork === INIT_FORK) {
        unlogged.add(relation.rel);
      }
    }
  }
  for (const relation of forks.values()) {
    // They start from their init fork, as ResetUnloggedRelations has it.
    if (relation.fork === INIT_FORK || !unlogged.has(relation.rel)) {
      runs.push(...relationRuns(spcOid, dbOid, relation, rules));
    }
  }
  return { runs, unlogged: unlogged.size };
}

function relationRuns(
  spcOid: number,
  dbOid: number,
  { rel, fork, files }: RelationFiles,
  rules: FileRules,
): KeyRun[] {
  const segments = segmentsOf(files, RELATION_SEGMENT_BLOCKS, rules);
  const blocks = segments.reduce((sum, segment) => sum + segment.blocks, 0);
  return [
    single(relSizePrefix(spcOid, dbOid, rel, fork), encodeSize(blocks)),
    {
      prefix: relBlockPrefix(spcOid, dbOid, rel, fork),
      sizeBytes: blocks * PAGE_SIZE,
      read: () => readPages(segments, rules.checksums ? rules : undefined),
    },
  ];
}

interface Segment {
  readonly path: string;
  readonly firstBlock: number;
  readonly blocks: number;
}

/**
 * As mdnblocks counts: the first segment that is not full is the last. Behind it a truncation leaves empty
 * ones; in a copy of a running server there can be anything, and half a page.
 */
function segmentsOf(
  files: readonly (string | undefined)[],
  fullBlocks: number,
  { atRest }: FileRules,
): Segment[] {
  const segments: Segment[] = [];
  let full = true;
  for (let number = 0; number < files.length; number++) {
    const path = files[number];
    const size = path === undefined ? 0 : statSync(path).size;
    if (
      atRest &&
      (size % PAGE_SIZE !== 0 || (!full && size > 0) || size > fullBlocks * PAGE_SIZE)
    ) {
      const message = `${path} has ${size} bytes`;
      throw new StorageError("corrupt", "bad-relation-file", message);
    }
    const blocks = Math.min(Math.floor(size / PAGE_SIZE), fullBlocks);
    if (full && path !== undefined) {
      segments.push({ path, firstBlock: number * fullBlocks, blocks });
    }
    full &&= blocks === fullBlocks;
  }
  return segments;
}

/** `checked`: each page is looked at as Postgres does when it reads one. */
function* readPages(
  segments: readonly Segment[],
  checked: FileRules | undefined,
): Generator<{ index: number; value: Uint8Array }> {
  const chunk = new Uint8Array(CHUNK_PAGES * PAGE_SIZE);
  for (const { path, firstBlock, blocks } of segments) {
    const fd = openSync(path, "r");
    try {
      for (let block = 0; block < blocks; block += CHUNK_PAGES) {
        const wanted = Math.min(CHUNK_PAGES, blocks - block) * PAGE_SIZE;
        readFully(fd, chunk, wanted, block * PAGE_SIZE, path);
        for (let at = 0; at < wanted; at += PAGE_SIZE) {
          const index = firstBlock + block + at / PAGE_SIZE;
          const value = chunk.subarray(at, at + PAGE_SIZE);
          if (checked !== undefined) {
            checkPage(value, index, path, checked);
          }
          yield { index, value };
        }
      }
    } finally {
      closeSync(fd);
    }
  }
}

function readFully(fd: number, into: Uint8Array, length: number, at: number, path: string): void {
  for (let done = 0; done < length; ) {
    const got = readSync(fd, into, done, length - done, at + done);
    if (got === 0) {
      const message = `${path} became shorter while it was read`;
      throw new StorageError("conflict", "file-changed", message);
    }
    done += got;
  }
}

function checkPage(page: Uint8Array, index: number, path: string, rules: FileRules): void {
  if (hasRightChecksum(page, index)) {
    return;
  }
  const view = new DataView(page.buffer, page.byteOffset, PAGE_SIZE);
  // As pg_basebackup's own check: what was changed since may be torn, and WAL has all of it.
  const lsn = lsnFromParts(view.getUint32(0, true), view.getUint32(4, true));
  if (rules.atRest || lsn < rules.startLsn) {
    throw new StorageError(
      "corrupt",
      "bad-page-checksum",
      `${path}: block ${index % RELATION_SEGMENT_BLOCKS} has a wrong checksum`,
    );
  }
}

function slruRuns(directory: string, kind: number, rules: FileRules): KeyRun[] {
  return readdirSync(directory)
    .filter((name) => /^[0-9A-F]{4,15}$/.test(name))
    .flatMap((name) => {
      const segno = Number.parseInt(name, 16);
      const segments = segmentsOf([join(directory, name)], SLRU_PAGES_PER_SEGMENT, rules);
      const { blocks } = segments[0]!;
      return [
        single(slruSizePrefix(kind, segno), encodeSize(blocks)),
        {
          prefix: slruBlockPrefix(kind, segno),
          sizeBytes: blocks * PAGE_SIZE,
          read: () => readPages(segments, undefined),
        },
      ];
    });
}

function controlRun(controlBytes: Uint8Array, control: ControlFile): KeyRun {
  return {
    prefix: CONTROL_PREFIX,
    sizeBytes: 0,
    *read() {
      yield { index: CONTROL_FILE_INDEX, value: controlBytes };
      yield { index: CHECKPOINT_INDEX, value: encodeStoredCheckPoint(control.checkPoint) };
    },
  };
}

/** Prepared transactions. Before 17 a file's name lacks the epoch: it is that of an xid before nextXid. */
function preparedRun(directory: string, control: ControlFile): KeyRun {
  const { nextFullXid } = control.checkPoint;
  const prepared = readdirSync(directory)
    .filter((name) => /^(?:[0-9A-F]{8}){1,2}$/.test(name))
    .map((name) => {
      const path = join(directory, name);
      const file = readFileSync(path);
      const end = file.length - 4;
      if (end < 0 || file.readUInt32LE(end) !== crc32c(file, 0, end)) {
        throw new StorageError("corrupt", "bad-twophase-file", `${path} has a wrong checksum`);
      }
      const named = BigInt(`0x${name}`);
      const fullXid =
        name.length === 16 ? named : nextFullXid - BigInt.asUintN(32, nextFullXid - named);
      return { fullXid, payload: file.subarray(0, end) };
    });
  return { prefix: PREPARED_SLOT_PREFIX, sizeBytes: 0, read: () => preparedSlots(prepared) };
}

function originRuns(path: string): KeyRun[] {
  const bytes = readFileIfExists(path);
  const states = bytes === undefined ? [] : decodeOriginCheckpoint(bytes);
  return states.length === 0
    ? []
    : [
        {
          prefix: REPLICATION_ORIGIN_PREFIX,
          sizeBytes: 0,
          *read() {
            for (const { originId, remoteLsn } of states.sort((a, b) => a.originId - b.originId)) {
              yield { index: originId, value: encodeRemoteLsn(remoteLsn) };
            }
          },
        },
      ];
}
