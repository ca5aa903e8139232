import assert from "node:assert/strict";
import { join } from "node:path";
import { test } from "node:test";
import {
  DIRECTORY,
  type KeyHistory,
  LayerDirectory,
  LayerReader,
  type RandomLayers,
  randomLayers,
  stateAt,
} from "../../../testing/random-layers.ts";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { encodeClogStatus } from "../../wal-decoder/implied-deltas.ts";
import type { PageReply } from "../flush/layer-flush.ts";
import { decodeKey, formatKey, keyAfter, relBlockPrefix, relSizePrefix } from "../layers/key.ts";
import {
  FIRST_KEY,
  isMetadataPrefix,
  LAST_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
} from "../layers/layer-format.ts";
import { VALUE_DELTA, VALUE_IMAGE } from "../layers/version-chain.ts";
import { type CompactionOptions, type CompactionResult, compactLayers } from "./compact-layers.ts";
import type { BasePageLookup } from "./compaction-settings.ts";
import { type CompactionInput, compareKeys } from "./layer-cursor.ts";
import type { OutputLayer } from "./output-layers.ts";
import { MAX_CHAIN_DELTAS } from "./retained-versions.ts";

const FIRST = 0x1_0000_0000;
const SPAN = 4000;

/** What one run compacts, and what it is told. */
interface Run extends RandomLayers {
  readonly directory: LayerDirectory;
  readonly inputs: readonly CompactionInput[];
  /** The layers below, which are no inputs. */
  readonly lower: readonly CompactionInput[];
  readonly options: CompactionOptions;
  readonly batchBytes: number;
}

async function randomRun(seed: number, what: Partial<CompactionOptions> = {}): Promise<Run> {
  const random = new SeededRandom(seed);
  const directory = new LayerDirectory(seed);
  const moreBelow = what.moreBelow ?? (what.imageLayerLsn === undefined && random.int(2) === 0);
  const world = await randomLayers(random, directory, { imageLayers: !moreBelow });
  const starts = [...new Set(world.layers.map(({ name }) => name.lsnStart))];
  const from = moreBelow ? random.pick(starts) : FIRST;
  const lower = world.layers.filter(({ name }) => name.lsnStart < from);
  const inputs = world.layers.filter(({ name }) => name.lsnStart >= from);
  const reader = new LayerReader(directory.open(lower));
  const pages: BasePageLookup = async (requests) => {
    assert.ok(requests.length <= 64);
    return requests.map(({ key, lsn }): PageReply => {
      const page = reader.read(decodeKey(key), lsn);
      return page === undefined ? { state: "none" } : { state: "page", page };
    });
  };
  const points = () => Array.from({ length: random.int(5) }, () => FIRST + random.int(SPAN));
  const options: CompactionOptions = {
    directory: DIRECTORY,
    disk: directory.disk,
    // Another than the inputs have, or a file might take an input's place.
    number: { generation: 2, sequence: 7 },
    range: { start: FIRST_KEY, end: LAST_KEY },
    retained: [],
    cutoff: 0 as Lsn,
    cutPoints: points().map(toLsn),
    keyCuts: random.int(2) === 0 ? [] : world.histories.filter(() => random.int(3) === 0),
    targetBytes: random.pick([10_000, 100_000, 1 << 30]),
    imageLayerLsn: undefined,
    moreBelow,
    walLogHints: false,
    pages,
    cancelled: () => false,
    sliceMs: 1000,
    ...what,
  };
  const batchBytes = random.pick([1, 20_000, 200_000, 8 << 20]);
  return { ...world, directory, inputs, lower, options, batchBytes };
}

function randomRetention(seed: number): { retained: Lsn[]; cutoff: Lsn } {
  const random = new SeededRandom(seed + 1_000_000);
  const points = Array.from({ length: 1 + random.int(5) }, () => FIRST + random.int(SPAN));
  const retained = [...new Set(points)].sort((a, b) => a - b).map(toLsn);
  return { retained, cutoff: retained.at(-1)! };
}

