// Replays a stock base backup and its WAL with our redo and compares the result with Postgres's own.
//
// The parts, each of use by itself:
//   openBaseBackup(dir)          where replay starts, of what major       base-backup.ts
//   new WalDirectory(dir, size)  which file has which segment, timelines  wal-directory.ts
//   new WalReader(wal, base)     records one by one; end, hole or damage  wal-reader.ts
//   new ReplayedCluster(dir)     base + records = pages, bounded memory   replayed-cluster.ts
//   new AfterImageChecker(f)     images of wal_consistency_checking       after-images.ts
//   compareRelationFiles(...), compareSlruPages(...), compareOtherFiles(...)
//                                against a data directory                 directory-comparison.ts
// and `verifyWal`, which is all of them with counts for each rmgr and opcode. `replayRecord` is the one
// step of replay; tests that inject faults set `ReplayedCluster.onDelta`.

import { StorageError, withContext } from "../base/errors.ts";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import {
  type BaseBackup,
  openBaseBackup,
  openDataDirectory,
} from "../data-directory/base-backup.ts";
import { Consistency } from "../data-directory/consistency.ts";
import { WalDirectory } from "../data-directory/wal-directory.ts";
import { type WalEnd, WalReader } from "../data-directory/wal-reader.ts";
import { DB_SHUTDOWNED, DB_SHUTDOWNED_IN_RECOVERY } from "../postgres/control-file.ts";
import { INIT_FORK, MAIN_FORK, VM_FORK } from "../postgres/relation-path.ts";
import { RM_XACT_ID, XLR_RMGR_INFO_MASK } from "../postgres/rmgr.ts";
import type { PgMajor } from "../postgres/versions.ts";
import type { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretRecord } from "../wal-decoder/interpret-record.ts";
import { AfterImageChecker } from "./after-images.ts";
import {
  compareOtherFiles,
  compareRelationFiles,
  compareSlruPages,
} from "./directory-comparison.ts";
import type { PageStoreOptions } from "./page-store.ts";
import { describeFork, ReplayedCluster } from "./replayed-cluster.ts";

export interface VerifyOptions extends PageStoreOptions {
  /** A base backup in plain format, or the copy of a stopped data directory; nothing writes to it. */
  readonly baseDir: string;
  readonly walDir: string;
  /** Data directory of a stopped server to compare with. */
  readonly againstDir?: string;
  /** Compare with it byte for byte: it is what Postgres recovered from the same WAL. Default: masks. */
  readonly exact?: boolean;
  /** Records that start at or after it are not replayed. Default: all WAL. */
  readonly untilLsn?: Lsn;
  /** How many mismatches are kept in the report; default 20. */
  readonly maxMismatches?: number;
  readonly onProgress?: (progress: VerifyProgress) => void;
  /** Called once, before the first record: to look at deltas, or to change them. */
  readonly prepare?: (cluster: ReplayedCluster) => void;
}

export interface VerifyProgress {
  readonly phase: "replay" | "compare";
  /** Bytes of WAL, or pages. */
  readonly done: number;
  readonly total: number;
}

/** What was seen of one opcode (the high four bits of xl_info) of a resource manager. */
export interface OpcodeReport {
  readonly rmid: number;
  readonly info: number;
  records: number;
  /** After-images compared, and those that differed. */
  images: number;
  imageMismatches: number;
  /** Pages compared with the directory of which this was the last record, and those that differed. */
  pages: number;
  pageMismatches: number;
}

export interface ReportedMismatch {
  /** `image`: of a record; `page`, `slru`, `file`: of the directory. */
  readonly kind: "image" | "page" | "slru" | "file";
  /** Relation fork, SLRU or file. */
  readonly where: string;
  readonly block: number | undefined;
  /** First byte that differs; undefined where a size does, or a file is missing. */
  readonly offset: number | undefined;
  /** The record, or the last one that changed the page; undefined: the page is as in the base. */
  readonly record: { readonly lsn: Lsn; readonly rmid: number; readonly info: number } | undefined;
  readonly what: string;
}

