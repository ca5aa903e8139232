import assert from "node:assert/strict";
import { test } from "node:test";
import { recordWithBlocks } from "../../testing/redo/record-bytes.ts";
import { StorageError } from "../base/errors.ts";
import { toLsn } from "../base/lsn.ts";
import { RM_BTREE_ID, RM_GIST_ID, RM_HASH_ID } from "../postgres/rmgr.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { XLogRecord } from "../postgres/xlog-record.ts";
import { interpretRecord } from "./interpret-record.ts";
import type { RecordSink } from "./record-sink.ts";

const START = toLsn(0x7_0200_0028);
const END = toLsn(START + 9000);
const HASH_MAIN = Uint8Array.from([9, 0, 0, 0, 0x22, 0, 0x12, 0, 0]);

/** An image of an empty page whose special space is all 0xff. */
function image(special = 8176): Uint8Array {
  const page = new Uint8Array(8192);
  const view = new DataView(page.buffer);
  view.setUint16(12, 24, true);
  view.setUint16(14, special, true);
  view.setUint16(16, special, true);
  return page.fill(0xff, 8176);
}

/** Special space of the page that comes out of a record whose only reference has an image. */
function specialAfter(
  rmid: number,
  info: number,
  id: number,
  main: Uint8Array,
  page = image(),
): DataView {
  const block = { id, spcOid: 1663, dbOid: 5, relNumber: 16384, blkno: 7, image: page };
  const bytes = recordWithBlocks({ rmid, info, xid: 800, blocks: [block], main });
  const record = new XLogRecord();
  const view = new DataView(bytes.buffer);
  record.setHeader(bytes, view, 0, START, END, PG_VERSIONS[17].pageMagic);
  let special: Uint8Array | undefined;
  const sink: Partial<RecordSink> = {
    sawXid: () => {},
    blockImage: (_rel, _blkno, page) => {
      special = page.slice(8176);
    },
  };
  interpretRecord(record, sink as RecordSink);
  assert.ok(special !== undefined);
  return new DataView(special.buffer);
}

test("interpretImage: the left half of a completed gist split gets NSN and loses FOLLOW_RIGHT", () => {
  for (const [info, id] of [
    [0x00, 1],
    [0x30, 0],
  ] as const) {
    const special = specialAfter(RM_GIST_ID, info, id, new Uint8Array(24));
    assert.equal(special.getUint32(0, true), 7);
    assert.equal(special.getUint32(4, true), END - 7 * 2 ** 32);
    assert.equal(special.getUint16(12, true), 0xfff7);
  }
});

test("interpretImage: hash splits set flags that the image lacks", () => {
  const allocate = specialAfter(RM_HASH_ID, 0x40, 0, HASH_MAIN);
  assert.equal(allocate.getUint32(0, true), 9);
  assert.equal(allocate.getUint16(12, true), 0x22);
  const main = Uint8Array.from([0x42, 0, 0x02, 0]);
  assert.equal(specialAfter(RM_HASH_ID, 0x60, 0, main).getUint16(12, true), 0x42);
  assert.equal(specialAfter(RM_HASH_ID, 0x60, 1, main).getUint16(12, true), 0x02);
});

test("interpretImage: other references and records keep their image", () => {
  for (const [rmid, info, id] of [
    [RM_GIST_ID, 0x00, 0],
    [RM_GIST_ID, 0x60, 1],
    [RM_HASH_ID, 0x40, 2],
    [RM_HASH_ID, 0x50, 0],
    [RM_HASH_ID, 0x60, 2],
    [RM_BTREE_ID, 0x40, 0],
  ] as const) {
    const special = specialAfter(rmid, info, id, HASH_MAIN);
    assert.equal(special.getUint32(0, true), 0xffff_ffff, `${rmid} ${info} ${id}`);
    assert.equal(special.getUint16(12, true), 0xffff, `${rmid} ${info} ${id}`);
  }
});

test("interpretImage: main data too short, or an image of another kind of page, is corrupt", () => {
  const isCorrupt = (error: unknown) => error instanceof StorageError && error.kind === "corrupt";
  const refused = (rmid: number, info: number, id: number, main: number, page = image()) =>
    assert.throws(() => specialAfter(rmid, info, id, new Uint8Array(main), page), isCorrupt);
  refused(RM_HASH_ID, 0x40, 0, 8);
  refused(RM_HASH_ID, 0x60, 1, 3);
  refused(RM_HASH_ID, 0x40, 0, 9, image(8184));
  refused(RM_GIST_ID, 0x00, 1, 4, image(8160));
});
