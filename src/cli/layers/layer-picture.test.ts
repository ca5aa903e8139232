// The layer map drawn: very many layers, and none.

import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import type { BranchLayer, BranchLayers } from "../../storage-controller/layers/layer-map.ts";
import { drawLayers } from "./layer-picture.ts";

const CHILD = "b".repeat(32);

function branch(layers: readonly BranchLayer[]): BranchLayers {
  return {
    layers,
    branchPoints: [{ timelineId: CHILD, lsn: toLsn(400) }],
    beginLsn: undefined,
    minReadableLsn: toLsn(150),
    headLsn: toLsn(900),
    memoryFrom: toLsn(600),
  };
}

test("drawLayers: a picture that does not grow with 10,000 layers", () => {
  const layers = Array.from({ length: 10_000 }, (_, i): BranchLayer => {
    const key = `00${(i % 1000).toString(16).padStart(34, "0")}`.toUpperCase();
    const band = Math.floor(i / 1000);
    return {
      kind: "Delta",
      keyStart: key,
      keyEnd: key,
      lsnStart: toLsn(101 + band * 30),
      lsnEnd: toLsn(131 + band * 30),
      sizeBytes: 1000,
      fileName: `${i}`,
      timelineId: "a".repeat(32),
      isOwn: true,
      isRemote: false,
    };
  });
  const svg = drawLayers(branch(layers), "a<b", (id) => id.slice(0, 4));
  const shapes = svg.match(/<title>/g)!.length;
  assert.ok(shapes > 1000 && shapes < 10_000, `${shapes} shapes`);
  assert.match(svg, /Layers of branch a&lt;b/);
  assert.match(svg, /0\/190 branch bbbb/);
  assert.doesNotMatch(svg, /NaN|undefined|Infinity/);
});

test("drawLayers: a branch without any layers", () => {
  assert.doesNotMatch(
    drawLayers(branch([]), "new", (id) => id),
    /NaN|undefined|Infinity/,
  );
});
