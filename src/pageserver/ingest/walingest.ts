// Turns the typed changes of WAL records into versions of keys: the writing side of a timeline.

import assert from "node:assert/strict";
import { StorageError } from "../../base/errors.ts";
import type { Logger } from "../../base/log.ts";
import { formatLsn, type Lsn } from "../../base/lsn.ts";
import {
  applyParameterChange,
  decodeControlFile,
  type ParameterChange,
} from "../../postgres/control-file.ts";
import { SMGR_TRUNCATE_HEAP, SMGR_TRUNCATE_VM } from "../../postgres/opcodes.ts";
import { HEAP_BLOCKS_PER_VM_PAGE } from "../../postgres/page.ts";
import { encodeVmClear, encodeVmTruncate } from "../../wal-decoder/implied-deltas.ts";
import type {
  CheckPoint,
  RecordSink,
  RelationFork,
  SlruKind,
} from "../../wal-decoder/record-sink.ts";
import {
  CHECKPOINT_INDEX,
  CONTROL_FILE_INDEX,
  CONTROL_PREFIX,
  dbDirPrefix,
  relmapPrefix,
  STATISTICS_PREFIX,
  subscriptionsDetachedKey,
} from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";
import { AuxFiles } from "./aux-files.ts";
import { CheckpointTracker } from "./checkpoint-tracker.ts";
import { CommitTimes } from "./commit-times.ts";
import { copyDatabase, type DatabaseCopy } from "./database-copy.ts";
import { PreparedTransactions } from "./prepared-transactions.ts";
import {
  ABSENT,
  FORK_FSM,
  FORK_INIT,
  FORK_MAIN,
  FORK_VM,
  RelationHeads,
  readRelations,
} from "./relation-heads.ts";
import { ReplicationOrigins } from "./replication-origins.ts";
import { SlruIngest } from "./slru-ingest.ts";
import { StandbySnapshots } from "./standby-snapshots.ts";
import { encodeStatistics } from "./statistics.ts";
import { decodeStoredCheckPoint, encodeStoredCheckPoint } from "./stored-checkpoint.ts";
import { Tablespaces } from "./tablespaces.ts";

const TRUNCATE_FSM = 4;
/** A mark has no content. */
const EXISTS = new Uint8Array([1]);

/**
 * One per timeline that takes in WAL. For each record: `beginRecord`, the sink's calls,
 * `endRecord`; after some records `publish`. All changes of a record take effect at its end LSN. A
 * throw in between leaves the record unpublished: nothing of it can be read, and nothing more may
 * be ingested through this object.
 */
export class WalIngest implements RecordSink {
  readonly #storage: TimelineStorage;
  readonly #logger: Logger;
  readonly #heads: RelationHeads;
  readonly #slru: SlruIngest;
  readonly #tracker: CheckpointTracker;
  readonly #origins: ReplicationOrigins;
  readonly #prepared: PreparedTransactions;
  readonly #commitTimes: CommitTimes;
  readonly #tablespaces: Tablespaces;
  readonly #auxFiles: AuxFiles;
  readonly #snapshots: StandbySnapshots;
  /** pg_control; undefined only where a test has none. */
  #controlFile: Uint8Array | undefined;
  /** pg_control says so: commits leave a timestamp. */
  #tracksCommitTs: boolean;
  /** Of the record at hand. */
  readonly #copies: DatabaseCopy[] = [];
  /** The record at hand. */
  #lsn: Lsn;
  #recordStart: Lsn;
  /** The last whole record. */
  #doneLsn: Lsn;
  #doneStart: Lsn;
  recordCount = 0;

  /** StorageError `corrupt` where the timeline has no checkpoint. */
  constructor(storage: TimelineStorage, logger: Logger) {
    this.#storage = storage;
    this.#logger = logger;
    this.#heads = new RelationHeads(storage);
    this.#slru = new SlruIngest(storage);
    this.#tracker = new CheckpointTracker(readCheckPoint(storage, storage.lastRecordLsn));
    this.#origins = new ReplicationOrigins(storage);
    this.#prepared = new PreparedTransactions(storage);
    this.#commitTimes = new CommitTimes(storage);
    this.#tablespaces = new Tablespaces(storage);
    this.#auxFiles = new AuxFiles(storage);
    this.#snapshots = new StandbySnapshots(storage);
    const { lastRecordLsn } = storage;
    this.#controlFile = storage.readValue(CONTROL_PREFIX, CONTROL_FILE_INDEX, lastRecordLsn);
    this.#tracksCommitTs =
      this.#controlFile !== undefined && decodeControlFile(this.#controlFile).trackCommitTimestamp;
    this.#lsn = storage.lastRecordLsn;
    this.#recordStart = storage.prevRecordLsn;
    this.#doneLsn = this.#lsn;
    this.#doneStart = this.#recordStart;
  }

