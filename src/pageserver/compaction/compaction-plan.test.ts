import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, MAX_LSN, toLsn } from "../../base/lsn.ts";
import { keyAfter, relBlockPrefix } from "../layers/key.ts";
import {
  FIRST_KEY,
  LAST_KEY,
  LAYER_KIND_DELTA,
  LAYER_KIND_IMAGE,
  type LayerName,
} from "../layers/layer-format.ts";
import { type PlanSituation, planCompaction } from "./compaction-plan.ts";
import type { PlannedLayer } from "./image-tiles.ts";

const SETTINGS = {
  levelAfterLayers: 4,
  minCompactionBytes: 100,
  imageRatio: 1,
  collectRatio: 0.5,
  imageLayerBytes: 1 << 20,
};
/** Nothing is due for its bytes. */
const WIDE = { ...SETTINGS, minCompactionBytes: 1 << 30, imageLayerBytes: 1 << 30 };
const MIDDLE = { prefix: relBlockPrefix(1663, 5, 1, 0), index: 7 };
const BEHIND_MIDDLE = keyAfter(MIDDLE.prefix, MIDDLE.index)!;

interface Shape {
  readonly bytes?: number;
  readonly keys?: readonly [LayerName["keyStart"], LayerName["keyEnd"]];
  readonly capLsn?: Lsn;
}

/** Versions of LSNs [start, last]. */
function delta(start: number, last: number, shape: Shape = {}): PlannedLayer {
  return layer(LAYER_KIND_DELTA, start, last + 1, shape);
}

function image(lsn: number, shape: Shape = {}): PlannedLayer {
  return layer(LAYER_KIND_IMAGE, lsn, lsn + 1, shape);
}

function layer(
  kind: LayerName["kind"],
  start: number,
  end: number,
  { bytes = 100, keys = [FIRST_KEY, LAST_KEY], capLsn = MAX_LSN }: Shape,
): PlannedLayer {
  const [lsnStart, lsnEnd] = [toLsn(start), toLsn(end)];
  const name: LayerName = { kind, keyStart: keys[0], keyEnd: keys[1], lsnStart, lsnEnd };
  const isImage = kind === LAYER_KIND_IMAGE;
  return { file: { name, sizeBytes: bytes, isImage, lsnStart, lsnEnd }, capLsn };
}

function plan(situation: Partial<PlanSituation<PlannedLayer>>, settings = SETTINGS) {
  return planCompaction(
    {
      layers: [],
      hasAncestor: false,
      cutoff: toLsn(0),
      consistentLsn: MAX_LSN,
      retained: [],
      branchPoints: [],
      collected: new Map(),
      isSetAside: () => false,
      ...situation,
    },
    settings,
  );
}

test("level: so many flushed layers above all others, cut where branches begin", () => {
  const l0 = [40, 30, 20, 10].map((lsn) => delta(lsn, lsn + 9, { bytes: 1 }));
  const older = delta(1, 9, { keys: [FIRST_KEY, MIDDLE], bytes: 1 });
  const base = image(0);
  for (const below of [[base], [older, base]]) {
    const found = plan({ layers: [...l0, ...below], branchPoints: [toLsn(25), toLsn(15)] });
    assert.equal(found?.goal, "level");
    assert.deepEqual(found.inputs, l0);
    assert.deepEqual(found.remove, l0);
    assert.deepEqual([found.cutoff, found.maxLsn, found.moreBelow], [0, 49, true]);
    assert.deepEqual(found.cutPoints, [15, 25]);
  }
  assert.equal(plan({ layers: [...l0.slice(1), base] }), undefined);
});

/** Four levels of two files each, the newest first. */
function fourLevels(bytes: number, capLsn: Lsn = MAX_LSN): PlannedLayer[] {
  return [40, 30, 20, 10].flatMap((lsn) => [
    delta(lsn, lsn + 9, { keys: [FIRST_KEY, MIDDLE], bytes, capLsn }),
    delta(lsn, lsn + 9, { keys: [BEHIND_MIDDLE, LAST_KEY], bytes, capLsn }),
  ]);
}

