// The messages between the shim, inside Postgres's processes, and the compute agent.

import { StorageError } from "../../base/errors.ts";
import {
  INIT_FORK,
  isTablespaceOf,
  RELATION_SEGMENT_BLOCKS,
  type SlruPath,
  type StorageDirectory,
  type StorageFile,
} from "../../postgres/relation-path.ts";

/*
 * Ours, version 4; the layouts and the meaning of the fields are drawn in library/protocol.h.
 *
 * A message that breaks this ends its connection: the peer is not our shim, or another version of it.
 */
const SHIM_PROTOCOL_VERSION = 4;
const REQUEST_BYTES = 48;
export const REPLY_HEADER_BYTES = 16;
const LISTED_BYTES = 24;
const PLACED_BYTES = 32;
const NO_SUCH_FILE = 2n ** 64n - 1n;
const NOTHING = new Uint8Array(0);
const KIND_NONE = 0;
const KIND_RELATION = 1;
const KIND_SLRU = 2;
const MAX_SLRU = 3;
/** Both sides keep fork and segment of a relation in 32 bits. */
const MAX_RELATION_SEGMENT = 2 ** 29 - 1;
/** Seven hex digits. */
const MAX_SLRU_SEGMENT = 2 ** 28 - 1;
/** wal_segment_size is 1 MB to 1 GB. */
const LEAST_WAL_SEGMENT = 2 ** 20;
const MAX_WAL_OFFSET = 2 ** 30;
/** library/protocol.h: MAX_PAGES. */
export const MAX_PAGES_PER_REQUEST = 32;

/** With ABSENT, of a stat: storage has no fork and no segment of the relation. */
const NO_FILE_OF_RELATION = 1;
export const STATUS_OK = 0;
export const STATUS_ABSENT = 1;
export const STATUS_ERROR = 2;
export const STATUS_FENCED = 3;

export type ShimRequest =
  /** `pid`: the postmaster, before anything else it does. */
  | { readonly type: "hello"; readonly pid: number }
  | { readonly type: "stat"; readonly file: StorageFile }
  | {
      readonly type: "read";
      readonly file: StorageFile;
      readonly blkno: number;
      readonly count: number;
    }
  | {
      readonly type: "prefetch";
      readonly file: StorageFile;
      readonly blkno: number;
      readonly count: number;
    }
  | {
      readonly type: "compare";
      readonly file: StorageFile;
      readonly blkno: number;
      /** Bit i: block `blkno` + i. */
      readonly blocks: number;
    }
  | { readonly type: "list"; readonly directory: StorageDirectory }
  | {
      readonly type: "wal-written";
      readonly segno: number;
      readonly offset: number;
      readonly length: number;
    }
  | { readonly type: "flush-wal"; readonly segno: number; readonly endOffset: number }
  | { readonly type: "old-wal"; readonly segno: number };

const HELLO = "H".charCodeAt(0);
const STAT = "S".charCodeAt(0);
const READ = "G".charCodeAt(0);
const COMPARE = "C".charCodeAt(0);
const LIST = "L".charCodeAt(0);
const PREFETCH = "P".charCodeAt(0);
const WAL_WRITTEN = "W".charCodeAt(0);
const FLUSH_WAL = "F".charCodeAt(0);
const OLD_WAL = "O".charCodeAt(0);

const TYPE_CODE: Readonly<Record<ShimRequest["type"], number>> = {
  hello: HELLO,
  stat: STAT,
  read: READ,
  compare: COMPARE,
  list: LIST,
  prefetch: PREFETCH,
  "wal-written": WAL_WRITTEN,
  "flush-wal": FLUSH_WAL,
  "old-wal": OLD_WAL,
};

function malformed(why: string): StorageError {
  return new StorageError("corrupt", "bad-shim-message", `message of the shim: ${why}`);
}

/** Cuts a byte stream into requests, whatever the chunks. One a connection. */
export class ShimRequestReader {
  #rest: Uint8Array = NOTHING;

