// A timeline's WAL in the object store: names of its objects, and reading it by LSN.

import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import {
  formatLsn,
  type Lsn,
  parseWalFileName,
  segmentNumber,
  segmentOffset,
  walFileName,
} from "../../base/lsn.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { carryOut, get, head, type StoreSteps } from "../../object-store/store-steps.ts";
import type { Term } from "../../safekeeper-protocol/term-history.ts";

/*
 * Below `safekeeper/<tenant>/<timeline>/`, names as Neon's (safekeeper/src/wal_backup*.rs):
 *   000000010000000000000003
 *       a whole segment, all of it committed; written once, by whichever safekeeper comes first
 *   000000010000000000000004_7_0000000004A1B2C8_0000000004A1B2C8_sk2.partial
 *       the segment's WAL up to a flush LSN: last log term, flush LSN, commit LSN, safekeeper.
 *       It belongs to that safekeeper, who replaces and removes it. Neon's are padded to the size of
 *       a segment; these end at the flush LSN.
 */

const PREFIX = "safekeeper";
const PARTIAL = /^([0-9A-F]{24})_(\d{1,16})_([0-9A-F]{16})_([0-9A-F]{16})_sk(\d{1,10})\.partial$/;

export interface PartialSegment {
  readonly segno: number;
  readonly term: Term;
  readonly flushLsn: Lsn;
  readonly commitLsn: Lsn;
  readonly safekeeperId: number;
}

/** Where all objects of a timeline lie; ends with a slash. */
export function timelinePrefix(tenantId: TenantId, timelineId: TimelineId): string {
  return `${PREFIX}/${tenantId}/${timelineId}/`;
}

export function partialSegmentName(partial: PartialSegment, segmentSize: number): string {
  const hex = (lsn: Lsn) => lsn.toString(16).toUpperCase().padStart(16, "0");
  const { segno, term, flushLsn, commitLsn, safekeeperId } = partial;
  return `${walFileName(segno, 1, segmentSize)}_${term}_${hex(flushLsn)}_${hex(commitLsn)}_sk${safekeeperId}.partial`;
}

/** Undefined where the name is none. */
export function parsePartialSegmentName(
  name: string,
  segmentSize: number,
): PartialSegment | undefined {
  const match = PARTIAL.exec(name);
  const segno = parseWalFileName(match?.[1] ?? "", segmentSize);
  if (match === null || segno === undefined) {
    return undefined;
  }
  const numbers = [Number(match[2]), Number(`0x${match[3]}`), Number(`0x${match[4]}`)];
  if (!numbers.every(Number.isSafeInteger)) {
    return undefined;
  }
  const [term, flushLsn, commitLsn] = numbers as [Term, Lsn, Lsn];
  return { segno, term, flushLsn, commitLsn, safekeeperId: Number(match[5]) };
}

/** One timeline's part of the store. */
export class StoredWal {
  readonly store: ObjectStore;
  readonly prefix: string;
  readonly segmentSize: number;

  constructor(store: ObjectStore, tenantId: TenantId, timelineId: TimelineId, segmentSize: number) {
    this.store = store;
    this.prefix = timelinePrefix(tenantId, timelineId);
    this.segmentSize = segmentSize;
  }

  segmentKey(segno: number): string {
    return this.prefix + walFileName(segno, 1, this.segmentSize);
  }

  partialKey(partial: PartialSegment): string {
    return this.prefix + partialSegmentName(partial, this.segmentSize);
  }

  /**
   * WAL from `lsn` on out of a whole segment: `length` bytes, or up to the segment's end. StorageError
   * `not-found` (`wal-not-here`) where that segment is not in the store.
   */
  read(lsn: Lsn, length: number, signal?: AbortSignal): Promise<Uint8Array> {
    return carryOut(this.readSteps(lsn, length), this.store, () => signal);
  }

  /** The same, as steps. */
  *readSteps(lsn: Lsn, length: number): StoreSteps<Uint8Array> {
    const start = segmentOffset(lsn, this.segmentSize);
    const end = Math.min(start + length, this.segmentSize);
    const key = this.segmentKey(segmentNumber(lsn, this.segmentSize));
    let bytes: Uint8Array;
    try {
      bytes = yield* get(key, { range: { start, end } });
    } catch (error) {
      throw this.#readError(error, lsn);
    }
    if (bytes.length !== end - start) {
      const message = `WAL at ${formatLsn(lsn)}: object ${key} is not ${this.segmentSize} bytes`;
      throw new StorageError("corrupt", "stored-wal-short", message);
    }
    return bytes;
  }

  /**
   * StorageError `not-found` (`wal-not-here`) where the whole segment of `lsn` is not there, `corrupt`
   * where it has another size.
   */
  check(lsn: Lsn, signal?: AbortSignal): Promise<void> {
    return carryOut(this.checkSteps(lsn), this.store, () => signal);
  }

  /** The same, as steps. */
  *checkSteps(lsn: Lsn): StoreSteps {
    const key = this.segmentKey(segmentNumber(lsn, this.segmentSize));
    let sizeBytes: number;
    try {
      sizeBytes = yield* head(key);
    } catch (error) {
      throw this.#readError(error, lsn);
    }
    if (sizeBytes !== this.segmentSize) {
      const message = `WAL at ${formatLsn(lsn)}: object ${key} has ${sizeBytes} bytes`;
      throw new StorageError("corrupt", "stored-wal-short", message);
    }
  }

  #readError(error: unknown, lsn: Lsn): StorageError {
    const text = formatLsn(lsn);
    if (error instanceof StorageError && error.kind === "not-found") {
      const message = `WAL at ${text} is neither here nor in the object store`;
      return new StorageError("not-found", "wal-not-here", message, { cause: error });
    }
    return withContext(error, `read WAL at ${text} from the object store`);
  }
}
