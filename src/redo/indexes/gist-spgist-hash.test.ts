// Gist, SP-GiST and hash redo on hand-made deltas: forms that no 17.10 cluster writes, and input that
// must be refused.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  buildDelta,
  concat,
  type DeltaFields,
  type DeltaReference,
  pack,
} from "../../../testing/redo/delta-builder.ts";
import { StorageError } from "../../base/errors.ts";
import { toLsn } from "../../base/lsn.ts";
import { PageRedo } from "../page-redo.ts";
import { spareIndex, totalBuckets } from "./hash-meta.ts";

const HASH = 12;
const GIST = 14;
const SPGIST = 16;
const MAGICS = { 14: 0xd10d, 15: 0xd110, 16: 0xd113, 17: 0xd116, 18: 0xd118 } as const;
const MAJORS = [14, 15, 16, 17, 18] as const;
const INVALID = 0xffff_ffff;
/** Block of the page under test; redo tells the root by its number. */
const BLKNO = 3;

function view(page: Uint8Array): DataView {
  return new DataView(page.buffer, page.byteOffset, page.length);
}

function items(page: Uint8Array): number {
  return (view(page).getUint16(12, true) - 24) / 4;
}

/** Position of item `offnum`. */
function item(page: Uint8Array, offnum: number): number {
  return view(page).getUint32(20 + offnum * 4, true) & 0x7fff;
}

function isStamped(page: Uint8Array): boolean {
  return view(page).getUint32(0, true) === 1;
}

function references(count: number, own: number): DeltaReference[] {
  return Array.from({ length: count }, (_, id) => ({ id, blkno: id === own ? BLKNO : 100 + id }));
}

/** Applies a record that has references 0 to `count` - 1, for its reference `blockId`. */
function apply(
  base: Uint8Array | undefined,
  fields: DeltaFields,
  blockId = 0,
  count = blockId + 1,
): Uint8Array {
  const redo = new PageRedo();
  if (base === undefined) {
    redo.loadZero();
  } else {
    redo.load(base);
  }
  const delta = buildDelta({ references: references(count, blockId), ...fields, blockId });
  redo.apply(delta, toLsn(0x1_0000_2000), BLKNO, 0);
  return redo.copyOut();
}

function refuses(
  base: Uint8Array | undefined,
  fields: DeltaFields,
  blockId = 0,
  count = blockId + 1,
  kind = "corrupt",
): void {
  assert.throws(
    () => apply(base, fields, blockId, count),
    (error) => {
      assert.ok(error instanceof StorageError, String(error));
      assert.equal(error.kind, kind);
      assert.match(error.message, /redo .*0x[0-9a-f]{2} at LSN 1\/2000/);
      return true;
    },
  );
}

function tuple(size: number, fill: number): Uint8Array {
  return concat(
    pack(["u16", 0], ["u16", fill], ["u16", 1], ["u16", size]),
    new Uint8Array(size - 8).fill(fill),
  );
}

function u16s(...values: number[]): Uint8Array {
  return pack(...values.map((value) => ["u16", value] as const));
}

function u32s(...values: number[]): Uint8Array {
  return pack(...values.map((value) => ["u32", value] as const));
}

/** Before everything else on a page made anew: an LSN below the records that come. */
function old(page: Uint8Array): Uint8Array {
  view(page).setUint32(0, 0, true);
  return page;
}

function splitMain(pages: number, leaf = 1, followRight = 1): Uint8Array {
  return concat(
    u32s(77, 0, 0x1234, 5),
    pack(["u8", leaf], ["u8", 0], ["u16", pages], ["u8", followRight]),
    new Uint8Array(3),
  );
}

/** A gist leaf with `count` tuples of 24 bytes. */
function gistPage(count: number): Uint8Array {
  const tuples = Array.from({ length: count }, (_, i) => tuple(24, i + 1));
  const data = concat(u32s(count), ...tuples);
  return old(apply(undefined, { rmid: GIST, info: 0x30, main: splitMain(1), data }, 1));
}