export interface VerifyReport {
  readonly major: PgMajor;
  readonly systemId: bigint;
  readonly startLsn: Lsn;
  readonly end: WalEnd;
  readonly records: number;
  /** After-images compared. */
  readonly images: number;
  /** Absent without a directory to compare with. */
  readonly against:
    | {
        readonly directory: string;
        /** Where that server was stopped. */
        readonly checkPointLsn: Lsn;
        readonly forks: number;
        readonly pages: number;
        readonly slruPages: number;
        readonly files: number;
        readonly tolerated: number;
      }
    | undefined;
  readonly mismatches: number;
  readonly firstMismatches: readonly ReportedMismatch[];
  /** By manager and opcode. */
  readonly opcodes: readonly OpcodeReport[];
}

/**
 * Replays one record as read by a WalReader. StorageError as `interpretRecord` and `PageRedo.apply`,
 * with the record's LSN in front.
 */
export function replayRecord(cluster: ReplayedCluster, record: XLogRecord): void {
  cluster.beginRecord(record.endLsn, record.rmid, record.info);
  try {
    interpretRecord(record, cluster);
  } catch (error) {
    throw withContext(error, `replay record at ${formatLsn(record.startLsn)}`);
  }
}

/**
 * Throws StorageError where there is nothing to verify: a directory is not what it should be
 * (`invalid`, `not-found`, `unsupported`), WAL is damaged or lacks a segment in the middle, or redo
 * refuses a record (`corrupt`, `unsupported`). Mismatches are no error but in the report.
 */
export async function verifyWal(options: VerifyOptions): Promise<VerifyReport> {
  const verification = new Verification(options);
  try {
    return await verification.run();
  } finally {
    verification.close();
  }
}

const PROGRESS_RECORDS = 4096;

class Verification {
  readonly #options: VerifyOptions;
  readonly #base: BaseBackup;
  readonly #againstCheckPoint: Lsn | undefined;
  readonly #reader: WalReader;
  readonly #cluster: ReplayedCluster;
  readonly #opcodes = new Map<number, OpcodeReport>();
  readonly #firstMismatches: ReportedMismatch[] = [];
  #mismatches = 0;
  #records = 0;
  /** Until then the base's files have more than what was replayed. */
  readonly #consistency: Consistency;

