// A timeline's WAL in the object store: names of its objects, and reading it by LSN.

import { StorageError, withContext } from "../../base/errors.ts";
import type { TenantId, TimelineId } from "../../base/ids.ts";
import {
  formatLsn,
  type Lsn,
  parseWalFileName,
  segmentNumber,
  segmentOffset,
  segmentStart,
  walFileName,
} from "../../base/lsn.ts";
import type { ObjectStore } from "../../object-store/object-store.ts";
import { carryOut, get, head, pause, type StoreSteps } from "../../object-store/store-steps.ts";
import type { Term } from "../../safekeeper-protocol/term-history.ts";
import {
  decodeFrames,
  decodeStoredHead,
  encodeStoredSegment,
  framesOf,
  MAX_HEAD_BYTES,
  type StoredSegmentHead,
} from "../../wal-decoder/stored-segment.ts";

/*
 * Below `safekeeper/<tenant>/<timeline>/`, names as Neon's (safekeeper/src/wal_backup*.rs):
 *   000000010000000000000003
 *       a whole segment, all of it committed; written once, by whichever safekeeper comes first
 *   000000010000000000000004_7_0000000004A1B2C8_0000000004A1B2C8_sk2.partial
 *       the segment's WAL up to a flush LSN: last log term, flush LSN, commit LSN, safekeeper.
 *       It belongs to that safekeeper, who replaces and removes it. Neon's are padded to the size of
 *       a segment; these end at the flush LSN.
 * Both as wal-decoder/stored-segment.ts says, from where the timeline has WAL of the segment on; from releases of before
 * byte for byte, with zeros below. Whoever reads gets those bytes either way.
 */

const PREFIX = "safekeeper";
const NOTHING = new Uint8Array(0);
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

/** What is known of the object that was read last: none is ever replaced by another. */
interface OpenObject {
  readonly key: string;
  /** Undefined: it is the segment byte for byte. */
  readonly head: StoredSegmentHead | undefined;
  /** Its first bytes, while they are at hand. */
  readonly firstBytes: Uint8Array;
}

/** One timeline's part of the store. */
export class StoredWal {
  readonly store: ObjectStore;
  readonly prefix: string;
  readonly segmentSize: number;
  #open: OpenObject | undefined;

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
   * The object of a segment, of which `bytes` are all up to where the WAL ends; those below `logStart`, where the timeline's
   * WAL begins, do not go into it.
   */
  *encode(startLsn: Lsn, bytes: Uint8Array, logStart: Lsn): StoreSteps<Uint8Array> {
    const { segmentSize } = this;
    const begin = Math.min(Math.max(0, logStart - startLsn), bytes.length);
    const steps = encodeStoredSegment({ startLsn, segmentSize, begin, bytes });
    return yield* withPauses(steps);
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
    const key = this.segmentKey(segmentNumber(lsn, this.segmentSize));
    try {
      return yield* this.readObjectSteps(key, lsn, length);
    } catch (error) {
      throw this.#readError(error, lsn);
    }
  }

  /** The same out of any object that has WAL of the segment of `lsn`. The store's errors; `corrupt` where it ends before. */
  *readObjectSteps(key: string, lsn: Lsn, length: number): StoreSteps<Uint8Array> {
    const start = segmentOffset(lsn, this.segmentSize);
    const end = Math.min(start + length, this.segmentSize);
    const { head, firstBytes } = yield* this.#openObject(key, lsn);
    const isShort = (sizeBytes: number) => {
      const message = `WAL at ${formatLsn(lsn)}: object ${key} has ${sizeBytes} bytes of it instead of ${end - start}`;
      return new StorageError("corrupt", "stored-wal-short", message);
    };
    try {
      if (head === undefined) {
        const isAtHand = end <= firstBytes.length;
        const bytes = isAtHand
          ? firstBytes.slice(start, end)
          : yield* get(key, { range: { start, end } });
        if (bytes.length !== end - start) {
          throw isShort(bytes.length);
        }
        return bytes;
      }
      if (head.end < end) {
        throw isShort(Math.max(0, head.end - start));
      }
      const frames = framesOf(head, start, end);
      const stored = yield* this.#storedFrames(key, firstBytes, frames);
      return yield* withPauses(decodeFrames(head, frames, stored, [start, end], key));
    } catch (error) {
      // Should somebody put another object there, it is looked at anew.
      this.#open = undefined;
      throw error;
    }
  }

  *#storedFrames(
    key: string,
    firstBytes: Uint8Array,
    { start, end }: { readonly start: number; readonly end: number },
  ): StoreSteps<Uint8Array> {
    if (start === end) {
      return new Uint8Array(0);
    }
    return end <= firstBytes.length
      ? firstBytes.subarray(start, end)
      : yield* get(key, { range: { start, end } });
  }

  /** Reads an object's head, unless it was the last that was. */
  *#openObject(key: string, lsn: Lsn): StoreSteps<OpenObject> {
    if (this.#open?.key === key) {
      return this.#open;
    }
    const firstBytes = yield* get(key, { range: { start: 0, end: MAX_HEAD_BYTES } });
    const head = decodeStoredHead(firstBytes, key);
    const startLsn = segmentStart(lsn, this.segmentSize);
    if (
      head !== undefined &&
      (head.startLsn !== startLsn || head.segmentSize !== this.segmentSize)
    ) {
      const message = `object ${key} holds a segment of ${head.segmentSize} bytes from ${formatLsn(head.startLsn)} on`;
      throw new StorageError("corrupt", "stored-wal-elsewhere", message);
    }
    // The bytes themselves are for the read at hand only.
    this.#open = { key, head, firstBytes: NOTHING };
    return { key, head, firstBytes };
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
    let found: StoredSegmentHead | undefined;
    try {
      const object = yield* this.#openObject(key, lsn);
      const { length } = object.firstBytes;
      found = object.head;
      // A small one is there with its first bytes.
      sizeBytes = length > 0 && length < MAX_HEAD_BYTES ? length : yield* head(key);
    } catch (error) {
      throw this.#readError(error, lsn);
    }
    const expected = found?.sizeBytes ?? this.segmentSize;
    if (sizeBytes !== expected || (found !== undefined && found.end !== this.segmentSize)) {
      this.#open = undefined;
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

/** Others have their turn after each step. */
function* withPauses<T>(steps: Generator<void, T, unknown>): StoreSteps<T> {
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) {
      return step.value;
    }
    yield* pause();
  }
}
