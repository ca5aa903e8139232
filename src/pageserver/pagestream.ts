// Neon's pagestream protocol, version 3: requests and responses, both directions.
//
// Source: neondatabase/neon libs/pageserver_api/src/pagestream_api.rs. Big-endian; one CopyData a
// message.
//
// request:
//   offset size field
//        0    1 tag: 0 Exists, 1 Nblocks, 2 GetPage, 3 DbSize, 4 GetSlruSegment
//        1    8 reqid                 chosen by the client, comes back
//        9    8 request LSN           as of which to answer; 2^64-1 is the latest
//       17    8 not_modified_since    no change to what is asked after this, up to the request LSN
//       25    . what is asked:
//               Exists, Nblocks: u32 spc, u32 db, u32 rel, u8 fork
//               GetPage: the same, u32 blkno
//               DbSize: u32 db
//               GetSlruSegment: u8 kind, u32 segno
// response:
//        0    1 request's tag + 100, but 104 for DbSize, 105 for GetSlruSegment; 103 is an error
//        1    . the request's bytes from offset 1 (for an error only its header, [1, 25))
//        .    . answer: Exists u8; Nblocks u32; GetPage 8192 bytes; DbSize i64 bytes;
//               GetSlruSegment u32 pages, then the pages; error: text, NUL
// A response repeats the whole request, so a client sees a mix-up of answers. No checksum: TCP's.
// A reader that finds a wrong length or tag reports `corrupt` (client) or `invalid` (server).

import { type ErrorKind, HTTP_STATUS, StorageError } from "../base/errors.ts";
import { type Lsn, lsnFromBigInt, MAX_LSN, toLsn } from "../base/lsn.ts";
import { PAGE_SIZE } from "../postgres/page.ts";
import { type RelationFork, SLRU_COMMIT_TS, type SlruKind } from "../wal-decoder/record-sink.ts";

export const TAG_EXISTS = 0;
export const TAG_NBLOCKS = 1;
export const TAG_GET_PAGE = 2;
export const TAG_DB_SIZE = 3;
export const TAG_SLRU_SEGMENT = 4;
const RESPONSE_ERROR = 103;

/** By request tag. */
const RESPONSE_TAG: readonly number[] = [100, 101, 102, 104, 105];
const REQUEST_LENGTH: readonly number[] = [38, 38, 42, 29, 30];
export const GET_PAGE_LENGTH = REQUEST_LENGTH[TAG_GET_PAGE]!;
const HEADER_LENGTH = 25;
const MAX_FORK = 3;
const TWO_32 = 2 ** 32;
const KIND_PREFIX = /^\[([a-z-]+)\/([a-z0-9-]+)\] /;

/** A decoded request. One object is reused for all requests of a connection. */
export interface PagestreamRequest {
  tag: number;
  requestLsn: Lsn;
  notModifiedSince: Lsn;
  /** Exists, Nblocks, GetPage; `dbOid` also for DbSize. */
  spcOid: number;
  dbOid: number;
  relNumber: number;
  fork: number;
  /** GetPage. */
  blkno: number;
  /** GetSlruSegment. */
  slruKind: number;
  segno: number;
}

export function newPagestreamRequest(): PagestreamRequest {
  return {
    tag: 0,
    requestLsn: toLsn(0),
    notModifiedSince: toLsn(0),
    spcOid: 0,
    dbOid: 0,
    relNumber: 0,
    fork: 0,
    blkno: 0,
    slruKind: 0,
    segno: 0,
  };
}

function readU32(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at]! * 0x1000000 + (bytes[at + 1]! << 16) + (bytes[at + 2]! << 8) + bytes[at + 3]!) >>> 0
  );
}

function writeU32(bytes: Uint8Array, at: number, value: number): void {
  bytes[at] = value >>> 24;
  bytes[at + 1] = value >>> 16;
  bytes[at + 2] = value >>> 8;
  bytes[at + 3] = value;
}

/** 2^64-1 is MAX_LSN; any other value of 2^53 and above is no LSN of ours. */
function readLsn(bytes: Uint8Array, at: number): Lsn {
  const high = readU32(bytes, at);
  const low = readU32(bytes, at + 4);
  if (high < 0x200000) {
    return (high * TWO_32 + low) as Lsn;
  }
  if (high === 0xffffffff && low === 0xffffffff) {
    return MAX_LSN;
  }
  throw badRequest("LSN is out of range");
}

function writeLsn(bytes: Uint8Array, at: number, lsn: Lsn): void {
  if (lsn === MAX_LSN) {
    bytes.fill(0xff, at, at + 8);
    return;
  }
  writeU32(bytes, at, Math.floor(lsn / TWO_32));
  writeU32(bytes, at + 4, lsn % TWO_32);
}

