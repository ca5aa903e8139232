// Storage keys: Neon's six fields, the first five as one value, and the keyspaces.
//
// A key is 18 bytes, big-endian, so that byte order is key order (pageserver_api/src/key.rs):
//   offset size field
//        0    1 field 1: keyspace
//        1    4 field 2
//        5    4 field 3
//        9    4 field 4
//       13    1 field 5
//       14    4 field 6: the index
// | keyspace             | f1   f2    f3   f4    f5   | index                     |
// | relation block       | 00   spc   db   rel   fork | block number              |
// | relation map         | 00   spc   db   0     0    | 0                         |
// | SLRU block           | 01   kind  1    segno 0    | block in the segment      |
// | control file         | 03   0     0    0     0    | 0; the checkpoint is at 1 |
// | relation size        | 61   spc   db   rel   fork | 0; u32 LE, in blocks      |
// | auxiliary file       | 62   hash of the path  0    | offset in it              |
// | replication origin   | 63   0     0    0     0    | origin id; u64 LE, LSN    |
// | database             | 64   spc   db   0     0    | 0                         |
// | SLRU segment size    | 66   kind  segno 0    0    | 0; u32 LE, in blocks      |
// | two-phase file       | 67   high  low  0     0    | 0; no longer written      |
// | subscriptions gone   | 68   id 0  id 1 id 2  0    | id 3; of a timeline       |
// | prepared transaction | 69   0     0    0     0    | its slot                  |
// | commit time          | 6A   0     0    0     0    | see commit-times.ts       |
// | tablespace           | 6B   0     0    0     0    | its OID; its location     |
// | statistics           | 6C   0     0    0     0    | 0; u64 LE, LSN; the files |
// | standby snapshots    | 6D   0     0    0     0    | 0; standby-snapshots.ts   |
// 0x66 to 0x6D are ours: Neon keeps the first two as members of directory values that are rewritten whole.

import { StorageError } from "../../base/errors.ts";

/**
 * Fields 1 to 5 of a key: an immutable value that lives as long as somebody holds it. The same fields
 * may be several objects: `samePrefix` compares. For use by the functions here alone.
 */
export interface KeyPrefix {
  // As 32 signed bits, which V8 keeps in the object.
  readonly field1: number;
  readonly field2: number;
  readonly field3: number;
  readonly field4: number;
  readonly field5: number;
  /** 32 signed bits over the five fields. */
  readonly hash: number;
}

export const KEY_BYTES = 18;

const KEYSPACE_RELATION = 0x00;
const KEYSPACE_SLRU = 0x01;
const KEYSPACE_FILES = 0x03;
/** Field 1 of all keys that are no pages, relation maps aside. */
export const FIRST_METADATA_KEYSPACE = KEYSPACE_FILES;
export const KEYSPACE_RELATION_SIZE = 0x61;
export const KEYSPACE_AUX_FILE = 0x62;
export const KEYSPACE_REPLICATION_ORIGIN = 0x63;
export const KEYSPACE_DATABASE = 0x64;
export const KEYSPACE_SLRU_SIZE = 0x66;
export const KEYSPACE_TWO_PHASE = 0x67;
const KEYSPACE_SUBSCRIPTIONS_DETACHED = 0x68;
export const KEYSPACE_PREPARED_SLOT = 0x69;
const KEYSPACE_COMMIT_TIME = 0x6a;
export const KEYSPACE_TABLESPACE = 0x6b;
const KEYSPACE_STATISTICS = 0x6c;
const KEYSPACE_STANDBY_SNAPSHOTS = 0x6d;

/** Index of pg_control under CONTROL_PREFIX. */
export const CONTROL_FILE_INDEX = 0;
/** Index of the running checkpoint under CONTROL_PREFIX. */
export const CHECKPOINT_INDEX = 1;

/** Prefixes made lately, by hash: the same few are asked for again and again. */
const RECENT_PREFIXES = 1024;
const recent = new Array<KeyPrefix | undefined>(RECENT_PREFIXES).fill(undefined);

/** The prefix of five fields: [0, 2^8), three of [0, 2^32), [0, 2^8). `invalid` out of range. */
export function keyPrefix(f1: number, f2: number, f3: number, f4: number, f5: number): KeyPrefix {
  let hash = mix(f1 | (f5 << 8));
  hash = mix(hash ^ f2);
  hash = mix(hash ^ f3);
  hash = mix(hash ^ f4);
  const found = recent[hash & (RECENT_PREFIXES - 1)];
  if (
    found !== undefined &&
    found.field4 >>> 0 === f4 &&
    found.field3 >>> 0 === f3 &&
    found.field2 >>> 0 === f2 &&
    found.field1 === f1 &&
    found.field5 === f5
  ) {
    return found;
  }
  checkField(f1, 0xff);
  checkField(f2, 0xffff_ffff);
  checkField(f3, 0xffff_ffff);
  checkField(f4, 0xffff_ffff);
  checkField(f5, 0xff);
  const prefix: KeyPrefix = {
    field1: f1,
    field2: f2 | 0,
    field3: f3 | 0,
    field4: f4 | 0,
    field5: f5,
    hash,
  };
  recent[hash & (RECENT_PREFIXES - 1)] = prefix;
  return prefix;
}

