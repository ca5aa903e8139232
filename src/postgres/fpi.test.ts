import assert from "node:assert/strict";
import { test } from "node:test";
import { zstdCompressSync } from "node:zlib";
import { recordWithBlocks } from "../../testing/redo/record-bytes.ts";
import { toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { decompressLz4Block } from "./compression/lz4.ts";
import { decompressPglz } from "./compression/pglz.ts";
import { restoreImage, stampLsn } from "./fpi.ts";
import { XLOG_FPI } from "./opcodes.ts";
import { PAGE_SIZE, pageLsn } from "./page.ts";
import { RM_XLOG_ID } from "./rmgr.ts";
import { PG_VERSIONS } from "./versions.ts";
import { XLogRecord } from "./xlog-record.ts";

const HOLE_OFFSET = 300;
const HOLE_LENGTH = 5000;

/** A page with a hole and content that compresses. */
function pageWithHole(): Uint8Array {
  const random = new SeededRandom(4);
  const page = Uint8Array.from({ length: PAGE_SIZE }, (_, i) => (i % 7 === 0 ? random.int(8) : 65));
  return page.fill(0, HOLE_OFFSET, HOLE_OFFSET + HOLE_LENGTH);
}

function withoutHole(page: Uint8Array): Uint8Array {
  return Buffer.concat([page.subarray(0, HOLE_OFFSET), page.subarray(HOLE_OFFSET + HOLE_LENGTH)]);
}

/** Greedy and slow; enough to make valid blocks. Literals only where nothing repeats. */
function findMatch(source: Uint8Array, at: number, minimum: number, maximum: number) {
  let best = { length: 0, distance: 0 };
  for (let distance = 1; distance <= Math.min(at, 4000); distance++) {
    let length = 0;
    while (
      length < maximum &&
      at + length < source.length &&
      source[at + length] === source[at + length - distance]
    ) {
      length++;
    }
    if (length > best.length) {
      best = { length, distance };
    }
  }
  return best.length >= minimum ? best : undefined;
}

function compressPglz(source: Uint8Array): Uint8Array {
  const out: number[] = [];
  let at = 0;
  while (at < source.length) {
    const control = out.push(0) - 1;
    for (let item = 0; item < 8 && at < source.length; item++) {
      const match = findMatch(source, at, 3, 273);
      if (match === undefined) {
        out.push(source[at++]!);
        continue;
      }
      out[control]! |= 1 << item;
      const nibble = Math.min(match.length - 3, 15);
      out.push(((match.distance >> 4) & 0xf0) | nibble, match.distance & 0xff);
      if (nibble === 15) {
        out.push(match.length - 18);
      }
      at += match.length;
    }
  }
  return Uint8Array.from(out);
}

function compressLz4(source: Uint8Array): Uint8Array {
  const out: number[] = [];
  const extended = (value: number) => {
    let rest = value - 15;
    for (; rest >= 255; rest -= 255) {
      out.push(255);
    }
    out.push(rest);
  };
  const sequence = (from: number, to: number, match?: { length: number; distance: number }) => {
    const literals = to - from;
    const length = match === undefined ? 0 : match.length - 4;
    out.push((Math.min(literals, 15) << 4) | Math.min(length, 15));
    if (literals >= 15) {
      extended(literals);
    }
    out.push(...source.subarray(from, to));
    if (match !== undefined) {
      out.push(match.distance & 0xff, match.distance >> 8);
      if (length >= 15) {
        extended(length);
      }
    }
  };
  let literalsFrom = 0;
  let at = 0;
  while (at < source.length - 12) {
    const match = findMatch(source, at, 4, source.length - 5 - at);
    if (match === undefined) {
      at++;
      continue;
    }
    sequence(literalsFrom, at, match);
    at += match.length;
    literalsFrom = at;
  }
  sequence(literalsFrom, source.length);
  return Uint8Array.from(out);
}

function fpiRecord(image: Uint8Array, imageInfo: number, hole: "none" | "implied" | "stated") {
  const bytes = recordWithBlocks({
    rmid: RM_XLOG_ID,
    info: XLOG_FPI,
    xid: 0,
    main: new Uint8Array(0),
    blocks: [
      {
        id: 0,
        spcOid: 1663,
        dbOid: 5,
        relNumber: 16384,
        blkno: 1,
        image,
        imageInfo: imageInfo | (hole === "none" ? 0 : 1),
        ...(hole === "none" ? {} : { holeOffset: HOLE_OFFSET }),
        ...(hole === "stated" ? { holeLength: HOLE_LENGTH } : {}),
      },
    ],
  });
  const record = new XLogRecord();
  const view = new DataView(bytes.buffer);
  record.setHeader(bytes, view, 0, toLsn(4096), toLsn(8000), PG_VERSIONS[17].pageMagic);
  record.decode();
  return record;
}

function restored(record: XLogRecord): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE).fill(0xee);
  restoreImage(record, 0, page);
  return page;
}

test("restoreImage: with and without a hole, with every compression", () => {
  const page = pageWithHole();
  const short = withoutHole(page);
  assert.deepEqual(restored(fpiRecord(page, 0, "none")), page);
  assert.deepEqual(restored(fpiRecord(short, 0, "implied")), page);
  for (const [bit, compress] of [
    [0x04, compressPglz],
    [0x08, compressLz4],
    [0x10, zstdCompressSync],
  ] as const) {
    assert.deepEqual(restored(fpiRecord(compress(short), bit, "stated")), page, `method ${bit}`);
    assert.deepEqual(restored(fpiRecord(compress(page), bit, "none")), page, `method ${bit}`);
  }
});

test("restoreImage: images that do not decompress to the page are corrupt", () => {
  const short = withoutHole(pageWithHole());
  for (const [bit, compress] of [
    [0x04, compressPglz],
    [0x08, compressLz4],
    [0x10, zstdCompressSync],
  ] as const) {
    const image = new Uint8Array(compress(short));
    const longer = Buffer.concat([image, Uint8Array.of(1, 2, 3, 4)]);
    for (const wrong of [image.subarray(0, image.length - 3), ...(bit === 0x10 ? [] : [longer])]) {
      assert.throws(() => restored(fpiRecord(wrong, bit, "stated")), { kind: "corrupt" }, `${bit}`);
    }
    assert.throws(() => restored(fpiRecord(image, bit, "none")), { kind: "corrupt" }, `${bit}`);
  }
});

test("decompressors: hostile bytes end, within the target", () => {
  const random = new SeededRandom(8);
  for (let round = 0; round < 3000; round++) {
    const source = Uint8Array.from({ length: random.int(200) }, () =>
      random.bool(0.3) ? 255 : random.int(256),
    );
    const target = new Uint8Array(PAGE_SIZE).subarray(0, random.int(PAGE_SIZE));
    decompressPglz(source, target);
    decompressLz4Block(source, target);
  }
});

test("stampLsn: new pages stay as they are", () => {
  const page = new Uint8Array(PAGE_SIZE);
  const view = new DataView(page.buffer);
  stampLsn(view, toLsn(0x5_0000_0001));
  assert.equal(pageLsn(view), 0);
  view.setUint16(14, PAGE_SIZE, true);
  stampLsn(view, toLsn(0x5_0000_0001));
  assert.equal(pageLsn(view), 0x5_0000_0001);
});
