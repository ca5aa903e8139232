// A data directory and the WAL after it, replayed by our decoder and redo: every page as recovery leaves it.
//
// Independent of the pageserver on purpose: it says what redo gives, whatever storage does. A delta is
// applied when it comes. Pages that WAL did not change are read from the base's files when asked for;
// those it did are in a PageStore, so memory stays bounded. The free space map is left out: it is not
// WAL-logged.
//
// A record may name a page that is not there, or is all zeros: a base taken from a running server can
// have files from after a truncation or drop. As in Postgres (xlogutils.c, log_invalid_page) the record
// is skipped and noted, a later truncation or drop takes the note away, and any note that is left when
// the base should be consistent is an error.

import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { StorageError } from "../base/errors.ts";
import { formatLsn, INVALID_LSN, type Lsn } from "../base/lsn.ts";
import { openDataDirectory } from "../data-directory/base-backup.ts";
import type { ParameterChange } from "../postgres/control-file.ts";
import { SMGR_TRUNCATE_HEAP, SMGR_TRUNCATE_VM } from "../postgres/opcodes.ts";
import { HEAP_BLOCKS_PER_VM_PAGE, PAGE_SIZE, PD_UPPER } from "../postgres/page.ts";
import { FSM_FORK, INIT_FORK, MAIN_FORK, VM_FORK } from "../postgres/relation-path.ts";
import { PageRedo, type PageRedoOptions } from "../redo/page-redo.ts";
import { encodeVmClear, encodeVmTruncate } from "../wal-decoder/implied-deltas.ts";
import type { CheckPoint, RecordSink, RelationFork, SlruKind } from "../wal-decoder/record-sink.ts";
import { BlockSlots } from "./block-slots.ts";
import { PageStore, type PageStoreOptions } from "./page-store.ts";
import {
  listDatabaseFolders,
  listRelationFiles,
  type RelationFile,
  RelationFileReader,
  readTwoPhaseFiles,
} from "./relation-files.ts";
import { type PageOrigin, SlruPages } from "./slru-pages.ts";

const RECENT_FORKS = 512;

/** What `onDelta` is told: one page's part of a record, before it is applied. Everything is lent. */
export interface DeltaEvent {
  readonly delta: Uint8Array;
  /** Undefined for SLRU pages. */
  readonly rel: RelationFork | undefined;
  readonly blkno: number;
  readonly lsn: Lsn;
  /** The page before; zeros where the record makes it. */
  readonly page: Uint8Array;
}

/** Settings by default as pg_control has them. */
export interface ReplayedClusterOptions extends PageRedoOptions, PageStoreOptions {}

class ReplayedFork implements RelationFork {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
  blocks: number;
  /** Blocks below it that have no slot are as in the base. */
  fileBlocks: number;
  readonly file: RelationFile | undefined;
  readonly slots = new BlockSlots();

  constructor(rel: RelationFork, file: RelationFile | undefined) {
    this.spcOid = rel.spcOid;
    this.dbOid = rel.dbOid;
    this.relNumber = rel.relNumber;
    this.fork = rel.fork;
    this.file = file;
    this.blocks = file?.blocks ?? 0;
    this.fileBlocks = this.blocks;
  }
}

export class ReplayedCluster implements RecordSink {
  /** pg_filenode.map by `<spcOid>/<dbOid>`. */
  readonly relationMaps = new Map<string, Uint8Array>();
  /** Payloads of prepared transactions by 32-bit xid. */
  readonly twoPhase = new Map<number, Uint8Array>();
  /** Databases that WAL made with STRATEGY = wal_log, as `<spcOid>/<dbOid>`. */
  readonly walLogDatabases = new Set<string>();
  lastCheckPoint: CheckPoint | undefined;
  deltaCount = 0;
  imageCount = 0;
  /** Looks at each delta, or changes it (fault injection): returns what to apply, undefined for nothing. */
  onDelta: ((event: DeltaEvent) => Uint8Array | undefined) | undefined;
  readonly store: PageStore;
  readonly #dataChecksums: boolean;
  #trackCommitTimestamp: boolean;
  readonly #redos: readonly [PageRedo, PageRedo];
  #redo: PageRedo;
  readonly #forks = new Map<string, ReplayedFork>();
  /** The same by identity: the decoder hands out the same object for a fork again and again. */
  readonly #recentForks = new Map<RelationFork, ReplayedFork>();
  readonly #slru: SlruPages;
  readonly #reader = new RelationFileReader();
  readonly #scratch = new Uint8Array(PAGE_SIZE);
  readonly #invalidPages = new Map<string, { fork: RelationFork; blkno: number; lsn: Lsn }>();
  /** The record at hand: its end, and rmid | info << 8. */
  #lsn: Lsn = INVALID_LSN;
  #tag = 0;

