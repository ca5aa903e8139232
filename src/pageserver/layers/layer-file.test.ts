import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { mkdtemp, readdir, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { mock, test } from "node:test";
import { crc32 } from "node:zlib";
import { REAL_DISK } from "../../base/disk.ts";
import { StorageError } from "../../base/errors.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { BlockCache, OpenFiles } from "./block-cache.ts";
import {
  comparePrefixes,
  formatKey,
  type KeyPrefix,
  keyHash,
  relBlockPrefix,
  relSizePrefix,
  samePrefix,
} from "./key.ts";
import { LayerFile } from "./layer-file.ts";
import {
  FIRST_KEY,
  FIRST_LAYER_NUMBER,
  formatLayerName,
  LAST_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  layerFileName,
  parseLayerFileName,
} from "./layer-format.ts";
import { type LayerDescription, LayerWriter } from "./layer-writer.ts";
import { ReadWindow } from "./read-window.ts";
import { ScanBlocks } from "./resident-index.ts";
import {
  BASE_ABSENT,
  BASE_IMAGE,
  BASE_NONE,
  VALUE_DELTA,
  VALUE_IMAGE,
  VersionChain,
} from "./version-chain.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const NAME = {
  kind: LAYER_KIND_DELTA,
  keyStart: FIRST_KEY,
  keyEnd: LAST_KEY,
  lsnStart: toLsn(0x1_0000_0000),
  lsnEnd: toLsn(0x1_0010_0000),
} as const;

class Files implements AsyncDisposable {
  readonly directory: string;
  readonly resources = {
    blockCache: new BlockCache(1 << 20),
    openFiles: new OpenFiles(2),
    readWindow: new ReadWindow(),
    scanBlocks: new ScanBlocks(),
    useClock: { now: 0 },
  };
  readonly opened: LayerFile[] = [];

  constructor(directory: string) {
    this.directory = directory;
  }

  static async create(): Promise<Files> {
    return new Files(await mkdtemp(join(tmpdir(), "strata-layer-")));
  }

  open(layer: LayerDescription): LayerFile {
    const name = parseLayerFileName(layer.fileName)!;
    const path = join(this.directory, layer.fileName);
    const file = new LayerFile(path, name, layer.sizeBytes, this.resources);
    this.opened.push(file);
    return file;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const file of this.opened) {
      file.close();
    }
    await rm(this.directory, { recursive: true, force: true });
  }
}

interface Version {
  readonly prefix: KeyPrefix;
  readonly index: number;
  readonly lsn: Lsn;
  readonly value: Uint8Array;
}

/** Many versions of few keys and few of many, small and larger than a block. */
function makeVersions(seed: number): Version[] {
  const random = new SeededRandom(seed);
  const prefixes = [REL, relBlockPrefix(1663, 5, 16384, 2), relSizePrefix(1664, 0, 1262, 0)];
  const versions: Version[] = [];
  for (const prefix of prefixes.sort(comparePrefixes)) {
    let index = random.int(3);
    for (let key = 0; key < 40; key++) {
      let lsn = NAME.lsnStart + random.int(50);
      for (let i = random.pick([1, 1, 2, 30, 800]); i > 0; i--) {
        const size = random.pick([0, 1, 40, 40, 41, 300, 300, 20_000]);
        const value = new Uint8Array(i > 30 ? size % 100 : size).fill(random.int(256));
        versions.push({ prefix, index, lsn: toLsn(lsn), value });
        lsn += random.int(20);
      }
      index += 1 + random.int(5) * random.int(1000);
    }
  }
  return versions;
}

function describe(version: Version): string {
  return `${version.lsn}:${version.value.length}:${version.value[0]}`;
}

function newestFirstByKey(versions: readonly Version[]): Map<string, Version[]> {
  return Map.groupBy(versions.toReversed(), ({ prefix, index }) => formatKey(prefix, index));
}

async function writeDeltaLayer(directory: string, versions: Version[]): Promise<LayerDescription> {
  const writer = await LayerWriter.create(directory, LAYER_KIND_DELTA);
  for (const [i, { prefix, index, lsn, value }] of versions.entries()) {
    writer.add(prefix, index, lsn, VALUE_DELTA, value);
    if (i % 100 === 0) {
      await writer.drain();
    }
  }
  return await writer.finish(NAME);
}

