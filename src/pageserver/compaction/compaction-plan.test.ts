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
import { type PlannedLayer, type PlanSituation, planCompaction } from "./compaction-plan.ts";

const SETTINGS = {
  levelAfterLayers: 4,
  minCompactionBytes: 100,
  imageRatio: 1,
  collectRatio: 0.5,
};
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
      collected: undefined,
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
  const found = plan(situation)!;
  assert.deepEqual(
    found.inputs,
    below.slice(1),
    "of what is above the retained LSN nothing is read",
  );
  assert.deepEqual(found.remove, below);
  assert.deepEqual([found.retained, found.cutoff, found.maxLsn], [[15], 15, 15]);
  assert.deepEqual(found.imageLayerLsn, undefined);
  const kept = delta(9, 15, { bytes: 200 });
  const collected = { layers: new Set([kept]), retained: situation.retained };
  const after = { ...situation, layers: [image(29), kept], collected };
  assert.equal(plan(after), undefined, "it would be written again");
  const more = {
    ...after,
    layers: [image(39), delta(30, 39), image(29, { bytes: 1 }), kept],
    cutoff: toLsn(39),
  };
  assert.equal(plan(more)?.goal, "collect");
  assert.equal(plan({ ...after, retained: [toLsn(32)] })?.inputs.length, 0, "nothing is retained");
  const twoKept = { ...collected, retained: [toLsn(12), ...situation.retained] };
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
