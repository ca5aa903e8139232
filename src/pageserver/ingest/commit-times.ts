// The index of commit times: when transactions ended, kept from WAL, for time travel by clock.
//
// One key says when the last transaction ended, and each end leaves a version of it. The index as of any
// LSN is then a read at that LSN; branches inherit it, and it lasts as long as the history it is about. As
// reads in the past walk along a key's versions, the key is really one of 64, and changes every 1024 ends:
// a group. The times are not monotonic (a backend takes its time before it inserts its record, and clocks
// are set back), so what is searched is the latest up to here. Times: whole microseconds since 2000-01-01.
//
// Index 0, written where a group begins
//   offset size field
//        0    1 format version, 1
//        1    3 zero
//        4    4 u32 number of the group; its ends are at index 1 + number % 64
//        8    8 u64 start of the group's first record
//       16    8 u64 latest time up to and with that record
// Index 1 to 64, written at each end: three numbers of 7 bits a byte, lowest first, the top bit set where
// more follow (about 7 bytes in all)
//   start of the record, as a distance from the group's
//   latest time up to here, as a distance from the group's
//   latest time minus the time of the last commit, plus 1; 0 where only aborts were seen

import { StorageError } from "../../base/errors.ts";
import { type Lsn, lsnFromBigInt, toLsn } from "../../base/lsn.ts";
import { COMMIT_TIME_PREFIX } from "../layers/key.ts";
import type { TimelineStorage } from "../storage/timeline-storage.ts";

const FORMAT_VERSION = 1;
const GROUP_INDEX = 0;
const GROUP_BYTES = 24;
const GROUP_ENDS = 1024;
const KEYS = 64;
/** The years 2000 to 2285: what a broken clock says beyond is cut, so that differences stay exact. */
const MAX_TIME_US = Number.MAX_SAFE_INTEGER - 1;
/** More than three numbers below 2^53 take. */
const MAX_END_BYTES = 25;

/** What is known of the transactions that ended at or below an LSN. */
export interface CommitTime {
  /** Start of the last one's record: as of here it had not ended. */
  readonly recordStart: Lsn;
  /** The latest time of any, aborts included. */
  readonly latestUs: number;
  /** Of the last one that committed; undefined where only aborts were seen. */
  readonly commitUs: number | undefined;
}

interface Group {
  readonly number: number;
  readonly startLsn: Lsn;
  readonly latestUs: number;
}

/** The writing side; one per WalIngest. */
export class CommitTimes {
  readonly #storage: TimelineStorage;
  readonly #bytes = new Uint8Array(MAX_END_BYTES);
  /** The first bytes, by how many: a new view at each end would be a third of its cost. */
  readonly #views = Array.from(this.#bytes.keys(), (length) => this.#bytes.subarray(0, length));
  #group: Group | undefined;
  /** That the group has room for. */
  #endsLeft = 0;
  #latestUs = 0;
  #commitUs: number | undefined;

  constructor(storage: TimelineStorage) {
    this.#storage = storage;
  }

