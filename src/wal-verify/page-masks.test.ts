// Masks on pages built by hand: what goes, what stays, and pages that are not what they seem.

import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../base/random.ts";
import { differsOnlyUnlogged, maskPage, type PageKind, pageKindOf } from "./page-masks.ts";

/** Header and special space of a page; the rest is 0x11 everywhere. */
function pageOf(lower: number, upper: number, special: number, end: readonly [number, number][]) {
  const page = new Uint8Array(8192).fill(0x11);
  const view = new DataView(page.buffer);
  view.setUint16(10, 0, true);
  view.setUint16(12, lower, true);
  view.setUint16(14, upper, true);
  view.setUint16(16, special, true);
  for (const [at, value] of end) {
    view.setUint16(at, value, true);
  }
  return { page, view };
}

function masked(kind: PageKind, built: ReturnType<typeof pageOf>, keepLsn = false): Uint8Array {
  maskPage(built.page, built.view, kind, 7, { keepLsn });
  return built.page;
}

test("pageKindOf: by special space and page id", () => {
  const kinds: [PageKind, number, [number, number][], number?][] = [
    ["heap", 8192, []],
    ["btree", 8176, [[8190, 12]]],
    ["hash", 8176, [[8190, 0xff80]]],
    ["gist", 8176, [[8190, 0xff81]]],
    ["spgist", 8184, [[8190, 0xff82]]],
    ["brin", 8184, [[8190, 0xf092]]],
    ["gin", 8184, [[8190, 2]]],
    ["other", 8184, [[8190, 0xff83]]],
    ["other", 8000, []],
    [
      "sequence",
      8184,
      [
        [8184, 0x1717],
        [8186, 0],
        [8188, 0],
        [8190, 0],
      ],
      0,
    ],
  ];
  for (const [kind, special, end, blkno] of kinds) {
    assert.equal(pageKindOf(pageOf(24, 8000, special, end).view, 0, blkno ?? 7), kind);
  }
  assert.equal(pageKindOf(pageOf(24, 8192, 8192, []).view, 2, 0), "visibility-map");
  // An internal page of a GIN index can look like a sequence; only block 0 is one.
  const alike: [number, number][] = [
    [8184, 0x1717],
    [8186, 0],
    [8188, 0],
    [8190, 0],
  ];
  assert.equal(pageKindOf(pageOf(24, 8000, 8184, alike).view, 0, 7), "gin");
});

test("maskPage: free space goes, tuples stay; of a heap tuple hint bits and command id go", () => {
  const built = pageOf(28, 8000, 8192, []);
  // One normal item of 29 bytes at 8000.
  built.view.setUint32(24, 8000 | (1 << 15) | (29 << 17), true);
  built.view.setUint16(8020, 0x0902, true);
  const page = masked("heap", built);
  assert.ok(page.subarray(28, 8000).every((byte) => byte === 0));
  assert.equal(page[8000], 0x11);
  assert.equal(built.view.getUint16(8020, true), 0x0002);
  assert.equal(built.view.getUint32(8008, true), 0);
  assert.deepEqual([...page.subarray(8028, 8033)], [0x11, 0, 0, 0, 0x11]);
  assert.equal(built.view.getUint32(0, true), 0);
  assert.equal(built.view.getUint32(20, true), 0);
});

test("maskPage: pd_lsn stays where it is wanted, the checksum never", () => {
  const page = masked("heap", pageOf(24, 8192, 8192, []), true);
  assert.deepEqual([...page.subarray(0, 10)], [17, 17, 17, 17, 17, 17, 17, 17, 0, 0]);
});

test("maskPage: a visibility map is raw but for its header", () => {
  const page = masked("visibility-map", pageOf(24, 8192, 8192, []));
  assert.ok(page.subarray(24).every((byte) => byte === 0x11));
});