test("level: so many levels of about one size become one", () => {
  const levels = fourLevels(1);
  const flushed = delta(50, 59, { bytes: 1 });
  const large = delta(1, 9, { keys: [FIRST_KEY, MIDDLE], bytes: 5 << 20 });
  for (const hasAncestor of [false, true]) {
    const found = plan({ layers: [flushed, ...levels, large], hasAncestor }, WIDE);
    assert.equal(found?.goal, "level");
    assert.deepEqual(found.inputs, levels);
    assert.deepEqual(found.remove, levels);
    assert.deepEqual([found.maxLsn, found.moreBelow, found.retained], [49, true, []]);
  }
  assert.equal(plan({ layers: levels.slice(2) }, WIDE), undefined, "three are few");
  const shared = fourLevels(1, toLsn(60));
  assert.equal(plan({ layers: shared }, WIDE), undefined, "a former ancestor's stay shared");
  const mixed = [
    ...levels.slice(0, 4),
    delta(20, 29, { keys: [FIRST_KEY, MIDDLE], bytes: 5 << 20 }),
  ];
  assert.equal(plan({ layers: [...mixed, ...levels.slice(6)] }, WIDE), undefined, "of other sizes");
});

test("level: no levels are merged across a branch point, an image, or others' deltas", () => {
  const levels = fourLevels(1);
  for (const [branchPoint, merged] of [
    [9, true],
    [19, false],
    [24, false],
    [39, false],
    [44, false],
    [49, true],
  ] as const) {
    const found = plan({ layers: levels, branchPoints: [toLsn(branchPoint)] }, WIDE);
    assert.equal(found !== undefined, merged, `branch point at ${branchPoint}`);
  }
  const half = image(29, { keys: [BEHIND_MIDDLE, LAST_KEY], bytes: 1000 });
  const withImage = [...levels.slice(0, 4), half, ...levels.slice(4)];
  assert.equal(plan({ layers: withImage, hasAncestor: true }, WIDE), undefined);
  // What a collection wrote stays; so nothing around it may become one layer.
  const collected = delta(20, 29, { keys: [MIDDLE, MIDDLE], bytes: 1 });
  const others = [...levels.slice(0, 4), collected, ...levels.slice(4)];
  const situation = { layers: others, collected: new Map([[collected, []]]), hasAncestor: true };
  assert.equal(plan(situation, WIDE), undefined);
});

test("images: when the deltas above the last ones have their bytes, at the newest LSN on disk", () => {
  const base = image(9, { bytes: 300 });
  const small = delta(10, 19, { bytes: 299 });
  assert.equal(plan({ layers: [small, base] }), undefined);
  const large = delta(20, 29, { bytes: 1 });
  const found = plan({ layers: [large, small, base] });
  assert.equal(found?.goal, "images");
  assert.deepEqual(found.inputs, [large, small, base]);
  assert.deepEqual([found.imageLayerLsn, found.cutoff, found.remove], [29, 29, []]);
  // Deltas that the images have already do not count.
  assert.equal(plan({ layers: [image(29, { bytes: 300 }), large, small, base] }), undefined);
  // A branch has none: they would be copies of its ancestor.
  assert.equal(plan({ layers: [large, small], hasAncestor: true }), undefined);
});

test("collect: below images at or below the cutoff all goes, without a byte written", () => {
  const images = [
    image(29, { keys: [FIRST_KEY, MIDDLE] }),
    image(29, { keys: [BEHIND_MIDDLE, LAST_KEY] }),
  ];
  const above = delta(30, 39, { bytes: 1 });
  const below = [delta(20, 29), delta(10, 19), image(9)];
  const layers = [above, ...images, ...below];
  const found = plan({ layers, cutoff: toLsn(29) });
  assert.equal(found?.goal, "collect");
  assert.deepEqual(found.remove, below);
  assert.deepEqual(found.inputs, []);
  assert.equal(plan({ layers, cutoff: toLsn(28) }), undefined, "the images are above the cutoff");
  // With a hole in them they stand for nothing.
  const holed = plan({ layers: [above, images[0]!, ...below], cutoff: toLsn(50) });
  assert.notEqual(holed?.goal, "collect");
});