  constructor(options: VerifyOptions) {
    this.#options = options;
    this.#base = openBaseBackup(options.baseDir);
    this.#againstCheckPoint =
      options.againstDir === undefined ? undefined : checkAgainst(options.againstDir, this.#base);
    const wal = new WalDirectory(options.walDir, this.#base.control.segmentSize);
    this.#reader = new WalReader(wal, this.#base, options.untilLsn);
    this.#consistency = new Consistency(this.#base);
    this.#cluster = new ReplayedCluster(options.baseDir, options);
    options.prepare?.(this.#cluster);
  }

  close(): void {
    this.#reader.close();
    this.#cluster.close();
  }

  async run(): Promise<VerifyReport> {
    const checker = new AfterImageChecker((mismatch) => {
      const { rmid, info, lsn, rel, blkno, offset, blockId, what } = mismatch;
      this.#opcode(rmid, info).imageMismatches++;
      this.#mismatch({
        kind: "image",
        where: describeFork(rel),
        block: blkno,
        offset,
        record: { lsn, rmid, info },
        what: `reference ${blockId}, ${what}`,
      });
    });
    this.#replay(checker);
    checker.finish();
    const end = this.#reader.end!;
    this.#consistency.reached(end);
    this.#cluster.checkInvalidPages();
    const against = await this.#compare();
    return {
      major: this.#base.major,
      systemId: this.#base.control.systemId,
      startLsn: this.#base.startLsn,
      end,
      records: this.#records,
      images: checker.compared,
      against,
      mismatches: this.#mismatches,
      firstMismatches: this.#firstMismatches,
      opcodes: [...this.#opcodes.values()].sort((a, b) => a.rmid - b.rmid || a.info - b.info),
    };
  }

  #replay(checker: AfterImageChecker): void {
    const { onProgress } = this.#options;
    const total = this.#reader.totalBytes;
    for (let record = this.#reader.next(); record !== undefined; record = this.#reader.next()) {
      replayRecord(this.#cluster, record);
      const opcode = this.#opcode(record.rmid, record.info);
      opcode.records++;
      opcode.images += checker.check(record, this.#cluster);
      this.#records++;
      if (this.#consistency.note(record)) {
        this.#cluster.checkInvalidPages();
      }
      if (onProgress !== undefined && this.#records % PROGRESS_RECORDS === 0) {
        onProgress({ phase: "replay", done: record.endLsn - this.#base.startLsn, total });
      }
    }
  }

  #opcode(rmid: number, xlInfo: number): OpcodeReport {
    // One bit of transaction records says how they are laid out (access/xact.h, XLOG_XACT_OPMASK).
    const info = xlInfo & (rmid === RM_XACT_ID ? 0x70 : XLR_RMGR_INFO_MASK);
    const key = (rmid << 4) | (info >>> 4);
    let opcode = this.#opcodes.get(key);
    if (opcode === undefined) {
      opcode = {
        rmid,
        info,
        records: 0,
        images: 0,
        imageMismatches: 0,
        pages: 0,
        pageMismatches: 0,
      };
      this.#opcodes.set(key, opcode);
    }
    return opcode;
  }

  #mismatch(mismatch: ReportedMismatch): void {
    this.#mismatches++;
    if (this.#firstMismatches.length < (this.#options.maxMismatches ?? 20)) {
      this.#firstMismatches.push(mismatch);
    }
  }

  async #compare(): Promise<VerifyReport["against"]> {
    const { againstDir: directory, onProgress, exact } = this.#options;
    if (directory === undefined) {
      return undefined;
    }
    const cluster = this.#cluster;
    const result = await compareRelationFiles({
      directory,
      source: {
        blocks: (rel) => cluster.blocks(rel),
        forks: () => cluster.forks(),
        readPage: (rel, blkno) => {
          const record = cluster.pageOrigin(rel, blkno);
          if (record !== undefined) {
            this.#opcode(record.rmid, record.info).pages++;
          }
          return cluster.readPage(rel, blkno);
        },
      },
      forks: [MAIN_FORK, VM_FORK, INIT_FORK],
      maxMismatches: 0,
      countAll: true,
      ignoreChecksum: this.#base.control.dataChecksums,
      masked: exact !== true,
      lostMapBits: (rel) => cluster.walLogDatabases.has(`${rel.spcOid}/${rel.dbOid}`),
      hintsLoggedUntil: cluster.walLogHints ? this.#againstCheckPoint : undefined,
      onMismatch: ({ rel, blkno, offset, what }) => {
        const record = offset < 0 ? undefined : cluster.pageOrigin(rel, blkno);
        if (record !== undefined) {
          this.#opcode(record.rmid, record.info).pageMismatches++;
        }
        const size = offset < 0;
        this.#mismatch({
          kind: "page",
          where: describeFork(rel),
          block: size ? undefined : blkno,
          offset: size ? undefined : offset,
          record,
          what,
        });
      },
      onProgress: (done, total) => onProgress?.({ phase: "compare", done, total }),
    });
    const slru = compareSlruPages(
      directory,
      (kind, pageno) => cluster.readSlruPage(kind, pageno),
      (kind) => cluster.slruPageNumbers(kind),
    );
    const other = compareOtherFiles(directory, cluster);
    for (const { file, kind, pageno, offset, what } of [...slru.mismatches, ...other.mismatches]) {
      this.#mismatch({
        kind: pageno === undefined ? "file" : "slru",
        where: file,
        block: pageno,
        offset: offset < 0 ? undefined : offset,
        record: pageno === undefined ? undefined : cluster.slruOrigin(kind!, pageno),
        what,
      });
    }
    return {
      directory,
      checkPointLsn: this.#againstCheckPoint!,
      forks: result.forks,
      pages: result.pages,
      slruPages: slru.pages,
      files: other.files,
      tolerated: result.tolerated,
    };
  }
}

/** Where that server was stopped. StorageError where it cannot be compared with the base's cluster. */
function checkAgainst(directory: string, base: BaseBackup): Lsn {
  const { major, control } = openDataDirectory(directory);
  const refuse = (why: string) =>
    new StorageError("invalid", "not-comparable", `cannot compare with '${directory}': ${why}`);
  if (major !== base.major) {
    throw refuse(`it is of Postgres ${major}, and the base is of ${base.major}`);
  }
  if (control.systemId !== base.control.systemId) {
    throw refuse(
      `it is of system ${control.systemId}, and the base is of ${base.control.systemId}`,
    );
  }
  if (control.state !== DB_SHUTDOWNED && control.state !== DB_SHUTDOWNED_IN_RECOVERY) {
    throw refuse("its server runs or crashed, so its files lack what was in memory; stop it first");
  }
  return control.checkPointLsn;
}