function checkField(value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new StorageError("invalid", "bad-key", `key field ${value} is not in [0, ${max}]`);
  }
}

/** Whether the fields are the same. */
export function samePrefix(a: KeyPrefix, b: KeyPrefix): boolean {
  return (
    a === b ||
    (a.hash === b.hash &&
      a.field4 === b.field4 &&
      a.field3 === b.field3 &&
      a.field2 === b.field2 &&
      a.field1 === b.field1 &&
      a.field5 === b.field5)
  );
}

/** The finalizer of MurmurHash3: every input bit reaches every output bit. */
function mix(value: number): number {
  let h = value | 0;
  h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35);
  return h ^ (h >>> 16);
}

/** 32 signed bits over the six fields; part of the layer file format (its key filter), so it is fixed. */
export function keyHash(prefix: KeyPrefix, index: number): number {
  return mix(prefix.hash ^ Math.imul(index, 0x9e3779b1));
}

export function prefixField1(prefix: KeyPrefix): number {
  return prefix.field1;
}

export function prefixField2(prefix: KeyPrefix): number {
  return prefix.field2 >>> 0;
}

export function prefixField3(prefix: KeyPrefix): number {
  return prefix.field3 >>> 0;
}

export function prefixField4(prefix: KeyPrefix): number {
  return prefix.field4 >>> 0;
}

export function prefixField5(prefix: KeyPrefix): number {
  return prefix.field5;
}

/** The five fields, for callers that are not on a hot path. */
export function prefixFields(prefix: KeyPrefix): [number, number, number, number, number] {
  return [
    prefix.field1,
    prefix.field2 >>> 0,
    prefix.field3 >>> 0,
    prefix.field4 >>> 0,
    prefix.field5,
  ];
}

/** Key order: negative, 0 or positive. */
export function comparePrefixes(a: KeyPrefix, b: KeyPrefix): number {
  return a === b
    ? 0
    : a.field1 - b.field1 ||
        (a.field2 >>> 0) - (b.field2 >>> 0) ||
        (a.field3 >>> 0) - (b.field3 >>> 0) ||
        (a.field4 >>> 0) - (b.field4 >>> 0) ||
        a.field5 - b.field5;
}

/** Whether the prefix's first fields are `fields`. */
/** The least one whose fields start with `fields`. */
export function leastPrefix([
  f1 = 0,
  f2 = 0,
  f3 = 0,
  f4 = 0,
  f5 = 0,
]: readonly number[]): KeyPrefix {
  return keyPrefix(f1, f2, f3, f4, f5);
}

export function prefixStartsWith(prefix: KeyPrefix, fields: readonly number[]): boolean {
  const [f1, f2, f3, f4] = fields;
  return (
    (f1 === undefined || prefix.field1 === f1) &&
    (f2 === undefined || prefix.field2 >>> 0 === f2) &&
    (f3 === undefined || prefix.field3 >>> 0 === f3) &&
    (f4 === undefined || prefix.field4 >>> 0 === f4) &&
    (fields[4] === undefined || prefix.field5 === fields[4])
  );
}

/** The key's 18 bytes. */
export function encodeKey(prefix: KeyPrefix, index: number): Uint8Array {
  const bytes = new Uint8Array(KEY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, prefix.field1);
  view.setUint32(1, prefix.field2);
  view.setUint32(5, prefix.field3);
  view.setUint32(9, prefix.field4);
  view.setUint8(13, prefix.field5);
  view.setUint32(14, index);
  return bytes;
}