  /** `baseDir`: a data directory that nothing writes to; errors as `openDataDirectory`. */
  constructor(baseDir: string, options: ReplayedClusterOptions = {}) {
    this.store = new PageStore(options);
    this.#redos = [new PageRedo({ walLogHints: false }), new PageRedo({ walLogHints: true })];
    const { control } = openDataDirectory(baseDir);
    this.#dataChecksums = control.dataChecksums;
    this.#trackCommitTimestamp = control.trackCommitTimestamp;
    const walLogHints = options.walLogHints ?? (control.walLogHints || control.dataChecksums);
    this.#redo = this.#redos[walLogHints ? 1 : 0];
    for (const file of listRelationFiles(baseDir)) {
      if (file.fork !== FSM_FORK) {
        this.#forks.set(forkKey(file), new ReplayedFork(file, file));
      }
    }
    for (const { spcOid, dbOid, path } of listDatabaseFolders(baseDir)) {
      const map = join(path, "pg_filenode.map");
      if (existsSync(map)) {
        this.relationMaps.set(`${spcOid}/${dbOid}`, new Uint8Array(readFileSync(map)));
      }
    }
    for (const { xid, payload } of readTwoPhaseFiles(baseDir)) {
      this.twoPhase.set(xid, payload);
    }
    this.#slru = new SlruPages(baseDir, (delta, pageno, page) =>
      this.#apply(delta, undefined, pageno, page),
    );
  }

  close(): void {
    this.#reader.close();
    this.store.close();
  }

  /** Comes before interpretRecord for each record. `lsn`: its end. */
  beginRecord(lsn: Lsn, rmid: number, info: number): void {
    this.#lsn = lsn;
    this.#slru.origin = { lsn, rmid, info };
    this.#tag = rmid | (info << 8);
  }

  /** The server logs hint bits: by wal_log_hints or checksums. */
  get walLogHints(): boolean {
    return this.#redo === this.#redos[1];
  }

  // Reading.

  blocks(rel: RelationFork): number | undefined {
    return this.#forks.get(forkKey(rel))?.blocks;
  }

  forks(): Iterable<RelationFork & { readonly blocks: number }> {
    return this.#forks.values();
  }

  /** Lent until the next call of any method; undefined past the end of the fork. */
  readPage(rel: RelationFork, blkno: number): Uint8Array | undefined {
    const fork = this.#forks.get(forkKey(rel));
    if (fork === undefined || blkno >= fork.blocks) {
      return undefined;
    }
    const slot = fork.slots.get(blkno);
    return slot >= 0 ? this.store.page(slot, false) : this.#basePage(fork, blkno);
  }

  /** Undefined: as in the base. */
  pageOrigin(rel: RelationFork, blkno: number): PageOrigin | undefined {
    const slot = this.#forks.get(forkKey(rel))?.slots.get(blkno) ?? -1;
    if (slot < 0) {
      return undefined;
    }
    const tag = this.store.originTag(slot);
    return { lsn: this.store.originLsn(slot) as Lsn, rmid: tag & 0xff, info: (tag >>> 8) & 0xff };
  }

  slruPageNumbers(kind: SlruKind): Iterable<number> {
    return this.#slru.pageNumbers(kind);
  }

  /** Lent until the page is next changed. */
  readSlruPage(kind: number, pageno: number): Uint8Array | undefined {
    return this.#slru.read(kind, pageno);
  }

  slruOrigin(kind: number, pageno: number): PageOrigin | undefined {
    return this.#slru.originOf(kind, pageno);
  }

  /** Whether records were skipped because the page is not there, or never initialised. */
  isInvalid(rel: RelationFork, blkno: number): boolean {
    return this.#invalidPages.size > 0 && this.#invalidPages.has(`${forkKey(rel)}/${blkno}`);
  }

  /**
   * StorageError `corrupt` where WAL changes a page that neither the base nor WAL before it had. Only
   * meaningful where the base is consistent: after the end of its backup.
   */
  checkInvalidPages(): void {
    const first = this.#invalidPages.values().next().value;
    if (first !== undefined) {
      const where = `block ${first.blkno} of ${describeFork(first.fork)}`;
      const more = this.#invalidPages.size > 1 ? ` (and ${this.#invalidPages.size - 1} more)` : "";
      throw new StorageError(
        "corrupt",
        "invalid-pages",
        `the record that ends at ${formatLsn(first.lsn)} changes ${where}${more}, which the base does not have: it is no complete backup`,
      );
    }
  }

  #basePage(fork: ReplayedFork, blkno: number): Uint8Array {
    if (fork.file === undefined || blkno >= fork.fileBlocks) {
      this.#scratch.fill(0);
    } else {
      this.#reader.read(fork.file, blkno, this.#scratch);
    }
    return this.#scratch;
  }

  // Changes of pages.

  #fork(rel: RelationFork): ReplayedFork {
    const recent = this.#recentForks.get(rel);
    if (recent !== undefined) {
      return recent;
    }
    const key = forkKey(rel);
    let fork = this.#forks.get(key);
    if (fork === undefined) {
      fork = new ReplayedFork(rel, undefined);
      this.#forks.set(key, fork);
    }
    if (this.#recentForks.size >= RECENT_FORKS) {
      this.#recentForks.clear();
    }
    this.#recentForks.set(rel, fork);
    return fork;
  }

  /** The page to change, in the store. `fresh`: its content is of no interest. */
  #pageToChange(fork: ReplayedFork, blkno: number, fresh: boolean): Uint8Array {
    if (blkno >= fork.blocks) {
      fork.blocks = blkno + 1;
    }
    let slot = fork.slots.get(blkno);
    let page: Uint8Array;
    if (slot >= 0) {
      page = this.store.page(slot, true);
    } else {
      const base = fresh ? undefined : this.#basePage(fork, blkno);
      slot = this.store.allocate();
      fork.slots.set(blkno, slot);
      page = this.store.page(slot, true);
      if (base !== undefined) {
        page.set(base);
      }
    }
    this.store.setOrigin(slot, this.#lsn, this.#tag);
    return page;
  }

  #apply(given: Uint8Array, rel: RelationFork | undefined, blkno: number, page: Uint8Array): void {
    let delta: Uint8Array | undefined = given;
    if (this.onDelta !== undefined) {
      delta = this.onDelta({ delta: given.slice(), rel, blkno, lsn: this.#lsn, page });
    }
    this.deltaCount++;
    if (delta !== undefined) {
      this.#redo.load(page);
      this.#redo.apply(delta, this.#lsn, blkno, rel?.fork ?? MAIN_FORK);
      page.set(this.#redo.page);
    }
  }

  blockDelta(rel: RelationFork, blkno: number, delta: Uint8Array, willInit: boolean): void {
    if (rel.fork === FSM_FORK) {
      return;
    }
    const fork = this.#fork(rel);
    if (!willInit && fork.fork !== VM_FORK) {
      const page = this.readPage(fork, blkno);
      if (page === undefined || isNew(page)) {
        this.#invalidPages.set(`${forkKey(fork)}/${blkno}`, { fork, blkno, lsn: this.#lsn });
        return;
      }
    }
    const page = this.#pageToChange(fork, blkno, willInit);
    if (willInit) {
      page.fill(0);
    }
    this.#apply(delta, fork, blkno, page);
  }

  blockImage(rel: RelationFork, blkno: number, page: Uint8Array): void {
    if (rel.fork !== FSM_FORK) {
      this.imageCount++;
      this.#pageToChange(this.#fork(rel), blkno, true).set(page);
    }
  }

  visibilityMapClear(rel: RelationFork, heapBlkno: number, flags: number): void {
    const fork = this.#forks.get(forkKey({ ...identity(rel), fork: VM_FORK }));
    const blkno = Math.floor(heapBlkno / HEAP_BLOCKS_PER_VM_PAGE);
    // A map page that is not there has no bits to clear.
    if (fork !== undefined && blkno < fork.blocks) {
      const page = this.#pageToChange(fork, blkno, false);
      this.#apply(encodeVmClear(heapBlkno, flags), fork, blkno, page);
    }
  }

  // Files.

  relationCreate(rel: RelationFork): void {
    if (rel.fork !== FSM_FORK) {
      this.#fork(rel);
    }
  }

  relationTruncate(rel: RelationFork, blocks: number, flags: number): void {
    const main = this.#fork({ ...identity(rel), fork: MAIN_FORK });
    if ((flags & SMGR_TRUNCATE_HEAP) !== 0) {
      this.#truncate(main, blocks);
    }
    const map = this.#forks.get(forkKey({ ...identity(rel), fork: VM_FORK }));
    if ((flags & SMGR_TRUNCATE_VM) !== 0 && map !== undefined) {
      const partial = blocks % HEAP_BLOCKS_PER_VM_PAGE !== 0;
      const last = Math.floor(blocks / HEAP_BLOCKS_PER_VM_PAGE);
      if (partial && last < map.blocks) {
        this.#apply(encodeVmTruncate(blocks), map, last, this.#pageToChange(map, last, false));
      }
      this.#truncate(map, partial ? last + 1 : last);
    }
  }

  #truncate(fork: ReplayedFork, blocks: number): void {
    this.#forgetInvalid((other, blkno) => forkKey(other) === forkKey(fork) && blkno >= blocks);
    if (blocks < fork.blocks) {
      fork.slots.truncate(blocks, (slot) => this.store.release(slot));
      fork.blocks = blocks;
    }
    fork.fileBlocks = Math.min(fork.fileBlocks, blocks);
  }

  #forgetInvalid(which: (fork: RelationFork, blkno: number) => boolean): void {
    for (const [key, { fork, blkno }] of this.#invalidPages) {
      if (which(fork, blkno)) {
        this.#invalidPages.delete(key);
      }
    }
  }

  #drop(key: string): void {
    const fork = this.#forks.get(key);
    if (fork !== undefined) {
      fork.slots.truncate(0, (slot) => this.store.release(slot));
      this.#forks.delete(key);
      this.#recentForks.clear();
    }
  }

  relationDrop(spcOid: number, dbOid: number, relNumber: number): void {
    for (let fork = MAIN_FORK; fork <= INIT_FORK; fork++) {
      this.#drop(forkKey({ spcOid, dbOid, relNumber, fork }));
    }
    this.#forgetInvalid(
      (fork) => fork.spcOid === spcOid && fork.dbOid === dbOid && fork.relNumber === relNumber,
    );
  }

  databaseCreateFileCopy(spcOid: number, dbOid: number, srcSpcOid: number, srcDbOid: number): void {
    // What a base taken later has of the copy already is written again, as in recovery.
    this.#dropDatabase(spcOid, dbOid);
    const map = this.relationMaps.get(`${srcSpcOid}/${srcDbOid}`);
    if (map !== undefined) {
      this.relationMaps.set(`${spcOid}/${dbOid}`, map);
    }
    for (const source of [...this.#forks.values()]) {
      if (source.spcOid === srcSpcOid && source.dbOid === srcDbOid) {
        const target = this.#fork({ ...identity(source), spcOid, dbOid, fork: source.fork });
        for (let blkno = 0; blkno < source.blocks; blkno++) {
          const page = this.readPage(source, blkno)!.slice();
          this.#pageToChange(target, blkno, true).set(page);
        }
      }
    }
  }

  databaseCreateWalLog(spcOid: number, dbOid: number): void {
    this.walLogDatabases.add(`${spcOid}/${dbOid}`);
  }

  databaseDrop(dbOid: number, spcOids: readonly number[]): void {
    for (const spcOid of spcOids) {
      this.#dropDatabase(spcOid, dbOid);
    }
  }

  #dropDatabase(spcOid: number, dbOid: number): void {
    for (const [key, fork] of [...this.#forks]) {
      if (fork.dbOid === dbOid && fork.spcOid === spcOid) {
        this.#drop(key);
      }
    }
    this.relationMaps.delete(`${spcOid}/${dbOid}`);
    this.#forgetInvalid((fork) => fork.dbOid === dbOid && fork.spcOid === spcOid);
  }

  relationMapUpdate(spcOid: number, dbOid: number, bytes: Uint8Array): void {
    this.relationMaps.set(`${spcOid}/${dbOid}`, bytes.slice());
  }

  // SLRUs.

  slruZeroPage(kind: SlruKind, pageno: number): void {
    this.#slru.zeroPage(kind, pageno);
  }

  clogTruncate(cutoffPage: number): void {
    this.#slru.clogTruncate(cutoffPage);
  }

  transactionStatus(xids: readonly number[], committed: boolean): void {
    this.#slru.transactionStatus(xids, committed);
  }

  commitTimestamps(xids: readonly number[], timestampUs: bigint, originId: number): void {
    if (this.#trackCommitTimestamp) {
      this.#slru.commitTimestamps(xids, timestampUs, originId);
    }
  }

  commitTsTruncate(cutoffPage: number): void {
    this.#slru.commitTsTruncate(cutoffPage);
  }

  multixactCreate(
    multi: number,
    offset: number,
    members: readonly { readonly xid: number; readonly status: number }[],
  ): void {
    this.#slru.multixactCreate(multi, offset, members);
  }

  multixactTruncate(
    _oldestMultiDb: number,
    _startTruncOff: number,
    endTruncOff: number,
    startTruncMemb: number,
    endTruncMemb: number,
  ): void {
    this.#slru.multixactTruncate(endTruncOff, startTruncMemb, endTruncMemb);
  }

  // The rest.

  twoPhasePrepare(fullXid: bigint, payload: Uint8Array): void {
    this.twoPhase.set(Number(BigInt.asUintN(32, fullXid)), payload.slice());
  }

  twoPhaseForget(xid: number): void {
    this.twoPhase.delete(xid);
  }

  checkpoint(checkPoint: CheckPoint): void {
    this.lastCheckPoint = { ...checkPoint };
  }

  parameterChange(change: ParameterChange): void {
    this.#redo = this.#redos[change.walLogHints || this.#dataChecksums ? 1 : 0];
    if (this.#trackCommitTimestamp && !change.trackCommitTimestamp) {
      this.#slru.dropCommitTs();
    }
    this.#trackCommitTimestamp = change.trackCommitTimestamp;
  }

  tablespaceCreate(): void {}
  tablespaceDrop(): void {}
  replicationOriginAdvance(): void {}
  replicationOriginDrop(): void {}
  subscriptionsDetached(): void {}
  statistics(): void {}
  auxFile(): void {}
  auxFileGone(): void {}
  sawXid(): void {}
  nextOid(): void {}
  runningTransactions(): void {}
  walLevel(): void {}
  transactionEnd(): void {}
}

function isNew(page: Uint8Array): boolean {
  return page[PD_UPPER] === 0 && page[PD_UPPER + 1] === 0;
}

function identity(rel: RelationFork): Omit<RelationFork, "fork"> {
  return { spcOid: rel.spcOid, dbOid: rel.dbOid, relNumber: rel.relNumber };
}

function forkKey(rel: RelationFork): string {
  return `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}/${rel.fork}`;
}

const FORK_NAMES = ["main", "fsm", "vm", "init"];

/** As pg_waldump names a relation, `1663/5/16384`, with the fork where it is not main. */
export function describeFork(rel: RelationFork): string {
  const name = `${rel.spcOid}/${rel.dbOid}/${rel.relNumber}`;
  return rel.fork === MAIN_FORK ? name : `${name} fork ${FORK_NAMES[rel.fork] ?? rel.fork}`;
}
