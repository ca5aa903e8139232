// GIN, BRIN and generic redo on hand-made deltas: all majors, old formats, and input to be refused.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { buildDelta, concat, type DeltaFields, pack } from "../../../testing/redo/delta-builder.ts";
import {
  addItems,
  type Item,
  insertSegment,
  postingList,
  recompression,
  removeSegment,
  replaceSegment,
  tid,
} from "../../../testing/redo/gin-brin-deltas.ts";
import { toLsn } from "../../base/lsn.ts";
import { PageRedo } from "../page-redo.ts";

const GIN = 13;
const BRIN = 17;
const GENERIC = 20;
const LSN = toLsn(0x1_0000_2000);
const MAGICS = [0xd10d, 0xd110, 0xd113, 0xd116, 0xd118];
const INVALID_BLOCK = 0xffffffff;
const MAX_BLOCK = 0xfffffffe;

function view(page: Uint8Array): DataView {
  return new DataView(page.buffer, page.byteOffset, page.length);
}

function apply(base: Uint8Array | undefined, fields: DeltaFields): Uint8Array {
  const redo = new PageRedo();
  if (base === undefined) {
    redo.loadZero();
  } else {
    redo.load(base);
  }
  const id = fields.blockId ?? 0;
  const blkno = fields.references?.find((reference) => reference.id === id)?.blkno ?? 0;
  redo.apply(buildDelta(fields), LSN, blkno, 0);
  return redo.copyOut();
}

function refuses(base: Uint8Array | undefined, fields: DeltaFields, message: RegExp): void {
  assert.throws(() => apply(base, fields), { kind: "corrupt", message });
}

/** A posting-tree leaf of these segments. */
function leaf(...segments: readonly Uint8Array[]): Uint8Array {
  const lists = concat(...segments);
  const page = apply(undefined, {
    rmid: GIN,
    info: 0x10,
    main: concat(pack(["u32", lists.length]), lists),
  });
  page.fill(0, 0, 8);
  return page;
}

function lists(page: Uint8Array): Uint8Array {
  return page.slice(32, view(page).getUint16(12, true));
}

const A: readonly Item[] = [
  [1, 1],
  [1, 2],
  [3, 100],
];
const B: readonly Item[] = [
  [70_000, 5],
  [90_000, 2047],
];
const C: readonly Item[] = [[MAX_BLOCK, 9]];

