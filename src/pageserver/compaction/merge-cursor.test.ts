import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type KeyHistory,
  LayerDirectory,
  type RandomLayers,
  randomLayers,
  stateAt,
} from "../../../testing/random-layers.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { formatKey } from "../layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import { VALUE_IMAGE, VALUE_TOMBSTONE } from "../layers/version-chain.ts";
import { type CompactionInput, compareKeys, type KeyRange } from "./layer-cursor.ts";
import { MergeCursor } from "./merge-cursor.ts";
import { VersionBatch } from "./version-batch.ts";

const ALL: KeyRange = { start: FIRST_KEY, end: LAST_KEY };

/** One line a version, in the order of the merge. */
async function merged(
  directory: LayerDirectory,
  layers: readonly CompactionInput[],
  range: KeyRange,
  batchBytes: number,
): Promise<string[]> {
  const merge = await MergeCursor.open(layers, range, directory.disk, batchBytes);
  const batch = new VersionBatch();
  const lines: string[] = [];
  let goesOn = false;
  while (await merge.next(batch)) {
    assert.equal(batch.continued, goesOn);
    goesOn = batch.continues;
    for (let key = 0, at = 0; key < batch.keyCount; key++) {
      const name = formatKey(batch.prefixes[key]!, batch.indexes[key]!);
      for (; at < batch.ends[key]!; at++) {
        const { bytes } = batch.blocks[batch.blockOf[at]!]!;
        const value = bytes.subarray(batch.offsets[at]!, batch.offsets[at]! + batch.lengths[at]!);
        lines.push(line(name, batch.lsns[at]!, batch.kinds[at]!, value));
      }
      assert.equal(at, batch.ends[key]);
    }
  }
  assert.equal(goesOn, false);
  await merge.close();
  return lines;
}

function line(key: string, lsn: number, kind: number, value: Uint8Array): string {
  return `${key} ${lsn} ${kind} ${Buffer.from(value).toString("base64")}`;
}

/** The same from the model: an image layer has its key's state, or a tombstone where it hides something. */
function expected(
  { histories }: Pick<RandomLayers, "histories">,
  layers: readonly CompactionInput[],
): string[] {
  const images = layers.filter(({ name }) => name.kind === LAYER_KIND_IMAGE);
  return histories.flatMap((history) => {
    const key = formatKey(history.prefix, history.index);
    const versions: { lsn: number; kind: number; value: Uint8Array }[] = [
      ...history.versions,
      ...images.flatMap(({ name }) => atImageLayer(history, name.lsnStart)),
    ];
    // Stable: what an image layer has comes after what delta layers have at its LSN.
    return versions
      .sort((a, b) => a.lsn - b.lsn)
      .map(({ lsn, kind, value }) => line(key, lsn, kind, value));
  });
}

function atImageLayer(history: KeyHistory, lsn: Lsn) {
  const state = stateAt(history, lsn);
  if (state !== undefined) {
    return [{ lsn, kind: VALUE_IMAGE, value: state }];
  }
  return history.versions.some((version) => version.lsn <= lsn)
    ? [{ lsn, kind: VALUE_TOMBSTONE, value: new Uint8Array(0) }]
    : [];
}

test("MergeCursor: any layers come out in key, LSN and arrival order, in batches of any size", async () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = new SeededRandom(seed);
    const directory = new LayerDirectory(seed);
    const world = await randomLayers(random, directory);
    const lines = expected(world, world.layers);
    for (const batchBytes of [1, 30_000, 1 << 30]) {
      const shuffled = world.layers.toSorted(() => random.int(3) - 1);
      assert.deepEqual(
        await merged(directory, shuffled, ALL, batchBytes),
        lines,
        `seed ${seed}, batches of ${batchBytes}`,
      );
    }
  }
});

test("MergeCursor: layers over the same LSNs and keys take turns within a key", async () => {
  for (let seed = 1; seed <= 10; seed++) {
    const random = new SeededRandom(seed);
    const directory = new LayerDirectory(seed);
    const { histories, bounds } = await randomLayers(random, directory, { imageLayers: false });
    const layers: CompactionInput[] = [];
    for (let part = 0; part < 3; part++) {
      const own = histories.map((history) => ({
        ...history,
        versions: history.versions.filter(({ lsn }) => Math.floor(lsn / 8) % 3 === part),
      }));
      layers.push(await directory.writeDeltaLayer(own, bounds[0]! - part, bounds.at(-1)!));
    }
    for (const batchBytes of [1, 1 << 30]) {
      const lines = await merged(directory, layers, ALL, batchBytes);
      assert.deepEqual(lines, expected({ histories }, layers), `seed ${seed}`);
    }
  }
});

test("MergeCursor: a key range, and versions above an input's LSN cap, are left out", async () => {
  for (let seed = 1; seed <= 30; seed++) {
    const random = new SeededRandom(seed);
    const directory = new LayerDirectory(seed);
    const world = await randomLayers(random, directory, { imageLayers: false });
    const [a, b] = [random.pick(world.histories), random.pick(world.histories)];
    const [start, end] = compareKeys(a.prefix, a.index, b.prefix, b.index) <= 0 ? [a, b] : [b, a];
    const maxLsn = toLsn(world.bounds[0]! + random.int(4000));
    const layers = world.layers.map((layer) => ({ ...layer, maxLsn }));
    const histories = world.histories
      .filter(
        ({ prefix, index }) =>
          compareKeys(prefix, index, start.prefix, start.index) >= 0 &&
          compareKeys(prefix, index, end.prefix, end.index) <= 0,
      )
      .map((history) => ({
        ...history,
        versions: history.versions.filter(({ lsn }) => lsn <= maxLsn),
      }));
    const lines = await merged(directory, layers, { start, end }, 30_000);
    assert.deepEqual(lines, expected({ histories }, layers), `seed ${seed}`);
  }
});

test("LayerCursor: damage anywhere is corrupt and names file and offset", async () => {
  const random = new SeededRandom(5);
  const directory = new LayerDirectory(5);
  const { histories, bounds } = await randomLayers(random, directory, { imageLayers: false });
  const layer = await directory.writeDeltaLayer(histories, bounds[0]!, bounds.at(-1)! + 1);
  for (let i = 0; i < 60; i++) {
    const at = random.int(layer.sizeBytes);
    const file = directory.disk.open(layer.path, "r+");
    const byte = new Uint8Array(1);
    directory.disk.read(file, byte, 0, 1, at);
    directory.disk.write(file, Uint8Array.of(byte[0]! ^ (1 << random.int(8))), at);
    await assert.rejects(
      merged(directory, [layer], ALL, 1 << 20),
      { kind: "corrupt", message: /layer \/layers\/.*, offset \d+: / },
      `byte ${at}`,
    );
    directory.disk.write(file, byte, at);
    directory.disk.close(file);
  }
  const missing = { ...layer, path: "/layers/gone" };
  await assert.rejects(merged(directory, [missing], ALL, 1), /gone, offset 0: .* is missing/);
  const longer = { ...layer, sizeBytes: layer.sizeBytes + 8, maxLsn: MAX_LSN };
  await assert.rejects(merged(directory, [longer], ALL, 1), /should have \d+ bytes/);
});