function collected(file: LayerFile, prefix: KeyPrefix, index: number, lsn: Lsn): string[] {
  const chain = new VersionChain();
  file.collect(prefix, index, keyHash(prefix, index), lsn, chain);
  return Array.from({ length: chain.deltaCount }, (_, i) => {
    const at = chain.offsets[i]!;
    const value = chain.buffers[i]!.subarray(at, at + chain.lengths[i]!);
    return `${chain.lsns[i]}:${value.length}:${value[0]}`;
  });
}

test("LayerFile: every key at every LSN gives its versions, newest first", async () => {
  await using files = await Files.create();
  const versions = makeVersions(1);
  const file = files.open(await writeDeltaLayer(files.directory, versions));
  const byKey = newestFirstByKey(versions);
  const random = new SeededRandom(2);
  for (let i = 0; i < 1000; i++) {
    const { prefix, index, lsn } = random.pick(versions);
    const maxLsn = toLsn(lsn + random.int(3) - 1);
    const expected = byKey.get(formatKey(prefix, index))!.filter((v) => v.lsn <= maxLsn);
    assert.deepEqual(collected(file, prefix, index, maxLsn), expected.map(describe));
    assert.deepEqual(collected(file, prefix, index + 1_000_000, maxLsn), []);
  }
});

test("LayerFile: collectKeys reports the keys under some fields", async () => {
  await using files = await Files.create();
  const versions = makeVersions(3);
  const file = files.open(await writeDeltaLayer(files.directory, versions));
  for (const fields of [[0], [0x61], [0, 1663, 5, 16384, 2], [0, 1663, 5, 16385], [0xff], []]) {
    const keys = new Set<string>();
    file.collectKeys(fields, NAME.lsnEnd, (prefix, index) => keys.add(formatKey(prefix, index)));
    const expected = versions.filter(({ prefix }) => {
      const other: number[] = samePrefix(prefix, relSizePrefix(1664, 0, 1262, 0))
        ? [0x61]
        : [0, 1663, 5, 16384];
      other.push(samePrefix(prefix, REL) ? 0 : 2);
      return fields.every((field, i) => field === other[i]);
    });
    assert.deepEqual(keys, new Set(expected.map((v) => formatKey(v.prefix, v.index))));
  }
});

test("LayerFile: collectKeys begins where it is told", async () => {
  await using files = await Files.create();
  const versions = makeVersions(3);
  const file = files.open(await writeDeltaLayer(files.directory, versions));
  for (const [first, blocks, sizes] of [
    [[0, 1663, 5, 16384, 1], true, false],
    [[0, 1663, 5, 16384, 2], true, false],
    [[0, 1663, 5, 16385], false, false],
    [[0x61, 1664, 0, 1262], false, true],
    [[0x61, 1664, 0, 1263], false, false],
  ] as const) {
    for (const fields of [first.slice(0, 3), [first[0]]]) {
      const found = new Set<KeyPrefix>();
      file.collectKeys(fields, NAME.lsnEnd, (prefix) => found.add(prefix), first);
      const expected = versions
        .map(({ prefix }) => prefix)
        .filter((prefix) =>
          samePrefix(prefix, REL) ? false : prefix.field1 === 0 ? blocks : sizes,
        )
        .filter((prefix) => prefix.field1 === first[0]);
      const texts = (prefixes: Iterable<KeyPrefix>) =>
        [...new Set([...prefixes].map((prefix) => formatKey(prefix, 0)))].sort();
      assert.deepEqual(texts(found), texts(expected));
    }
  }
});

test("LayerFile: an image layer says of every key whether it exists", async () => {
  await using files = await Files.create();
  const writer = await LayerWriter.create(files.directory, LAYER_KIND_IMAGE);
  const lsn = toLsn(0x500);
  writer.add(REL, 7, lsn, VALUE_IMAGE, new Uint8Array(8192).fill(3));
  const name = { ...NAME, kind: LAYER_KIND_IMAGE, lsnStart: lsn, lsnEnd: toLsn(0x501) } as const;
  const file = files.open(await writer.finish(name));
  const chain = new VersionChain();
  assert.equal(file.collect(REL, 7, keyHash(REL, 7), lsn, chain), true);
  assert.equal(chain.base, BASE_IMAGE);
  chain.reset();
  assert.equal(file.collect(REL, 8, keyHash(REL, 8), lsn, chain), true);
  assert.equal(chain.base, BASE_ABSENT);
});