  /** `start`: of the record's header; `end`: EndRecPtr, where its changes take effect. */
  beginRecord(start: Lsn, end: Lsn): void {
    this.#lsn = end;
    this.#recordStart = start;
  }

  endRecord(): void {
    assert.equal(this.#copies.length, 0, "restOfRecord was not asked for");
    this.#heads.flush(this.#lsn);
    if (this.#tracker.takeDirty()) {
      this.#storage.putImage(
        CONTROL_PREFIX,
        CHECKPOINT_INDEX,
        this.#lsn,
        encodeStoredCheckPoint(this.#tracker.checkPoint),
      );
      if (this.#tracksCommitTs) {
        this.#slru.extendCommitTs(this.#tracker.nextXid, this.#lsn);
      }
    }
    this.#doneLsn = this.#lsn;
    this.#doneStart = this.#recordStart;
    this.recordCount++;
  }

  /**
   * What a record says after all calls of the sink, where that is too much to be done at once; else undefined.
   * Nothing else may be called before it resolves but `publish`. Rejects with `unavailable` once `signal`
   * aborts; the record can be taken in again then.
   */
  restOfRecord(signal?: AbortSignal): Promise<void> | undefined {
    return this.#copies.length === 0 ? undefined : this.#copyDatabases(signal);
  }

  async #copyDatabases(signal: AbortSignal | undefined): Promise<void> {
    for (const copy of this.#copies.splice(0)) {
      await copyDatabase(copy, this.#storage, this.#heads, signal);
    }
  }

  /** Makes every ended record readable. */
  publish(): void {
    if (this.#doneLsn > this.#storage.lastRecordLsn) {
      this.#storage.advance(this.#doneLsn, this.#doneStart);
      this.#heads.trim();
    }
  }

  get checkPoint(): Readonly<CheckPoint> {
    return this.#tracker.checkPoint;
  }

  blockDelta(rel: RelationFork, blkno: number, delta: Uint8Array, willInit: boolean): void {
    const head = this.#heads.of(rel);
    if (blkno >= head.blocks) {
      this.#heads.extendOver(head, blkno, this.#lsn);
    }
    this.#storage.putDelta(head.blockPrefix, blkno, this.#lsn, delta, willInit);
  }

  blockImage(rel: RelationFork, blkno: number, page: Uint8Array): void {
    const head = this.#heads.of(rel);
    if (blkno >= head.blocks) {
      this.#heads.extendOver(head, blkno, this.#lsn);
    }
    this.#storage.putImage(head.blockPrefix, blkno, this.#lsn, page);
  }

  visibilityMapClear(rel: RelationFork, heapBlkno: number, flags: number): void {
    const head = this.#heads.get(rel.spcOid, rel.dbOid, rel.relNumber, FORK_VM);
    const mapBlkno = Math.floor(heapBlkno / HEAP_BLOCKS_PER_VM_PAGE);
    // A map page that is not there has no bits to clear.
    if (mapBlkno < head.blocks) {
      const delta = encodeVmClear(heapBlkno, flags);
      this.#storage.putDelta(head.blockPrefix, mapBlkno, this.#lsn, delta, false);
    }
  }

  relationCreate(rel: RelationFork): void {
    const head = this.#heads.of(rel);
    if (head.blocks === ABSENT) {
      this.#heads.resize(head, 0);
      this.#tablespaces.relationMade(rel.spcOid, rel.dbOid, this.#lsn);
    }
  }

  relationTruncate(rel: RelationFork, blocks: number, flags: number): void {
    const fork = (number: number) => this.#heads.get(rel.spcOid, rel.dbOid, rel.relNumber, number);
    const main = fork(FORK_MAIN);
    if (main.blocks === ABSENT) {
      this.#heads.resize(main, 0);
    }
    if ((flags & SMGR_TRUNCATE_HEAP) !== 0) {
      this.#heads.truncate(main, blocks, this.#lsn);
    }
    if ((flags & SMGR_TRUNCATE_VM) !== 0) {
      this.#truncateVisibilityMap(rel, blocks);
    }
    if ((flags & TRUNCATE_FSM) !== 0) {
      // Only a hint, and any smaller map is a right one: no need to edit its last page.
      this.#heads.truncate(fork(FORK_FSM), 0, this.#lsn);
    }
  }

  /** visibilitymap_prepare_truncate: the bits past the end go, then the pages past the last. */
  #truncateVisibilityMap(rel: RelationFork, heapBlocks: number): void {
    const head = this.#heads.get(rel.spcOid, rel.dbOid, rel.relNumber, FORK_VM);
    const lastPage = Math.floor(heapBlocks / HEAP_BLOCKS_PER_VM_PAGE);
    const partial = heapBlocks % HEAP_BLOCKS_PER_VM_PAGE !== 0;
    if (partial && lastPage < head.blocks) {
      const delta = encodeVmTruncate(heapBlocks);
      this.#storage.putDelta(head.blockPrefix, lastPage, this.#lsn, delta, false);
    }
    this.#heads.truncate(head, partial ? lastPage + 1 : lastPage, this.#lsn);
  }

