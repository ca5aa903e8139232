// PageRedo on hand-made deltas: forms that no 17.10 cluster writes, and input that must be refused.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { buildDelta, concat, type DeltaFields, pack } from "../../testing/redo/delta-builder.ts";
import { StorageError } from "../base/errors.ts";
import { toLsn } from "../base/lsn.ts";
import {
  encodeClogStatus,
  encodeCommitTimestamps,
  encodeMultixactMembers,
  encodeMultixactOffsets,
  encodeVmClear,
  encodeVmTruncate,
} from "../wal-decoder/implied-deltas.ts";
import { PageRedo } from "./page-redo.ts";

const HEAP2 = 9;
const HEAP = 10;
const BTREE = 11;
const LSN = toLsn(0x1_0000_2000);
const MAGICS = { 14: 0xd10d, 15: 0xd110, 16: 0xd113, 17: 0xd116, 18: 0xd118 } as const;
const BLOCKS_PER_MAP_PAGE = 32672;

function view(page: Uint8Array): DataView {
  return new DataView(page.buffer, page.byteOffset, page.length);
}

function lower(page: Uint8Array): number {
  return view(page).getUint16(12, true);
}

/** [lp_off, lp_flags, lp_len] of line pointer `offnum`. */
function linePointer(page: Uint8Array, offnum: number): [number, number, number] {
  const id = view(page).getUint32(24 + (offnum - 1) * 4, true);
  return [id & 0x7fff, (id >>> 15) & 3, id >>> 17];
}

function pageLsn(page: Uint8Array): number {
  return view(page).getUint32(0, true) * 2 ** 32 + view(page).getUint32(4, true);
}

function insertDelta(offnum: number, init: boolean, length = 10): Uint8Array {
  const header = pack(["u16", 2], ["u16", 0x0800], ["u8", 24]);
  return buildDelta({
    rmid: HEAP,
    info: init ? 0x80 : 0x00,
    main: pack(["u16", offnum], ["u8", 0]),
    data: concat(header, new Uint8Array(length).fill(offnum)),
  });
}

/** A heap page with `count` tuples of 33 bytes. */
function heapPage(count: number): Uint8Array {
  const redo = new PageRedo();
  redo.loadZero();
  for (let offnum = 1; offnum <= count; offnum++) {
    redo.apply(insertDelta(offnum, offnum === 1), toLsn(4096 + offnum * 8), 0, 0);
  }
  return redo.copyOut();
}

function apply(base: Uint8Array | undefined, delta: Uint8Array, blkno = 0, fork = 0): Uint8Array {
  const redo = new PageRedo();
  if (base === undefined) {
    redo.loadZero();
  } else {
    redo.load(base);
  }
  redo.apply(delta, LSN, blkno, fork);
  return redo.copyOut();
}

function offsets(...numbers: number[]): Uint8Array {
  return pack(...numbers.map((n) => ["u16", n] as const));
}