describe("gist redo", () => {
  test("a split makes a page with its NSN, right link and FOLLOW_RIGHT", () => {
    const data = concat(u32s(2), tuple(24, 1), tuple(16, 2));
    const fields = { rmid: GIST, info: 0x30, main: splitMain(2), data };
    const first = apply(undefined, fields, 1, 3);
    assert.equal(items(first), 2);
    assert.deepEqual(
      [8176, 8180, 8184].map((at) => view(first).getUint32(at, true)),
      [5, 0x1234, 102],
    );
    assert.equal(view(first).getUint16(8188, true), 0x09);
    const last = apply(undefined, fields, 2, 3);
    assert.equal(view(last).getUint32(8184, true), 77);
    assert.equal(view(last).getUint16(8188, true), 0x01);
  });

  test("DELETE's offsets follow the header of each major", () => {
    for (const major of MAJORS) {
      const main = concat(u32s(700), u16s(3), new Uint8Array(major < 16 ? 0 : 2), u16s(1, 3, 4));
      const fields = { rmid: GIST, info: 0x10, main, pageMagic: MAGICS[major] };
      const page = apply(gistPage(5), fields);
      assert.equal(items(page), 2);
      assert.deepEqual(
        [1, 2].map((offnum) => page[item(page, offnum) + 8]),
        [2, 5],
      );
      assert.equal(view(page).getUint16(8188, true), 0x05);
    }
  });

  test("a deleted page has its xid instead of line pointers, and takes no tuples", () => {
    const main = concat(u32s(900, 1), u16s(2));
    const page = old(apply(gistPage(0), { rmid: GIST, info: 0x60, main }));
    assert.equal(view(page).getUint16(12, true), 32);
    assert.equal(view(page).getUint32(24, true), 900);
    refuses(page, { rmid: GIST, info: 0x00, main: u16s(0, 1), data: tuple(16, 1) });
    refuses(gistPage(2), { rmid: GIST, info: 0x60, main });
  });

  test("malformed records are refused", () => {
    const update = (main: Uint8Array, data: Uint8Array) =>
      refuses(gistPage(3), { rmid: GIST, info: 0x00, main, data });
    update(u16s(1), u16s(1));
    update(u16s(9, 0), u16s(1, 2));
    update(u16s(4, 0), u16s(1, 2, 3, 4));
    update(u16s(3, 0), u16s(2, 1, 3));
    update(u16s(0, 2), tuple(16, 1));
    update(u16s(0, 1), tuple(16, 1).subarray(0, 12));
    update(u16s(0, 1), u16s(0, 0, 1, 0));
    update(u16s(1, 1), concat(u16s(4), tuple(16, 1)));
    update(u16s(1, 1), concat(u16s(0), tuple(16, 1)));
    refuses(gistPage(3), { rmid: GIST, info: 0x10, main: u32s(1, 9) });
    refuses(gistPage(1), { rmid: GIST, info: 0x60, main: new Uint8Array(9) });
    const split = (main: Uint8Array, data: Uint8Array, id = 1, count = 2) =>
      refuses(undefined, { rmid: GIST, info: 0x30, main, data }, id, count);
    split(splitMain(1).subarray(0, 20), u32s(0));
    split(splitMain(1), u32s(1));
    split(splitMain(1), new Uint8Array(3));
    split(splitMain(2), u32s(0));
    split(splitMain(1), u32s(0), 2, 3);
    split(splitMain(1), concat(u32s(2), tuple(8184, 1), tuple(8184, 1)));
    for (const info of [0x20, 0x40, 0x50, 0x70]) {
      refuses(gistPage(1), { rmid: GIST, info, main: new Uint8Array(64) }, 0, 1, "unsupported");
    }
    refuses(undefined, { rmid: GIST, info: 0x00, main: u16s(0, 0) });
    const foreign = gistPage(1);
    view(foreign).setUint16(16, 8184, true);
    refuses(foreign, { rmid: GIST, info: 0x00, main: u16s(0, 0) });
  });
});

function leaf(size: number, fill: number): Uint8Array {
  return concat(u32s(size << 2), u16s(0, 0, fill, 1), new Uint8Array(size - 12).fill(fill));
}

/** An inner tuple without a prefix whose nodes have 16 bytes. */
function inner(nodes: number): Uint8Array {
  const parts = Array.from({ length: nodes }, (_, i) => tuple(16, i + 1));
  return concat(u32s(nodes << 3), u16s(8 + 16 * nodes, 0), ...parts);
}

function addLeafMain(init: number, offnum: number, head: number, parent: number, node: number) {
  return concat(Uint8Array.from([init, 0]), u16s(offnum, head, parent, node));
}

