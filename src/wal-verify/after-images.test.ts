// AfterImageChecker on records built by hand: maps that a server changed ahead of its WAL, pages to skip.

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { XLogRecord } from "../postgres/xlog-record.ts";
import { AfterImageChecker, type ImageMismatch } from "./after-images.ts";

const START = 0x100_0000;
const VISIBLE = 0x40;
const HEAP2 = 9;

function pageWith(at: number, value: number, lsn = 0x10): Uint8Array {
  const page = new Uint8Array(8192);
  const view = new DataView(page.buffer);
  view.setUint32(4, lsn, true);
  view.setUint16(12, 24, true);
  view.setUint16(14, 8192, true);
  view.setUint16(16, 8192, true);
  page[at] = value;
  return page;
}

/** A record that only brings an after-image; undefined: none. */
function recordAt(lsn: number, fork: number, image: Uint8Array | undefined): XLogRecord {
  const record = new XLogRecord();
  record.startLsn = toLsn(lsn);
  record.endLsn = toLsn(lsn + 64);
  record.pageMagic = PG_VERSIONS[17].pageMagic;
  record.rmid = HEAP2;
  record.info = VISIBLE;
  if (image !== undefined) {
    record.blockCount = 1;
    record.blockFork[0] = fork;
    record.blockRel[0] = 16384;
    record.imageLength[0] = 8192;
    record.bytes = image;
  }
  return record;
}

interface Setup {
  readonly checker: AfterImageChecker;
  readonly mismatches: ImageMismatch[];
  /** Checks a record at that distance from the start, with the page as replay left it. */
  check(distance: number, image: Uint8Array | undefined, replayed?: Uint8Array): number;
}

function setup(fork = 2, invalid = false): Setup {
  const mismatches: ImageMismatch[] = [];
  const checker = new AfterImageChecker((mismatch) => mismatches.push(mismatch));
  const check = (distance: number, image: Uint8Array | undefined, replayed?: Uint8Array) =>
    checker.check(recordAt(START + distance, fork, image), {
      readPage: () => replayed,
      isInvalid: () => invalid,
    });
  return { checker, mismatches, check };
}

test("AfterImageChecker: a map's image may lack bits that the next records clear", () => {
  const { checker, mismatches, check } = setup();
  assert.equal(check(0, pageWith(100, 0b0011), pageWith(100, 0b1111)), 1);
  check(64, undefined, pageWith(100, 0b0111));
  check(128, undefined, pageWith(100, 0b1011));
  checker.finish();
  assert.deepEqual(mismatches, []);
  assert.equal(checker.compared, 1);
});

test("AfterImageChecker: bits that nobody clears are reported, at the latest after 1 MiB", () => {
  const atEnd = setup();
  atEnd.check(0, pageWith(100, 0b0011), pageWith(100, 0b1111));
  atEnd.check(64, undefined, pageWith(100, 0b0111));
  assert.equal(atEnd.mismatches.length, 0);
  atEnd.checker.finish();
  assert.equal(atEnd.mismatches.length, 1);
  assert.equal(atEnd.mismatches[0]!.offset, 100);

  const late = setup();
  late.check(0, pageWith(100, 0), pageWith(100, 1));
  late.check(1024 * 1024 + 8, undefined, pageWith(100, 1));
  assert.equal(late.mismatches.length, 1);
  late.checker.finish();
  assert.equal(late.mismatches.length, 1);
});

test("AfterImageChecker: a bit that replay lacks is reported at once, with record and place", () => {
  const { mismatches, check } = setup();
  check(0, pageWith(100, 0b0111), pageWith(100, 0b0011));
  assert.deepEqual(mismatches, [
    {
      lsn: START as Lsn,
      rmid: HEAP2,
      info: VISIBLE,
      blockId: 0,
      rel: { spcOid: 0, dbOid: 0, relNumber: 16384, fork: 2 },
      blkno: 0,
      offset: 100,
      what: "byte 100: image 07000000000000000000000000000000, replayed 03000000000000000000000000000000",
    },
  ]);
});

test("AfterImageChecker: pages that are not there, never made or newer than the record are left out", () => {
  const { checker, mismatches, check } = setup(0);
  const image = pageWith(18, 1);
  assert.equal(check(0, image, undefined), 0);
  assert.equal(check(0, image, pageWith(18, 2, START + 65)), 0);
  assert.equal(setup(0, true).check(0, image, new Uint8Array(8192)), 0);
  assert.equal(checker.compared, 0);
  assert.equal(check(0, image, pageWith(18, 2, START + 64)), 1);
  assert.equal(mismatches.length, 1);
});