describe("PageRedo heap", () => {
  test("an init insert makes the page from nothing and stamps it", () => {
    const page = heapPage(1);
    assert.equal(lower(page), 28);
    assert.deepEqual(linePointer(page, 1), [8192 - 40, 1, 33]);
    const tuple = view(page);
    const at = 8192 - 40;
    assert.equal(tuple.getUint32(at, true), 700);
    assert.equal(tuple.getUint16(at + 16, true), 1);
    assert.equal(page[at + 22], 24);
    assert.equal(pageLsn(page), 4096 + 8);
  });

  test("a record that the page's LSN covers is skipped", () => {
    const page = heapPage(2);
    const redo = new PageRedo();
    redo.load(page);
    redo.apply(insertDelta(3, false), toLsn(4096 + 16), 0, 0);
    assert.deepEqual(redo.copyOut(), page);
  });

  test("pruning truncates line pointers from 15 on, not in 14", () => {
    const fields: DeltaFields = {
      rmid: HEAP2,
      info: 0x10,
      // Horizon, one redirect, one dead; what is left is unused.
      main: pack(["u32", 1], ["u16", 1], ["u16", 1], ["u8", 0]),
      data: offsets(1, 2, 3, 4, 5),
    };
    for (const major of [14, 15, 16] as const) {
      const page = apply(heapPage(5), buildDelta({ ...fields, pageMagic: MAGICS[major] }));
      assert.deepEqual(linePointer(page, 1), [2, 2, 0]);
      assert.deepEqual(linePointer(page, 2), [8192 - 40, 1, 33]);
      assert.deepEqual(linePointer(page, 3), [0, 3, 0]);
      assert.equal(lower(page), major === 14 ? 24 + 5 * 4 : 24 + 3 * 4);
      // HAS_FREE_LINES only while an unused line pointer is left.
      assert.equal(page[10]! & 1, major === 14 ? 1 : 0);
    }
  });

  test("the combined prune record of 17 and 18 does the same", () => {
    for (const major of [17, 18] as const) {
      const delta = buildDelta({
        rmid: HEAP2,
        info: 0x10,
        pageMagic: MAGICS[major],
        main: pack(["u8", 0], ["u8", 0x04 | 0x20 | 0x40 | 0x80]),
        data: offsets(1, 1, 2, 1, 3, 2, 4, 5),
      });
      const page = apply(heapPage(5), delta);
      assert.deepEqual(linePointer(page, 1), [2, 2, 0]);
      assert.equal(lower(page), 24 + 3 * 4);
    }
  });

  test("VACUUM of 14 to 16 cuts the array and leaves the tuples where they are", () => {
    const dead = apply(
      heapPage(4),
      buildDelta({
        rmid: HEAP2,
        info: 0x10,
        pageMagic: MAGICS[15],
        main: pack(["u32", 1], ["u16", 0], ["u16", 3]),
        data: offsets(2, 3, 4),
      }),
    );
    const redo = new PageRedo();
    redo.load(dead);
    const vacuum = buildDelta({
      rmid: HEAP2,
      info: 0x20,
      pageMagic: MAGICS[16],
      main: offsets(2),
      data: offsets(2, 4),
    });
    redo.apply(vacuum, toLsn(LSN + 8), 0, 0);
    const page = redo.copyOut();
    assert.equal(lower(page), 24 + 3 * 4);
    assert.deepEqual(linePointer(page, 2), [0, 0, 0]);
    assert.deepEqual(linePointer(page, 3), [0, 3, 0]);
    assert.equal(page[10]! & 1, 1);
  });

  test("freezing: tuples in 14 and 15, plans in 16, the combined record from 17", () => {
    const tuple = pack(["u32", 5], ["u16", 2], ["u16", 7], ["u16", 0x0b00], ["u8", 0], ["u8", 0]);
    const plan = pack(["u32", 5], ["u16", 7], ["u16", 0x0b00], ["u8", 0], ["u8", 0], ["u16", 1]);
    const forms: [number, Uint8Array, Uint8Array][] = [
      [MAGICS[14], pack(["u32", 1], ["u16", 1]), tuple],
      [MAGICS[15], pack(["u32", 1], ["u16", 1]), tuple],
      [MAGICS[16], pack(["u32", 1], ["u16", 1], ["u8", 0]), concat(plan, offsets(2))],
      [MAGICS[17], pack(["u8", 0], ["u8", 0x10]), concat(offsets(1, 0), plan, offsets(2))],
    ];
    for (const [pageMagic, main, data] of forms) {
      const page = apply(
        heapPage(3),
        buildDelta({ rmid: HEAP2, info: 0x30, pageMagic, main, data }),
      );
      const at = linePointer(page, 2)[0];
      assert.equal(view(page).getUint32(at + 4, true), 5, `magic ${pageMagic.toString(16)}`);
      assert.equal(view(page).getUint16(at + 18, true), 7);
      assert.equal(view(page).getUint16(at + 20, true), 0x0b00);
    }
  });

  test("VISIBLE stamps the heap page only with walLogHints", () => {
    const base = heapPage(1);
    const delta = buildDelta({
      rmid: HEAP2,
      info: 0x40,
      blockId: 1,
      references: [
        { id: 0, blkno: 0, fork: 2 },
        { id: 1, blkno: 0 },
      ],
      main: pack(["u32", 0], ["u8", 3]),
    });
    for (const walLogHints of [false, true]) {
      const redo = new PageRedo({ walLogHints });
      redo.load(base);
      redo.apply(delta, LSN, 0, 0);
      const page = redo.copyOut();
      assert.equal(page[10]! & 4, 4);
      assert.equal(pageLsn(page), walLogHints ? LSN : pageLsn(base));
    }
  });
});