/** An SP-GiST leaf page with `count` leaves of 24 bytes. */
function spgistPage(count: number): Uint8Array {
  let page: Uint8Array | undefined;
  for (let i = 1; i <= count; i++) {
    const main = concat(addLeafMain(i === 1 ? 1 : 0, i, 0, 0, 0), leaf(24, i));
    page = old(apply(page, { rmid: SPGIST, info: 0x10, main }));
  }
  return page!;
}

/** [nRedirection, nPlaceholder]. */
function counts(page: Uint8Array): number[] {
  return [view(page).getUint16(8186, true), view(page).getUint16(8188, true)];
}

function moveLeafsMain(moves: number, build = 0): Uint8Array {
  const head = [u16s(moves), Uint8Array.from([0, 0, 0, 0]), u16s(1, 1, 0), u32s(800, build)];
  return concat(...head);
}

/** Leaves 4 and 2 of five move: the first listed becomes a redirect. */
function movedPage(): Uint8Array {
  const main = concat(moveLeafsMain(2), u16s(4, 2), u16s(1, 2, 3), leaf(24, 1), leaf(24, 2));
  const fields = { rmid: SPGIST, info: 0x20, main: concat(main, leaf(24, 3)) };
  return old(apply(spgistPage(5), fields, 0, 3));
}

