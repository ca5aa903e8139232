// The CheckPoint a compute would start with, kept current from WAL as Postgres's own recovery does.
//
// Source: access/transam/xlog.c (xlog_redo), varsup.c, multixact.c. What a start needs is that every
// counter is beyond anything that WAL up to here has used, so counters only ever move forward
// (modulo 2^32), except at a shutdown checkpoint, whose numbers are exact.

import { FIRST_MULTIXACT_ID } from "../../postgres/slru.ts";
import type { CheckPoint } from "../../wal-decoder/record-sink.ts";

const FIRST_NORMAL_XID = 3;
const TWO_32 = 0x1_0000_0000n;
/** Rounding saves writing the checkpoint once a transaction; Neon's XID_CHECKPOINT_INTERVAL. */
const XID_ROUNDING = 1024;

/** `a` before `b` on the circle of 32-bit numbers (TransactionIdPrecedes for normal ids). */
export function precedes(a: number, b: number): boolean {
  return ((a - b) | 0) < 0;
}

export class CheckpointTracker {
  #checkPoint: CheckPoint;
  #nextXid: number;
  #dirty = false;

  constructor(checkPoint: CheckPoint) {
    this.#checkPoint = { ...checkPoint };
    this.#nextXid = Number(BigInt.asUintN(32, checkPoint.nextFullXid));
  }

  get checkPoint(): Readonly<CheckPoint> {
    return this.#checkPoint;
  }

  /** The low 32 bits of nextFullXid. */
  get nextXid(): number {
    return this.#nextXid;
  }

  /** Whether it changed since the last call: then it has to be stored. */
  takeDirty(): boolean {
    const dirty = this.#dirty;
    this.#dirty = false;
    return dirty;
  }

  /** nextXid is above `xid` afterwards. */
  sawXid(xid: number): void {
    if (((xid - this.#nextXid) | 0) < 0 || xid < FIRST_NORMAL_XID) {
      return;
    }
    const full = this.fullXid(xid) + 1n;
    const rounding = BigInt(XID_ROUNDING);
    this.#setNextFullXid(((full + rounding - 1n) / rounding) * rounding);
  }

  /** A 32-bit xid with its epoch: the value nearest to nextXid. */
  fullXid(xid: number): bigint {
    const next = this.#checkPoint.nextFullXid;
    const full = next + BigInt((xid - this.#nextXid) | 0);
    // Before the first epoch there is nothing: an xid "before" it is really far ahead.
    return full < 0n ? full + TWO_32 : full;
  }

  #setNextFullXid(next: bigint): void {
    // After a wrap the special ids are skipped (FullTransactionIdAdvance).
    const low = Number(BigInt.asUintN(32, next));
    const skipped = low < FIRST_NORMAL_XID ? next + BigInt(FIRST_NORMAL_XID - low) : next;
    if (skipped !== this.#checkPoint.nextFullXid) {
      this.#checkPoint.nextFullXid = skipped;
      this.#nextXid = Number(BigInt.asUintN(32, skipped));
      this.#dirty = true;
    }
  }

  nextOid(oid: number): void {
    this.#set("nextOid", oid);
  }

  /** MultiXactAdvanceNextMXact. */
  advanceMulti(nextMulti: number, nextOffset: number): void {
    const multi = Math.max(nextMulti, FIRST_MULTIXACT_ID);
    if (precedes(this.#checkPoint.nextMulti, multi)) {
      this.#set("nextMulti", multi);
    }
    if (precedes(this.#checkPoint.nextMultiOffset, nextOffset)) {
      this.#set("nextMultiOffset", nextOffset);
    }
  }

  oldestXid(xid: number, dbOid: number): void {
    if (precedes(this.#checkPoint.oldestXid, xid)) {
      this.#set("oldestXid", xid);
      this.#set("oldestXidDb", dbOid);
    }
  }

  oldestMulti(multi: number, dbOid: number): void {
    if (precedes(this.#checkPoint.oldestMulti, multi)) {
      this.#set("oldestMulti", multi);
      this.#set("oldestMultiDb", dbOid);
    }
  }

  /** ActivateCommitTs: nothing before the next xid has a timestamp. */
  activateCommitTs(): void {
    if (this.#checkPoint.oldestCommitTsXid === 0) {
      this.#set("oldestCommitTsXid", this.#nextXid);
      this.#set("newestCommitTsXid", this.#nextXid);
    }
  }

  /** DeactivateCommitTs. */
  deactivateCommitTs(): void {
    this.#set("oldestCommitTsXid", 0);
    this.#set("newestCommitTsXid", 0);
  }

  /** AdvanceOldestCommitTsXid. */
  oldestCommitTsXid(xid: number): void {
    const oldest = this.#checkPoint.oldestCommitTsXid;
    if (oldest !== 0 && precedes(oldest, xid)) {
      this.#set("oldestCommitTsXid", xid);
    }
  }

  /**
   * newestCommitTsXid is at least `xid`, which was seen. It goes as far ahead as nextXid, so that it
   * need not be stored once a transaction: the timestamps of xids not used yet are read as none.
   */
  newestCommitTsXid(xid: number): void {
    const newest = this.#checkPoint.newestCommitTsXid;
    if (newest === 0 || precedes(newest, xid)) {
      const last = this.#nextXid - 1;
      this.#set("newestCommitTsXid", last < FIRST_NORMAL_XID ? 0xffff_ffff : last);
    }
  }

  oldestActiveXid(xid: number): void {
    this.#set("oldestActiveXid", xid);
  }

  walLevel(level: number): void {
    this.#set("walLevel", level);
  }

  /** A checkpoint record: exact at shutdown, a lower bound for the counters when online. */
  record(record: CheckPoint, shutdown: boolean): void {
    const current = this.#checkPoint;
    if (shutdown) {
      this.#checkPoint = { ...record };
    } else {
      this.#checkPoint = {
        ...record,
        nextFullXid: current.nextFullXid,
        // OIDs are tracked by XLOG_NEXTOID; an online checkpoint's number may be behind.
        nextOid: current.nextOid,
        nextMulti: current.nextMulti,
        nextMultiOffset: current.nextMultiOffset,
        oldestXid: current.oldestXid,
        oldestXidDb: current.oldestXidDb,
        oldestMulti: current.oldestMulti,
        oldestMultiDb: current.oldestMultiDb,
        oldestCommitTsXid: current.oldestCommitTsXid,
        newestCommitTsXid: current.newestCommitTsXid,
      };
      this.advanceMulti(record.nextMulti, record.nextMultiOffset);
      this.oldestXid(record.oldestXid, record.oldestXidDb);
      this.oldestMulti(record.oldestMulti, record.oldestMultiDb);
      this.oldestCommitTsXid(record.oldestCommitTsXid);
    }
    if (shutdown || record.nextFullXid > current.nextFullXid) {
      this.#setNextFullXid(record.nextFullXid);
    }
    this.#nextXid = Number(BigInt.asUintN(32, this.#checkPoint.nextFullXid));
    this.#dirty = true;
  }

  #set<K extends keyof CheckPoint>(field: K, value: CheckPoint[K]): void {
    if (this.#checkPoint[field] !== value) {
      this.#checkPoint[field] = value;
      this.#dirty = true;
    }
  }
}