describe("GIN posting lists", () => {
  test("a new posting tree is a leaf of the given lists, alike in every major", () => {
    const data = concat(postingList(...A), postingList(...B));
    for (const pageMagic of MAGICS) {
      const main = concat(pack(["u32", data.length]), data);
      const page = apply(undefined, { rmid: GIN, info: 0x10, pageMagic, main });
      assert.deepEqual(lists(page), data);
      assert.equal(view(page).getUint32(8184, true), INVALID_BLOCK);
      assert.equal(view(page).getUint16(8190, true), 0x83);
      assert.equal(view(page).getUint32(4, true), 0x2000);
    }
  });

  test("items are merged into a segment: before, between, after and the same", () => {
    const before = leaf(postingList(...A), postingList(...B));
    const added: Item[] = [
      [0, 1],
      [1, 2],
      [2, 7],
      [69_999, 2047],
    ];
    const page = apply(before, recompression(addItems(0, ...added)));
    const merged: Item[] = [
      [0, 1],
      [1, 1],
      [1, 2],
      [2, 7],
      [3, 100],
      [69_999, 2047],
    ];
    assert.deepEqual(lists(page), concat(postingList(...merged), postingList(...B)));
  });

  test("steps of every length up to 43 bits", () => {
    let items: Item[] = [[0, 1]];
    for (let bits = 0; bits <= 31; bits++) {
      const next: Item = [2 ** bits, 1];
      const page = apply(leaf(postingList(...items)), recompression(addItems(0, next)));
      items = [...items, next];
      assert.deepEqual(lists(page), postingList(...items));
    }
    const far = apply(leaf(postingList([0, 0])), recompression(addItems(0, [0xffffffff, 2047])));
    assert.deepEqual(lists(far), postingList([0, 0], [0xffffffff, 2047]));
  });

  test("segments are removed, inserted and replaced at their numbers", () => {
    const before = leaf(postingList(...A), postingList(...B), postingList(...C));
    const cases: readonly (readonly [Uint8Array[], Uint8Array[]])[] = [
      [[removeSegment(0)], [postingList(...B), postingList(...C)]],
      [[removeSegment(2)], [postingList(...A), postingList(...B)]],
      [[removeSegment(0), removeSegment(1), removeSegment(2)], []],
      [
        [insertSegment(0, postingList([0, 9]))],
        [postingList([0, 9]), postingList(...A), postingList(...B), postingList(...C)],
      ],
      [
        [replaceSegment(1, postingList([50, 1], [50, 2])), insertSegment(2, postingList([60, 1]))],
        [postingList(...A), postingList([50, 1], [50, 2]), postingList([60, 1]), postingList(...C)],
      ],
      [
        [
          insertSegment(3, postingList([0xffffffff, 1])),
          insertSegment(3, postingList([0xffffffff, 2])),
        ],
        [
          postingList(...A),
          postingList(...B),
          postingList(...C),
          postingList([0xffffffff, 1]),
          postingList([0xffffffff, 2]),
        ],
      ],
    ];
    for (const [actions, expected] of cases) {
      assert.deepEqual(lists(apply(before, recompression(...actions))), concat(...expected));
    }
  });

  test("a leaf of before 9.4 is compressed first", () => {
    const old = leaf();
    const items: Item[] = [
      [1, 1],
      [2, 2],
      [400, 3],
    ];
    old.set(concat(...items.map(tid)), 32);
    // Its pd_lower says nothing; maxoff counts the items; it has no COMPRESSED flag.
    view(old).setUint16(12, 24, true);
    view(old).setUint16(8188, items.length, true);
    view(old).setUint16(8190, 0x03, true);
    const page = apply(old, recompression(addItems(0, [3, 3])));
    assert.deepEqual(lists(page), postingList([1, 1], [2, 2], [3, 3], [400, 3]));
    assert.equal(view(page).getUint16(8188, true), 0);
    assert.equal(view(page).getUint16(8190, true), 0x83);
    view(old).setUint16(8188, 0, true);
    const empty = apply(old, recompression(insertSegment(0, postingList([3, 3]))));
    assert.deepEqual(lists(empty), postingList([3, 3]));
    view(old).setUint16(8188, 1400, true);
    refuses(old, recompression(removeSegment(0)), /1400 uncompressed items/);
  });

  test("refused: lists and actions that lie", () => {
    const page = leaf(postingList(...A), postingList(...B));
    const bad: readonly (readonly [Uint8Array[], RegExp])[] = [
      [[], /changes no segment/],
      [[removeSegment(2)], /0 bytes are left/],
      [[removeSegment(200)], /0 bytes are left/],
      [
        [insertSegment(1, postingList([9, 9])), removeSegment(0)],
        /segment 0 comes after segment 1/,
      ],
      [[pack(["u8", 0], ["u8", 9])], /unknown action 9/],
      [[pack(["u8", 0], ["u8", 0])], /unknown action 0/],
      [[pack(["u8", 0])], /ends too early/],
      [[pack(["u8", 0], ["u8", 4], ["u16", 60_000])], /ends too early/],
      [[insertSegment(0, postingList([1, 1]).slice(0, 7))], /7 bytes are left/],
      [
        [insertSegment(0, concat(tid([1, 1]), pack(["u16", 0xffff])))],
        /posting list of 65544 bytes/,
      ],
      [[addItems(0, [5, 5], [5, 4])], /do not ascend/],
      [[addItems(0, [5, 5], [5, 5])], /do not ascend/],
      [[addItems(0, [5, 2048])], /do not ascend/],
      [
        [insertSegment(0, concat(tid([1, 1]), pack(["u16", 8200]), new Uint8Array(8200)))],
        /no room/,
      ],
    ];
    for (const [actions, message] of bad) {
      refuses(page, recompression(...actions), message);
    }
    const numbers = Array.from({ length: 9000 }, (_, i): Item => [i * 3, 1]);
    refuses(page, recompression(addItems(1, ...numbers)), /does not fit a page/);
    const few = numbers.slice(0, 4200);
    refuses(
      page,
      recompression(addItems(1, ...few), insertSegment(2, postingList(...few))),
      /no room|not fit/,
    );
  });

  test("refused: pages whose lists lie", () => {
    const endless = concat(tid([1, 1]), pack(["u16", 2]), new Uint8Array([0x80, 0x80]));
    refuses(leaf(endless), recompression(addItems(0, [9, 9])), /has no end/);
    const long = concat(tid([1, 1]), pack(["u16", 8]), new Uint8Array(8).fill(0x81));
    refuses(leaf(long), recompression(addItems(0, [9, 9])), /has no end/);
    const standing = concat(tid([1, 1]), pack(["u16", 2]), new Uint8Array([0, 1]));
    refuses(leaf(standing), recompression(addItems(0, [9, 9])), /0 above the one before/);
    const high = concat(
      tid([MAX_BLOCK, 1]),
      pack(["u16", 4]),
      new Uint8Array([0xff, 0xff, 0x7f, 1]),
    );
    refuses(leaf(high), recompression(addItems(0, [9, 9])), /above the one before/);
    refuses(
      leaf(postingList([1, 9], [2, 1]).fill(0xff, 4, 6)),
      recompression(addItems(0, [9, 9])),
      /impossible offset/,
    );
    for (const lower of [0, 31, 8185, 0xffff]) {
      const page = leaf(postingList(...A));
      view(page).setUint16(12, lower, true);
      const why = lower < 8185 ? /posting lists from byte 32/ : /page pointers are wrong/;
      refuses(page, recompression(removeSegment(0)), why);
    }
    const page = leaf(postingList(...A));
    view(page).setUint16(12, 40, true);
    refuses(page, recompression(removeSegment(0)), /posting list of/);
  });
});

