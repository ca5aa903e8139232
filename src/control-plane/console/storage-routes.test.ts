// The layers of a branch for the console: very many of them, and names from anywhere.

import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import type { BranchLayer } from "../../storage-controller/layers/layer-map.ts";
import { layersView } from "./storage-routes.ts";

const OWN = "a".repeat(32);

function layer(lsnStart: number, key: number): BranchLayer {
  const keyText = key.toString(16).toUpperCase().padStart(36, "0");
  return {
    kind: "Delta",
    keyStart: keyText,
    keyEnd: keyText,
    lsnStart: toLsn(lsnStart),
    lsnEnd: toLsn(lsnStart + 10),
    sizeBytes: 100,
    fileName: `${lsnStart} ${key}`,
    timelineId: OWN,
    isOwn: true,
    isRemote: key % 2 === 1,
  };
}

function view(layers: readonly BranchLayer[], maxLayers: number) {
  const rest = { branchPoints: [], beginLsn: undefined, memoryFrom: undefined };
  const map = { layers, ...rest, minReadableLsn: toLsn(8), headLsn: toLsn(1000) };
  return layersView(map, (id) => (id === OWN ? "main" : id), maxLayers);
}

test("layersView: above its limit layers of the same LSNs are one, and then the oldest are left out", () => {
  const layers = [100, 200, 300].flatMap((lsn) => [1, 2, 3].map((key) => layer(lsn, key)));
  const each = view(layers, 9);
  assert.equal(each.layers.length, 9);
  assert.deepEqual(each.left_out, { layers: 0, bytes: 0 });
  const grouped = view(layers, 8);
  assert.deepEqual(
    grouped.layers.map(({ lsn_start, count, bytes, remote }) => [lsn_start, count, bytes, remote]),
    [
      ["0/12C", 3, 300, 2],
      ["0/C8", 3, 300, 2],
      ["0/64", 3, 300, 2],
    ],
  );
  const cut = view(layers, 2);
  assert.deepEqual([cut.layers.length, cut.layers.at(-1)!.lsn_start], [2, "0/C8"]);
  assert.deepEqual(cut.left_out, { layers: 3, bytes: 300 });
  // The sums are of all.
  assert.deepEqual(
    [cut.own, cut.remote],
    [
      { layers: 9, bytes: 900 },
      { layers: 6, bytes: 600 },
    ],
  );
});

test("layersView: where a layer begins and ends among the keys of all", () => {
  const { keys, layers } = view([layer(100, 5), layer(100, 7)], 10);
  assert.equal(keys.length, 4);
  assert.deepEqual(
    layers.map(({ key_from, key_to }) => [key_from, key_to]),
    [
      [0, 1],
      [2, 3],
    ],
  );
});