/** The key of 18 bytes; `corrupt` where there are not 18. */
export function decodeKey(bytes: Uint8Array): { prefix: KeyPrefix; index: number } {
  if (bytes.length !== KEY_BYTES) {
    throw new StorageError("corrupt", "bad-key", `a key has 18 bytes, got ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, KEY_BYTES);
  const prefix = keyPrefix(
    view.getUint8(0),
    view.getUint32(1),
    view.getUint32(5),
    view.getUint32(9),
    view.getUint8(13),
  );
  return { prefix, index: view.getUint32(14) };
}

/** The next key there can be; undefined after the last one. */
export function keyAfter(
  prefix: KeyPrefix,
  index: number,
): { prefix: KeyPrefix; index: number } | undefined {
  const bytes = encodeKey(prefix, index);
  for (let at = KEY_BYTES - 1; at >= 0; at--) {
    bytes[at]!++;
    if (bytes[at] !== 0) {
      return decodeKey(bytes);
    }
  }
  return undefined;
}

/** 36 upper-case hex digits, as Neon prints keys. */
export function formatKey(prefix: KeyPrefix, index: number): string {
  return Buffer.from(encodeKey(prefix, index)).toString("hex").toUpperCase();
}

/** Whether values under this prefix are 8 kB pages that deltas may change. */
export function isPagePrefix(prefix: KeyPrefix): boolean {
  return (
    prefix.field1 === KEYSPACE_SLRU || (prefix.field1 === KEYSPACE_RELATION && prefix.field4 !== 0)
  );
}

export const CONTROL_PREFIX = keyPrefix(KEYSPACE_FILES, 0, 0, 0, 0);

/** Replication progress: the index is the origin's id, the value a u64, little-endian: its LSN. */
export const REPLICATION_ORIGIN_PREFIX = keyPrefix(KEYSPACE_REPLICATION_ORIGIN, 0, 0, 0, 0);

/** Open prepared transactions: the index is a slot (ingest/prepared-transactions.ts). */
export const PREPARED_SLOT_PREFIX = keyPrefix(KEYSPACE_PREPARED_SLOT, 0, 0, 0, 0);

/** When transactions ended (ingest/commit-times.ts). */
export const COMMIT_TIME_PREFIX = keyPrefix(KEYSPACE_COMMIT_TIME, 0, 0, 0, 0);

/** The user's tablespaces: the index is the OID (ingest/tablespaces.ts). */
export const TABLESPACE_PREFIX = keyPrefix(KEYSPACE_TABLESPACE, 0, 0, 0, 0);

/** What the last clean stop left of pg_stat, at index 0 (ingest/statistics.ts). */
export const STATISTICS_PREFIX = keyPrefix(KEYSPACE_STATISTICS, 0, 0, 0, 0);

/** Where a standby may begin to replay, at index 0 (ingest/standby-snapshots.ts). */
export const STANDBY_SNAPSHOTS_PREFIX = keyPrefix(KEYSPACE_STANDBY_SNAPSHOTS, 0, 0, 0, 0);

/** Pieces of a file of logical decoding: the index is where each begins (ingest/aux-files.ts). */
export function auxFilePrefix(hash0: number, hash1: number, hash2: number): KeyPrefix {
  return keyPrefix(KEYSPACE_AUX_FILE, hash0, hash1, hash2, 0);
}

/** Blocks of a relation fork (0 main, 1 fsm, 2 vm, 3 init); the index is the block number. */
export function relBlockPrefix(spc: number, db: number, rel: number, fork: number): KeyPrefix {
  return keyPrefix(KEYSPACE_RELATION, spc, db, rel, fork);
}

/** A relation fork's size in blocks, at index 0; u32, little-endian. */
export function relSizePrefix(spc: number, db: number, rel: number, fork: number): KeyPrefix {
  return keyPrefix(KEYSPACE_RELATION_SIZE, spc, db, rel, fork);
}

/** Of blocks of a relation fork: where its size is. Undefined for all other keys. */
export function sizePrefixOfBlocks(prefix: KeyPrefix): KeyPrefix | undefined {
  const [field1, spc, db, rel, fork] = prefixFields(prefix);
  return field1 === KEYSPACE_RELATION && rel !== 0 ? relSizePrefix(spc, db, rel, fork) : undefined;
}

/** pg_filenode.map of a database, at index 0; the shared one is (1664, 0). */
export function relmapPrefix(spc: number, db: number): KeyPrefix {
  return keyPrefix(KEYSPACE_RELATION, spc, db, 0, 0);
}

/** The mark that a database directory exists, at index 0. */
export function dbDirPrefix(spc: number, db: number): KeyPrefix {
  return keyPrefix(KEYSPACE_DATABASE, spc, db, 0, 0);
}

/** Pages of an SLRU segment; the index is the block in the segment. */
export function slruBlockPrefix(kind: number, segno: number): KeyPrefix {
  return keyPrefix(KEYSPACE_SLRU, kind, 1, segno, 0);
}

/** An SLRU segment's size in blocks, at index 0; u32, little-endian. */
export function slruSizePrefix(kind: number, segno: number): KeyPrefix {
  return keyPrefix(KEYSPACE_SLRU_SIZE, kind, segno, 0, 0);
}

/**
 * The mark that a compute has detached the subscriptions which timeline `timelineId` (32 hex digits)
 * began with. Branches inherit it as they do all keys, but each asks for its own.
 */
export function subscriptionsDetachedKey(timelineId: string): { prefix: KeyPrefix; index: number } {
  const word = (n: number) => Number.parseInt(timelineId.slice(n * 8, n * 8 + 8), 16);
  return {
    prefix: keyPrefix(KEYSPACE_SUBSCRIPTIONS_DETACHED, word(0), word(1), word(2), 0),
    index: word(3),
  };
}