function badRequest(why: string): StorageError {
  return new StorageError("invalid", "bad-pagestream-request", `bad pagestream request: ${why}`);
}

/** Fills `into`; StorageError `invalid` where `payload` is not a request. */
export function decodeRequest(payload: Uint8Array, into: PagestreamRequest): void {
  const tag = payload[0];
  if (tag === undefined || tag >= REQUEST_LENGTH.length) {
    throw badRequest(`unknown tag ${tag}`);
  }
  if (payload.length !== REQUEST_LENGTH[tag]) {
    throw badRequest(`tag ${tag} with ${payload.length} bytes, not ${REQUEST_LENGTH[tag]}`);
  }
  into.tag = tag;
  into.requestLsn = readLsn(payload, 9);
  into.notModifiedSince = readLsn(payload, 17);
  if (tag <= TAG_GET_PAGE) {
    into.spcOid = readU32(payload, 25);
    into.dbOid = readU32(payload, 29);
    into.relNumber = readU32(payload, 33);
    into.fork = payload[37]!;
    if (into.fork > MAX_FORK) {
      throw badRequest(`fork ${into.fork}`);
    }
    if (tag === TAG_GET_PAGE) {
      into.blkno = readU32(payload, 38);
    }
  } else if (tag === TAG_DB_SIZE) {
    into.dbOid = readU32(payload, 25);
  } else {
    into.slruKind = payload[25]!;
    into.segno = readU32(payload, 26);
    if (into.slruKind > SLRU_COMMIT_TS) {
      throw badRequest(`SLRU kind ${into.slruKind}`);
    }
  }
}

/** The request's id for logs and for matching: exact below 2^53. */
export function requestId(message: Uint8Array): number {
  return readU32(message, 1) * TWO_32 + readU32(message, 5);
}

/** What comes before the page; `into`: GET_PAGE_LENGTH bytes, which are returned. */
export function encodeGetPageHead(request: Uint8Array, into: Uint8Array): Uint8Array {
  into.set(request);
  into[0] = RESPONSE_TAG[TAG_GET_PAGE]!;
  return into;
}

/** A response's bytes before its number or SLRU pages. */
function encodeResponseHead(request: Uint8Array, extraBytes: number): Uint8Array {
  const head = Buffer.allocUnsafe(request.length + extraBytes);
  head.set(request);
  head[0] = RESPONSE_TAG[request[0]!]!;
  return head;
}

export function encodeExistsResponse(request: Uint8Array, exists: boolean): Uint8Array {
  const message = encodeResponseHead(request, 1);
  message[request.length] = exists ? 1 : 0;
  return message;
}

/** Also the head of a GetSlruSegment response, whose pages follow. */
export function encodeU32Response(request: Uint8Array, value: number): Uint8Array {
  const message = encodeResponseHead(request, 4);
  writeU32(message, request.length, value);
  return message;
}

export function encodeDbSizeResponse(request: Uint8Array, sizeBytes: number): Uint8Array {
  const message = encodeResponseHead(request, 8);
  writeU32(message, request.length, Math.floor(sizeBytes / TWO_32));
  writeU32(message, request.length + 4, sizeBytes % TWO_32);
  return message;
}

/**
 * The text carries our kind and code in front, `[not-found/no-relation] ...`, which other clients
 * just show. A request too short to have a header is answered with zeros.
 */
export function encodeErrorResponse(request: Uint8Array, error: unknown): Uint8Array {
  const label =
    error instanceof StorageError ? `[${error.kind}/${error.code}] ` : "[internal/internal] ";
  const text = Buffer.from(label + (error instanceof Error ? error.message : String(error)));
  const message = Buffer.alloc(HEADER_LENGTH + text.length + 1);
  message.set(request.subarray(0, HEADER_LENGTH));
  message[0] = RESPONSE_ERROR;
  message.set(text, HEADER_LENGTH);
  return message;
}

function encodeRequestHead(
  tag: number,
  reqid: number,
  requestLsn: Lsn,
  notModifiedSince: Lsn,
): Uint8Array {
  const message = Buffer.allocUnsafe(REQUEST_LENGTH[tag]!);
  message[0] = tag;
  writeU32(message, 1, Math.floor(reqid / TWO_32));
  writeU32(message, 5, reqid % TWO_32);
  writeLsn(message, 9, requestLsn);
  writeLsn(message, 17, notModifiedSince);
  return message;
}

