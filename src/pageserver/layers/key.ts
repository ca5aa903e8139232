// Storage keys: Neon's six fields, the first five interned as one small integer, and the keyspaces.
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
// | replication origin   | 63   0     0    0     0    | origin id; u64 LE, LSN    |
// | database             | 64   spc   db   0     0    | 0                         |
// | SLRU segment size    | 66   kind  segno 0    0    | 0; u32 LE, in blocks      |
// | two-phase file       | 67   high  low  0     0    | 0; no longer written      |
// | subscriptions gone   | 68   id 0  id 1 id 2  0    | id 3; of a timeline       |
// | prepared transaction | 69   0     0    0     0    | its slot                  |
// | commit time          | 6A   0     0    0     0    | see commit-times.ts       |
// 0x66 to 0x6A are ours: Neon keeps the first two as members of directory values that are rewritten whole.

import { StorageError } from "../../base/errors.ts";

/** Fields 1 to 5 of a key as a dense small integer; the same fields give the same number in a process. */
export type KeyPrefix = number & { readonly __keyPrefix: unique symbol };

export const KEY_BYTES = 18;

const KEYSPACE_RELATION = 0x00;
const KEYSPACE_SLRU = 0x01;
const KEYSPACE_FILES = 0x03;
/** Field 1 of all keys that are no pages, relation maps aside. */
export const FIRST_METADATA_KEYSPACE = KEYSPACE_FILES;
export const KEYSPACE_RELATION_SIZE = 0x61;
export const KEYSPACE_REPLICATION_ORIGIN = 0x63;
export const KEYSPACE_DATABASE = 0x64;
export const KEYSPACE_SLRU_SIZE = 0x66;
export const KEYSPACE_TWO_PHASE = 0x67;
const KEYSPACE_SUBSCRIPTIONS_DETACHED = 0x68;
export const KEYSPACE_PREPARED_SLOT = 0x69;
const KEYSPACE_COMMIT_TIME = 0x6a;

/** Index of pg_control under CONTROL_PREFIX. */
export const CONTROL_FILE_INDEX = 0;
/** Index of the running checkpoint under CONTROL_PREFIX. */
export const CHECKPOINT_INDEX = 1;

const INITIAL_CAPACITY = 4096;
// Fields by prefix, in columns: no object a prefix, and comparisons stay in integer arithmetic.
let field1 = new Uint8Array(INITIAL_CAPACITY);
let field2 = new Uint32Array(INITIAL_CAPACITY);
let field3 = new Uint32Array(INITIAL_CAPACITY);
let field4 = new Uint32Array(INITIAL_CAPACITY);
let field5 = new Uint8Array(INITIAL_CAPACITY);
let hashes = new Int32Array(INITIAL_CAPACITY);
let prefixCount = 0;

/** Field 4 -> prefixes by field 5. */
type LastLevel = Map<number, (KeyPrefix | undefined)[]>;
// Nested maps of integers, since string keys cost twenty times as much.
const tree = new Map<number, Map<number, Map<number, LastLevel>>>();

// A database's blocks come in runs, so the innermost map of the last call is nearly always the one.
let lastField1 = -1;
let lastField2 = -1;
let lastField3 = -1;
let lastLevel: LastLevel = new Map();

/** The prefix of five fields: [0, 2^8), three of [0, 2^32), [0, 2^8). `invalid` out of range. */
export function internPrefix(
  f1: number,
  f2: number,
  f3: number,
  f4: number,
  f5: number,
): KeyPrefix {
  if (f1 !== lastField1 || f2 !== lastField2 || f3 !== lastField3) {
    checkField(f1, 0xff);
    checkField(f2, 0xffff_ffff);
    checkField(f3, 0xffff_ffff);
    lastLevel = lastLevelOf(f1, f2, f3);
    lastField1 = f1;
    lastField2 = f2;
    lastField3 = f3;
  }
  const found = lastLevel.get(f4)?.[f5];
  return found === undefined ? addPrefix(f1, f2, f3, f4, f5) : found;
}