test("LayerFile: a scan of images reads them all and pushes nothing out of a full cache", async () => {
  await using files = await Files.create();
  const random = new SeededRandom(4);
  const pages = Array.from({ length: 400 }, () =>
    Uint8Array.from({ length: 8192 }, () => random.int(256)),
  );
  const writer = await LayerWriter.create(files.directory, LAYER_KIND_IMAGE);
  const lsn = toLsn(0x500);
  for (const [index, page] of pages.entries()) {
    writer.add(REL, index, lsn, VALUE_IMAGE, page);
    await writer.drain();
  }
  const name = { ...NAME, kind: LAYER_KIND_IMAGE, lsnStart: lsn, lsnEnd: toLsn(0x501) } as const;
  const file = files.open(await writer.finish(name));
  const chain = new VersionChain();
  const read = (index: number) => {
    chain.reset();
    file.collect(REL, index, keyHash(REL, index), lsn, chain);
    const page = chain.baseBuffer!.subarray(chain.baseOffset, chain.baseOffset + chain.baseLength);
    assert.deepEqual(Buffer.from(page), Buffer.from(pages[index]!), `page ${index}`);
  };
  const { blockCache } = files.resources;
  for (let index = 398; index > 0; index -= 2) {
    read(index);
  }
  const evicted = mock.method(blockCache, "evict");
  for (let round = 0; round < 2; round++) {
    for (let index = 0; index < 200; index++) {
      read(index);
    }
  }
  // For the first of each round: nobody knew that it was a scan.
  assert.ok(evicted.mock.callCount() <= 10, `${evicted.mock.callCount()} blocks`);
});

/** Of each key a value in each block of some, and then half a block of another key's. */
async function longChains(files: Files, layers: number, keys: number): Promise<LayerFile[]> {
  const opened: LayerFile[] = [];
  for (let layer = 0; layer < layers; layer++) {
    const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
    for (let key = 0; key < keys; key++) {
      for (let version = 0; version < LONG_CHAIN; version++) {
        const value = new Uint8Array(9000).fill(byteOf(layer, key, version));
        writer.add(REL, key, toLsn(lsnOf(layer) + version), VALUE_DELTA, value);
      }
    }
    const lsns = { lsnStart: lsnOf(layer), lsnEnd: lsnOf(layer + 1) };
    opened.push(files.open(await writer.finish({ ...NAME, ...lsns })));
  }
  return opened;
}

const LONG_CHAIN = 4;
const lsnOf = (layer: number) => toLsn(0x1_0000_0000 + layer * 16);
const byteOf = (layer: number, key: number, version: number) =>
  (layer * 31 + key * 5 + version) & 0xff;

function checkLongChain(chain: VersionChain, key: number, firstLayer = 0): void {
  for (let at = 0; at < chain.deltaCount; at++) {
    const version = chain.deltaCount - 1 - at;
    const layer = firstLayer + Math.floor(version / LONG_CHAIN);
    const wanted = byteOf(layer, key, version % LONG_CHAIN);
    const from = chain.offsets[at]!;
    const value = chain.buffers[at]!.subarray(from, from + 9000);
    assert.ok(
      value.every((byte) => byte === wanted),
      `key ${key}, version ${version}`,
    );
  }
}

test("LayerFile: a scan of deltas reads each block once and is not kept", async () => {
  await using files = await Files.create();
  const [keys, firstScanned] = [20, 5];
  const layers = await longChains(files, 3, keys);
  const chain = new VersionChain();
  let blocks = 0;
  for (const file of layers) {
    const { lend } = file;
    file.lend = (...where) => {
      blocks++;
      return lend.apply(file, where);
    };
  }
  const read = (key: number) => {
    chain.reset();
    for (const file of layers.toReversed()) {
      file.collect(REL, key, keyHash(REL, key), toLsn(2 ** 40), chain);
    }
  };
  for (let key = 0; key < firstScanned; key++) {
    read(key);
  }
  blocks = 0;
  const inserted = mock.method(files.resources.blockCache, "insert");
  for (let key = firstScanned; key < keys; key++) {
    read(key);
    read(key);
  }
  assert.equal(blocks, layers.length * LONG_CHAIN * (keys - firstScanned));
  assert.equal(inserted.mock.callCount(), 0);
});