describe("PageRedo visibility map", () => {
  const visible = (heapBlkno: number, flags: number) =>
    buildDelta({
      rmid: HEAP2,
      info: 0x40,
      blockId: 0,
      references: [
        { id: 0, blkno: Math.floor(heapBlkno / BLOCKS_PER_MAP_PAGE), fork: 2 },
        { id: 1, blkno: heapBlkno },
      ],
      main: pack(["u32", 0], ["u8", flags]),
    });
  const bits = (page: Uint8Array, heapBlkno: number) => {
    const inPage = heapBlkno % BLOCKS_PER_MAP_PAGE;
    return (page[24 + (inPage >> 2)]! >> ((inPage & 3) * 2)) & 3;
  };
  const mapOf = (...blocks: number[]) => {
    const redo = new PageRedo();
    redo.loadZero();
    blocks.forEach((heapBlkno, i) => {
      redo.apply(
        visible(heapBlkno, 3),
        toLsn(8192 + 8 * i),
        Math.floor(heapBlkno / BLOCKS_PER_MAP_PAGE),
        2,
      );
    });
    return redo.copyOut();
  };

  test("VISIBLE initialises a page of zeros, and stamps only where bits change", () => {
    const page = mapOf(BLOCKS_PER_MAP_PAGE + 5);
    assert.equal(bits(page, 5), 3);
    assert.equal(view(page).getUint16(14, true), 8192);
    const again = apply(page, visible(BLOCKS_PER_MAP_PAGE + 5, 3), 1, 2);
    assert.equal(pageLsn(again), 8192);
  });

  test("an implied clear takes only its bits and leaves the LSN", () => {
    const page = apply(mapOf(4, 5, 6), encodeVmClear(5, 2), 0, 2);
    assert.deepEqual(
      [4, 5, 6].map((b) => bits(page, b)),
      [3, 1, 3],
    );
    assert.equal(pageLsn(page), 8192 + 16);
  });

  test("truncation clears from the block on, in its own byte too", () => {
    const page = apply(mapOf(4, 5, 6, 7, 8, 32671), encodeVmTruncate(6), 0, 2);
    assert.deepEqual(
      [4, 5, 6, 7, 8, 32671].map((b) => bits(page, b)),
      [3, 3, 0, 0, 0, 0],
    );
  });

  test("registered maps (17.11): insert and lock clear the block of reference 0", () => {
    const references = [
      { id: 0, blkno: 5 },
      { id: 1, blkno: 0, fork: 2 },
    ];
    const insert = buildDelta({
      rmid: HEAP,
      info: 0x00,
      blockId: 1,
      references,
      main: pack(["u16", 1], ["u8", 1]),
    });
    const page = apply(mapOf(4, 5), insert, 0, 2);
    assert.deepEqual([bits(page, 4), bits(page, 5)], [3, 0]);
    assert.equal(pageLsn(page), LSN);
    const lock = buildDelta({
      rmid: HEAP,
      info: 0x60,
      blockId: 1,
      references,
      main: pack(["u32", 9], ["u16", 1], ["u8", 0], ["u8", 1]),
    });
    assert.equal(bits(apply(mapOf(4, 5), lock, 0, 2), 5), 1);
    // Nothing to clear: the page is not stamped.
    assert.equal(pageLsn(apply(mapOf(4), insert, 0, 2)), 8192);
  });

  test("registered maps (17.11): update clears old and new block where they share the page", () => {
    const update = (newBlkno: number, oldBlkno: number, blockId: number) =>
      buildDelta({
        rmid: HEAP,
        info: 0x20,
        blockId,
        references: [
          { id: 0, blkno: newBlkno },
          { id: 1, blkno: oldBlkno },
          { id: 2, blkno: Math.floor(newBlkno / BLOCKS_PER_MAP_PAGE), fork: 2 },
          { id: 3, blkno: Math.floor(oldBlkno / BLOCKS_PER_MAP_PAGE), fork: 2 },
        ],
        main: pack(["u32", 9], ["u16", 1], ["u8", 0], ["u8", 3], ["u32", 0], ["u16", 2]),
      });
    const both = apply(mapOf(4, 5, 6), update(5, 6, 2), 0, 2);
    assert.deepEqual(
      [4, 5, 6].map((b) => bits(both, b)),
      [3, 0, 0],
    );
    const apart = apply(mapOf(4, 5), update(5, BLOCKS_PER_MAP_PAGE + 4, 2), 0, 2);
    assert.deepEqual(
      [4, 5].map((b) => bits(apart, b)),
      [3, 0],
    );
    const old = apply(mapOf(BLOCKS_PER_MAP_PAGE + 4), update(5, BLOCKS_PER_MAP_PAGE + 4, 3), 1, 2);
    assert.equal(bits(old, 4), 0);
  });

  test("a clear on a page of zeros means nothing", () => {
    const page = apply(undefined, encodeVmClear(5, 3), 0, 2);
    assert.deepEqual(page, new Uint8Array(8192));
  });
});