/** `tag`: TAG_EXISTS, TAG_NBLOCKS or TAG_GET_PAGE (then with `blkno`). */
export function encodeRelRequest(
  tag: number,
  reqid: number,
  requestLsn: Lsn,
  notModifiedSince: Lsn,
  rel: RelationFork,
  blkno = 0,
): Uint8Array {
  const message = encodeRequestHead(tag, reqid, requestLsn, notModifiedSince);
  writeU32(message, 25, rel.spcOid);
  writeU32(message, 29, rel.dbOid);
  writeU32(message, 33, rel.relNumber);
  message[37] = rel.fork;
  if (tag === TAG_GET_PAGE) {
    writeU32(message, 38, blkno);
  }
  return message;
}

export function encodeDbSizeRequest(
  reqid: number,
  requestLsn: Lsn,
  notModifiedSince: Lsn,
  dbOid: number,
): Uint8Array {
  const message = encodeRequestHead(TAG_DB_SIZE, reqid, requestLsn, notModifiedSince);
  writeU32(message, 25, dbOid);
  return message;
}

export function encodeSlruRequest(
  reqid: number,
  requestLsn: Lsn,
  notModifiedSince: Lsn,
  kind: SlruKind,
  segno: number,
): Uint8Array {
  const message = encodeRequestHead(TAG_SLRU_SEGMENT, reqid, requestLsn, notModifiedSince);
  message[25] = kind;
  writeU32(message, 26, segno);
  return message;
}

/** What a response brings: a number (Exists 0/1, Nblocks, DbSize) or bytes (page, SLRU pages). */
export type PagestreamAnswer = number | Uint8Array;

/** StorageError: what the server reported, or `corrupt` where the message is not an answer to `request`. */
function checkResponse(request: Uint8Array, response: Uint8Array): void {
  if (response[0] === RESPONSE_ERROR) {
    throw decodeError(response);
  }
  const tag = request[0]!;
  const at = request.length;
  if (response[0] !== RESPONSE_TAG[tag] || response.length < at) {
    throw badResponse(`tag ${response[0]}, ${response.length} bytes for request tag ${tag}`);
  }
  for (let index = 1; index < at; index++) {
    if (response[index] !== request[index]) {
      throw badResponse(`it repeats another request (byte ${index})`);
    }
  }
}

/** Checks a GetPage response as `decodeResponse` and copies its page to `into[at...]`. */
export function decodePage(
  request: Uint8Array,
  response: Uint8Array,
  into: Uint8Array,
  at: number,
): void {
  checkResponse(request, response);
  checkLength(response.length - GET_PAGE_LENGTH, PAGE_SIZE);
  into.set(response.subarray(GET_PAGE_LENGTH), at);
}

/** Checks a response against the request it is for, as `checkResponse`. Returned bytes are a copy. */
export function decodeResponse(request: Uint8Array, response: Uint8Array): PagestreamAnswer {
  checkResponse(request, response);
  const tag = request[0]!;
  const at = request.length;
  const length = response.length - at;
  switch (tag) {
    case TAG_GET_PAGE:
      checkLength(length, PAGE_SIZE);
      return copyFrom(response, at);
    case TAG_EXISTS:
      checkLength(length, 1);
      return response[at]!;
    case TAG_NBLOCKS:
      checkLength(length, 4);
      return readU32(response, at);
    case TAG_DB_SIZE:
      checkLength(length, 8);
      return Number(
        lsnFromBigInt(new DataView(response.buffer, response.byteOffset + at, 8).getBigUint64(0)),
      );
    default: {
      if (length < 4) {
        throw badResponse(`${length} bytes`);
      }
      checkLength(length - 4, readU32(response, at) * PAGE_SIZE);
      return copyFrom(response, at + 4);
    }
  }
}

/** `slice` of a Buffer is no copy. */
function copyFrom(bytes: Uint8Array, at: number): Uint8Array {
  return new Uint8Array(bytes.subarray(at));
}

function checkLength(got: number, wanted: number): void {
  if (got !== wanted) {
    throw badResponse(`${got} bytes, not ${wanted}`);
  }
}

function badResponse(why: string): StorageError {
  return new StorageError("corrupt", "bad-pagestream-response", `bad pagestream response: ${why}`);
}

function decodeError(response: Uint8Array): StorageError {
  const end = response.at(-1) === 0 ? response.length - 1 : response.length;
  const text = Buffer.from(response.subarray(Math.min(HEADER_LENGTH, end), end)).toString("utf8");
  const label = KIND_PREFIX.exec(text);
  if (label !== null && Object.hasOwn(HTTP_STATUS, label[1]!)) {
    return new StorageError(label[1] as ErrorKind, label[2]!, text.slice(label[0].length));
  }
  return new StorageError("internal", "pageserver-error", text);
}