test("LayerFile: a scan whose keys have more blocks than it has memory gives their bytes", async () => {
  await using files = await Files.create();
  const [layers, someLayers, keys] = [12, 5, 8];
  const opened = await longChains(files, layers, keys);
  const chain = new VersionChain();
  for (let read = 0; read < 4 * keys; read++) {
    // First some blocks of each key, which are found again when all are read: they are lent as those are that are loaded then.
    const key = (read >>> 1) % keys;
    const first = (read & 1) === 0 ? layers - someLayers : 0;
    chain.reset();
    for (const file of opened.slice(first).toReversed()) {
      file.collect(REL, key, keyHash(REL, key), toLsn(2 ** 40), chain);
    }
    assert.equal(chain.deltaCount, (layers - first) * LONG_CHAIN);
    checkLongChain(chain, key, first);
  }
});

test("LayerFile: a scan keeps the block that it comes back to", async () => {
  await using files = await Files.create();
  // 48 values of the one layer are a block, and one of the other.
  const [keys, keysOfBlock] = [600, 48];
  const [small, large] = await Promise.all(
    [300, 9000].map(async (bytes, i) => {
      const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
      for (let key = 0; key < keys; key++) {
        writer.add(REL, key, lsnOf(i), VALUE_DELTA, new Uint8Array(bytes));
      }
      const lsns = { lsnStart: lsnOf(i), lsnEnd: lsnOf(i + 1) };
      return files.open(await writer.finish({ ...NAME, ...lsns }));
    }),
  );
  const lent = mock.method(small!, "lend");
  const chain = new VersionChain();
  for (let key = 0; key < keys; key++) {
    chain.reset();
    large!.collect(REL, key, keyHash(REL, key), toLsn(2 ** 40), chain);
    small!.collect(REL, key, keyHash(REL, key), toLsn(2 ** 40), chain);
    assert.equal(chain.deltaCount, 2);
  }
  assert.equal(lent.mock.callCount(), Math.ceil(keys / keysOfBlock));
});

test("LayerFile: a damaged block in a scan is reported each time, and spoils no other", async () => {
  await using files = await Files.create();
  const keys = 40;
  const [file] = (await longChains(files, 1, keys)) as [LayerFile];
  const bytes = readFileSync(file.path);
  // Blocks are equal in size, but for compression.
  bytes[Math.floor(bytes.length / 2)]! ^= 1;
  writeFileSync(file.path, bytes);
  const chain = new VersionChain();
  let failures = 0;
  for (let round = 0; round < 2; round++) {
    for (let key = 0; key < keys; key++) {
      chain.reset();
      try {
        file.collect(REL, key, keyHash(REL, key), toLsn(2 ** 40), chain);
      } catch (error) {
        assert.ok(error instanceof StorageError && error.kind === "corrupt");
        failures++;
        continue;
      }
      assert.equal(chain.deltaCount, LONG_CHAIN);
      checkLongChain(chain, key);
    }
  }
  assert.equal(failures, 2);
});

test("LayerFile: an empty layer has nothing", async () => {
  await using files = await Files.create();
  const file = files.open(await writeDeltaLayer(files.directory, []));
  assert.deepEqual(collected(file, REL, 0, NAME.lsnEnd), []);
});

test("LayerWriter: an abandoned file leaves nothing, a wrong order is refused", async () => {
  await using files = await Files.create();
  const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
  writer.add(REL, 5, toLsn(100), VALUE_DELTA, new Uint8Array(1));
  assert.throws(() => writer.add(REL, 4, toLsn(100), VALUE_DELTA, new Uint8Array(1)));
  assert.throws(() => writer.add(REL, 5, toLsn(99), VALUE_DELTA, new Uint8Array(1)));
  await writer.abandon();
  assert.deepEqual(await readdir(files.directory), []);
});

test("LayerWriter: a file whose name could not be made durable is abandoned under that name", async () => {
  await using files = await Files.create();
  const fsyncDirectory = () => Promise.reject(Object.assign(new Error("no"), { code: "ENOSPC" }));
  const disk = { ...REAL_DISK, background: { ...REAL_DISK.background, fsyncDirectory } };
  const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA, disk);
  await assert.rejects(writer.finish(NAME), { code: "disk-full" });
  await writer.abandon();
  assert.deepEqual(await readdir(files.directory), []);
});

