import assert from "node:assert/strict";
import { test } from "node:test";
import { generateTimelineId } from "../../base/ids.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { comparePrefixes, type KeyPrefix, keyHash, relBlockPrefix } from "../layers/key.ts";
import type { LayerFile } from "../layers/layer-file.ts";
import { LAYER_KIND_DELTA, LAYER_KIND_IMAGE, type LayerName } from "../layers/layer-format.ts";
import { VersionChain } from "../layers/version-chain.ts";
import { LayerSet, type SetLayer } from "./layer-set.ts";

const MAKER = generateTimelineId();
const PREFIXES = [1, 2, 3].map((rel) => relBlockPrefix(1663, 5, rel, 0));

interface Asked {
  readonly file: LayerFile;
  readonly maxLsn: Lsn;
}

/** Notes who asks it, and has nothing. */
function layerOf(name: LayerName, asked: Asked[], capLsn: Lsn = MAX_LSN): SetLayer {
  const file = {
    name,
    lsnStart: name.lsnStart,
    lsnEnd: name.lsnEnd,
    isImage: name.kind === LAYER_KIND_IMAGE,
    sizeBytes: 1,
    collect: (_prefix: KeyPrefix, _index: number, _hash: number, maxLsn: Lsn) => {
      asked.push({ file, maxLsn });
      return false;
    },
  } as unknown as LayerFile;
  return { file, maker: MAKER, capLsn };
}

function randomName(random: SeededRandom): LayerName {
  const key = () => ({ prefix: random.pick(PREFIXES), index: random.int(8) });
  const [keyStart, keyEnd] = [key(), key()].sort(compareKeys);
  const lsnStart = toLsn(1 + random.int(6));
  const isImage = random.bool(0.3);
  return {
    kind: isImage ? LAYER_KIND_IMAGE : LAYER_KIND_DELTA,
    keyStart: keyStart!,
    keyEnd: keyEnd!,
    lsnStart,
    lsnEnd: toLsn(isImage ? lsnStart + 1 : lsnStart + 1 + random.int(4)),
  };
}

function compareKeys(a: LayerName["keyStart"], b: LayerName["keyStart"]): number {
  return comparePrefixes(a.prefix, b.prefix) || a.index - b.index;
}

const end = ({ file, capLsn }: SetLayer) => Math.min(file.lsnEnd, capLsn + 1);

test("LayerSet: a read asks every layer that may have the key, the newest first, up to its cap", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = new SeededRandom(seed);
    const asked: Asked[] = [];
    let set = LayerSet.EMPTY;
    let layers: SetLayer[] = [];
    for (let edit = 0; edit < 5; edit++) {
      const add = Array.from({ length: random.int(8) }, () => {
        const name = randomName(random);
        const cap = random.bool(0.3) ? toLsn(name.lsnStart + random.int(3)) : MAX_LSN;
        return layerOf(name, asked, cap);
      });
      const remove = layers.filter(() => random.bool(0.2));
      const before = set.layers;
      set = set.with({ add, remove });
      assert.equal(before.length, layers.length, "a set never changes");
      layers = [...layers.filter((layer) => !remove.includes(layer)), ...add];
    }
    assert.deepEqual(new Set(set.layers), new Set(layers));
    assert.equal(set.sizeBytes, layers.length);
    for (let read = 0; read < 20; read++) {
      const key = { prefix: random.pick(PREFIXES), index: random.int(9) };
      const lsn = toLsn(1 + random.int(10));
      asked.length = 0;
      set.collect(key.prefix, key.index, keyHash(key.prefix, key.index), lsn, new VersionChain());
      const covering = layers.filter(
        ({ file }) =>
          file.lsnStart <= lsn &&
          compareKeys(file.name.keyStart, key) <= 0 &&
          compareKeys(file.name.keyEnd, key) >= 0,
      );
      const visited = asked.map(({ file }) => layers.find((layer) => layer.file === file)!);
      for (const layer of covering) {
        assert.ok(visited.includes(layer), `seed ${seed}: a layer is left out`);
      }
      for (const [i, layer] of visited.entries()) {
        assert.equal(asked[i]!.maxLsn, Math.min(lsn, layer.capLsn));
        assert.ok(
          i === 0 || end(visited[i - 1]!) >= end(layer),
          `seed ${seed}: an older one first`,
        );
      }
    }
  }
});

test("LayerSet: of a thousand layers side by side a read asks one", () => {
  const asked: Asked[] = [];
  const prefix = PREFIXES[0]!;
  const add = Array.from({ length: 1000 }, (_, i) =>
    layerOf(
      {
        kind: LAYER_KIND_DELTA,
        keyStart: { prefix, index: i * 10 },
        keyEnd: { prefix, index: i * 10 + 9 },
        lsnStart: toLsn(8),
        lsnEnd: toLsn(16),
      },
      asked,
    ),
  );
  const set = LayerSet.EMPTY.with({ add: add.toReversed(), remove: [] });
  assert.equal(set.runCount, 1);
  set.collect(prefix, 5005, keyHash(prefix, 5005), toLsn(20), new VersionChain());
  assert.deepEqual(
    asked.map(({ file }) => file),
    [add[500]!.file],
  );
});