describe("GIN pages", () => {
  test("posting items are inserted with the right child behind them, and deleted", () => {
    const base = leaf();
    view(base).setUint16(8190, 0x01, true);
    const item = (child: number, key: Item) => concat(tid([child, 0]).slice(0, 4), tid(key));
    base.set(concat(item(10, [1, 1]), item(20, [0xffffffff, 0xffff])), 32);
    view(base).setUint16(8188, 2, true);
    const children = concat(tid([20, 0]).slice(0, 4), tid([30, 0]).slice(0, 4));
    const fields: DeltaFields = {
      rmid: GIN,
      info: 0x20,
      main: concat(pack(["u16", 1]), children),
      data: concat(pack(["u16", 2]), item(20, [5, 5])),
    };
    const page = apply(base, fields);
    const expected = concat(item(10, [1, 1]), item(20, [5, 5]), item(30, [0xffffffff, 0xffff]));
    assert.deepEqual(lists(page), expected);
    assert.equal(view(page).getUint16(8188, true), 3);
    const references = [
      { id: 0, blkno: 1 },
      { id: 1, blkno: 2 },
      { id: 2, blkno: 3 },
    ];
    const deletion = (offset: number, blockId: number): DeltaFields => ({
      rmid: GIN,
      info: 0x50,
      blockId,
      references,
      main: pack(["u16", offset], ["u16", 0], ["u32", 77], ["u32", 900]),
    });
    page.fill(0, 0, 8);
    const less = apply(page, deletion(2, 1));
    assert.deepEqual(lists(less), concat(expected.slice(0, 10), expected.slice(20)));
    assert.equal(view(apply(page, deletion(2, 2))).getUint32(8184, true), 77);
    const deleted = apply(page, deletion(2, 0));
    assert.equal(view(deleted).getUint32(20, true), 900);
    assert.equal(view(deleted).getUint16(8190, true), 0x05);
    refuses(page, deletion(4, 1), /posting item 4 of 3/);
    refuses(page, deletion(0, 1), /posting item 0 of 3/);
    refuses(leaf(), deletion(1, 1), /wrong kind/);
    refuses(page, { ...fields, data: concat(pack(["u16", 9]), item(1, [1, 1])) }, /posting item 9/);
    view(page).setUint16(8188, 815, true);
    refuses(page, fields, /posting item 816 of 816/);
    view(page).setUint16(8188, 0xffff, true);
    refuses(page, deletion(3, 1), /posting item 3 of 65535/);
  });

  test("pending-list pages, the metapage, and deletion of the list", () => {
    const tuple = pack(["u32", 1], ["u16", 1], ["u16", 16], ["u32", 5], ["u32", 6]);
    const make = (rightlink: number, count: number, data: Uint8Array): DeltaFields => ({
      rmid: GIN,
      info: 0x70,
      main: pack(["u32", rightlink], ["u32", count]),
      data,
    });
    const tail = apply(undefined, make(INVALID_BLOCK, 2, concat(tuple, tuple)));
    assert.equal(view(tail).getUint16(12, true), 32);
    assert.equal(view(tail).getUint16(8188, true), 1);
    assert.equal(view(tail).getUint16(8190, true), 0x30);
    assert.equal(view(apply(undefined, make(8, 1, tuple))).getUint16(8190, true), 0x10);
    refuses(undefined, make(8, 2, tuple), /ends too early/);
    refuses(undefined, make(8, 1, concat(tuple, tuple)), /16 bytes after the last/);
    refuses(undefined, make(8, 0x7fffffff, concat(...Array(2000).fill(tuple))), /no room/);
    refuses(undefined, make(8, 5, new Uint8Array(80)), /index tuple of 0 bytes/);

    const metadata = new Uint8Array(56).map((_, i) => i + 1);
    const update = (count: number, previousTail: number): Uint8Array =>
      concat(
        new Uint8Array(16),
        metadata,
        pack(["u32", previousTail], ["u32", 42], ["u32", count], ["u32", 0]),
      );
    const references = Array.from({ length: 3 }, (_, id) => ({ id, blkno: id }));
    const meta = (main: Uint8Array, blockId: number, data?: Uint8Array): DeltaFields => ({
      rmid: GIN,
      info: 0x60,
      blockId,
      references,
      main,
      ...(data === undefined ? {} : { data }),
    });
    const metapage = apply(undefined, meta(update(0, INVALID_BLOCK), 0));
    assert.deepEqual(metapage.slice(24, 80), metadata);
    assert.equal(view(metapage).getUint16(12, true), 80);
    tail.fill(0, 0, 8);
    const more = apply(tail, meta(update(1, INVALID_BLOCK), 1, tuple));
    assert.equal(view(more).getUint16(12, true), 36);
    assert.equal(view(more).getUint16(8188, true), 2);
    const linked = apply(tail, meta(update(0, 3), 1));
    assert.equal(view(linked).getUint32(8184, true), 42);
    refuses(tail, meta(update(0, INVALID_BLOCK), 1), /means nothing for this page/);
    refuses(leaf(), meta(update(0, 3), 1), /wrong kind/);

    const deletion = (blockId: number): DeltaFields => ({
      rmid: GIN,
      info: 0x80,
      blockId,
      references,
      main: concat(metadata, pack(["u32", 1], ["u32", 0])),
    });
    assert.equal(view(apply(tail, deletion(1))).getUint16(8190, true), 0x04);
    assert.deepEqual(apply(tail, deletion(0)).slice(24, 80), metadata);
    refuses(tail, deletion(2), /beyond the deleted pages/);
  });

  test("refused: what must come as an image, pages of other kinds, short main data", () => {
    const page = leaf(postingList(...A));
    refuses(page, { rmid: GIN, info: 0x30 }, /without the page's image/);
    refuses(page, { rmid: GIN, info: 0x40 }, /without its image/);
    refuses(page, { rmid: GIN, info: 0x20 }, /main data/);
    refuses(page, { rmid: GIN, info: 0x20, main: pack(["u16", 2]) }, /wrong kind/);
    refuses(undefined, { rmid: GIN, info: 0x10, main: pack(["u32", 0xffffffff]) }, /main data/);
    const huge = concat(pack(["u32", 8153]), new Uint8Array(8153));
    refuses(undefined, { rmid: GIN, info: 0x10, main: huge }, /8153 bytes on one page/);
    assert.throws(() => apply(page, { rmid: GIN, info: 0xa0 }), { kind: "unsupported" });
    view(page).setUint16(14, 8176, true);
    view(page).setUint16(16, 8176, true);
    refuses(page, { rmid: GIN, info: 0x90, data: pack(["u16", 1]) }, /not a GIN page/);
  });
});

describe("BRIN", () => {
  const references = [
    { id: 0, blkno: 7 },
    { id: 1, blkno: 1 },
    { id: 2, blkno: 5 },
  ];
  const put = (offnum: number, init: boolean, blockId = 0, heapBlk = 12): DeltaFields => ({
    rmid: BRIN,
    info: init ? 0x90 : 0x10,
    blockId,
    references,
    main: pack(["u32", heapBlk], ["u32", 4], ["u16", offnum]),
    data: new Uint8Array(blockId === 0 ? 24 : 0).fill(offnum),
  });

  function regular(count: number): Uint8Array {
    let page: Uint8Array | undefined;
    for (let offnum = 1; offnum <= count; offnum++) {
      page = apply(page, put(offnum, offnum === 1));
      page.fill(0, 0, 8);
    }
    return page!;
  }

  function revmap(): Uint8Array {
    const main = pack(["u32", 1]);
    const page = apply(undefined, { rmid: BRIN, info: 0x40, blockId: 1, references, main });
    page.fill(0, 0, 8);
    return page;
  }

  test("metapage, revmap and summaries, alike in every major", () => {
    for (const pageMagic of MAGICS) {
      const main = pack(["u32", 128], ["u16", 1]);
      const meta = apply(undefined, { rmid: BRIN, info: 0x00, pageMagic, main });
      assert.deepEqual(
        meta.slice(24, 40),
        pack(["u32", 0xa8109cfa], ["u32", 1], ["u32", 128], ["u32", 0]),
      );
      meta.fill(0, 0, 8);
      const target = pack(["u32", 3]);
      const extended = apply(meta, { rmid: BRIN, info: 0x40, pageMagic, main: target });
      assert.equal(view(extended).getUint32(36, true), 3);
      const map = apply(revmap(), { ...put(9, false, 1), pageMagic });
      assert.deepEqual(map.slice(24 + 18, 24 + 24), tid([7, 9]));
      map.fill(0, 0, 8);
      const gone = pack(["u32", 4], ["u32", 12], ["u16", 9]);
      const cleared = apply(map, { rmid: BRIN, info: 0x50, pageMagic, main: gone });
      assert.deepEqual(cleared.slice(24 + 18, 24 + 24), tid([INVALID_BLOCK, 0]));
    }
    // The index wraps at 1360 items a page.
    const map = apply(revmap(), put(9, false, 1, 1361 * 4));
    assert.deepEqual(map.slice(24 + 6, 24 + 12), tid([7, 9]));
  });

  test("removed summaries leave their line pointer, the last one's goes, the hole is filled", () => {
    const remove = (page: Uint8Array, offnum: number): Uint8Array => {
      const main = pack(["u16", offnum], ["u16", 0], ["u32", 0], ["u32", 0], ["u16", 0]);
      const after = apply(page, { rmid: BRIN, info: 0x20, blockId: 2, references, main: main });
      after.fill(0, 0, 8);
      return after;
    };
    // Block 5 is the page of reference 2.
    const page = regular(3);
    const two = remove(page, 2);
    assert.equal(view(two).getUint16(12, true), 36);
    assert.equal(view(two).getUint32(28, true), 0);
    assert.deepEqual(
      two.slice(8184 - 48, 8184),
      concat(page.slice(8184 - 72, 8184 - 48), page.slice(8184 - 24, 8184)),
    );
    const again = apply(two, put(2, false));
    assert.equal(view(again).getUint16(12, true), 36);
    assert.deepEqual(again.slice(8184 - 72, 8184 - 48), new Uint8Array(24).fill(2));
    assert.equal(view(remove(two, 3)).getUint16(12, true), 32);
    assert.throws(() => remove(two, 2), { kind: "corrupt" });
    assert.throws(() => remove(two, 4), { kind: "corrupt" });
    refuses(page, put(2, false), /in use/);
    refuses(page, put(5, false), /4 is the next/);
    refuses(page, put(0, false), /line pointer 0/);
  });

  test("a summary is replaced in place, longer or shorter", () => {
    for (const size of [8, 24, 40]) {
      const page = apply(regular(3), {
        rmid: BRIN,
        info: 0x30,
        main: pack(["u16", 2]),
        data: new Uint8Array(size).fill(9),
      });
      const id = view(page).getUint32(28, true);
      assert.equal(id >>> 17, size);
      assert.deepEqual(page.slice(id & 0x7fff, (id & 0x7fff) + size), new Uint8Array(size).fill(9));
      assert.equal(view(page).getUint16(14, true), 8184 - 48 - size);
    }
    const fields: DeltaFields = { rmid: BRIN, info: 0x30, main: pack(["u16", 2]) };
    refuses(regular(3), fields, /no bytes/);
    refuses(regular(3), { ...fields, data: new Uint8Array(9000) }, /no room/);
  });

  test("refused: pages of another type, ranges of no pages, missing references", () => {
    refuses(revmap(), put(1, false), /page type 0xf092, not 0xf093/);
    refuses(regular(1), put(1, false, 1), /page type 0xf093, not 0xf092/);
    const main = pack(["u32", 12], ["u32", 0], ["u16", 1]);
    refuses(revmap(), { ...put(1, false, 1), main }, /ranges of no pages/);
    refuses(revmap(), put(0, false, 1), /without an offset number/);
    refuses(revmap(), { ...put(1, false, 1), references: [{ id: 1, blkno: 1 }] }, /reference 0/);
    refuses(regular(1), { ...put(1, false), main: new Uint8Array(9) }, /main data/);
    assert.throws(() => apply(regular(1), { rmid: BRIN, info: 0x60 }), { kind: "unsupported" });
  });
});

describe("generic records", () => {
  const base = (): Uint8Array => {
    const page = new Uint8Array(8192).fill(7);
    page.set(pack(["u16", 30], ["u16", 8000], ["u16", 8184], ["u16", 0x2004]), 12);
    page.fill(0, 0, 8);
    return page;
  };
  const change = (...fragments: readonly (readonly [number, Uint8Array])[]): DeltaFields => ({
    rmid: GENERIC,
    info: 0,
    data: concat(
      ...fragments.map(([at, bytes]) => concat(pack(["u16", at], ["u16", bytes.length]), bytes)),
    ),
  });

  test("fragments are written, then the hole is zeroed", () => {
    for (const pageMagic of MAGICS) {
      const fields = change([12, pack(["u16", 40])], [36, new Uint8Array(10).fill(1)]);
      const page = apply(base(), { ...fields, pageMagic });
      assert.deepEqual(page.slice(36, 40), new Uint8Array(4).fill(1));
      assert.deepEqual(page.slice(40, 8000), new Uint8Array(7960));
      assert.deepEqual(page.slice(8000), base().slice(8000));
      assert.equal(view(page).getUint32(4, true), 0x2000);
    }
    assert.deepEqual(
      apply(base(), change([8191, new Uint8Array([3])])).slice(8191),
      new Uint8Array([3]),
    );
  });

  test("refused: fragments beyond the page or the data, page pointers that become wrong", () => {
    refuses(base(), change([8190, new Uint8Array(3)]), /3 bytes for offset 8190/);
    refuses(base(), change([0xffff, new Uint8Array(0)]), /0 bytes for offset 65535/);
    refuses(base(), { rmid: GENERIC, info: 0, data: pack(["u16", 1]) }, /ends too early/);
    refuses(base(), { rmid: GENERIC, info: 0, data: pack(["u16", 1], ["u16", 9]) }, /too early/);
    for (const [at, value] of [
      [12, 8001],
      [12, 23],
      [14, 8185],
      [16, 8193],
    ] as const) {
      refuses(base(), change([at, pack(["u16", value])]), /page pointers became wrong/);
    }
    assert.throws(() => apply(base(), { rmid: GENERIC, info: 0x10 }), { kind: "unsupported" });
  });
});
