import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { PageMemory } from "./page-memory.ts";
import { ReadAhead } from "./read-ahead.ts";

test("ReadAhead: memory is given back once, when all that was fetched together has been released", async () => {
  const given: Uint8Array[] = [];
  const fetched: Uint8Array[] = [];
  const readAhead = new ReadAhead(512, (pages) => given.push(pages));
  const fetch = async (_: number, count: number) => {
    const pages = new Uint8Array(count * 8192);
    fetched.push(pages);
    return pages;
  };
  const read = async (blkno: number, count: number) => {
    const pieces = await Promise.all(readAhead.read("fork", blkno, count, 1000, fetch));
    assert.equal(
      pieces.reduce((sum, { bytes }) => sum + bytes.length, 0),
      count * 8192,
    );
    return pieces;
  };
  readAhead.prefetch("fork", 100, 32, 1000, fetch);
  const [first] = await read(100, 10);
  const [second] = await read(110, 22);
  second!.release();
  assert.equal(given.length, 0);
  first!.release();
  assert.deepEqual(
    given.map((pages) => fetched.indexOf(pages)),
    [0],
  );
  const [alone] = await read(500, 3);
  const [beside] = await read(600, 1);
  beside!.release();
  alone!.release();
  assert.deepEqual(
    given.slice(1).map(({ length }) => length),
    [8192, 3 * 8192],
  );
});

test("ReadAhead: where reads are announced nothing else is fetched, and a scan afterwards is read ahead again", async () => {
  const asked: number[] = [];
  const readAhead = new ReadAhead(4096, () => undefined);
  const fetch = async (blkno: number, count: number) => {
    asked.push(...Array.from({ length: count }, (_, i) => blkno + i));
    return new Uint8Array(count * 8192);
  };
  const read = (blkno: number) => Promise.all(readAhead.read("fork", blkno, 1, 1000, fetch));
  const blocks = Array.from({ length: 50 }, (_, i) => i * 5);
  // The first one is read before anything is announced.
  await read(blocks[0]!);
  for (const block of blocks.slice(1)) {
    readAhead.prefetch("fork", block, 1, 1000, fetch);
    await read(block);
  }
  assert.deepEqual(asked, blocks);
  for (let block = 300; block < 400; block++) {
    await read(block);
  }
  assert.ok(asked.includes(500), `${Math.max(...asked)}`);
  assert.equal(new Set(asked).size, asked.length);
});

test("ReadAhead: what had to go before it was read does not come back to memory", async () => {
  const given: Uint8Array[] = [];
  const readAhead = new ReadAhead(32, (pages) => given.push(pages));
  const fetch = async (_: number, count: number) => new Uint8Array(count * 8192);
  readAhead.prefetch("fork", 0, 32, 1000, fetch);
  const [piece] = await Promise.all(readAhead.read("fork", 0, 8, 1000, fetch));
  readAhead.prefetch("fork", 200, 32, 1000, fetch);
  assert.equal(readAhead.heldPages, 32);
  piece!.release();
  assert.equal(given.length, 0);
});

test("PageMemory: gives what it was given, whole, and no more than it keeps", () => {
  const memory = new PageMemory();
  const run = memory.take(32);
  assert.equal(run.length, 32 * 8192);
  memory.give(run.subarray(0, 20 * 8192));
  const again = memory.take(31);
  assert.equal(again.length, 31 * 8192);
  assert.ok(again.buffer === run.buffer);
  assert.ok(memory.take(32).buffer !== run.buffer);
  const small = memory.take(1);
  assert.equal(small.buffer.byteLength, 8192);
  memory.give(small);
  assert.equal(memory.take(128).length, 128 * 8192);
  const runs = Array.from({ length: 40 }, () => memory.take(32));
  for (const each of runs) {
    memory.give(each);
  }
  const known = new Set(runs.map(({ buffer }) => buffer));
  const reused = Array.from({ length: 40 }, () => memory.take(32)).filter(({ buffer }) =>
    known.has(buffer),
  );
  assert.equal(reused.length, 32);
});

test("ReadAhead: what has been handed out holds no memory", async () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const fetched: WeakRef<Uint8Array>[] = [];
  const readAhead = new ReadAhead(4096, () => undefined);
  const fetch = async (_: number, count: number) => {
    const pages = new Uint8Array(count * 8192);
    fetched.push(new WeakRef(pages));
    return pages;
  };
  for (let blkno = 0; blkno < 1000; blkno += 4) {
    readAhead.prefetch("fork", blkno, 4, 1000, fetch);
    const pieces = await Promise.all(readAhead.read("fork", blkno, 4, 1000, fetch));
    for (const piece of pieces) {
      piece.release();
    }
  }
  // What is weakly held lives to the end of the turn that looked at it.
  await new Promise((resolve) => setImmediate(resolve));
  collect();
  const held = fetched.filter((one) => one.deref() !== undefined).length;
  assert.ok(fetched.length >= 250 && held < 64, `${held} of ${fetched.length}`);
});
