// The messages between strata_shim.c, inside Postgres's processes, and the compute agent.

import { StorageError } from "../../base/errors.ts";

/*
 * Ours, version 2; the other side and the meaning of the fields are drawn in shim/strata_shim.c.
 * Little-endian, over a unix stream socket, one connection a Postgres process.
 *
 * request: 0 u32 length of all | 4 u8 type | 5 u8 version | 6 u16 path length
 *          8 u64 a | 16 u32 b | 20 u32 c | 24 path
 * reply:   0 u32 length of all | 4 u8 status | 5 u8 type | 6 u16 0 | 8 u64 a | 16 payload
 * entry of a list reply: 0 u64 bytes | 8 u16 name length | 10 name
 * entry of a hello reply: 0 u64 bytes, 2^64 - 1 = no such file | 8 u16 path length | 10 u16 runs
 *                         12 path | per run: u32 first block, u32 blocks
 *
 * A message that breaks this ends its connection: the peer is not our shim, or another version of it.
 */
export const SHIM_PROTOCOL_VERSION = 2;
const REQUEST_HEADER_BYTES = 24;
const REPLY_HEADER_BYTES = 16;
/** strata_shim.c: MAX_PATH, with its closing NUL. */
const MAX_PATH_BYTES = 63;
/** strata_shim.c: MAX_PAGES. */
export const MAX_PAGES_PER_REQUEST = 32;
export const SHIM_PAGE_BYTES = 8192;

export const STATUS_OK = 0;
export const STATUS_ABSENT = 1;
export const STATUS_ERROR = 2;
export const STATUS_FENCED = 3;

export type ShimRequest =
  /** `pid`: the postmaster, before anything else it does. */
  | { readonly type: "hello"; readonly pid: number }
  | { readonly type: "stat"; readonly path: string }
  | {
      readonly type: "read";
      readonly path: string;
      readonly blkno: number;
      readonly count: number;
    }
  | {
      readonly type: "prefetch";
      readonly path: string;
      readonly blkno: number;
      readonly count: number;
    }
  | { readonly type: "list"; readonly path: string }
  | {
      readonly type: "wal-written";
      readonly segno: number;
      readonly offset: number;
      readonly length: number;
    }
  | { readonly type: "flush-wal"; readonly segno: number; readonly endOffset: number };

const HELLO = "H".charCodeAt(0);
const STAT = "S".charCodeAt(0);
const READ = "G".charCodeAt(0);
const LIST = "L".charCodeAt(0);
const PREFETCH = "P".charCodeAt(0);
const WAL_WRITTEN = "W".charCodeAt(0);
const FLUSH_WAL = "F".charCodeAt(0);

const TYPE_CODE: Readonly<Record<ShimRequest["type"], number>> = {
  hello: HELLO,
  stat: STAT,
  read: READ,
  list: LIST,
  prefetch: PREFETCH,
  "wal-written": WAL_WRITTEN,
  "flush-wal": FLUSH_WAL,
};

function malformed(why: string): StorageError {
  return new StorageError("corrupt", "bad-shim-message", `message of the shim: ${why}`);
}

/** Cuts a byte stream into requests, whatever the chunks. One a connection. */
export class ShimRequestReader {
  #rest: Uint8Array = new Uint8Array(0);