async function compact(run: Run): Promise<CompactionResult> {
  const result = await compactLayers(run.inputs, run.options, run.batchBytes);
  checkNames(run, result.layers);
  return result;
}

/** Every output is where its name says, no LSN cut lies inside, and a key is in one file of a band at most. */
function checkNames({ options, inputs }: Run, outputs: readonly OutputLayer[]): void {
  for (const { name, fileName } of outputs) {
    const ends = [name.keyStart.prefix, name.keyEnd.prefix].map(isMetadataPrefix);
    assert.equal(ends[0], ends[1], `${fileName} has blocks and metadata`);
  }
  const deltas = outputs.filter(({ name }) => name.kind === LAYER_KIND_DELTA);
  for (const { name } of deltas) {
    for (const cut of options.cutPoints) {
      assert.ok(!(name.lsnStart <= cut && name.lsnEnd - 1 > cut), `cut at ${cut} inside`);
    }
    assert.ok(name.lsnStart < name.lsnEnd);
    assert.ok(inputs.some((input) => input.name.lsnStart <= name.lsnStart));
  }
  for (const [i, a] of deltas.entries()) {
    for (const b of deltas.slice(i + 1)) {
      const apart =
        a.name.lsnEnd <= b.name.lsnStart ||
        b.name.lsnEnd <= a.name.lsnStart ||
        compareNames(a.name.keyEnd, b.name.keyStart) < 0 ||
        compareNames(b.name.keyEnd, a.name.keyStart) < 0;
      assert.ok(apart, `${a.fileName} and ${b.fileName} overlap`);
    }
  }
}

type NamedKey = OutputLayer["name"]["keyStart"];
const compareNames = (a: NamedKey, b: NamedKey) =>
  compareKeys(a.prefix, a.index, b.prefix, b.index);

function readerAfter({ directory, lower }: Run, outputs: readonly OutputLayer[]): LayerReader {
  const files = outputs.map((output) => ({ ...output, path: join(DIRECTORY, output.fileName) }));
  return new LayerReader(directory.open([...lower, ...files]));
}

/** LSNs at which the key changes, just before each, and the LSNs beside; of very many changes a part. */
function lsnsOf({ versions }: KeyHistory, from: number, others: readonly number[]): number[] {
  const step = Math.ceil(versions.length / 40);
  const own = versions
    .filter((_, i) => i % step === versions.length % step)
    .flatMap(({ lsn }) => [lsn - 1, lsn]);
  return [...new Set([...own, FIRST + SPAN].filter((lsn) => lsn > from).concat(others))];
}

function checkReads(run: Run, outputs: readonly OutputLayer[], where: string): void {
  const { retained, cutoff } = run.options;
  const reader = readerAfter(run, outputs);
  for (const history of run.histories) {
    for (const lsn of lsnsOf(history, cutoff, retained)) {
      const got = reader.read(history, lsn);
      const wanted = stateAt(history, lsn);
      const key = formatKey(history.prefix, history.index);
      const same =
        got === undefined || wanted === undefined
          ? got === wanted
          : Buffer.compare(got, wanted) === 0;
      assert.ok(same, `${where}: key ${key} at ${lsn} reads otherwise`);
    }
  }
}

test("compactLayers: with nothing dropped, every key at every LSN reads as before", async () => {
  for (let seed = 1; seed <= 15; seed++) {
    const run = await randomRun(seed);
    const { layers, failedImages } = await compact(run);
    assert.equal(failedImages, 0);
    checkReads(run, layers, `seed ${seed}`);
  }
});

test("compactLayers: with a cutoff, retained LSNs and all above it read as before", async () => {
  for (let seed = 1; seed <= 15; seed++) {
    const run = await randomRun(seed, randomRetention(seed));
    const { layers, failedImages } = await compact(run);
    assert.equal(failedImages, 0);
    checkReads(run, layers, `seed ${seed}`);
  }
});