  relationDrop(spcOid: number, dbOid: number, relNumber: number): void {
    for (let fork = FORK_MAIN; fork <= FORK_INIT; fork++) {
      this.#heads.drop(this.#heads.get(spcOid, dbOid, relNumber, fork), this.#lsn);
    }
  }

  /** All that it says is done by `restOfRecord`. */
  databaseCreateFileCopy(spcOid: number, dbOid: number, srcSpcOid: number, srcDbOid: number): void {
    // The copy reads what is published; the record before this one is the newest it must see.
    this.publish();
    this.databaseCreateWalLog(spcOid, dbOid);
    const copy = { spcOid, dbOid, srcSpcOid, srcDbOid, sourceLsn: this.#doneLsn, lsn: this.#lsn };
    this.#copies.push(copy);
  }

  databaseCreateWalLog(spcOid: number, dbOid: number): void {
    this.#storage.putImage(dbDirPrefix(spcOid, dbOid), 0, this.#lsn, EXISTS);
  }

  databaseDrop(dbOid: number, spcOids: readonly number[]): void {
    this.publish();
    for (const spcOid of spcOids) {
      for (const { relNumber, fork } of readRelations(
        this.#storage,
        this.#doneLsn,
        spcOid,
        dbOid,
      )) {
        this.#heads.drop(this.#heads.get(spcOid, dbOid, relNumber, fork), this.#lsn);
      }
      this.#storage.putTombstone(relmapPrefix(spcOid, dbOid), 0, this.#lsn);
      this.#storage.putTombstone(dbDirPrefix(spcOid, dbOid), 0, this.#lsn);
      this.#tablespaces.directoryDropped(spcOid, dbOid);
    }
  }

  tablespaceCreate(spcOid: number, location: string): void {
    this.#tablespaces.create(spcOid, location, this.#lsn);
  }

  tablespaceDrop(spcOid: number): void {
    this.publish();
    this.#tablespaces.drop(spcOid, this.#doneLsn, this.#lsn);
  }

  relationMapUpdate(spcOid: number, dbOid: number, bytes: Uint8Array): void {
    this.#storage.putImage(relmapPrefix(spcOid, dbOid), 0, this.#lsn, bytes);
  }

  slruZeroPage(kind: SlruKind, pageno: number): void {
    this.#slru.zeroPage(kind, pageno, this.#lsn);
  }

  clogTruncate(cutoffPage: number, oldestXid: number, oldestXidDb: number): void {
    this.#tracker.oldestXid(oldestXid, oldestXidDb);
    this.#slru.clogTruncate(cutoffPage, this.#lsn);
  }

  transactionStatus(xids: readonly number[], committed: boolean): void {
    if (xids.length > 0) {
      this.#slru.transactionStatus(xids, committed, this.#lsn);
    }
  }

  commitTimestamps(xids: readonly number[], timestampUs: bigint, originId: number): void {
    if (this.#tracksCommitTs) {
      this.#slru.commitTimestamps(xids, timestampUs, originId, this.#lsn);
      this.#tracker.newestCommitTsXid(xids.at(-1)!);
    }
  }

  commitTsTruncate(cutoffPage: number, oldestXid: number): void {
    this.#tracker.oldestCommitTsXid(oldestXid);
    this.#slru.commitTsTruncate(cutoffPage, this.#lsn);
  }

  multixactCreate(
    multi: number,
    offset: number,
    members: readonly { readonly xid: number; readonly status: number }[],
  ): void {
    this.#slru.multixactCreate(multi, offset, members, this.#lsn);
    this.#tracker.advanceMulti((multi + 1) >>> 0, (offset + members.length) >>> 0);
    for (const member of members) {
      this.#tracker.sawXid(member.xid);
    }
  }

  multixactTruncate(
    oldestMultiDb: number,
    _startTruncOff: number,
    endTruncOff: number,
    startTruncMemb: number,
    endTruncMemb: number,
  ): void {
    this.#tracker.oldestMulti(endTruncOff, oldestMultiDb);
    this.#slru.multixactTruncate(endTruncOff, startTruncMemb, endTruncMemb, this.#lsn);
  }

  twoPhasePrepare(fullXid: bigint, payload: Uint8Array): void {
    // The record has only 32 bits of it, so the epoch is ours to know.
    const xid = this.#tracker.fullXid(Number(BigInt.asUintN(32, fullXid)));
    this.#prepared.prepare(xid, payload, this.#lsn);
  }

  twoPhaseForget(xid: number): void {
    this.#prepared.forget(this.#tracker.fullXid(xid), this.#lsn);
  }

  sawXid(xid: number): void {
    this.#tracker.sawXid(xid);
  }

  nextOid(oid: number): void {
    this.#tracker.nextOid(oid);
  }

  checkpoint(checkPoint: CheckPoint, shutdown: boolean): void {
    if (checkPoint.timeLineId !== 1) {
      this.#logger.warn(
        { lsn: formatLsn(this.#lsn), timeLineId: checkPoint.timeLineId },
        "checkpoint on another WAL timeline",
      );
    }
    this.#tracker.record(checkPoint, shutdown);
    if (shutdown) {
      this.publish();
      this.#auxFiles.removeUnneeded(this.#doneLsn, this.#lsn);
      const nextXid = Number(BigInt.asUintN(32, checkPoint.nextFullXid));
      this.#snapshots.note(
        { ...this.#extent, kind: "shutdown", oldestRunningXid: nextXid, nextXid },
        this.#lsn,
      );
    }
  }

  runningTransactions(oldestXid: number, nextXid: number): void {
    this.#tracker.oldestActiveXid(oldestXid);
    this.#snapshots.note(
      { ...this.#extent, kind: "running", oldestRunningXid: oldestXid, nextXid },
      this.#lsn,
    );
  }

  get #extent() {
    return { startLsn: this.#recordStart, endLsn: this.#lsn };
  }

  walLevel(level: number): void {
    this.#tracker.walLevel(level);
  }

  /** StorageError `corrupt` where the timeline has no pg_control. */
  parameterChange(change: ParameterChange): void {
    if (this.#controlFile === undefined) {
      throw new StorageError("corrupt", "no-control-file", "the timeline has no control file");
    }
    this.#controlFile = applyParameterChange(this.#controlFile, change);
    this.#storage.putImage(CONTROL_PREFIX, CONTROL_FILE_INDEX, this.#lsn, this.#controlFile);
    this.#tracker.walLevel(change.walLevel);
    if (change.trackCommitTimestamp && !this.#tracksCommitTs) {
      this.#tracker.activateCommitTs();
      this.#slru.extendCommitTs(this.#tracker.nextXid, this.#lsn);
    } else if (!change.trackCommitTimestamp && this.#tracksCommitTs) {
      this.#tracker.deactivateCommitTs();
      this.#slru.dropCommitTs(this.#lsn);
    }
    this.#tracksCommitTs = change.trackCommitTimestamp;
  }

  replicationOriginAdvance(originId: number, remoteLsn: bigint, force: boolean): void {
    this.#origins.advance(originId, remoteLsn, force, this.#lsn);
  }

  replicationOriginDrop(originId: number): void {
    this.#origins.drop(originId, this.#lsn);
  }

  subscriptionsDetached(timelineId: string): void {
    const { prefix, index } = subscriptionsDetachedKey(timelineId);
    this.#storage.putImage(prefix, index, this.#lsn, EXISTS);
  }

  statistics(files: Uint8Array): void {
    this.#storage.putImage(STATISTICS_PREFIX, 0, this.#lsn, encodeStatistics(files, this.#lsn));
  }

  auxFile(path: string, offset: number, content: Uint8Array): void {
    this.#auxFiles.put(path, offset, content, this.#lsn);
  }

  auxFileGone(path: string): void {
    this.publish();
    this.#auxFiles.remove(path, this.#doneLsn, this.#lsn);
  }

  transactionEnd(timestampUs: bigint, committed: boolean): void {
    this.#commitTimes.ended(timestampUs, committed, this.#recordStart, this.#lsn);
  }
}

/** The checkpoint as of `lsn`; StorageError `corrupt` where there is none. */
export function readCheckPoint(storage: TimelineStorage, lsn: Lsn): CheckPoint {
  const stored = storage.readValue(CONTROL_PREFIX, CHECKPOINT_INDEX, lsn);
  if (stored === undefined) {
    throw new StorageError("corrupt", "no-checkpoint", `no checkpoint at ${formatLsn(lsn)}`);
  }
  return decodeStoredCheckPoint(stored);
}