function checkField(value: number, max: number): void {
  if (!Number.isInteger(value) || value < 0 || value > max) {
    throw new StorageError("invalid", "bad-key", `key field ${value} is not in [0, ${max}]`);
  }
}

function lastLevelOf(f1: number, f2: number, f3: number): LastLevel {
  const second = getOrAdd(tree, f1, () => new Map());
  const third = getOrAdd(second, f2, () => new Map());
  return getOrAdd(third, f3, () => new Map());
}

function getOrAdd<V>(map: Map<number, V>, key: number, make: () => V): V {
  let value = map.get(key);
  if (value === undefined) {
    value = make();
    map.set(key, value);
  }
  return value;
}

function addPrefix(f1: number, f2: number, f3: number, f4: number, f5: number): KeyPrefix {
  checkField(f4, 0xffff_ffff);
  checkField(f5, 0xff);
  if (prefixCount === field1.length) {
    growFields();
  }
  const prefix = prefixCount as KeyPrefix;
  field1[prefix] = f1;
  field2[prefix] = f2;
  field3[prefix] = f3;
  field4[prefix] = f4;
  field5[prefix] = f5;
  let hash = mix(f1 | (f5 << 8));
  hash = mix(hash ^ f2);
  hash = mix(hash ^ f3);
  hashes[prefix] = mix(hash ^ f4);
  getOrAdd(lastLevel, f4, () => [])[f5] = prefix;
  prefixCount++;
  return prefix;
}

function growFields(): void {
  const capacity = field1.length * 2;
  const grow = <T extends Uint8Array | Uint32Array | Int32Array>(larger: T, old: T): T => {
    larger.set(old);
    return larger;
  };
  field1 = grow(new Uint8Array(capacity), field1);
  field2 = grow(new Uint32Array(capacity), field2);
  field3 = grow(new Uint32Array(capacity), field3);
  field4 = grow(new Uint32Array(capacity), field4);
  field5 = grow(new Uint8Array(capacity), field5);
  hashes = grow(new Int32Array(capacity), hashes);
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
  return mix(hashes[prefix]! ^ Math.imul(index, 0x9e3779b1));
}

export function prefixField1(prefix: KeyPrefix): number {
  return field1[prefix]!;
}

export function prefixField2(prefix: KeyPrefix): number {
  return field2[prefix]!;
}

export function prefixField3(prefix: KeyPrefix): number {
  return field3[prefix]!;
}

export function prefixField4(prefix: KeyPrefix): number {
  return field4[prefix]!;
}

export function prefixField5(prefix: KeyPrefix): number {
  return field5[prefix]!;
}

/** The five fields, for callers that are not on a hot path. */
export function prefixFields(prefix: KeyPrefix): [number, number, number, number, number] {
  return [field1[prefix]!, field2[prefix]!, field3[prefix]!, field4[prefix]!, field5[prefix]!];
}

/** Key order of the fields (not of the interned numbers): negative, 0 or positive. */
export function comparePrefixes(a: KeyPrefix, b: KeyPrefix): number {
  return a === b
    ? 0
    : field1[a]! - field1[b]! ||
        field2[a]! - field2[b]! ||
        field3[a]! - field3[b]! ||
        field4[a]! - field4[b]! ||
        field5[a]! - field5[b]!;
}

/** Whether the prefix's first fields are `fields`. */
export function prefixStartsWith(prefix: KeyPrefix, fields: readonly number[]): boolean {
  const [f1, f2, f3, f4] = fields;
  return (
    (f1 === undefined || field1[prefix] === f1) &&
    (f2 === undefined || field2[prefix] === f2) &&
    (f3 === undefined || field3[prefix] === f3) &&
    (f4 === undefined || field4[prefix] === f4) &&
    (fields[4] === undefined || field5[prefix] === fields[4])
  );
}