test("compactLayers: image layers cover the range at their LSN, and history stays readable", async () => {
  for (let seed = 1; seed <= 12; seed++) {
    const random = new SeededRandom(seed);
    const retention = random.int(3) === 0 ? {} : randomRetention(seed);
    const imageLayerLsn = toLsn(FIRST + random.int(SPAN));
    const run = await randomRun(seed, { ...retention, imageLayerLsn });
    const { layers } = await compact(run);
    checkReads(run, layers, `seed ${seed}`);
    const images = layers.filter(({ name }) => name.kind === LAYER_KIND_IMAGE);
    assert.ok(images.every(({ name }) => name.lsnStart === imageLayerLsn));
    assert.deepEqual(images[0]!.name.keyStart, FIRST_KEY);
    assert.deepEqual(images.at(-1)!.name.keyEnd, LAST_KEY);
    const reader = readerAfter(run, images);
    for (const history of run.histories) {
      assert.deepEqual(reader.read(history, imageLayerLsn), stateAt(history, imageLayerLsn));
    }
  }
});

test("compactLayers: what an image layer at the cutoff has, needs no deltas", async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const cutoff = toLsn(FIRST + SPAN);
    const run = await randomRun(seed, { cutoff, imageLayerLsn: cutoff });
    const { layers } = await compact(run);
    assert.deepEqual([...new Set(layers.map(({ name }) => name.kind))], [LAYER_KIND_IMAGE]);
    checkReads(run, layers, `seed ${seed}`);
  }
});

test("compactLayers: chains are bounded, and files end at their target size", async () => {
  for (let seed = 1; seed <= 5; seed++) {
    const targetBytes = 100_000;
    const run = await randomRun(seed, { moreBelow: false, targetBytes, ...randomRetention(seed) });
    const { layers } = await compact({ ...run, batchBytes: 20_000 });
    const reader = readerAfter(run, layers);
    for (const history of run.histories) {
      for (const lsn of [...run.options.retained, FIRST + SPAN]) {
        reader.read(history, lsn);
        assert.ok(reader.deltaCount <= MAX_CHAIN_DELTAS, `seed ${seed}: ${reader.deltaCount}`);
      }
    }
    // One value of 30 kB, or one look at the files, may come on top; and index and filter.
    for (const { sizeBytes } of layers) {
      assert.ok(sizeBytes < 500_000, `seed ${seed}: ${sizeBytes} bytes`);
    }
  }
});

test("compactLayers: pages with a state at each of many branch points share a file a branch point", async () => {
  const run = await randomRun(1, { moreBelow: true });
  const random = new SeededRandom(1);
  const { prefix, index } = run.histories.find(({ isPage }) => isPage)!;
  const cutPoints = Array.from({ length: 600 }, (_, i) => toLsn(FIRST + 10 + i));
  const keys = [0, 1, 2].map((i): KeyHistory => {
    const versions = cutPoints.map((lsn) => {
      const value = Uint8Array.from({ length: 8192 }, () => random.int(256));
      return { kind: VALUE_IMAGE, lsn, value, state: undefined };
    });
    return { prefix, index: index + i, isPage: true, versions };
  });
  const input = await run.directory.writeDeltaLayer(keys, FIRST, FIRST + 1000);
  const options = { ...run.options, retained: cutPoints, cutoff: toLsn(0), cutPoints };
  const { layers } = await compactLayers([input], options);
  assert.ok(layers.length <= cutPoints.length + 1, `${layers.length} files`);
});

test("compactLayers: a base that cannot be read costs images, never versions", async () => {
  let failures = 0;
  for (let seed = 1; seed <= 10; seed++) {
    const run = await randomRun(seed, { moreBelow: true, ...randomRetention(seed) });
    const pages: BasePageLookup = async (requests) =>
      requests.map(() => ({ state: "failed", reason: "no such luck" }));
    const options = { ...run.options, pages };
    const { layers, failedImages, firstFailure } = await compact({ ...run, options });
    failures += failedImages;
    if (failedImages > 0) {
      assert.match(firstFailure!, /^key [0-9A-F]{36}: no such luck$/);
    }
    checkReads(run, layers, `seed ${seed}`);
  }
  assert.ok(failures > 3, `${failures} failures`);
});

