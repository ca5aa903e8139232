import assert from "node:assert/strict";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { parseRelationPath, type RelationPath } from "../../postgres/relation-path.ts";
import { WrittenBlocks } from "./written-blocks.ts";

const START = toLsn(0x1000);
const FILE = parseRelationPath("base/5/100") as RelationPath;
const KEY = "the fork";

/** A table's page of `lsn` with one row by transaction 700, whose command id is `command`. */
function page(lsn: number, command = 0): Buffer {
  const bytes = Buffer.alloc(PAGE_SIZE);
  const tuple = PAGE_SIZE - 64;
  bytes.writeUInt32LE(lsn, 4);
  bytes.writeUInt16LE(28, 12);
  bytes.writeUInt16LE(tuple, 14);
  bytes.writeUInt16LE(PAGE_SIZE, 16);
  bytes.writeUInt32LE(((40 << 17) | (1 << 15) | tuple) >>> 0, 24);
  bytes.writeUInt32LE(700, tuple);
  bytes.writeUInt32LE(command, tuple + 8);
  return bytes;
}

interface World {
  readonly blocks: WrittenBlocks;
  readonly directory: string;
  readonly asked: string[];
  ingested: Lsn;
  oldest: number | undefined;
  stored: Uint8Array | undefined;
  compare(mask: number, blkno?: number): Promise<number | undefined>;
}

async function withWorld(local: readonly Buffer[], body: (world: World) => Promise<void>) {
  const directory = await mkdtemp(join(tmpdir(), "strata-written-"));
  const asked: string[] = [];
  const blocks = new WrittenBlocks({
    ...{ dataDirectory: directory, versionDirectory: "PG_17_1", startLsn: START },
    progress: {
      ingestedLsn: () => world.ingested,
      oldestRunningXid: async () => {
        asked.push("xid");
        return world.oldest;
      },
    },
  });
  const world: World = {
    ...{ blocks, directory, asked, ingested: toLsn(0x2000), oldest: undefined },
    stored: Buffer.concat(local),
    compare: (mask, blkno = 0) =>
      blocks.same(KEY, FILE, blkno, mask, async (first, count, lsn) => {
        asked.push(`${first}+${count} at ${lsn.toString(16)}`);
        return world.stored?.subarray(first * PAGE_SIZE, (first + count) * PAGE_SIZE);
      }),
  };
  try {
    mkdirSync(join(directory, "base/5"), { recursive: true });
    writeFileSync(join(directory, "base/5/100"), Buffer.concat(local));
    await body(world);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

test("WrittenBlocks: which blocks storage has, and that they are asked as of then from then on", async () => {
  const local = [page(0x1800), page(0x1801), page(0x2001), page(0x1802)];
  await withWorld(local, async (world) => {
    const { blocks, asked } = world;
    assert.equal(blocks.lsnFor(KEY), undefined);
    world.stored = Buffer.concat([page(0x1800), page(0x1700), page(0x2001), page(0x1802)]);
    // The third one's WAL has not been taken in.
    assert.equal(await world.compare(0b1111), 0b1001);
    assert.deepEqual(asked, ["0+2 at 2000", "3+1 at 2000"]);
    assert.equal(blocks.lsnFor(KEY), 0x2000);
    assert.equal(blocks.lsnFor("another fork"), undefined);
    world.ingested = toLsn(0x2100);
    assert.equal(await world.compare(0b0100), 0b0100);
    assert.equal(blocks.lsnFor(KEY), 0x2100);
    // Storage that comes back from a crash tells of less: what is asked for does not go back.
    world.ingested = toLsn(0x1900);
    assert.equal(blocks.moveOn(), 0x2100);
  });
});

test("WrittenBlocks: none of what storage does not have", async () => {
  await withWorld([page(0x1800), page(0x1801)], async (world) => {
    world.stored = undefined;
    assert.equal(await world.compare(0b11), 0, "no such relation, or shorter");
    assert.equal(world.blocks.lsnFor(KEY), undefined);
    world.stored = Buffer.concat([page(0x1800), page(0x1801)]);
    assert.equal(await world.compare(0b11, 1), 1, "the file ends");
    writeFileSync(join(world.directory, "base/5/100_init"), "");
    assert.equal(await world.compare(0b11), undefined, "unlogged");
    rmSync(join(world.directory, "base/5/100_init"));
    rmSync(join(world.directory, "base/5/100"));
    assert.equal(await world.compare(0b11), 0, "removed");
  });
  await withWorld([page(0x900)], async (world) => {
    // No pageserver has told anything: the start.
    world.ingested = toLsn(0);
    assert.equal(await world.compare(1), 1);
    assert.equal(world.blocks.lsnFor(KEY), START);
  });
});

test("WrittenBlocks: blocks of a later segment are its own, and unlogged where the relation is", async () => {
  await withWorld([page(0x1800)], async ({ blocks, directory }) => {
    const second = parseRelationPath("base/5/100.1") as RelationPath;
    writeFileSync(join(directory, "base/5/100.1"), Buffer.concat([page(0x1801), page(0x1802)]));
    const compare = (asked: string[]) =>
      blocks.same(KEY, second, 1, 1, async (first, count) => {
        asked.push(`${first}+${count}`);
        return page(0x1802);
      });
    const asked: string[] = [];
    assert.equal(await compare(asked), 1);
    assert.deepEqual(asked, ["131073+1"]);
    writeFileSync(join(directory, "base/5/100_init"), "");
    assert.equal(await compare(asked), undefined);
  });
});

test("WrittenBlocks: rows of a transaction that runs stay", async () => {
  await withWorld([page(0x1800, 3), page(0x1801)], async (world) => {
    world.stored = Buffer.concat([page(0x1800), page(0x1801)]);
    assert.equal(await world.compare(0b11), 0b10, "nobody knows");
    assert.equal(await world.compare(0b01), 0, "not asked again at once");
    assert.deepEqual(world.asked, ["0+2 at 2000", "xid", "0+1 at 2000"]);
  });
  await withWorld([page(0x1800, 3)], async (world) => {
    world.stored = page(0x1800);
    world.oldest = 701;
    assert.equal(await world.compare(1), 1);
  });
});