test("LayerWriter: a name has to cover the first and the last key", async () => {
  await using files = await Files.create();
  const key = (index: number) => ({ prefix: REL, index });
  const written = async (keyStart: number, keyEnd: number) => {
    const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
    for (let index = 5; index <= 900; index++) {
      writer.add(REL, index, NAME.lsnStart, VALUE_DELTA, new Uint8Array(100));
    }
    const name = { ...NAME, keyStart: key(keyStart), keyEnd: key(keyEnd) };
    return await writer.finish(name).catch(async (error: unknown) => {
      await writer.abandon();
      throw error;
    });
  };
  await assert.rejects(written(6, 900), /keys that its name does not cover/);
  await assert.rejects(written(5, 899), /keys that its name does not cover/);
  const file = files.open(await written(5, 900));
  for (const index of [4, 5, 900, 901]) {
    assert.equal(collected(file, REL, index, NAME.lsnEnd).length, index % 5 === 0 ? 1 : 0);
  }
});

test("LayerWriter: sizeBytes says what the file will have, but for index and filter", async () => {
  await using files = await Files.create();
  const random = new SeededRandom(9);
  const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
  for (let index = 0; index < 5000; index++) {
    const value = Uint8Array.from({ length: 100 }, () => random.int(16));
    writer.add(REL, index, NAME.lsnStart, VALUE_DELTA, value);
    if (index === 2000) {
      await writer.drain();
    }
  }
  const before = writer.sizeBytes;
  const { sizeBytes } = await writer.finish(NAME);
  const indexAndFilter = 36 * (before / 8192) + 2 * 5000;
  assert.ok(Math.abs(sizeBytes - before - indexAndFilter) < 16_384, `${before}, ${sizeBytes}`);
});

test("LayerWriter: a footer for which the buffer has no room left", async () => {
  await using files = await Files.create();
  const random = new SeededRandom(3);
  const value = Uint8Array.from({ length: 2 << 20 }, () => random.int(256));
  // The writer's buffer has 2 MiB, of which header, block, index and filter take all but a few bytes.
  for (let left = 0; left <= 256; left += 8) {
    const writer = await LayerWriter.create(files.directory, LAYER_KIND_DELTA);
    const length = (2 << 20) - 200 - left;
    writer.add(REL, 1, NAME.lsnStart, VALUE_DELTA, value, 0, length);
    const layer = await writer.finish({ ...NAME, lsnEnd: toLsn(NAME.lsnEnd + left) });
    const chain = new VersionChain();
    files.open(layer).collect(REL, 1, keyHash(REL, 1), NAME.lsnEnd, chain);
    assert.equal(chain.deltaCount, 1);
    assert.equal(chain.lengths[0], length);
  }
});

test("LayerFile: a file under another layer's name is refused", async () => {
  await using files = await Files.create();
  const layer = await writeDeltaLayer(files.directory, makeVersions(4));
  const other = layerFileName({ ...NAME, lsnEnd: toLsn(NAME.lsnEnd + 8) }, FIRST_LAYER_NUMBER);
  writeFileSync(join(files.directory, other), readFileSync(join(files.directory, layer.fileName)));
  const file = files.open({ fileName: other, sizeBytes: layer.sizeBytes });
  assert.throws(() => collected(file, REL, 0, NAME.lsnEnd), /belongs to another layer/);
});

/** True where every key came back right, false where something was refused as corrupt. */
function survives(file: LayerFile, keys: readonly (readonly Version[])[]): boolean {
  for (const versions of keys) {
    const { prefix, index } = versions[0]!;
    try {
      assert.deepEqual(collected(file, prefix, index, NAME.lsnEnd), versions.map(describe));
    } catch (error) {
      if (error instanceof StorageError && error.kind === "corrupt") {
        assert.match(error.message, /layer .*, offset \d+: /);
        return false;
      }
      throw error;
    }
  }
  return true;
}

test("LayerFile: any flipped bit or cut is found or harmless, never a wrong answer", async () => {
  await using files = await Files.create();
  const versions = makeVersions(5);
  const layer = await writeDeltaLayer(files.directory, versions);
  const path = join(files.directory, layer.fileName);
  const intact = readFileSync(path);
  const keys = [...newestFirstByKey(versions).values()];
  const random = new SeededRandom(6);
  let found = 0;
  for (let round = 0; round < 80; round++) {
    const bytes = Buffer.from(
      round % 10 === 0 ? intact.subarray(0, random.int(intact.length)) : intact,
    );
    if (round % 10 !== 0) {
      // Half of the faults go where the structure is: the tables at the end.
      const span = random.bool() ? 3000 : bytes.length;
      bytes[bytes.length - 1 - random.int(Math.min(span, bytes.length))]! ^= 1 << random.int(8);
    }
    writeFileSync(path, bytes);
    const file = files.open(layer);
    found += survives(file, keys) ? 0 : 1;
    file.close();
  }
  assert.ok(found > 60, `only ${found} faults found`);
});