describe("SP-GiST redo", () => {
  test("moved leaves leave a redirect in the first listed place, else placeholders", () => {
    const page = movedPage();
    assert.equal(items(page), 5);
    assert.deepEqual(counts(page), [1, 1]);
    const [redirect, placeholder] = [item(page, 4), item(page, 2)];
    assert.equal(view(page).getUint32(redirect, true), (16 << 2) | 1);
    assert.deepEqual([...page.subarray(redirect + 6, redirect + 12)], [0, 0, 101, 0, 3, 0]);
    assert.equal(view(page).getUint32(redirect + 12, true), 800);
    assert.equal(view(page).getUint32(placeholder, true), (16 << 2) | 3);
    assert.equal(view(page).getUint32(placeholder + 12, true), 0);
  });

  test("an index build leaves placeholders only", () => {
    const main = concat(moveLeafsMain(1, 1), u16s(5), u16s(1, 2), leaf(24, 1), leaf(24, 2));
    assert.deepEqual(
      counts(apply(spgistPage(5), { rmid: SPGIST, info: 0x20, main }, 0, 3)),
      [0, 1],
    );
  });

  test("VACUUM_REDIRECT's offsets follow the header of each major", () => {
    for (const major of MAJORS) {
      const head = concat(u16s(1, 0), u32s(700), new Uint8Array(major < 16 ? 0 : 2), u16s(4));
      const fields = { rmid: SPGIST, info: 0x80, main: head, pageMagic: MAGICS[major] };
      const page = apply(movedPage(), fields);
      assert.deepEqual(counts(page), [0, 2]);
      assert.equal(view(page).getUint32(item(page, 4) + 12, true), 800, "the xid stays");
    }
  });

  test("a placeholder is replaced, anything else is not", () => {
    const main = (offnum: number) => concat(addLeafMain(0, offnum, 0, 0, 0), leaf(32, 9));
    const page = apply(movedPage(), { rmid: SPGIST, info: 0x10, main: main(2) });
    assert.deepEqual(counts(page), [1, 0]);
    assert.equal(items(page), 5);
    refuses(movedPage(), { rmid: SPGIST, info: 0x10, main: main(4) });
    refuses(movedPage(), { rmid: SPGIST, info: 0x10, main: main(1) });
    refuses(movedPage(), { rmid: SPGIST, info: 0x10, main: main(7) });
    refuses(movedPage(), { rmid: SPGIST, info: 0x10, main: main(0) });
  });

  test("a picksplit of the root makes an inner page; a downlink beyond its nodes is refused", () => {
    const head = concat(
      Uint8Array.from([1, 0]),
      u16s(0, 0),
      Uint8Array.from([0, 0]),
      u16s(1),
      Uint8Array.from([1, 1, 0, 0]),
      u16s(0, 0, 0),
      u32s(800, 0),
    );
    const fields = { rmid: SPGIST, info: 0x50, main: concat(head, inner(2)) };
    const page = old(apply(undefined, fields, 2, 3));
    assert.equal(view(page).getUint16(8184, true), 8);
    const link = (node: number) => {
      const main = concat(addLeafMain(0, 6, 0, 1, node), leaf(24, 1));
      return { rmid: SPGIST, info: 0x10, main };
    };
    const linked = apply(page, link(1), 1);
    const at = item(linked, 1) + 8 + 16;
    assert.deepEqual([...linked.subarray(at, at + 6)], [0, 0, 100, 0, 6, 0]);
    refuses(page, link(2), 1);
    view(page).setUint16(item(page, 1) + 8 + 6, 4, true);
    refuses(page, link(1), 1);
    view(page).setUint16(item(page, 1) + 8 + 6, 64, true);
    refuses(page, link(1), 1);
  });

  test("malformed records are refused", () => {
    const refusesMain = (info: number, main: Uint8Array, id = 0, count = 3) =>
      refuses(spgistPage(4), { rmid: SPGIST, info, main }, id, count);
    refusesMain(0x10, addLeafMain(0, 5, 0, 0, 0));
    refusesMain(0x10, concat(addLeafMain(0, 5, 0, 0, 0), leaf(24, 1).subarray(0, 20)));
    refusesMain(0x10, concat(addLeafMain(0, 5, 9, 0, 0), leaf(24, 1)));
    refusesMain(0x10, concat(addLeafMain(0, 5, 0, 0, 0), u32s(0, 0, 0, 0)));
    refusesMain(0x20, concat(moveLeafsMain(3), u16s(1, 2)));
    refusesMain(0x20, concat(moveLeafsMain(1), u16s(9, 1, 1)));
    refusesMain(0x20, concat(moveLeafsMain(2), u16s(2, 2, 1, 1, 1)));
    refusesMain(0x20, concat(moveLeafsMain(1), u16s(2, 5, 6)), 1);
    refusesMain(0x30, concat(u16s(1, 1, 0, 1, 0, 0), u32s(1, 0)), 0, 2);
    refusesMain(0x40, concat(u16s(1, 2, 0), inner(3)));
    refusesMain(0x50, concat(new Uint8Array(28), u32s(0, 0)));
    refusesMain(0x60, u16s(1, 0, 0, 0, 0, 0, 0, 0));
    refusesMain(0x60, concat(u16s(0, 0, 1, 0), u32s(1, 0), u16s(1, 9)));
    refusesMain(0x60, concat(u16s(0, 0, 0, 1), u32s(1, 0), u16s(9, 1)));
    refusesMain(0x70, concat(u16s(2, 0), u32s(1, 0), u16s(3, 9)));
    refusesMain(0x80, concat(u16s(1, 0), u32s(1), u16s(0, 1)));
    refusesMain(0x80, concat(u16s(0, 2), u32s(1), u16s(0)));
    for (const info of [0x00, 0x90]) {
      refuses(spgistPage(1), { rmid: SPGIST, info }, 0, 1, "unsupported");
    }
    const meta = spgistPage(1);
    view(meta).setUint16(8184, 1, true);
    refuses(meta, { rmid: SPGIST, info: 0x70, main: new Uint8Array(12) });
  });
});

/** xl_hash_init_meta_page. */
function metaMain(tuples: number, fillFactor: number): Uint8Array {
  const main = new Uint8Array(14);
  view(main).setFloat64(0, tuples, true);
  view(main).setUint32(8, 456, true);
  view(main).setUint16(12, fillFactor, true);
  return main;
}

function metaPage(tuples = 1000, fillFactor = 300): Uint8Array {
  return old(apply(undefined, { rmid: HASH, info: 0x00, main: metaMain(tuples, fillFactor) }));
}

/** An overflow page with `count` tuples of 16 bytes. */
function hashPage(count: number): Uint8Array {
  const fields = { rmid: HASH, info: 0x30, main: concat(u16s(4096), new Uint8Array(1)) };
  let page = old(apply(undefined, { ...fields, data: u32s(6) }, 0, 2));
  for (let i = 1; i <= count; i++) {
    page = old(apply(page, { rmid: HASH, info: 0x20, main: u16s(i), data: tuple(16, i) }));
  }
  return page;
}

function squeezeMain(tuples: number, previous: number): Uint8Array {
  return concat(u32s(11, 12), u16s(tuples), Uint8Array.from([1, previous]));
}