test("collect: what a retained LSN reads is written anew, as soon as that pays", () => {
  const below = [delta(20, 29, { bytes: 60 }), delta(10, 19, { bytes: 60 }), image(9)];
  const layers = [image(29), ...below];
  const situation = { layers, cutoff: toLsn(35), retained: [toLsn(15), toLsn(32)] };
  assert.deepEqual(plan(situation)?.remove, below.slice(0, 1), "it is above the retained LSN");
  const left = layers.filter((layer) => layer !== below[0]);
  const found = plan({ ...situation, layers: left })!;
  assert.deepEqual(found.inputs, below.slice(1));
  assert.deepEqual(found.remove, below.slice(1));
  assert.deepEqual([found.retained, found.cutoff, found.maxLsn], [[15], 15, 15]);
  assert.deepEqual(found.imageLayerLsn, undefined);
  const kept = delta(9, 15, { bytes: 200 });
  const collected = new Map([[kept, situation.retained]]);
  const after = { ...situation, layers: [image(29), kept], collected };
  assert.equal(plan(after), undefined, "it would be written again");
  const more = {
    ...after,
    layers: [image(39), delta(30, 39), image(29, { bytes: 1 }), kept],
    cutoff: toLsn(39),
  };
  assert.equal(plan(more)?.goal, "collect");
  assert.equal(plan({ ...after, retained: [toLsn(32)] })?.inputs.length, 0, "nothing is retained");
  const twoKept = new Map([[kept, [toLsn(12), ...situation.retained]]]);
  assert.deepEqual(plan({ ...after, collected: twoKept })?.inputs, [kept], "less is retained");
});

test("collect: a branch keeps deltas above its ancestor", () => {
  const layers = [delta(40, 49), delta(30, 39), delta(20, 29)];
  const found = plan({ layers, hasAncestor: true, cutoff: toLsn(45), retained: [toLsn(25)] })!;
  assert.equal(found.goal, "collect");
  assert.deepEqual(found.inputs, layers.slice(1));
  assert.deepEqual([found.retained, found.cutoff, found.moreBelow], [[25, 39], 39, true]);
});

test("a layer with a cap ends there", () => {
  const layers = [delta(30, 39, { capLsn: toLsn(35) }), image(9)];
  assert.equal(plan({ layers })?.imageLayerLsn, 35);
  const images = image(36, { capLsn: toLsn(35) });
  assert.equal(
    plan({ layers: [images, ...layers] })?.imageLayerLsn,
    35,
    "images above it are not ours",
  );
});

test("nothing while a record that has more than a layer is taken in", () => {
  const layers = [delta(20, 29), delta(10, 19), image(9)];
  assert.equal(plan({ layers, consistentLsn: toLsn(29) })?.goal, "images");
  assert.equal(plan({ layers, consistentLsn: toLsn(28) }), undefined);
});

test("collect: where nothing is left nothing is to do, however little is worth a rewrite", () => {
  const settings = { ...SETTINGS, minCompactionBytes: 0 };
  assert.equal(
    plan({ layers: [image(9)], cutoff: toLsn(9), retained: [toLsn(5)] }, settings),
    undefined,
  );
});

/** Of ranges, with images of 50 bytes each: two halves of the blocks, and the key space above them. */
const SMALL_RANGES = { ...SETTINGS, imageLayerBytes: 20 };
const LEFT = [FIRST_KEY, MIDDLE] as const;
const RIGHT = [BEHIND_MIDDLE, LAST_KEY] as const;

test("images: of much, those of the range with the most deltas against its images, below what is flushed", () => {
  const flushed = delta(40, 49, { bytes: 20 });
  const [left, right] = [delta(20, 39, { keys: LEFT, bytes: 90 }), delta(20, 39, { keys: RIGHT })];
  const images = [image(9, { keys: LEFT, bytes: 50 }), image(9, { keys: RIGHT, bytes: 60 })];
  const layers = [flushed, left, right, ...images];
  const found = plan({ layers }, SMALL_RANGES)!;
  assert.equal(found.goal, "images");
  assert.deepEqual(found.inputs, [left, images[0]], "90 : 50 is more than 100 : 60");
  assert.deepEqual([found.range.start, found.range.end, found.imageLayerLsn], [...LEFT, 39]);
  assert.deepEqual(found.remove, []);
  const isSetAside = ({ start }: { start: unknown }) => start === FIRST_KEY;
  const other = plan({ layers, isSetAside }, SMALL_RANGES)!;
  assert.deepEqual([other.range.start, other.range.end], [...RIGHT], "the first has failed");
  const made = image(39, { keys: LEFT, bytes: 50 });
  const next = plan({ layers: [flushed, made, ...layers.slice(1)] }, SMALL_RANGES)!;
  assert.deepEqual(next.inputs, [right, images[1]]);
  const both = [flushed, made, image(39, { keys: RIGHT, bytes: 60 }), ...layers.slice(1)];
  assert.equal(plan({ layers: both }, SMALL_RANGES), undefined);
});

