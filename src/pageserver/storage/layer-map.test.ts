import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import { relSizePrefix } from "../layers/key.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";
import { LayerMap } from "./layer-map.ts";

const KEY = relSizePrefix(1663, 5, 16384, 0);
const START = toLsn(1000);

function put(map: LayerMap, lsn: number): void {
  map.open.put(KEY, 0, toLsn(lsn), VALUE_IMAGE, new Uint8Array(1));
  map.lastRecordLsn = toLsn(lsn);
}

function branchOf(map: LayerMap, lsn: number): LayerMap {
  return new LayerMap(toLsn(lsn), { map, capLsn: toLsn(lsn) });
}

test("inherited: ancestors without versions are passed in one step, at any depth", () => {
  const root = new LayerMap(START);
  put(root, 1008);
  let map = root;
  for (let depth = 0; depth < 100_000; depth++) {
    map = branchOf(map, 1008);
  }
  assert.deepEqual(map.inherited, { map: root, capLsn: 1008 });
});

test("inherited: with the lowest cap on the way", () => {
  const root = new LayerMap(START);
  put(root, 1008);
  put(root, 1016);
  const middle = branchOf(root, 1008);
  middle.lastRecordLsn = toLsn(1024);
  assert.deepEqual(branchOf(middle, 1024).inherited, { map: root, capLsn: 1008 });
});

test("inherited: an ancestor that has yet to take in WAL below the cap is not passed", () => {
  const root = new LayerMap(START);
  const middle = branchOf(root, 1000);
  const branch = branchOf(middle, 1016);
  assert.equal(branch.inherited?.map, middle);
  put(middle, 1016);
  assert.equal(branch.inherited?.map, middle);
});

test("inherited: what an ancestor writes above the cap does not matter, in memory, frozen or in files", () => {
  const root = new LayerMap(START);
  put(root, 1008);
  const middle = branchOf(root, 1008);
  put(middle, 1016);
  assert.equal(branchOf(middle, 1008).inherited?.map, root);
  middle.freezeOpen(toLsn(1016), toLsn(1008));
  assert.equal(branchOf(middle, 1008).inherited?.map, root);
  // A frozen layer below the cap does.
  assert.equal(branchOf(middle, 1016).inherited?.map, middle);
});

test("cutOff: branches below learn of it", () => {
  const root = new LayerMap(START);
  put(root, 1008);
  const middle = branchOf(root, 1008);
  const branch = branchOf(middle, 1008);
  assert.equal(branch.inherited?.map, root);
  middle.cutOff(middle.files);
  assert.equal(branch.inherited, undefined);
});
