// Reads a cleanly shut down Postgres data directory as keys and values, in key order.

import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { crc32c } from "../../base/crc32c.ts";
import { readFileIfExists } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { formatLsn, type Lsn, segmentNumber, walFileName } from "../../base/lsn.ts";
import { type ControlFile, DB_SHUTDOWNED, decodeControlFile } from "../../postgres/control-file.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { hasRightChecksum } from "../../postgres/page-checksum.ts";
import { DEFAULT_TABLESPACE_OID, GLOBAL_TABLESPACE_OID } from "../../postgres/relation-path.ts";
import { decodeOriginCheckpoint } from "../../postgres/replication-origin-checkpoint.ts";
import type { PgMajor } from "../../postgres/versions.ts";
import {
  SLRU_CLOG,
  SLRU_COMMIT_TS,
  SLRU_MULTIXACT_MEMBERS,
  SLRU_MULTIXACT_OFFSETS,
} from "../../wal-decoder/record-sink.ts";
import { WalStream } from "../../wal-decoder/wal-stream.ts";
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
import { preparedSlots } from "./prepared-transactions.ts";
import { encodeSize } from "./relation-heads.ts";
import { encodeRemoteLsn } from "./replication-origins.ts";
import { encodeStoredCheckPoint } from "./stored-checkpoint.ts";

const BLOCKS_PER_SEGMENT_FILE = 131072;
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
  /** End of the shutdown checkpoint: the state is as of here, and WAL goes on from here. */
  readonly lsn: Lsn;
  /** Start of that record. */
  readonly prevRecordLsn: Lsn;
  readonly control: ControlFile;
  /** Ascending keys, each once. */
  values(): Generator<ImportedValue>;
}

interface KeyRun {
  readonly prefix: KeyPrefix;
  /** Values at indexes 0, 1, ... */
  read(): Generator<{ index: number; value: Uint8Array }>;
}

/**
 * StorageError `invalid` where the cluster was not shut down cleanly or uses tablespaces; `corrupt`
 * where its files make no sense, or a page has a wrong checksum and they are on.
 */
export function readDataDirectory(pgdata: string, major: PgMajor): DataDirectoryImage {
  const controlBytes = readFileSync(join(pgdata, "global", "pg_control"));
  const control = decodeControlFile(controlBytes, major);
  if (control.state !== DB_SHUTDOWNED) {
    throw invalid(`it was not shut down cleanly (state ${control.state})`);
  }
  if (readdirSync(join(pgdata, "pg_tblspc")).length > 0) {
    throw invalid("it has tablespaces");
  }
  const { lsn, prevRecordLsn } = findCheckpointEnd(pgdata, control);
  const runs = [
    ...databaseRuns(join(pgdata, "global"), GLOBAL_TABLESPACE_OID, 0, control),
    ...readdirSync(join(pgdata, "base"))
      .filter((name) => /^[1-9]\d*$/.test(name))
      .flatMap((name) =>
        databaseRuns(join(pgdata, "base", name), DEFAULT_TABLESPACE_OID, Number(name), control),
      ),
    ...SLRU_DIRECTORIES.flatMap(([kind, path]) => slruRuns(join(pgdata, path), kind)),
    controlRun(controlBytes, control),
    preparedRun(join(pgdata, "pg_twophase"), control),
    ...originRuns(join(pgdata, "pg_logical", "replorigin_checkpoint")),
  ].sort((a, b) => comparePrefixes(a.prefix, b.prefix));
  return {
    lsn,
    prevRecordLsn,
    control,
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
    *read() {
      yield { index: 0, value };
    },
  };
}