describe("PageRedo btree", () => {
  test("VACUUM zeroes the cycle id in 18 only", () => {
    const newRoot = buildDelta({
      rmid: BTREE,
      info: 0xa0,
      references: [{ id: 0, blkno: 3, willInit: true }],
      main: pack(["u32", 3], ["u32", 0]),
    });
    const root = apply(undefined, newRoot, 3);
    assert.equal(view(root).getUint16(8188, true), 3);
    view(root).setUint16(8190, 77, true);
    const base = new Uint8Array(root);
    view(base).setUint32(0, 0, true);
    for (const [major, expected] of [
      [17, 77],
      [18, 0],
    ] as const) {
      const delta = buildDelta({
        rmid: BTREE,
        info: 0xc0,
        pageMagic: MAGICS[major],
        references: [{ id: 0, blkno: 3 }],
        main: pack(["u16", 0], ["u16", 0]),
      });
      assert.equal(view(apply(base, delta, 3)).getUint16(8190, true), expected);
    }
  });
});

describe("PageRedo SLRU pages", () => {
  test("transaction status sets two bits a transaction", () => {
    const page = apply(undefined, encodeClogStatus([32768 * 33 + 5, 32768 * 33 + 6], 1), 1);
    assert.deepEqual([...page.subarray(0, 3)], [0, 0x14, 0]);
    assert.deepEqual(
      [...apply(page, encodeClogStatus([32768 * 33 + 5], 2), 1).subarray(1, 2)],
      [0x18],
    );
  });

  test("a commit timestamp has ten bytes, time and origin", () => {
    const xids = [819 * 33 + 1, 819 * 33 + 818];
    const page = apply(undefined, encodeCommitTimestamps(xids, 0x1122_3344_5566_7788n, 7), 1);
    for (const at of [10, 8180]) {
      assert.equal(view(page).getBigInt64(at, true), 0x1122_3344_5566_7788n);
      assert.equal(view(page).getUint16(at + 8, true), 7);
    }
    page.fill(0, 10, 20);
    page.fill(0, 8180, 8190);
    assert.ok(page.every((byte) => byte === 0));
  });

  test("multixact offsets and members land in their slots", () => {
    const offsetsPage = apply(undefined, encodeMultixactOffsets([2050, 2051], [9, 12]), 1);
    assert.equal(view(offsetsPage).getUint32(8, true), 9);
    assert.equal(view(offsetsPage).getUint32(12, true), 12);
    const members = [
      { xid: 800, status: 1 },
      { xid: 801, status: 5 },
    ];
    const membersPage = apply(undefined, encodeMultixactMembers(1636 + 7, members), 1);
    // Member 7 is the last of group 1, member 8 the first of group 2.
    assert.deepEqual([membersPage[20 + 3], membersPage[40]], [1, 5]);
    assert.equal(view(membersPage).getUint32(20 + 4 + 12, true), 800);
    assert.equal(view(membersPage).getUint32(40 + 4, true), 801);
  });
});