describe("hash redo", () => {
  test("spareIndex and totalBuckets: one phase a group up to 512 buckets, then four", () => {
    // Buckets and their splitpoint phase, from the table in hash/README's "Page Addressing".
    for (const [buckets, phase] of [
      [1, 0],
      [2, 1],
      [3, 2],
      [512, 9],
      [513, 10],
      [640, 10],
      [641, 11],
      [768, 11],
      [896, 12],
      [1024, 13],
      [1025, 14],
      [2048, 17],
      [0x4000_0000, 93],
    ] as const) {
      assert.equal(spareIndex(buckets), phase, `${buckets}`);
      assert.ok(totalBuckets(phase) >= buckets);
    }
    for (let phase = 0; phase <= 93; phase++) {
      assert.equal(spareIndex(totalBuckets(phase)), phase);
      if (phase > 0) {
        assert.equal(spareIndex(totalBuckets(phase - 1) + 1), phase);
      }
    }
  });

  test("a metapage begins with the buckets that the tuples need", () => {
    for (const [tuples, buckets, highMask] of [
      [0, 2, 3],
      [1000, 4, 7],
      [300 * 600, 640, 1023],
      [1e300, 0x4000_0000, 0x7fff_ffff],
      [-1, 2, 3],
    ] as const) {
      const page = metaPage(tuples);
      const at = (offset: number) => view(page).getUint32(offset, true);
      assert.deepEqual([at(48), at(52), at(56)], [buckets - 1, highMask, highMask >>> 1]);
      assert.equal(at(60), spareIndex(buckets));
      assert.equal(at(76 + 4 * spareIndex(buckets)), 1);
      assert.equal(view(page).getUint16(12, true), 4568);
    }
    refuses(undefined, { rmid: HASH, info: 0x00, main: metaMain(0, 0) });
    refuses(undefined, { rmid: HASH, info: 0x00, main: metaMain(Number.NaN, 10) });
  });

  test("an overflow page that needs a new bitmap page: both count as spares", () => {
    const fields = { rmid: HASH, info: 0x30, main: concat(u16s(4096), new Uint8Array(1)) };
    const bitmap = apply(undefined, fields, 3, 5);
    assert.equal(view(bitmap).getUint16(12, true), 24 + 4096);
    assert.deepEqual([bitmap[23], bitmap[24], bitmap[4119], bitmap[4120]], [0, 255, 255, 0]);
    assert.equal(view(bitmap).getUint16(8188, true), 4);
    const meta = apply(metaPage(), { ...fields, data: u32s(32769) }, 4, 5);
    const at = (offset: number) => view(meta).getUint32(offset, true);
    assert.deepEqual([at(64), at(68), at(468), at(76 + 4 * 2)], [32769, 1, 103, 3]);
  });

  test("SQUEEZE_PAGE links the page after the freed one to the page before it", () => {
    const page = apply(hashPage(1), { rmid: HASH, info: 0x80, main: squeezeMain(0, 0) }, 4);
    assert.equal(view(page).getUint32(8176, true), 11);
    assert.equal(view(page).getUint32(8180, true), INVALID);
  });

  test("SQUEEZE_PAGE stamps a page that it does not change up to 16 only", () => {
    for (const major of MAJORS) {
      const fields = { rmid: HASH, info: 0x80, pageMagic: MAGICS[major] };
      const unchanged = apply(hashPage(1), { ...fields, main: squeezeMain(0, 0) }, 1);
      assert.equal(isStamped(unchanged), major <= 16, `${major}`);
      const previous = apply(hashPage(1), { ...fields, main: squeezeMain(0, 1) }, 1);
      assert.ok(isStamped(previous));
      assert.equal(view(previous).getUint32(8180, true), 12);
      const bucket = apply(hashPage(1), { ...fields, main: squeezeMain(0, 1) }, 0, 3);
      assert.ok(!isStamped(bucket), "referenced for its lock only");
    }
  });

  test("VACUUM_ONE_PAGE counts its tuples in 4 bytes up to 15, then in 2", () => {
    for (const major of MAJORS) {
      // isCatalogRel is 1: a reader of 4 bytes would take it for a part of the count.
      const count = major < 16 ? u32s(3) : concat(u16s(3), Uint8Array.from([1, 0]));
      const main = concat(u32s(700), count, u16s(1, 2, 4));
      const fields = { rmid: HASH, info: 0xc0, main, pageMagic: MAGICS[major] };
      assert.equal(items(apply(hashPage(5), fields, 0, 2)), 2);
      const meta = apply(metaPage(), fields, 1);
      assert.equal(view(meta).getFloat64(32, true), -3);
    }
  });

  test("malformed records are refused", () => {
    const [page, meta] = [hashPage(3), metaPage()];
    const main3 = concat(u16s(4096), new Uint8Array(1));
    refuses(undefined, { rmid: HASH, info: 0x00, main: new Uint8Array(13) });
    refuses(undefined, { rmid: HASH, info: 0x10, main: u16s(8153) });
    refuses(undefined, { rmid: HASH, info: 0x10, main: u16s(4095) });
    refuses(page, { rmid: HASH, info: 0x10, main: u16s(4096) }, 1);
    refuses(page, { rmid: HASH, info: 0x20, main: u16s(5), data: tuple(16, 1) });
    refuses(page, { rmid: HASH, info: 0x20, main: u16s(0), data: tuple(16, 1) });
    refuses(page, { rmid: HASH, info: 0x20, main: u16s(4), data: new Uint8Array(0) });
    refuses(page, { rmid: HASH, info: 0x20, main: u16s(4), data: new Uint8Array(8140) });
    refuses(meta, { rmid: HASH, info: 0x20, main: u16s(1), data: tuple(16, 1) });
    refuses(undefined, { rmid: HASH, info: 0x30, main: main3, data: u32s(1) });
    refuses(undefined, { rmid: HASH, info: 0x30, main: main3, data: u16s(1) }, 0, 2);
    const bitmap = old(apply(undefined, { rmid: HASH, info: 0x30, main: main3 }, 3, 5));
    const bit = (n: number) => ({ rmid: HASH, info: 0x30, main: main3, data: u32s(n) });
    const cleared = { rmid: HASH, info: 0x80, main: squeezeMain(0, 1), data: u32s(13) };
    assert.equal(apply(bitmap, cleared, 5)[25], 0xdf);
    refuses(bitmap, bit(65216), 2);
    refuses(bitmap, bit(INVALID), 2);
    refuses(page, bit(1), 2);
    const full = meta.slice();
    view(full).setUint32(68, 1024, true);
    refuses(full, { rmid: HASH, info: 0x10, main: u16s(4096) }, 1);
    view(full).setUint32(60, 98, true);
    refuses(full, bit(1), 4);
    const allocate = concat(u32s(4), u16s(1, 2), Uint8Array.from([3]));
    refuses(meta, { rmid: HASH, info: 0x40, main: allocate, data: u32s(1, 2, 3) }, 2);
    refuses(meta, { rmid: HASH, info: 0x40, main: allocate, data: u32s(1, 2, 98, 3) }, 2);
    refuses(meta, { rmid: HASH, info: 0x40, main: allocate }, 3);
    refuses(page, { rmid: HASH, info: 0x50 });
    refuses(page, { rmid: HASH, info: 0x60, main: u32s(0) }, 2);
    const move = concat(u16s(2), new Uint8Array(1));
    const moved = (data: Uint8Array) =>
      refuses(page, { rmid: HASH, info: 0x70, main: move, data }, 1);
    moved(u16s(1));
    moved(concat(u16s(1, 2), tuple(16, 1)));
    moved(concat(u16s(1, 9), tuple(16, 1), tuple(16, 2)));
    moved(concat(u16s(1, 2), tuple(16, 1), tuple(16, 2), tuple(16, 3)));
    refuses(page, { rmid: HASH, info: 0x70, main: move, data: u16s(1, 2, 9) }, 2);
    refuses(page, { rmid: HASH, info: 0x80, main: squeezeMain(0, 0) }, 7);
    refuses(page, { rmid: HASH, info: 0x80, main: new Uint8Array(11) }, 3);
    refuses(page, { rmid: HASH, info: 0xb0, main: u32s(0, 0) });
    refuses(page, { rmid: HASH, info: 0xc0, main: concat(u32s(1), u16s(4, 0, 1, 2)) });
    refuses(page, { rmid: HASH, info: 0xd0 }, 0, 1, "unsupported");
  });
});
