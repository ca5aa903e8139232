// Tests of the pagestream codec: layout, round trips, and what it makes of garbage.

import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../base/errors.ts";
import { type Lsn, MAX_LSN, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import {
  decodePage,
  decodeRequest,
  decodeResponse,
  encodeDbSizeRequest,
  encodeDbSizeResponse,
  encodeErrorResponse,
  encodeExistsResponse,
  encodeGetPageHead,
  encodeRelRequest,
  encodeSlruRequest,
  encodeU32Response,
  GET_PAGE_LENGTH,
  newPagestreamRequest,
  requestId,
  TAG_DB_SIZE,
  TAG_EXISTS,
  TAG_GET_PAGE,
  TAG_NBLOCKS,
  TAG_SLRU_SEGMENT,
} from "./pagestream.ts";

const REL = { spcOid: 1663, dbOid: 5, relNumber: 0x87654321, fork: 2 };
const LSN = toLsn(0x12_3456_7890);
const BEFORE = toLsn(0x12_3456_7880);

test("GetPage request has Neon's bytes", () => {
  const message = encodeRelRequest(TAG_GET_PAGE, 2 ** 33 + 7, LSN, BEFORE, REL, 0xfedcba98);
  assert.equal(
    Buffer.from(message).toString("hex"),
    "02" +
      "0000000200000007" +
      "0000001234567890" +
      "0000001234567880" +
      "0000067f" +
      "00000005" +
      "87654321" +
      "02" +
      "fedcba98",
  );
  const request = newPagestreamRequest();
  decodeRequest(message, request);
  assert.deepEqual(
    { ...request },
    {
      ...newPagestreamRequest(),
      ...REL,
      tag: TAG_GET_PAGE,
      requestLsn: LSN,
      notModifiedSince: BEFORE,
      blkno: 0xfedcba98,
    },
  );
  assert.equal(requestId(message), 2 ** 33 + 7);
});

test("every kind of request and response goes there and back", () => {
  const exists = encodeRelRequest(TAG_EXISTS, 1, MAX_LSN, BEFORE, REL);
  const request = newPagestreamRequest();
  decodeRequest(exists, request);
  assert.equal(request.requestLsn, MAX_LSN);
  assert.equal(decodeResponse(exists, encodeExistsResponse(exists, true)), 1);

  const nblocks = encodeRelRequest(TAG_NBLOCKS, 2, LSN, LSN, REL);
  assert.equal(decodeResponse(nblocks, encodeU32Response(nblocks, 0xfffffffe)), 0xfffffffe);

  const dbSize = encodeDbSizeRequest(3, LSN, LSN, 16384);
  decodeRequest(dbSize, request);
  assert.equal(request.tag, TAG_DB_SIZE);
  assert.equal(request.dbOid, 16384);
  assert.equal(decodeResponse(dbSize, encodeDbSizeResponse(dbSize, 2 ** 45 + 3)), 2 ** 45 + 3);

  const slru = encodeSlruRequest(4, LSN, LSN, 2, 0x10001);
  decodeRequest(slru, request);
  assert.equal(request.tag, TAG_SLRU_SEGMENT);
  assert.equal(request.slruKind, 2);
  assert.equal(request.segno, 0x10001);
  const pages = new Uint8Array(2 * 8192).fill(7);
  const slruResponse = Buffer.concat([encodeU32Response(slru, 2), pages]);
  const segment = decodeResponse(slru, slruResponse);
  slruResponse.fill(0);
  assert.deepEqual(segment, pages);

  const getPage = encodeRelRequest(TAG_GET_PAGE, 5, LSN, LSN, REL, 9);
  const page = new Uint8Array(8192).fill(3);
  const response = Buffer.concat([getPageHead(getPage), page]);
  const run = new Uint8Array(3 * 8192);
  decodePage(getPage, response, run, 8192);
  assert.deepEqual(run.subarray(8192, 2 * 8192), page);
  assert.ok(run.every((byte, at) => byte === 0 || (at >= 8192 && at < 2 * 8192)));
  const copy = decodeResponse(getPage, response);
  response.fill(0);
  assert.deepEqual(copy, page, "of the caller's own");
});

test("an error keeps its kind and code", () => {
  const request = encodeRelRequest(TAG_NBLOCKS, 6, LSN, LSN, REL);
  const response = encodeErrorResponse(
    request,
    new StorageError("not-found", "no-relation", "relation 1 does not exist"),
  );
  assert.equal(requestId(response), 6);
  assert.throws(() => decodeResponse(request, response), {
    kind: "not-found",
    code: "no-relation",
    message: "relation 1 does not exist",
  });
  assert.throws(
    () => decodeResponse(request, encodeErrorResponse(request, new Error("[odd/x] oops"))),
    { kind: "internal" },
  );
  assert.equal(encodeErrorResponse(new Uint8Array([9]), new Error("x"))[0], 103);
});

test("decodeResponse refuses an answer to another request", () => {
  const mine = encodeRelRequest(TAG_GET_PAGE, 5, LSN, LSN, REL, 9);
  const other = encodeRelRequest(TAG_GET_PAGE, 5, LSN, LSN, REL, 10);
  const response = Buffer.concat([getPageHead(other), new Uint8Array(8192)]);
  assert.throws(() => decodeResponse(mine, response), { kind: "corrupt" });
  const short = Buffer.concat([getPageHead(mine), new Uint8Array(8191)]);
  assert.throws(() => decodeResponse(mine, short), { kind: "corrupt" });
});

test("decodeRequest refuses wrong tags, lengths, forks, kinds and LSNs", () => {
  const request = newPagestreamRequest();
  const good = encodeRelRequest(TAG_GET_PAGE, 5, LSN, LSN, REL, 9);
  const edited = (at: number, value: number) => {
    const copy = Uint8Array.from(good);
    copy[at] = value;
    return copy;
  };
  const bad = [
    new Uint8Array(0),
    good.subarray(0, 41),
    Buffer.concat([good, new Uint8Array(1)]),
    edited(0, 5),
    edited(37, 4),
    edited(9, 0x80),
    (() => {
      const slru = encodeSlruRequest(1, LSN, LSN, 0, 1);
      slru[25] = 4;
      return slru;
    })(),
  ];
  for (const payload of bad) {
    assert.throws(() => decodeRequest(payload, request), { kind: "invalid" });
  }
});

test("random bytes are refused by kind, never by another exception", () => {
  const random = new SeededRandom(42);
  const request = newPagestreamRequest();
  const mine = encodeRelRequest(TAG_GET_PAGE, 5, LSN, 8 as Lsn, REL, 9);
  for (let i = 0; i < 20_000; i++) {
    const bytes = Uint8Array.from({ length: random.int(60) }, () => random.int(256));
    if (bytes.length > 0 && random.bool()) {
      bytes[0] = random.bool() ? random.int(6) : 100 + random.int(6);
    }
    for (const decode of [() => decodeRequest(bytes, request), () => decodeResponse(mine, bytes)]) {
      try {
        decode();
      } catch (error) {
        assert.ok(error instanceof StorageError, String(error));
      }
    }
  }
});

function getPageHead(request: Uint8Array): Uint8Array {
  return encodeGetPageHead(request, new Uint8Array(GET_PAGE_LENGTH));
}