  /** The requests that `chunk` completes; StorageError `corrupt` on anything malformed. */
  *feed(chunk: Uint8Array): Generator<ShimRequest> {
    let bytes = chunk;
    if (this.#rest.length > 0) {
      bytes = new Uint8Array(this.#rest.length + chunk.length);
      bytes.set(this.#rest);
      bytes.set(chunk, this.#rest.length);
    }
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let at = 0;
    while (bytes.length - at >= REQUEST_HEADER_BYTES) {
      const length = view.getUint32(at, true);
      if (length < REQUEST_HEADER_BYTES || length > REQUEST_HEADER_BYTES + MAX_PATH_BYTES) {
        throw malformed(`length ${length}`);
      }
      if (bytes.length - at < length) {
        break;
      }
      yield decodeRequest(bytes, view, at, length);
      at += length;
    }
    this.#rest = bytes.slice(at);
  }
}

function decodeRequest(bytes: Uint8Array, view: DataView, at: number, length: number): ShimRequest {
  const type = view.getUint8(at + 4);
  const version = view.getUint8(at + 5);
  const pathLength = view.getUint16(at + 6, true);
  if (version !== SHIM_PROTOCOL_VERSION) {
    throw malformed(`protocol version ${version}, not ${SHIM_PROTOCOL_VERSION}`);
  }
  if (pathLength !== length - REQUEST_HEADER_BYTES) {
    throw malformed(`path length ${pathLength} in a message of ${length} bytes`);
  }
  const a = view.getUint32(at + 8, true) + view.getUint32(at + 12, true) * 2 ** 32;
  const b = view.getUint32(at + 16, true);
  const c = view.getUint32(at + 20, true);
  const pathAt = bytes.byteOffset + at + REQUEST_HEADER_BYTES;
  const path = Buffer.from(bytes.buffer, pathAt, pathLength).toString("latin1");
  switch (type) {
    case HELLO:
      return { type: "hello", pid: a };
    case STAT:
      return { type: "stat", path };
    case READ:
      if (c === 0 || c > MAX_PAGES_PER_REQUEST) {
        throw malformed(`${c} pages asked at once`);
      }
      return { type: "read", path, blkno: b, count: c };
    case LIST:
      return { type: "list", path };
    case PREFETCH:
      return { type: "prefetch", path, blkno: b, count: c };
    case WAL_WRITTEN:
      return { type: "wal-written", segno: a, offset: b, length: c };
    case FLUSH_WAL:
      return { type: "flush-wal", segno: a, endOffset: b };
    default:
      throw malformed(`unknown type ${type}`);
  }
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

/** A file that storage has in a directory. `bytes`: its size, a multiple of 8192. */
export interface RemoteFile {
  readonly name: string;
  readonly bytes: number;
}

export function encodeListing(files: readonly RemoteFile[]): Uint8Array {
  const length = files.reduce((sum, file) => sum + 10 + file.name.length, 0);
  const payload = Buffer.alloc(length);
  const view = new DataView(payload.buffer, payload.byteOffset, payload.byteLength);
  let at = 0;
  for (const { name, bytes } of files) {
    view.setUint32(at, bytes % 2 ** 32, true);
    view.setUint32(at + 4, Math.floor(bytes / 2 ** 32), true);
    view.setUint16(at + 8, name.length, true);
    payload.write(name, at + 10, "latin1");
    at += 10 + name.length;
  }
  return payload;
}

/** A file of storage that has been put into the data directory before Postgres runs. */
export interface PlacedFile {
  readonly path: string;
  /** A multiple of 8192; undefined where storage has no such file. */
  readonly bytes: number | undefined;
  /** Which blocks are in it, as (first, count); ascending and apart. */
  readonly runs: readonly (readonly [first: number, count: number])[];
}

/** What `hello` is answered with, header and all. */
export function encodeHelloReply(files: readonly PlacedFile[]): Uint8Array[] {
  const parts = files.map(({ path, bytes, runs }) => {
    const entry = Buffer.alloc(12 + path.length + 8 * runs.length);
    entry.writeBigUInt64LE(bytes === undefined ? 2n ** 64n - 1n : BigInt(bytes));
    entry.writeUInt16LE(path.length, 8);
    entry.writeUInt16LE(runs.length, 10);
    entry.write(path, 12, "latin1");
    runs.flat().forEach((block, at) => {
      entry.writeUInt32LE(block, 12 + path.length + 4 * at);
    });
    return entry;
  });
  const payload = Buffer.concat(parts);
  return [encodeReplyHeader("hello", STATUS_OK, files.length, payload.length), payload];
}

/** For tests and measurements: a request as the shim sends it. */
export function encodeRequest(
  type: ShimRequest["type"],
  fields: { path?: string; a?: number; b?: number; c?: number } = {},
): Uint8Array {
  const path = Buffer.from(fields.path ?? "", "latin1");
  const message = new Uint8Array(REQUEST_HEADER_BYTES + path.length);
  const view = new DataView(message.buffer);
  const a = fields.a ?? 0;
  view.setUint32(0, message.length, true);
  view.setUint8(4, TYPE_CODE[type]);
  view.setUint8(5, SHIM_PROTOCOL_VERSION);
  view.setUint16(6, path.length, true);
  view.setUint32(8, a % 2 ** 32, true);
  view.setUint32(12, Math.floor(a / 2 ** 32), true);
  view.setUint32(16, fields.b ?? 0, true);
  view.setUint32(20, fields.c ?? 0, true);
  message.set(path, REQUEST_HEADER_BYTES);
  return message;
}