  /** A transaction ended with the record of [start, lsn). */
  ended(timestampUs: bigint, committed: boolean, start: Lsn, lsn: Lsn): void {
    const storage = this.#storage;
    const timeUs = Math.max(0, Math.min(Number(timestampUs), MAX_TIME_US));
    const before = this.#group ?? this.#load();
    const latestUs = Math.max(this.#latestUs, timeUs);
    this.#latestUs = latestUs;
    if (committed) {
      this.#commitUs = timeUs;
    }
    let group = before;
    if (group === undefined || this.#endsLeft === 0) {
      const number = group === undefined ? 0 : (group.number + 1) >>> 0;
      group = { number, startLsn: start, latestUs };
      this.#group = group;
      this.#endsLeft = GROUP_ENDS;
      storage.putImage(COMMIT_TIME_PREFIX, GROUP_INDEX, lsn, encodeGroup(group));
    }
    this.#endsLeft--;
    const bytes = this.#bytes;
    let length = putNumber(bytes, 0, start - group.startLsn);
    length = putNumber(bytes, length, latestUs - group.latestUs);
    const sinceCommit = this.#commitUs === undefined ? 0 : latestUs - this.#commitUs + 1;
    length = putNumber(bytes, length, sinceCommit);
    storage.putImage(COMMIT_TIME_PREFIX, endIndex(group), lsn, this.#views[length]!);
  }

  /** The last group; whoever takes over does not count on in it, but begins the next. */
  #load(): Group | undefined {
    const last = readCommitTime(this.#storage, this.#storage.lastRecordLsn);
    this.#latestUs = last?.latestUs ?? 0;
    this.#commitUs = last?.commitUs;
    return readGroup(this.#storage, this.#storage.lastRecordLsn);
  }
}

/**
 * As of `lsn`; undefined where no transaction ended at or below it, or none since there is an index.
 * StorageError `corrupt` where a value makes no sense.
 */
export function readCommitTime(
  storage: Pick<TimelineStorage, "readValue">,
  lsn: Lsn,
): CommitTime | undefined {
  const group = readGroup(storage, lsn);
  if (group === undefined) {
    return undefined;
  }
  const value = storage.readValue(COMMIT_TIME_PREFIX, endIndex(group), lsn);
  if (value === undefined) {
    throw corrupt(`group ${group.number} has no end`);
  }
  const [startDistance, latestDistance, sinceCommit, ...more] = numbersOf(value);
  if (sinceCommit === undefined || more.length > 0) {
    throw corrupt(`an end is not of three numbers, but ${value.length} bytes`);
  }
  const latestUs = group.latestUs + latestDistance!;
  const recordStart = group.startLsn + startDistance!;
  if (recordStart >= lsn || latestUs > MAX_TIME_US || sinceCommit > latestUs + 1) {
    throw corrupt(
      `an end at ${recordStart} with time ${latestUs} and ${sinceCommit} since a commit`,
    );
  }
  return {
    recordStart: toLsn(recordStart),
    latestUs,
    commitUs: sinceCommit === 0 ? undefined : latestUs - (sinceCommit - 1),
  };
}

function corrupt(what: string): StorageError {
  return new StorageError("corrupt", "bad-commit-time", `index of commit times: ${what}`);
}

function endIndex(group: Group): number {
  return 1 + (group.number % KEYS);
}

function readGroup(storage: Pick<TimelineStorage, "readValue">, lsn: Lsn): Group | undefined {
  const value = storage.readValue(COMMIT_TIME_PREFIX, GROUP_INDEX, lsn);
  return value === undefined ? undefined : decodeGroup(value);
}

function encodeGroup({ number, startLsn, latestUs }: Group): Uint8Array {
  const view = new DataView(new ArrayBuffer(GROUP_BYTES));
  view.setUint8(0, FORMAT_VERSION);
  view.setUint32(4, number, true);
  view.setBigUint64(8, BigInt(startLsn), true);
  view.setBigUint64(16, BigInt(latestUs), true);
  return new Uint8Array(view.buffer);
}

function decodeGroup(value: Uint8Array): Group {
  const view = new DataView(value.buffer, value.byteOffset, value.length);
  if (value.length !== GROUP_BYTES || value[0] !== FORMAT_VERSION) {
    throw corrupt(`a group of ${value.length} bytes and format version ${value[0]}`);
  }
  const startLsn = view.getBigUint64(8, true);
  const latestUs = view.getBigUint64(16, true);
  if (startLsn > BigInt(MAX_TIME_US) || latestUs > BigInt(MAX_TIME_US)) {
    throw corrupt(`a group that starts at ${startLsn} with time ${latestUs}`);
  }
  return {
    number: view.getUint32(4, true),
    startLsn: lsnFromBigInt(startLsn),
    latestUs: Number(latestUs),
  };
}

/** Writes 7 bits a byte, from `at` on; where the next number goes. `value`: [0, 2^53). */
function putNumber(bytes: Uint8Array, at: number, value: number): number {
  let next = at;
  let rest = value;
  while (rest >= 0x80) {
    bytes[next++] = (rest % 0x80) + 0x80;
    rest = Math.floor(rest / 0x80);
  }
  bytes[next++] = rest;
  return next;
}

function numbersOf(bytes: Uint8Array): number[] {
  const numbers: number[] = [];
  let value = 0;
  let factor = 1;
  for (const byte of bytes) {
    value += (byte % 0x80) * factor;
    factor *= 0x80;
    if (byte < 0x80) {
      numbers.push(value);
      value = 0;
      factor = 1;
    }
  }
  return factor === 1 ? numbers : [];
}
