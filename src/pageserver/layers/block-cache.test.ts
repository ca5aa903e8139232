import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { addLsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { BlockCache, OpenFiles } from "./block-cache.ts";
import { keyHash, relBlockPrefix } from "./key.ts";
import { LayerFile } from "./layer-file.ts";
import { FIRST_KEY, FIRST_LAYER_NUMBER, LAST_KEY, LAYER_KIND_DELTA } from "./layer-format.ts";
import { LayerWriter } from "./layer-writer.ts";
import { ReadWindow } from "./read-window.ts";
import { ScanBlocks } from "./resident-index.ts";
import { VALUE_DELTA, VersionChain } from "./version-chain.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const START = toLsn(0x1_0000_0000);
const KEYS = 4000;
const BLOCKS = 13;
/** What scans share, and the indexes of what is in it. */
const SCAN_BYTES = 32 * ((32 << 10) + 9000);
/** A layer's index and filter take 9 kB, its blocks 200 kB. */
const BLOCKS_BYTES = 200_000;

function someValue(layer: number, key: number): Uint8Array {
  return new Uint8Array(10).fill((layer + key) & 0xff);
}

class Layers implements AsyncDisposable {
  readonly directory: string;
  readonly cache: BlockCache;
  readonly files: LayerFile[] = [];
  readonly #chain = new VersionChain();
  /** A block is one, an index four. */
  reads = 0;

  private constructor(directory: string, budgetBytes: number) {
    this.directory = directory;
    this.cache = new BlockCache(budgetBytes);
  }

  /** Layer `i` has key 0, 2, ... with `someValue` each, at START + i. */
  static async create(count: number, budgetBytes: number): Promise<Layers> {
    const directory = await mkdtemp(join(tmpdir(), "strata-cache-"));
    const layers = new Layers(directory, budgetBytes);
    const openFiles = new OpenFiles(count);
    for (let i = 0; i < count; i++) {
      const lsnStart = addLsn(START, i);
      const lsnEnd = addLsn(lsnStart, 1);
      const keys = { keyStart: FIRST_KEY, keyEnd: LAST_KEY };
      const name = { ...keys, kind: LAYER_KIND_DELTA, lsnStart, lsnEnd } as const;
      const writer = await LayerWriter.create(directory, LAYER_KIND_DELTA);
      for (let key = 0; key < KEYS; key++) {
        writer.add(REL, 2 * key, lsnStart, VALUE_DELTA, someValue(i, key));
      }
      const { fileName, sizeBytes } = await writer.finish(name, FIRST_LAYER_NUMBER);
      const path = join(directory, fileName);
      const file = new LayerFile(path, name, sizeBytes, {
        blockCache: layers.cache,
        openFiles,
        readWindow: new ReadWindow(),
        scanBlocks: new ScanBlocks(),
        useClock: { now: 0 },
      });
      layers.#countReads(file);
      layers.files.push(file);
    }
    return layers;
  }

  /** Not those of the disk: a window of the file may have a block that the cache has not. */
  #countReads(file: LayerFile): void {
    const { read, lend } = file;
    file.read = (...where) => {
      this.reads++;
      return read.apply(file, where);
    };
    file.lend = (...where) => {
      this.reads++;
      return lend.apply(file, where);
    };
  }

  /** Reads a key that is there, and one that is not, of layer `i`. */
  check(i: number, key: number): void {
    const chain = this.#chain;
    chain.reset();
    this.files[i]!.collect(REL, 2 * key + 1, keyHash(REL, 2 * key + 1), toLsn(2 ** 40), chain);
    assert.equal(chain.deltaCount, 0);
    this.files[i]!.collect(REL, 2 * key, keyHash(REL, 2 * key), toLsn(2 ** 40), chain);
    assert.equal(chain.deltaCount, 1);
    const value = chain.buffers[0]!.subarray(chain.offsets[0]!, chain.offsets[0]! + 10);
    assert.ok(value.every((byte) => byte === ((i + key) & 0xff)));
    chain.reset();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.files) {
      file.close();
    }
    await rm(this.directory, { recursive: true, force: true });
  }
}

function liveArrayBytes(): number {
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void;
  // What the first one frees is counted off in the background; the second one waits for that.
  collectGarbage();
  collectGarbage();
  return process.memoryUsage().arrayBuffers;
}