test("LayerFile: hostile tables under right checksums never read outside the block", async () => {
  await using files = await Files.create();
  const versions = makeVersions(7);
  const layer = await writeDeltaLayer(files.directory, versions);
  const path = join(files.directory, layer.fileName);
  const intact = readFileSync(path);
  const random = new SeededRandom(8);
  for (let round = 0; round < 150; round++) {
    const bytes = Buffer.from(intact);
    const footerAt = bytes.length - 64;
    const indexAt = bytes.readUInt32LE(footerAt + 8);
    const indexLength = bytes.readUInt32LE(footerAt + 12);
    const element = indexAt + 36 * random.int(indexLength / 36);
    const blockAt = bytes.readUInt32LE(element + 28);
    const blockLength = bytes.readUInt32LE(element + 32);
    const words = [0, 1, 0xff, 0xffff, 0x7fff_ffff, 0xffff_ffff];
    if (random.bool(0.7)) {
      const tables =
        16 + bytes.readUInt32LE(blockAt + 8) * 24 + bytes.readUInt32LE(blockAt + 12) * 12;
      const at = blockAt + 4 + 4 * random.int(Math.min(tables, blockLength - 4) / 4 - 1);
      bytes.writeUInt32LE(random.pick(words), at);
      const sum = crc32(bytes.subarray(blockAt + 4, blockAt + blockLength));
      bytes.writeUInt32LE(sum, blockAt);
    } else {
      bytes.writeUInt32LE(random.pick(words), element + 4 * random.int(9));
      const sum = crc32(bytes.subarray(indexAt, indexAt + indexLength));
      bytes.writeUInt32LE(sum, footerAt + 16);
      bytes.writeUInt32LE(crc32(bytes.subarray(footerAt, footerAt + 60)), footerAt + 60);
    }
    writeFileSync(path, bytes);
    const file = files.open(layer);
    const chain = new VersionChain();
    for (let i = 0; i < 100; i++) {
      const { prefix, index, lsn } = random.pick(versions);
      chain.reset();
      try {
        file.collect(prefix, index, keyHash(prefix, index), lsn, chain);
      } catch (error) {
        assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
      }
      for (let delta = 0; delta < chain.deltaCount; delta++) {
        assert.ok(chain.offsets[delta]! + chain.lengths[delta]! <= chain.buffers[delta]!.length);
      }
    }
    file.close();
  }
});

test("layer names: round trip; anything else is not a layer", () => {
  const delta = layerFileName(NAME, { generation: 0x12ab, sequence: 0xffff_ffff });
  assert.equal(
    delta,
    `${"0".repeat(36)}-${"F".repeat(36)}__0000000100000000-0000000100100000-000012ab-ffffffff`,
  );
  assert.deepEqual(parseLayerFileName(delta), NAME);
  assert.deepEqual(parseLayerFileName(formatLayerName(NAME)), NAME);
  // Of an index of version 1.
  assert.deepEqual(parseLayerFileName(`${formatLayerName(NAME)}-v1-00000001`), NAME);
  const image = { ...NAME, kind: LAYER_KIND_IMAGE, lsnEnd: toLsn(NAME.lsnStart + 1) } as const;
  assert.deepEqual(parseLayerFileName(layerFileName(image, FIRST_LAYER_NUMBER)), image);
  for (const name of ["", "index_part.json", `../${delta}`, delta.toLowerCase(), `${delta}x`]) {
    assert.equal(parseLayerFileName(name), undefined);
  }
});

test("VersionChain: an image layer's LSN takes the deltas that it contains out again", () => {
  const chain = new VersionChain();
  const value = new Uint8Array(1);
  for (let lsn = 200; lsn > 0; lsn -= 1) {
    assert.equal(chain.add(VALUE_DELTA, lsn, value, 0, 1), false);
  }
  chain.dropDeltasUpTo(toLsn(150));
  assert.equal(chain.deltaCount, 50);
  assert.equal(chain.lsns[49], 151);
  assert.equal(chain.base, BASE_NONE);
});
