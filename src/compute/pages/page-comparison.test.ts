import assert from "node:assert/strict";
import { test } from "node:test";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { comparePages } from "./page-comparison.ts";

const TUPLE = PAGE_SIZE - 64;
const RUNNING = 1000;

/** A page with one item of 40 bytes, 64 before its end. */
function page(specialBytes = 0, id = 0, flags = 0): Buffer {
  const bytes = Buffer.alloc(PAGE_SIZE);
  bytes.writeUInt32LE(0x7000, 4);
  bytes.writeUInt16LE(28, 12);
  bytes.writeUInt16LE(TUPLE, 14);
  bytes.writeUInt16LE(PAGE_SIZE - specialBytes, 16);
  bytes.writeUInt16LE(PAGE_SIZE | 4, 18);
  bytes.writeUInt32LE(((41 << 17) | (1 << 15) | TUPLE) >>> 0, 24);
  if (specialBytes > 0) {
    bytes.writeUInt16LE(flags, PAGE_SIZE - 4);
    bytes.writeUInt16LE(id, PAGE_SIZE - 2);
  }
  return bytes;
}

/** A table's, with a row of transaction `xmin` that `xmax` has deleted. */
function row(xmin: number, xmax = 0, mask = 0x0002): Buffer {
  const bytes = page();
  bytes.writeUInt32LE(xmin >>> 0, TUPLE);
  bytes.writeUInt32LE(xmax, TUPLE + 4);
  bytes.writeUInt16LE(1, TUPLE + 16);
  bytes.writeUInt16LE(mask, TUPLE + 20);
  bytes[TUPLE + 22] = 24;
  return bytes;
}

function changed(from: Buffer, change: (page: Buffer) => void): Buffer {
  const copy = Buffer.from(from);
  change(copy);
  return copy;
}

const mask = (bits: number) => (bytes: Buffer) => {
  bytes.writeUInt16LE(bytes.readUInt16LE(TUPLE + 20) ^ bits, TUPLE + 20);
};
const flags = (bits: number) => (bytes: Buffer) => {
  bytes.writeUInt16LE(bytes.readUInt16LE(PAGE_SIZE - 4) ^ bits, PAGE_SIZE - 4);
};
const both = (one: (page: Buffer) => void, other: (page: Buffer) => void) => (bytes: Buffer) => {
  one(bytes);
  other(bytes);
};
const dead = (bytes: Buffer) => {
  bytes.writeUInt32LE(((41 << 17) | (3 << 15) | TUPLE) >>> 0, 24);
};

test("comparePages: what Postgres may lose makes no difference", () => {
  const old = row(900);
  const [btree, hash, gist] = [page(16, 0, 1), page(16, 0xff80, 2), page(16, 0xff81, 1)];
  const same: Record<string, readonly [stored: Buffer, change: (page: Buffer) => void]> = {
    nothing: [old, () => undefined],
    checksum: [old, (bytes) => bytes.writeUInt16LE(0x1234, 8)],
    "hint flags": [old, (bytes) => bytes.writeUInt16LE(3, 10)],
    "prune xid": [old, (bytes) => bytes.writeUInt32LE(99, 20)],
    "free space": [old, (bytes) => bytes.fill(0xee, 28, TUPLE)],
    padding: [old, (bytes) => bytes.fill(0xee, TUPLE + 41, TUPLE + 48)],
    "xmin committed": [old, mask(0x0100)],
    "xmin aborted": [old, mask(0x0200)],
    "xmax gone": [old, mask(0x0800)],
    "a dead entry of a B-tree": [btree, both(dead, flags(64))],
    "a dead entry of a hash index": [hash, both(dead, flags(128))],
    "a dead entry of a GiST index": [gist, both(dead, flags(16))],
  };
  for (const [what, [stored, change]] of Object.entries(same)) {
    const local = changed(stored, change);
    const [before, was] = [Buffer.from(local), Buffer.from(stored)];
    assert.equal(comparePages(local, stored, undefined), "same", what);
    assert.deepEqual([local, stored], [before, was], `${what}: both stay as they are`);
  }
});