function databaseRuns(
  directory: string,
  spcOid: number,
  dbOid: number,
  { dataChecksums }: ControlFile,
): KeyRun[] {
  const runs: KeyRun[] = [];
  if (dbOid !== 0) {
    runs.push(single(dbDirPrefix(spcOid, dbOid), new Uint8Array([1])));
  }
  /** Files of each fork by segment number. */
  const forks = new Map<string, { rel: number; fork: number; files: string[] }>();
  for (const name of readdirSync(directory)) {
    if (name === "pg_filenode.map") {
      runs.push(single(relmapPrefix(spcOid, dbOid), readFileSync(join(directory, name))));
    }
    const match = RELATION_FILE.exec(name);
    if (match !== null) {
      const key = match[1]! + match[2]!;
      let fork = forks.get(key);
      if (fork === undefined) {
        fork = { rel: Number(match[1]), fork: FORK_NUMBERS[match[2]!]!, files: [] };
        forks.set(key, fork);
      }
      fork.files[Number(match[3] ?? 0)] = join(directory, name);
    }
  }
  for (const { rel, fork, files } of forks.values()) {
    const contents = files.map((file) => readFileSync(file));
    const blocks = countBlocks(contents, files);
    runs.push(single(relSizePrefix(spcOid, dbOid, rel, fork), encodeSize(blocks)));
    runs.push({
      prefix: relBlockPrefix(spcOid, dbOid, rel, fork),
      read: () => (dataChecksums ? verified(pages(contents), files) : pages(contents)),
    });
  }
  return runs;
}

function countBlocks(contents: readonly Buffer[], files: readonly string[]): number {
  let blocks = 0;
  contents.forEach((content, segment) => {
    const full =
      segment === contents.length - 1 || content.length / PAGE_SIZE === BLOCKS_PER_SEGMENT_FILE;
    if (content.length % PAGE_SIZE !== 0 || !full) {
      throw new StorageError(
        "corrupt",
        "bad-relation-file",
        `${files[segment]} has ${content.length} bytes`,
      );
    }
    blocks += content.length / PAGE_SIZE;
  });
  return blocks;
}

function* pages(contents: readonly Buffer[]): Generator<{ index: number; value: Uint8Array }> {
  let index = 0;
  for (const content of contents) {
    for (let at = 0; at < content.length; at += PAGE_SIZE) {
      yield { index: index++, value: content.subarray(at, at + PAGE_SIZE) };
    }
  }
}

/** The same pages, each checked as Postgres does when it reads one. */
function* verified(
  values: ReturnType<typeof pages>,
  files: readonly string[],
): ReturnType<typeof pages> {
  for (const page of values) {
    if (!hasRightChecksum(page.value, page.index)) {
      throw new StorageError(
        "corrupt",
        "bad-page-checksum",
        `${files[Math.floor(page.index / BLOCKS_PER_SEGMENT_FILE)]}: ` +
          `block ${page.index % BLOCKS_PER_SEGMENT_FILE} has a wrong checksum`,
      );
    }
    yield page;
  }
}

function slruRuns(directory: string, kind: number): KeyRun[] {
  return readdirSync(directory)
    .filter((name) => /^[0-9A-F]{4,15}$/.test(name))
    .flatMap((name) => {
      const segno = Number.parseInt(name, 16);
      const content = readFileSync(join(directory, name));
      const blocks = countBlocks([content], [join(directory, name)]);
      return [
        single(slruSizePrefix(kind, segno), encodeSize(blocks)),
        { prefix: slruBlockPrefix(kind, segno), read: () => pages([content]) },
      ];
    });
}

function controlRun(controlBytes: Uint8Array, control: ControlFile): KeyRun {
  return {
    prefix: CONTROL_PREFIX,
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
  return { prefix: PREPARED_SLOT_PREFIX, read: () => preparedSlots(prepared) };
}

function originRuns(path: string): KeyRun[] {
  const bytes = readFileIfExists(path);
  const states = bytes === undefined ? [] : decodeOriginCheckpoint(bytes);
  return states.length === 0
    ? []
    : [
        {
          prefix: REPLICATION_ORIGIN_PREFIX,
          *read() {
            for (const { originId, remoteLsn } of states.sort((a, b) => a.originId - b.originId)) {
              yield { index: originId, value: encodeRemoteLsn(remoteLsn) };
            }
          },
        },
      ];
}
