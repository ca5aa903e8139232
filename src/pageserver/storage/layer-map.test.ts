import assert from "node:assert/strict";
import { test } from "node:test";
import { REAL_CLOCK, replaceClock, turn } from "../../base/clock.ts";
import { toLsn } from "../../base/lsn.ts";
import { SpanBuilder } from "../ancestry/span-builder.ts";
import { BlockCache } from "../layers/block-cache.ts";
import { keyHash, relSizePrefix } from "../layers/key.ts";
import { VALUE_IMAGE } from "../layers/version-chain.ts";
import { LayerMap } from "./layer-map.ts";

const KEY = relSizePrefix(1663, 5, 16384, 0);
const START = toLsn(1000);

function put(map: LayerMap, lsn: number, index = 0): void {
  map.open.put(KEY, index, toLsn(lsn), VALUE_IMAGE, new Uint8Array(1));
  map.lastRecordLsn = toLsn(lsn);
}

function branchOf(map: LayerMap, lsn: number): LayerMap {
  return new LayerMap(toLsn(lsn), { map, capLsn: toLsn(lsn) });
}

/** A root and so many branches of each other; the one at depth n has index n. */
function chain(depth: number): LayerMap[] {
  const maps = [new LayerMap(START)];
  put(maps[0]!, 1008, 0);
  for (let at = 1; at <= depth; at++) {
    const lsn = maps.at(-1)!.lastRecordLsn;
    maps.push(branchOf(maps.at(-1)!, lsn));
    put(maps.at(-1)!, lsn + 8, at);
  }
  return maps;
}

async function build(
  maps: readonly LayerMap[],
  builder = new SpanBuilder(new BlockCache(1 << 24)),
) {
  for (const map of maps) {
    builder.request(map);
  }
  await builder.settled();
}

/** Maps that a read of the key looks at before it comes to the one that has it, as a reader goes. */
function looksBefore(from: LayerMap, index: number, target: LayerMap): number {
  let looks = 0;
  let map = from;
  while (map !== target) {
    looks++;
    for (let span = map.currentSpan; span?.lacks(keyHash(KEY, index)); span = map.currentSpan) {
      map = span.top;
    }
    map = map.parent!.map;
  }
  return looks;
}

test("spans: from any depth to any depth in a few looks", async () => {
  const maps = chain(511);
  await build(maps);
  for (const depth of [511, 510, 300, 255, 64, 17, 5]) {
    for (const at of [0, 1, 3, 15, 200, 254, 500].filter((at) => at < depth)) {
      const looks = looksBefore(maps[depth]!, at, maps[at]!);
      assert.ok(looks <= 16, `${looks} looks from ${depth} to ${at}`);
    }
  }
});

test("spans: 20,000 branches of each other", () => {
  const root = new LayerMap(START);
  let map = root;
  for (let depth = 0; depth < 20_000; depth++) {
    map = branchOf(map, 1000);
  }
  let steps = 0;
  for (; map.parent !== undefined; steps++) {
    map = map.currentSpan?.top ?? map.parent.map;
  }
  assert.ok(steps < 40, `${steps} steps`);
});

test("spans: with the lowest cap on the way", async () => {
  const root = new LayerMap(START);
  put(root, 1008);
  const first = branchOf(root, 1008);
  put(first, 1016, 1);
  put(first, 1024, 1);
  const second = branchOf(first, 1016);
  put(second, 1040, 2);
  const third = branchOf(second, 1040);
  const fourth = branchOf(third, 1040);
  const span = fourth.currentSpan!;
  assert.equal(span.length, 3);
  assert.equal(span.capLsn, 1016);
  assert.equal(span.top, first);
});

test("spans: an ancestor that has yet to take in WAL below the cap is not passed", async () => {
  const maps = chain(4);
  const behind = maps[1]!;
  behind.lastRecordLsn = START;
  await build([maps[4]!]);
  const span = maps[4]!.currentSpan!;
  assert.equal(span.length, 3);
  assert.equal(span.hashes, undefined);
  put(behind, 1016, 77);
  await build([maps[4]!]);
  assert.equal(span.lacks(keyHash(KEY, 77)), false);
  assert.equal(span.lacks(keyHash(KEY, 78)), true);
});

test("spans: keys in frozen layers count too", async () => {
  const maps = chain(4);
  maps[2]!.freezeOpen(maps[2]!.lastRecordLsn, maps[2]!.lastRecordLsn);
  await build([maps[4]!]);
  assert.equal(maps[4]!.currentSpan!.lacks(keyHash(KEY, 2)), false);
  assert.equal(maps[4]!.currentSpan!.lacks(keyHash(KEY, 5)), true);
});

test("spans: the cache may forget one, and a later read has it built again", async () => {
  const maps = chain(7);
  const small = new BlockCache(1);
  await build([maps[4]!, maps[7]!], new SpanBuilder(small));
  const span = maps[4]!.currentSpan!;
  assert.ok(span.hashes === undefined);
  assert.equal(span.lacks(keyHash(KEY, 9)), false);
  const asked = Array.from({ length: 64 }, () => span.wantsBuild());
  assert.equal(asked.filter(Boolean).length, 1);
  await build([maps[4]!]);
  assert.ok(span.lacks(keyHash(KEY, 9)));
});

test("spans: none reaches over a map that is large, also when it becomes so", async () => {
  const maps = chain(40);
  const large = maps[10]!;
  await build([maps[32]!]);
  assert.equal(maps[32]!.currentSpan!.length, 31);
  for (let index = 0; index < 40_000; index++) {
    large.open.put(KEY, index, large.lastRecordLsn, VALUE_IMAGE, new Uint8Array(1));
  }
  for (const { currentSpan } of maps) {
    currentSpan?.drop();
  }
  await build([maps[32]!]);
  assert.equal(maps[11]!.currentSpan, undefined);
  for (let map = maps[40]!; map !== large; map = map.currentSpan?.top ?? map.parent!.map) {
    assert.notEqual(map.parent, undefined, "a span has passed the large map");
  }
});

test("cutOff: branches below learn of it", async () => {
  const cache = new BlockCache(1 << 20);
  const maps = chain(7);
  await build(maps, new SpanBuilder(cache));
  const tip = maps[7]!;
  assert.equal(maps[4]!.currentSpan!.top, maps[1]);
  assert.ok(maps[4]!.currentSpan!.lacks(keyHash(KEY, 99)));
  const middle = maps[3]!;
  middle.cutOff(middle.files);
  assert.equal(middle.parent, undefined);
  assert.equal(middle.currentSpan, undefined);
  assert.ok(maps.every(({ currentSpan }) => currentSpan?.hashes === undefined));
  assert.equal(cache.usedBytes, 0);
  let reached = tip;
  while (reached.parent !== undefined) {
    reached = reached.currentSpan?.top ?? reached.parent.map;
  }
  assert.equal(reached, middle);
});

test("cutOff: a span that is being built then is not kept", async () => {
  const maps = chain(7);
  const cache = new BlockCache(1 << 20);
  // A clock by which each slice is over at once.
  let now = 0;
  replaceClock({ ...REAL_CLOCK, monotonicMs: () => (now += 10) });
  try {
    const building = build([maps[7]!], new SpanBuilder(cache));
    await turn();
    await turn();
    const before = maps[7]!.currentSpan;
    maps[3]!.cutOff(maps[3]!.files);
    await building;
    assert.equal(before!.hashes, undefined);
    assert.equal(cache.usedBytes, 0);
  } finally {
    replaceClock(REAL_CLOCK);
  }
});
