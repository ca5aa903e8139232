import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, MAX_LSN, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { relBlockPrefix } from "../layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../layers/layer-format.ts";
import { compareKey, ImageTiles, type Key, keyBefore, type PlannedLayer } from "./image-tiles.ts";

const PREFIX = relBlockPrefix(1663, 5, 16384, 0);
const key = (index: number): Key => ({ prefix: PREFIX, index });

function image(lsn: number, keyStart: Key, keyEnd: Key, capLsn: Lsn = MAX_LSN): PlannedLayer {
  const [lsnStart, lsnEnd] = [toLsn(lsn), toLsn(lsn + 1)];
  const name = { kind: LAYER_KIND_IMAGE, keyStart, keyEnd, lsnStart, lsnEnd } as const;
  return { file: { name, sizeBytes: 1, isImage: true, lsnStart, lsnEnd }, capLsn };
}

test("ImageTiles: each key is in the tile of the newest image at or below the LSN", () => {
  for (let seed = 1; seed <= 200; seed++) {
    const random = new SeededRandom(seed);
    const images = Array.from({ length: random.int(12) }, () => {
      const start = random.int(30);
      const keys = random.int(4) === 0 ? [FIRST_KEY, LAST_KEY] : [];
      const [from = key(start), to = key(start + random.int(8))] = keys;
      return image(random.int(1000) + 1, from, to, random.int(5) === 0 ? toLsn(400) : MAX_LSN);
    });
    const lsn = toLsn(random.int(1100));
    const { tiles, images: visible } = new ImageTiles(images, lsn);
    assert.deepEqual([tiles[0]!.start, tiles.at(-1)!.end], [FIRST_KEY, LAST_KEY]);
    tiles.slice(1).forEach(({ start }, i) => {
      assert.deepEqual(keyBefore(start), { ...tiles[i]!.end }, `seed ${seed}: side by side`);
    });
    for (const wanted of [FIRST_KEY, LAST_KEY, ...Array.from({ length: 40 }, (_, i) => key(i))]) {
      const tile = tiles.find(
        ({ start, end }) => compareKey(start, wanted) <= 0 && compareKey(end, wanted) >= 0,
      );
      const newest = images
        .filter(
          ({ file: { name, lsnStart }, capLsn }) =>
            lsnStart <= lsn &&
            lsnStart <= capLsn &&
            compareKey(name.keyStart, wanted) <= 0 &&
            compareKey(name.keyEnd, wanted) >= 0,
        )
        .sort((a, b) => b.file.lsnStart - a.file.lsnStart)[0];
      assert.equal(tile!.image?.file.lsnStart, newest?.file.lsnStart, `seed ${seed}`);
      assert.ok(newest === undefined || visible.has(tile!.image!));
    }
  }
});

test("ImageTiles: overlapping gives the tiles with keys of a range, both ends included", () => {
  const images = [
    image(5, FIRST_KEY, key(9)),
    image(6, key(10), key(19)),
    image(7, key(20), LAST_KEY),
  ];
  const tiles = new ImageTiles(images, MAX_LSN);
  const found = (from: number, to: number) =>
    tiles.overlapping(key(from), key(to)).map(({ image: top }) => top?.file.lsnStart);
  assert.deepEqual(found(0, 9), [5]);
  assert.deepEqual(found(9, 10), [5, 6]);
  assert.deepEqual(found(10, 19), [6]);
  assert.deepEqual(found(19, 100), [6, 7]);
  assert.equal(tiles.overlapping(FIRST_KEY, LAST_KEY).length, 3);
});