test("level: of much, as soon as images pay, for they are made of levels; ranges of keys have their own files", () => {
  const flushed = delta(20, 29, { bytes: 200 });
  const images = [image(9, { keys: LEFT, bytes: 50 }), image(9, { keys: RIGHT, bytes: 50 })];
  const found = plan({ layers: [flushed, ...images] }, SMALL_RANGES)!;
  assert.deepEqual([found.goal, found.inputs], ["level", [flushed]]);
  assert.deepEqual(found.keyCuts, [BEHIND_MIDDLE]);
  // An image is above what it is made of: a file of a level must not lie across it.
  const l0 = [50, 40, 30, 20].map((lsn) => delta(lsn, lsn + 9, { bytes: 1 }));
  const level = plan({ layers: [...l0, image(39, { keys: LEFT }), image(9, { keys: RIGHT })] });
  assert.deepEqual([level?.goal, level?.cutPoints], ["level", [39]]);
  assert.equal(plan({ layers: [flushed], hasAncestor: true }, SMALL_RANGES), undefined);
});

test("collect: a layer goes when the images of all its keys are above it and at or below the cutoff", () => {
  const across = delta(20, 29, { keys: [FIRST_KEY, LAST_KEY] });
  const old = image(9);
  const left = image(35, { keys: LEFT });
  const right = image(45, { keys: RIGHT });
  const layers = [right, left, across, old];
  assert.equal(
    plan({ layers, cutoff: toLsn(44) }),
    undefined,
    "the right image is above the cutoff",
  );
  assert.deepEqual(plan({ layers, cutoff: toLsn(45) })?.remove, [across, old]);
  // An LSN that is retained between the two images still reads the right half there.
  const retained = [toLsn(40)];
  const found = plan({ layers, cutoff: toLsn(45), retained })!;
  assert.deepEqual(
    [found.inputs, found.remove],
    [
      [across, old],
      [across, old],
    ],
  );
  assert.deepEqual([found.retained, found.cutPoints], [[40], [35, 40, 45]]);
});

test("collect: by ranges of keys that have no layer in common", () => {
  const [left, right] = [delta(20, 29, { keys: LEFT }), delta(20, 29, { keys: RIGHT })];
  const old = [image(9, { keys: LEFT }), image(9, { keys: RIGHT })];
  const layers = [image(35, { keys: LEFT }), image(35, { keys: RIGHT }), left, right, ...old];
  const situation = { layers, cutoff: toLsn(35), retained: [toLsn(25)] };
  const found = plan(situation)!;
  assert.deepEqual(found.remove, [left, old[0]]);
  assert.deepEqual([found.range.start, found.range.end], [...LEFT]);
  const kept = delta(9, 25, { keys: LEFT });
  const rest = layers.filter((layer) => !found.remove.includes(layer));
  const collected = new Map([[kept, situation.retained]]);
  const next = plan({ ...situation, layers: [...rest, kept], collected })!;
  assert.deepEqual(next.remove, [right, old[1]]);
});

test("images: where a page cannot be built, nothing is tried again, and what is needed stays an input", () => {
  const hole = [MIDDLE, MIDDLE] as const;
  const before: Shape = { keys: [FIRST_KEY, { prefix: MIDDLE.prefix, index: MIDDLE.index - 1 }] };
  const old = image(9);
  const first = delta(10, 19, { bytes: 500 });
  const images = [image(19, before), image(19, { keys: RIGHT })];
  const isSetAside = ({ start }: { start: LayerName["keyStart"] }) => start.index === hole[0].index;
  const layers = [...images, first, old];
  assert.equal(plan({ layers, isSetAside }), undefined);
  assert.equal(plan({ layers })?.goal, "images", "until it is no longer set aside");
  const more = delta(20, 29, { bytes: 500 });
  const found = plan({ layers: [more, ...layers], isSetAside })!;
  assert.deepEqual(found.inputs.slice(0, 2), [more, first], "the key's base is the old image");
  assert.ok(found.inputs.includes(old));
});