test("comparePages: all else does", () => {
  const old = row(900);
  const btree = page(16, 0, 1);
  const other: Record<string, readonly [stored: Buffer, change: (page: Buffer) => void]> = {
    LSN: [old, (bytes) => bytes.writeUInt32LE(0x7001, 4)],
    "all visible": [old, (bytes) => bytes.writeUInt16LE(4, 10)],
    "end of the line pointers": [old, (bytes) => bytes.writeUInt16LE(32, 12)],
    "a row's bytes": [old, (bytes) => bytes.writeUInt8(1, TUPLE + 30)],
    "behind the rows": [old, (bytes) => bytes.writeUInt8(1, TUPLE + 50)],
    "a deletion": [old, (bytes) => bytes.writeUInt32LE(901, TUPLE + 4)],
    frozen: [old, mask(0x0300)],
    "locked only": [old, mask(0x0080)],
    "a speculative row": [old, (bytes) => bytes.writeUInt16LE(0xfffe, TUPLE + 16)],
    "a dead line pointer of a table": [old, dead],
    "a B-tree's cycle id": [btree, (bytes) => bytes.writeUInt16LE(7, PAGE_SIZE - 2)],
    "a B-tree's other flags": [btree, flags(32)],
    "a dead entry above the leaves": [page(16, 0, 0), dead],
    "flags of an index that nobody knows": [page(16, 0xff84, 1), flags(64)],
    "a sequence's position": [page(8), (bytes) => bytes.writeUInt8(33, TUPLE + 24)],
    "what may not be free, as pd_lower was never set": [
      changed(page(8), (bytes) => bytes.writeUInt16LE(24, 12)),
      (bytes) => bytes.writeUInt8(1, 100),
    ],
  };
  for (const [what, [stored, change]] of Object.entries(other)) {
    assert.equal(comparePages(changed(stored, change), stored, 2 ** 31), "differs", what);
  }
  assert.equal(comparePages(Buffer.alloc(PAGE_SIZE), Buffer.alloc(PAGE_SIZE), 5), "differs", "new");
  const unlogged = changed(old, (bytes) => bytes.writeUInt32LE(0, 4));
  assert.equal(comparePages(unlogged, unlogged, 5000), "differs", "in no WAL");
  for (const [at, value] of [
    [12, 20],
    [12, 9000],
    [14, 9000],
    [16, 60_000],
  ] as const) {
    const damaged = changed(old, (bytes) => bytes.writeUInt16LE(value, at));
    assert.equal(
      comparePages(
        changed(damaged, (bytes) => bytes.writeUInt8(1, 8)),
        damaged,
        5000,
      ),
      "differs",
      `header ${at} ${value}`,
    );
  }
});

test("comparePages: command ids count while a transaction runs that has written them", () => {
  const command = (bytes: Buffer) => bytes.writeUInt32LE(5, TUPLE + 8);
  const combo = (bytes: Buffer) => {
    command(bytes);
    mask(0x0020)(bytes);
  };
  const cases: readonly (readonly [stored: Buffer, oldest: number | undefined, result: string])[] =
    [
      [row(999), RUNNING, "same"],
      [row(1000), RUNNING, "running"],
      [row(999), undefined, "running"],
      [row(2), RUNNING, "same"],
      // Ids wrap: 2^32 - 5 is long before 1000, and 1000 after it.
      [row(-5), RUNNING, "same"],
      [row(RUNNING), 2 ** 32 - 5, "running"],
      // FrozenTransactionId is before all, wherever the counter is.
      [row(2), 3_000_000_000, "same"],
      [row(999, 998), RUNNING, "same"],
      [row(999, 1000), RUNNING, "running"],
      [row(999, 1000, 0x0802), RUNNING, "same"],
      // A multixact.
      [row(999, 998, 0x1002), RUNNING, "running"],
      [row(999, 998, 0x1802), RUNNING, "same"],
    ];
  for (const [stored, oldest, result] of cases) {
    for (const change of [command, combo]) {
      assert.equal(comparePages(changed(stored, change), stored, oldest), result);
    }
  }
  // The same id is the same, whoever runs; what else differs is not made good by it.
  assert.equal(
    comparePages(changed(row(1000), command), changed(row(1000), command), RUNNING),
    "same",
  );
  const changedTwice = changed(row(1000), both(command, mask(0x0080)));
  assert.equal(comparePages(changedTwice, row(1000), RUNNING), "differs");
});