test("BlockCache: 200 layers that are read stay below the budget, indexes and filters too", async () => {
  const budget = 1 << 20;
  await using layers = await Layers.create(200, budget);
  const before = liveArrayBytes();
  const random = new SeededRandom(1);
  for (let round = 0; round < 4000; round++) {
    layers.check(round % 200, random.int(KEYS));
    assert.ok(layers.cache.usedBytes <= budget, `${layers.cache.usedBytes} bytes`);
  }
  assert.ok(layers.cache.usedBytes > budget / 2, `${layers.cache.usedBytes} bytes`);
  // All indexes and filters are 1.8 MB more, all blocks 40 MB.
  const held = liveArrayBytes() - before;
  assert.ok(held <= budget + SCAN_BYTES, `${held} bytes are held`);
  for (const file of layers.files) {
    file.close();
  }
  assert.equal(layers.cache.usedBytes, 0);
  layers.check(7, 7);
});

test("BlockCache: with room for all, nothing is read twice", async () => {
  await using layers = await Layers.create(5, 5 * (BLOCKS_BYTES + 50_000));
  const readAll = () => {
    for (let key = 0; key < KEYS; key += 10) {
      for (let i = 0; i < 5; i++) {
        layers.check(i, key);
      }
    }
  };
  readAll();
  layers.reads = 0;
  readAll();
  assert.equal(layers.reads, 0);
});

test("BlockCache: a layer's index stays while its blocks come and go", async () => {
  await using layers = await Layers.create(1, BLOCKS_BYTES / 2);
  const random = new SeededRandom(2);
  layers.check(0, 0);
  layers.reads = 0;
  let blocks = 0;
  for (let round = 0; round < 2000; round++) {
    const key = random.int(KEYS);
    const before = layers.reads;
    layers.check(0, key);
    // An index takes four reads more.
    assert.ok(layers.reads - before <= 1, `round ${round}`);
    blocks += layers.reads - before;
  }
  assert.ok(blocks > 500, `${blocks} blocks read`);
});

test("BlockCache: a scan does not push out what is read again and again", async () => {
  await using layers = await Layers.create(3, BLOCKS_BYTES);
  layers.check(0, 0);
  layers.check(0, 0);
  for (let key = 0; key < KEYS; key += 5) {
    layers.check(1 + (key % 2), key);
    if (key % 50 === 0) {
      const before = layers.reads;
      layers.check(0, 0);
      assert.equal(layers.reads, before, `key ${key}`);
    }
  }
});

test("BlockCache: blocks that are read once do not push out what is read again and again", async () => {
  await using layers = await Layers.create(3, BLOCKS_BYTES);
  layers.check(0, 0);
  layers.check(0, 0);
  // Downwards: no scan.
  for (let key = KEYS - 1; key >= 0; key -= Math.ceil(KEYS / BLOCKS)) {
    layers.check(1 + (key % 2), key);
    const before = layers.reads;
    layers.check(0, 0);
    assert.equal(layers.reads, before, `key ${key}`);
  }
});

test("BlockCache: a block that is read for the first time outlives older ones", async () => {
  await using layers = await Layers.create(2, BLOCKS_BYTES);
  const keysOfBlock = Math.ceil(KEYS / BLOCKS);
  // Downwards: no scan.
  for (let block = BLOCKS - 1; block >= 0; block--) {
    layers.check(0, block * keysOfBlock);
  }
  layers.check(1, (BLOCKS - 1) * keysOfBlock);
  for (let block = BLOCKS - 2; block > BLOCKS - 7; block--) {
    layers.check(1, block * keysOfBlock);
    layers.reads = 0;
    layers.check(1, (block + 1) * keysOfBlock + 1);
    assert.equal(layers.reads, 0, `block ${block + 1}`);
  }
});

test("BlockCache: a budget below one block serves all reads", async () => {
  await using layers = await Layers.create(2, 1);
  const random = new SeededRandom(3);
  for (let round = 0; round < 200; round++) {
    layers.check(round % 2, random.int(KEYS));
  }
  assert.ok(layers.cache.usedBytes < 30_000, `${layers.cache.usedBytes} bytes`);
});