test("maskPage: content goes of unused hash pages and deleted GIN pages only", () => {
  const content = (kind: PageKind, end: [number, number][]) =>
    masked(kind, pageOf(24, 8000, kind === "gin" ? 8184 : 8176, end)).subarray(8000, 8100);
  const gone = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);
  assert.ok(gone(content("gin", [[8190, 4]])));
  assert.ok(!gone(content("gin", [[8190, 2]])));
  assert.ok(
    gone(
      content("hash", [
        [8188, 0],
        [8190, 0xff80],
      ]),
    ),
  );
  assert.ok(
    !gone(
      content("hash", [
        [8188, 2],
        [8190, 0xff80],
      ]),
    ),
  );
});

test("differsOnlyUnlogged: lastUsedPages of an SP-GiST metapage, and nothing beside them", () => {
  const metaPage = () => {
    const built = pageOf(92, 8184, 8184, [
      [8184, 1],
      [8190, 0xff82],
    ]);
    built.view.setUint32(24, 0xba0babee, true);
    return built;
  };
  const differs = (at: number, kind: PageKind = "spgist", change = metaPage) => {
    const { view } = change();
    view.setUint8(at, 0x22);
    return differsOnlyUnlogged(kind, change().view, view);
  };
  assert.ok(differsOnlyUnlogged("spgist", metaPage().view, metaPage().view));
  for (const at of [28, 60, 91]) {
    assert.ok(differs(at), `byte ${at}`);
    assert.ok(!differs(at, "gin"), "of another access method");
  }
  for (const at of [2, 12, 24, 27, 92, 8186]) {
    assert.ok(!differs(at), `byte ${at}`);
  }
  const leaf = () => {
    const built = metaPage();
    built.view.setUint16(8184, 4, true);
    return built;
  };
  assert.ok(!differs(60, "spgist", leaf), "of a page that is no metapage");
});

test("differsOnlyUnlogged: pd_lsn of a GiST page that a sorted build wrote, and nothing beside it", () => {
  const gistPage = (lsn: number) => {
    const { view } = pageOf(24, 8176, 8176, [
      [8188, 1],
      [8190, 0xff81],
    ]);
    view.setUint32(0, 0, true);
    view.setUint32(4, lsn, true);
    return view;
  };
  assert.ok(differsOnlyUnlogged("gist", gistPage(1), gistPage(0x1234568)));
  assert.ok(!differsOnlyUnlogged("btree", gistPage(1), gistPage(0x1234568)));
  assert.ok(!differsOnlyUnlogged("gist", gistPage(0x1234560), gistPage(0x1234568)), "another LSN");
  assert.ok(!differsOnlyUnlogged("gist", gistPage(0x1234560), gistPage(1)), "the other way round");
  const other = gistPage(0x1234568);
  other.setUint8(8160, 0x22);
  assert.ok(!differsOnlyUnlogged("gist", gistPage(1), other), "and another byte");
});

test("maskPage: whatever the bytes, it stays in the page and ends", () => {
  const random = new SeededRandom(3);
  const kinds = ["heap", "btree", "hash", "gin", "gist", "sequence", "spgist", "brin", "other"];
  for (let i = 0; i < 500; i++) {
    const around = new Uint8Array(3 * 8192).fill(0xa5);
    const page = around.subarray(8192, 2 * 8192);
    for (let at = 0; at < 8192; at++) {
      page[at] = random.int(256);
    }
    const view = new DataView(around.buffer, 8192, 8192);
    if (random.bool(0.7)) {
      view.setUint16(12, 24 + random.int(4000), true);
      view.setUint16(14, 4100 + random.int(2000), true);
      view.setUint16(16, 8192 - 8 * random.int(3), true);
    }
    const kind = random.bool(0.5) ? pageKindOf(view, 0, i) : (random.pick(kinds) as PageKind);
    maskPage(page, view, kind, i);
    const outside = [around.subarray(0, 8192), around.subarray(2 * 8192)];
    assert.ok(outside.every((bytes) => bytes.every((byte) => byte === 0xa5)));
  }
});