/** The key's 18 bytes. */
export function encodeKey(prefix: KeyPrefix, index: number): Uint8Array {
  const bytes = new Uint8Array(KEY_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint8(0, field1[prefix]!);
  view.setUint32(1, field2[prefix]!);
  view.setUint32(5, field3[prefix]!);
  view.setUint32(9, field4[prefix]!);
  view.setUint8(13, field5[prefix]!);
  view.setUint32(14, index);
  return bytes;
}

/** The key of 18 bytes; `corrupt` where there are not 18. */
export function decodeKey(bytes: Uint8Array): { prefix: KeyPrefix; index: number } {
  if (bytes.length !== KEY_BYTES) {
    throw new StorageError("corrupt", "bad-key", `a key has 18 bytes, got ${bytes.length}`);
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, KEY_BYTES);
  const prefix = internPrefix(
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
    field1[prefix] === KEYSPACE_SLRU ||
    (field1[prefix] === KEYSPACE_RELATION && field4[prefix] !== 0)
  );
}

export const CONTROL_PREFIX = internPrefix(KEYSPACE_FILES, 0, 0, 0, 0);

/** Replication progress: the index is the origin's id, the value a u64, little-endian: its LSN. */
export const REPLICATION_ORIGIN_PREFIX = internPrefix(KEYSPACE_REPLICATION_ORIGIN, 0, 0, 0, 0);

/** Open prepared transactions: the index is a slot (ingest/prepared-transactions.ts). */
export const PREPARED_SLOT_PREFIX = internPrefix(KEYSPACE_PREPARED_SLOT, 0, 0, 0, 0);

/** When transactions ended (ingest/commit-times.ts). */
export const COMMIT_TIME_PREFIX = internPrefix(KEYSPACE_COMMIT_TIME, 0, 0, 0, 0);

/** Blocks of a relation fork (0 main, 1 fsm, 2 vm, 3 init); the index is the block number. */
export function relBlockPrefix(spc: number, db: number, rel: number, fork: number): KeyPrefix {
  return internPrefix(KEYSPACE_RELATION, spc, db, rel, fork);
}

/** A relation fork's size in blocks, at index 0; u32, little-endian. */
export function relSizePrefix(spc: number, db: number, rel: number, fork: number): KeyPrefix {
  return internPrefix(KEYSPACE_RELATION_SIZE, spc, db, rel, fork);
}

/** pg_filenode.map of a database, at index 0; the shared one is (1664, 0). */
export function relmapPrefix(spc: number, db: number): KeyPrefix {
  return internPrefix(KEYSPACE_RELATION, spc, db, 0, 0);
}

/** The mark that a database directory exists, at index 0. */
export function dbDirPrefix(spc: number, db: number): KeyPrefix {
  return internPrefix(KEYSPACE_DATABASE, spc, db, 0, 0);
}

/** Pages of an SLRU segment; the index is the block in the segment. */
export function slruBlockPrefix(kind: number, segno: number): KeyPrefix {
  return internPrefix(KEYSPACE_SLRU, kind, 1, segno, 0);
}

/** An SLRU segment's size in blocks, at index 0; u32, little-endian. */
export function slruSizePrefix(kind: number, segno: number): KeyPrefix {
  return internPrefix(KEYSPACE_SLRU_SIZE, kind, segno, 0, 0);
}

/**
 * The mark that a compute has detached the subscriptions which timeline `timelineId` (32 hex digits)
 * began with. Branches inherit it as they do all keys, but each asks for its own.
 */
export function subscriptionsDetachedKey(timelineId: string): { prefix: KeyPrefix; index: number } {
  const word = (n: number) => Number.parseInt(timelineId.slice(n * 8, n * 8 + 8), 16);
  return {
    prefix: internPrefix(KEYSPACE_SUBSCRIPTIONS_DETACHED, word(0), word(1), word(2), 0),
    index: word(3),
  };
}