describe("PageRedo refuses", () => {
  const refuse = (
    name: string,
    base: Uint8Array | undefined,
    delta: Uint8Array,
    pattern: RegExp,
    blkno = 0,
  ) =>
    test(name, () => {
      assert.throws(
        () => apply(base, delta, blkno),
        (error: unknown) => {
          assert.ok(error instanceof StorageError);
          assert.equal(error.kind, "corrupt");
          assert.match(error.message, /at LSN 1\/2000 on block \d+ of fork 0/);
          assert.match(error.message, pattern);
          return true;
        },
      );
    });

  refuse("an empty delta", heapPage(1), new Uint8Array(0), /unknown delta kind 0/);
  refuse("an unknown kind", heapPage(1), new Uint8Array([9, 0, 0, 0]), /unknown delta kind 9/);
  refuse("a cut delta", heapPage(1), insertDelta(2, false).slice(0, 12), /no whole header/);
  refuse(
    "lengths that do not add up",
    heapPage(1),
    insertDelta(2, false).slice(0, -1),
    /parts make/,
  );
  refuse(
    "an unknown page magic",
    heapPage(1),
    buildDelta({ rmid: HEAP, info: 0, pageMagic: 0xd063 }),
    /no known major/,
  );
  refuse(
    "a delta for a reference that the record lacks",
    heapPage(1),
    buildDelta({ rmid: HEAP, info: 0, blockId: 4 }),
    /reference 4/,
  );
  refuse(
    "a record on a page never initialised",
    undefined,
    insertDelta(2, false),
    /never initialised/,
  );
  refuse("an insert far past the last tuple", heapPage(1), insertDelta(7, false), /line pointer 7/);
  refuse("an insert over a used line pointer", heapPage(2), insertDelta(2, false), /in use/);
  refuse("a tuple that does not fit", heapPage(2), insertDelta(3, false, 8130), /no room/);
  refuse(
    "main data that is too short",
    heapPage(1),
    buildDelta({ rmid: HEAP, info: 0x10, main: new Uint8Array(3) }),
    /main data of 3 bytes/,
  );
  refuse(
    "a transaction of another page",
    new Uint8Array(8192),
    encodeClogStatus([5], 1),
    /transaction 5 is not on this page/,
    1,
  );
  refuse(
    "a commit timestamp of another page",
    new Uint8Array(8192),
    encodeCommitTimestamps([819, 5], 1n, 0),
    /transaction 5 is not on this page/,
    1,
  );
  refuse(
    "commit timestamps that end early",
    new Uint8Array(8192),
    encodeCommitTimestamps([5, 6], 1n, 0).subarray(0, 20),
    /delta of 20 bytes for 2 transactions/,
  );
  refuse(
    "a multixact of another page",
    new Uint8Array(8192),
    encodeMultixactOffsets([5], [1]),
    /entry 5/,
    1,
  );

  test("a page of another length", () => {
    assert.throws(() => new PageRedo().load(new Uint8Array(100)), { kind: "corrupt" });
  });

  test("a resource manager it cannot replay, as unsupported", () => {
    const custom = buildDelta({ rmid: 200, info: 0x20 });
    assert.throws(() => apply(heapPage(1), custom), { kind: "unsupported" });
  });

  test("a page whose header is wrong", () => {
    for (const [at, value] of [
      [12, 20],
      [12, 9000],
      [14, 8200],
      [16, 9000],
      [14, 26],
    ] as const) {
      const page = heapPage(3);
      view(page).setUint16(at, value, true);
      assert.throws(() => apply(page, insertDelta(4, false)), { kind: "corrupt" });
    }
  });

  test("and works again after a load", () => {
    const redo = new PageRedo();
    redo.load(heapPage(1));
    assert.throws(() => redo.apply(insertDelta(9, false), LSN, 0, 0));
    redo.load(heapPage(1));
    redo.apply(insertDelta(2, false), LSN, 0, 0);
    assert.equal(lower(redo.copyOut()), 32);
  });

  test("a delta larger than its working space is no danger", () => {
    const redo = new PageRedo();
    redo.load(heapPage(1));
    const huge = buildDelta({
      rmid: HEAP,
      info: 0x10,
      main: concat(pack(["u32", 9], ["u16", 1], ["u8", 0], ["u8", 0]), new Uint8Array(1_000_000)),
    });
    redo.apply(huge, LSN, 0, 0);
    assert.equal(view(redo.copyOut()).getUint32(8192 - 40 + 4, true), 9);
  });
});