test("compactLayers: an image is built on the page below the key's oldest version", async () => {
  const run = await randomRun(1, { moreBelow: true });
  const { directory } = run;
  const { prefix, index } = run.histories.find(({ isPage }) => isPage)!;
  const versions = Array.from({ length: 40 }, (_, i) => {
    const value = encodeClogStatus([i], 1);
    return { kind: VALUE_DELTA, lsn: toLsn(FIRST + 5 + i), value, state: undefined };
  });
  const key: KeyHistory = { prefix, index, isPage: true, versions };
  const input = await directory.writeDeltaLayer([key], FIRST, FIRST + 100);
  const pages: BasePageLookup = async (requests) => {
    assert.deepEqual(
      requests.map(({ lsn }) => lsn),
      [FIRST + 4],
    );
    return [{ state: "page", page: new Uint8Array(8192).fill(0xff) }];
  };
  const cutoff = toLsn(FIRST + 50);
  const { layers } = await compactLayers([input], {
    ...run.options,
    retained: [cutoff],
    cutoff,
    cutPoints: [],
    pages,
  });
  const files = layers.map((layer) => ({ ...layer, path: join(DIRECTORY, layer.fileName) }));
  const page = new LayerReader(directory.open(files)).read(key, cutoff)!;
  // Ten bytes of four transactions each, committed, over what was there.
  assert.deepEqual([...page.subarray(0, 12)], [...Array(10).fill(0x55), 0xff, 0xff]);
});

test("compactLayers: a page that cannot be built keeps its deltas; image layers cover all other keys", async () => {
  const directory = new LayerDirectory(1);
  const { histories } = await randomRun(1);
  const { prefix, index } = histories.find(({ isPage }) => isPage)!;
  const versions = Array.from({ length: 40 }, (_, i) => {
    const value = i === 20 ? Uint8Array.of(99) : new Uint8Array(0);
    return { kind: VALUE_DELTA, lsn: toLsn(FIRST + i), value, state: undefined };
  });
  const broken: KeyHistory = { prefix, index, isPage: true, versions };
  const input = await directory.writeDeltaLayer([broken], FIRST, FIRST + SPAN);
  const run = await randomRun(1, { moreBelow: false, disk: directory.disk });
  const cutoff = toLsn(FIRST + 39);
  const dropping = { ...run.options, retained: [cutoff], cutoff };
  const { layers, failedImages } = await compactLayers([input], dropping);
  assert.equal(failedImages, 1);
  const files = layers.map((layer) => ({ ...layer, path: join(DIRECTORY, layer.fileName) }));
  const reader = new LayerReader(directory.open(files));
  assert.throws(() => reader.read(broken, cutoff));
  assert.equal(reader.deltaCount, 40);
  const whole = histories.filter((key) => key.prefix !== prefix || key.index !== index);
  const range = { start: whole[0]!, end: whole.at(-1)! };
  const others = await directory.writeDeltaLayer(whole, FIRST, FIRST + SPAN, range);
  const imageLayerLsn = toLsn(FIRST + SPAN);
  const images = await compactLayers([input, others], {
    ...run.options,
    cutoff: imageLayerLsn,
    imageLayerLsn,
  });
  assert.deepEqual(images.holes, [formatKey(prefix, index)]);
  const below = images.layers.filter(({ name }) => compareNames(name.keyEnd, broken) < 0);
  const above = images.layers.slice(below.length);
  assert.deepEqual(below[0]!.name.keyStart, FIRST_KEY);
  assert.deepEqual(keyAfter(below.at(-1)!.name.keyEnd.prefix, below.at(-1)!.name.keyEnd.index), {
    prefix,
    index,
  });
  assert.deepEqual(above[0]!.name.keyStart, keyAfter(prefix, index));
  assert.deepEqual(above.at(-1)!.name.keyEnd, LAST_KEY);
  const paths = images.layers.map((layer) => ({
    ...layer,
    path: join(DIRECTORY, layer.fileName),
  }));
  const after = new LayerReader(directory.open(paths));
  for (const key of whole) {
    assert.deepEqual(after.read(key, imageLayerLsn), stateAt(key, imageLayerLsn));
  }
});

