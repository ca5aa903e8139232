// What one WAL record means to storage: typed changes, called in the order they must be applied.

import type { CheckPoint } from "../postgres/checkpoint.ts";
import type { ParameterChange } from "../postgres/control-file.ts";

export type { CheckPoint } from "../postgres/checkpoint.ts";

/** A relation fork, as block references name it. `fork`: 0 main, 1 fsm, 2 vm, 3 init. */
export interface RelationFork {
  readonly spcOid: number;
  readonly dbOid: number;
  readonly relNumber: number;
  readonly fork: number;
}

/** Neon's numbering of SLRUs, also used by the pagestream protocol; the fourth is ours. */
export const SLRU_CLOG = 0;
export const SLRU_MULTIXACT_MEMBERS = 1;
export const SLRU_MULTIXACT_OFFSETS = 2;
export const SLRU_COMMIT_TS = 3;
export type SlruKind = 0 | 1 | 2 | 3;

/**
 * Receives the changes of WAL records. Every Uint8Array and array is lent for the call only: copy to keep.
 * The LSN at which the changes take effect (the record's end) is known to the caller of
 * `interpretRecord`, so it is not passed again.
 */
export interface RecordSink {
  /** One page's part of a record (format: delta.ts). `willInit`: no earlier version is needed. */
  blockDelta(rel: RelationFork, blkno: number, delta: Uint8Array, willInit: boolean): void;
  /** A whole page (8192 bytes, hole filled, LSN stamped unless the page is new). */
  blockImage(rel: RelationFork, blkno: number, page: Uint8Array): void;
  /** The visibility-map page of main-fork block `heapBlkno` loses `flags` (1 visible, 2 frozen, 3 both);
   *  only records before the minor releases that reference the map say it this way. */
  visibilityMapClear(rel: RelationFork, heapBlkno: number, flags: number): void;

  relationCreate(rel: RelationFork): void;
  /** smgr truncate: `flags` SMGR_TRUNCATE_HEAP 1, VM 2, FSM 4; `blocks`: new size of the main fork. */
  relationTruncate(rel: RelationFork, blocks: number, flags: number): void;
  /** All forks, at the commit or abort of the transaction that dropped it. */
  relationDrop(spcOid: number, dbOid: number, relNumber: number): void;

  databaseCreateFileCopy(spcOid: number, dbOid: number, srcSpcOid: number, srcDbOid: number): void;
  databaseCreateWalLog(spcOid: number, dbOid: number): void;
  databaseDrop(dbOid: number, spcOids: readonly number[]): void;
  /** A tablespace of the user's. `location`: an absolute path; empty where it is in place. */
  tablespaceCreate(spcOid: number, location: string): void;
  tablespaceDrop(spcOid: number): void;
  /** `spcOid` 1664 with `dbOid` 0: the shared map. `bytes`: the whole pg_filenode.map. */
  relationMapUpdate(spcOid: number, dbOid: number, bytes: Uint8Array): void;

  slruZeroPage(kind: SlruKind, pageno: number): void;
  clogTruncate(cutoffPage: number, oldestXid: number, oldestXidDb: number): void;
  /** Marks xids (32-bit, may span pages) committed or aborted in pg_xact. */
  transactionStatus(xids: readonly number[], committed: boolean): void;
  /**
   * The commit time, in microseconds since 2000-01-01, and the replication origin (0: none) of
   * committed xids, for pg_commit_ts. Told of every commit: only the sink knows whether the module
   * is active.
   */
  commitTimestamps(xids: readonly number[], timestampUs: bigint, originId: number): void;
  commitTsTruncate(cutoffPage: number, oldestXid: number): void;
  multixactCreate(
    multi: number,
    offset: number,
    members: readonly { readonly xid: number; readonly status: number }[],
  ): void;
  multixactTruncate(
    oldestMultiDb: number,
    startTruncOff: number,
    endTruncOff: number,
    startTruncMemb: number,
    endTruncMemb: number,
  ): void;

  /** `payload`: what follows in pg_twophase/<xid> before its CRC-32C. A record has only the low 32 bits
   *  of `fullXid`: the sink, which knows nextFullXid, adds the epoch. */
  twoPhasePrepare(fullXid: bigint, payload: Uint8Array): void;
  twoPhaseForget(xid: number): void;

  /** The record carries `xid`, so nextXid is above it. */
  sawXid(xid: number): void;
  nextOid(oid: number): void;
  checkpoint(checkPoint: CheckPoint, shutdown: boolean): void;
  /** running_xacts: which transactions ran when it was written; both 32-bit. */
  runningTransactions(oldestXid: number, nextXid: number): void;
  walLevel(level: number): void;
  /** XLOG_PARAMETER_CHANGE: pg_control takes these settings over. */
  parameterChange(parameters: ParameterChange): void;
  /** `originId` was replayed up to `remoteLsn`; backwards only where `force` says so. */
  replicationOriginAdvance(originId: number, remoteLsn: bigint, force: boolean): void;
  replicationOriginDrop(originId: number): void;
  /** A compute has detached what timeline `timelineId` (32 hex digits) inherited (logical-message-records.ts). */
  subscriptionsDetached(timelineId: string): void;
  /** What a compute that has stopped leaves of pg_stat, lent: true for a start right behind this record. */
  statistics(files: Uint8Array): void;
  /**
   * A file of logical decoding (data-directory/aux-files.ts), by its path in the data directory, has `content`, lent, from `offset`
   * on; with offset 0 that is all of it, but for a mapping's.
   */
  auxFile(path: string, offset: number, content: Uint8Array): void;
  auxFileGone(path: string): void;
  /**
   * The time in a commit or abort record, prepared or not, in microseconds since 2000-01-01: what
   * recovery_target_time is compared with. Told of transactions without an xid too.
   */
  transactionEnd(timestampUs: bigint, committed: boolean): void;
}