  /** The requests that `chunk` completes, mostly one; StorageError `corrupt` on anything malformed. */
  feed(chunk: Uint8Array): ShimRequest[] {
    const requests: ShimRequest[] = [];
    let bytes = chunk;
    if (this.#rest.length > 0) {
      bytes = new Uint8Array(this.#rest.length + chunk.length);
      bytes.set(this.#rest);
      bytes.set(chunk, this.#rest.length);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (bytes.length - at >= REQUEST_BYTES) {
      requests.push(decodeRequest(view, at));
      at += REQUEST_BYTES;
    }
    this.#rest = at === bytes.length ? NOTHING : new Uint8Array(bytes.subarray(at));
    return requests;
  }
}

function decodeRequest(view: DataView, at: number): ShimRequest {
  const length = view.getUint32(at, true);
  const type = view.getUint8(at + 4);
  const version = view.getUint8(at + 5);
  if (length !== REQUEST_BYTES || version !== SHIM_PROTOCOL_VERSION) {
    throw malformed(
      `${length} bytes of version ${version}, not ${REQUEST_BYTES} of ${SHIM_PROTOCOL_VERSION}`,
    );
  }
  if (view.getUint32(at + 24, true) + view.getUint32(at + 28, true) !== 0) {
    throw malformed("an LSN, where the agent decides as of which a page is");
  }
  const a = view.getUint32(at + 32, true) + view.getUint32(at + 36, true) * 2 ** 32;
  const b = view.getUint32(at + 40, true);
  const c = view.getUint32(at + 44, true);
  switch (type) {
    case HELLO:
      requireNoKey(view, at);
      return { type: "hello", pid: a };
    case STAT:
      return { type: "stat", file: decodeFile(view, at) };
    case READ:
      if (c === 0 || c > MAX_PAGES_PER_REQUEST || b + c > RELATION_SEGMENT_BLOCKS) {
        throw malformed(`${c} pages asked at once, from block ${b} on`);
      }
      return { type: "read", file: decodeFile(view, at), blkno: b, count: c };
    case COMPARE:
      if (c === 0 || c > MAX_PAGES_PER_REQUEST || b + c > RELATION_SEGMENT_BLOCKS || a >= 2 ** c) {
        throw malformed(`${c} blocks compared at once, from block ${b} on`);
      }
      return { type: "compare", file: decodeFile(view, at), blkno: b, blocks: a };
    case LIST:
      return { type: "list", directory: decodeDirectory(view, at) };
    case PREFETCH:
      if (b + c > RELATION_SEGMENT_BLOCKS) {
        throw malformed(`${c} pages announced, from block ${b} on`);
      }
      return { type: "prefetch", file: decodeFile(view, at), blkno: b, count: c };
    case WAL_WRITTEN:
    case FLUSH_WAL:
    case OLD_WAL:
      requireNoKey(view, at);
      if (!Number.isSafeInteger(a * LEAST_WAL_SEGMENT) || b + c > MAX_WAL_OFFSET) {
        throw malformed(`WAL of segment ${a} from ${b} to ${b + c}`);
      }
      return type === FLUSH_WAL
        ? { type: "flush-wal", segno: a, endOffset: b }
        : type === OLD_WAL
          ? { type: "old-wal", segno: a }
          : { type: "wal-written", segno: a, offset: b, length: c };
    default:
      throw malformed(`unknown type ${type}`);
  }
}

function decodeKey(view: DataView, at: number) {
  return {
    kind: view.getUint8(at + 6),
    fork: view.getUint8(at + 7),
    spcOid: view.getUint32(at + 8, true),
    dbOid: view.getUint32(at + 12, true),
    relNumber: view.getUint32(at + 16, true),
    segment: view.getUint32(at + 20, true),
  };
}

function decodeFile(view: DataView, at: number): StorageFile {
  const { kind, fork, spcOid, dbOid, relNumber, segment } = decodeKey(view, at);
  if (
    kind === KIND_RELATION &&
    isTablespaceOf(spcOid, dbOid) &&
    relNumber > 0 &&
    fork <= INIT_FORK &&
    segment <= MAX_RELATION_SEGMENT
  ) {
    return { kind: "relation", spcOid, dbOid, relNumber, fork, segment };
  }
  if (
    kind === KIND_SLRU &&
    relNumber <= MAX_SLRU &&
    segment <= MAX_SLRU_SEGMENT &&
    spcOid + dbOid + fork === 0
  ) {
    return { kind: "slru", slru: relNumber as SlruPath["slru"], segment };
  }
  throw malformed(
    `no file of storage: kind ${kind}, ${spcOid}/${dbOid}/${relNumber}, fork ${fork}, segment ${segment}`,
  );
}

function decodeDirectory(view: DataView, at: number): StorageDirectory {
  const { kind, fork, spcOid, dbOid, relNumber, segment } = decodeKey(view, at);
  if (kind === KIND_RELATION && isTablespaceOf(spcOid, dbOid) && relNumber + fork + segment === 0) {
    return { kind: "relation", spcOid, dbOid };
  }
  if (kind === KIND_SLRU && relNumber <= MAX_SLRU && spcOid + dbOid + fork + segment === 0) {
    return { kind: "slru", slru: relNumber as SlruPath["slru"] };
  }
  throw malformed(`no directory of storage: kind ${kind}, ${spcOid}/${dbOid}/${relNumber}`);
}

function requireNoKey(view: DataView, at: number): void {
  const { kind, fork, spcOid, dbOid, relNumber, segment } = decodeKey(view, at);
  if (kind !== KIND_NONE || fork + spcOid + dbOid + relNumber + segment !== 0) {
    throw malformed(`a file, kind ${kind}, where none belongs`);
  }
}

/** The fields of a file or directory, where a request has them. */
function encodeKey(of: StorageFile | StorageDirectory) {
  const [fork, segment] = ["fork" in of ? of.fork : 0, "segment" in of ? of.segment : 0];
  return of.kind === "slru"
    ? { kind: KIND_SLRU, fork, spcOid: 0, dbOid: 0, relNumber: of.slru, segment }
    : {
        kind: KIND_RELATION,
        fork,
        spcOid: of.spcOid,
        dbOid: of.dbOid,
        relNumber: "relNumber" in of ? of.relNumber : 0,
        segment,
      };
}

/** The 16 bytes in front of `payloadBytes` of payload. */
export function encodeReplyHeader(
  type: ShimRequest["type"],
  status: number,
  a = 0,
  payloadBytes = 0,
): Uint8Array {
  const header = new Uint8Array(REPLY_HEADER_BYTES);
  const view = new DataView(header.buffer);
  view.setUint32(0, REPLY_HEADER_BYTES + payloadBytes, true);
  view.setUint8(4, status);
  view.setUint8(5, TYPE_CODE[type]);
  view.setUint32(8, a % 2 ** 32, true);
  view.setUint32(12, Math.floor(a / 2 ** 32), true);
  return header;
}

/** Puts pages and what comes in front of them into `into`; how many bytes that are. */
export function putPagesReply(into: Uint8Array, pages: readonly Uint8Array[]): number {
  let at = REPLY_HEADER_BYTES;
  for (const part of pages) {
    into.set(part, at);
    at += part.length;
  }
  into.set(encodeReplyHeader("read", STATUS_OK, 0, at - REPLY_HEADER_BYTES));
  return at;
}

/**
 * What else storage lacks of a relation's file that it does not have: all of that relation, or all relations of its directory with
 * this number (1 to 2^32 - 1) or a higher one.
 */
export type AlsoLacking = "relation" | number;

/** Of a stat whose file storage does not have. */
export function encodeAbsent(also?: AlsoLacking): Uint8Array {
  const isMore = also !== undefined;
  const header = encodeReplyHeader("stat", STATUS_ABSENT, isMore ? NO_FILE_OF_RELATION : 0);
  if (typeof also === "number") {
    new DataView(header.buffer).setUint32(12, also, true);
  }
  return header;
}

/** A file that storage has in a directory. `bytes`: its size, a multiple of 8192. */
export interface ListedFile {
  readonly file: StorageFile;
  readonly bytes: number;
}

export function encodeListing(files: readonly ListedFile[]): Uint8Array {
  const payload = Buffer.alloc(LISTED_BYTES * files.length);
  files.forEach(({ file, bytes }, i) => {
    const { fork, relNumber, segment } = encodeKey(file);
    const at = LISTED_BYTES * i;
    payload.writeUInt32LE(file.kind === "slru" ? 0 : relNumber, at);
    payload.writeUInt32LE(segment, at + 4);
    payload.writeUInt8(fork, at + 8);
    payload.writeBigUInt64LE(BigInt(bytes), at + 16);
  });
  return payload;
}

/** A file of storage that has been put into the data directory before Postgres runs. */
export interface PlacedFile {
  readonly file: StorageFile;
  /** A multiple of 8192; undefined where storage has no such file. */
  readonly bytes: number | undefined;
  /** Which blocks are in it, as (first, count); ascending and apart. */
  readonly runs: readonly (readonly [first: number, count: number])[];
}

/** What `hello` is answered with, header and all. */
export function encodeHelloReply(files: readonly PlacedFile[]): Uint8Array[] {
  const parts = files.map(({ file, bytes, runs }) => {
    const { kind, fork, spcOid, dbOid, relNumber, segment } = encodeKey(file);
    const entry = Buffer.alloc(PLACED_BYTES + 8 * runs.length);
    entry.writeUInt8(kind, 0);
    entry.writeUInt8(fork, 1);
    entry.writeUInt16LE(runs.length, 2);
    [spcOid, dbOid, relNumber, segment].forEach((value, i) => {
      entry.writeUInt32LE(value, 4 + 4 * i);
    });
    entry.writeBigUInt64LE(bytes === undefined ? NO_SUCH_FILE : BigInt(bytes), 24);
    runs.flat().forEach((block, i) => {
      entry.writeUInt32LE(block, PLACED_BYTES + 4 * i);
    });
    return entry;
  });
  const payload = Buffer.concat(parts);
  return [encodeReplyHeader("hello", STATUS_OK, files.length, payload.length), payload];
}

/** For tests and measurements: a request as the shim sends it. */
export function encodeRequest(
  type: ShimRequest["type"],
  fields: { of?: StorageFile | StorageDirectory; a?: number; b?: number; c?: number } = {},
): Uint8Array {
  const message = new Uint8Array(REQUEST_BYTES);
  const view = new DataView(message.buffer);
  view.setUint32(0, REQUEST_BYTES, true);
  view.setUint8(4, TYPE_CODE[type]);
  view.setUint8(5, SHIM_PROTOCOL_VERSION);
  if (fields.of !== undefined) {
    const { kind, fork, spcOid, dbOid, relNumber, segment } = encodeKey(fields.of);
    view.setUint8(6, kind);
    view.setUint8(7, fork);
    [spcOid, dbOid, relNumber, segment].forEach((value, i) => {
      view.setUint32(8 + 4 * i, value, true);
    });
  }
  view.setBigUint64(32, BigInt(fields.a ?? 0), true);
  view.setUint32(40, fields.b ?? 0, true);
  view.setUint32(44, fields.c ?? 0, true);
  return message;
}