test("compactLayers: an image layer has no blocks past the end of their fork", async () => {
  const run = await randomRun(1, { moreBelow: false });
  const { directory } = run;
  const forks = [16384, 16385, 16386].map((rel) => relBlockPrefix(1663, 5, rel, 0));
  const blocks = forks.flatMap((prefix) =>
    Array.from({ length: 6 }, (_, index): KeyHistory => {
      const value = new Uint8Array(8192).fill(1 + index);
      const version = { kind: VALUE_IMAGE, lsn: toLsn(FIRST + index), value, state: value };
      return { prefix, index, isPage: true, versions: [version] };
    }),
  );
  const input = await directory.writeDeltaLayer(blocks, FIRST, FIRST + 100);
  const imageLayerLsn = toLsn(FIRST + 99);
  // Of the first four blocks are left, the second is dropped, of the third nothing is known.
  const size = { state: "page", page: Uint8Array.of(4, 0, 0, 0) } as const;
  const replies: PageReply[] = [size, { state: "none" }, { state: "failed", reason: "damaged" }];
  const asked: string[] = [];
  const pages: BasePageLookup = async (requests) =>
    requests.map(({ key, lsn }) => {
      assert.equal(lsn, imageLayerLsn);
      const { prefix, index } = decodeKey(key);
      asked.push(formatKey(prefix, index));
      return replies[asked.length - 1]!;
    });
  for (const batchBytes of [1, 1 << 20]) {
    asked.length = 0;
    const options = { ...run.options, cutoff: imageLayerLsn, imageLayerLsn, pages };
    const { layers } = await compactLayers([input], options, batchBytes);
    const files = layers.map((layer) => ({ ...layer, path: join(DIRECTORY, layer.fileName) }));
    const reader = new LayerReader(directory.open(files));
    const there = blocks.filter((block) => reader.read(block, imageLayerLsn) !== undefined);
    assert.deepEqual(
      there.map(({ prefix, index }) => forks.indexOf(prefix) * 10 + index),
      [0, 1, 2, 3, 20, 21, 22, 23, 24, 25],
    );
    assert.deepEqual(
      asked,
      [16384, 16385, 16386].map((rel) => formatKey(relSizePrefix(1663, 5, rel, 0), 0)),
    );
    for (const { fileName } of layers) {
      directory.disk.unlink(join(DIRECTORY, fileName));
    }
  }
});

test("compactLayers: cancelled, on a full disk or over a damaged input, it leaves nothing behind", async () => {
  for (let seed = 1; seed <= 6; seed++) {
    const run = await randomRun(seed, { targetBytes: 10_000 });
    const { disk } = run.directory;
    const before = disk.list(DIRECTORY).sort();
    let looks = 0;
    const counting = () => looks++ < 0;
    const whole = await compactLayers(run.inputs, { ...run.options, cancelled: counting }, 20_000);
    for (const { fileName } of whole.layers) {
      disk.unlink(join(DIRECTORY, fileName));
    }
    if (looks === 0) {
      // Nothing was in the inputs.
      continue;
    }
    looks = new SeededRandom(seed).int(looks);
    const cancelled = () => looks-- === 0;
    await assert.rejects(
      compactLayers(run.inputs, { ...run.options, cancelled }, 20_000),
      { kind: "unavailable", code: "shutting-down" },
      `seed ${seed}`,
    );
    assert.deepEqual(disk.list(DIRECTORY).sort(), before);
    let creations = new SeededRandom(seed).int(3);
    disk.onOperation = ({ name }) => {
      if (name === "create" && creations-- === 0) {
        throw Object.assign(new Error("full"), { code: "ENOSPC" });
      }
    };
    await compactLayers(run.inputs, run.options, 20_000).catch((error) => {
      assert.equal(error.code, "disk-full");
      assert.deepEqual(disk.list(DIRECTORY).sort(), before);
    });
  }
});
