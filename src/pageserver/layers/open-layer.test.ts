import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lsn, toLsn } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { keyHash, slruBlockPrefix } from "./key.ts";
import { OpenLayer } from "./open-layer.ts";
import { BASE_IMAGE, BASE_NONE, VALUE_DELTA, VersionChain } from "./version-chain.ts";

const HOT = slruBlockPrefix(0, 0);
const STEP = 16;
const COUNT = 2000;

/** LSNs of its versions, some of them the same; a version's value is its number. */
function hotLayer(random: SeededRandom): { layer: OpenLayer; lsns: Lsn[] } {
  const layer = new OpenLayer(toLsn(1000));
  const lsns: Lsn[] = [];
  let lsn = 1000;
  for (let version = 0; version < COUNT; version++) {
    lsn += random.int(3) * 8;
    layer.put(HOT, 0, toLsn(lsn), VALUE_DELTA, Uint8Array.of(version & 0xff, version >> 8));
    layer.put(HOT, 1 + random.int(5), toLsn(lsn), VALUE_DELTA, new Uint8Array(3));
    lsns.push(toLsn(lsn));
  }
  return { layer, lsns };
}

function collect(layer: OpenLayer, chain: VersionChain, lsn: Lsn): number[] {
  chain.reset();
  layer.collect(HOT, 0, keyHash(HOT, 0), lsn, chain);
  return Array.from({ length: chain.deltaCount }, (_, i) => {
    const buffer = chain.buffers[i]!;
    return buffer[chain.offsets[i]!]! + buffer[chain.offsets[i]! + 1]! * 256;
  });
}

/** Numbers [from, to), the greatest first. */
function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, i) => to - 1 - i);
}

/** What redo does: at each step that it passes, a page, which says how many versions are in it. */
function keepPages(chain: VersionChain, lsns: readonly Lsn[]): void {
  for (const [version, lsn] of lsns.entries()) {
    if (lsns[version + 1] !== lsn) {
      const page = new Uint8Array(8192);
      new DataView(page.buffer).setUint32(0, version + 1);
      chain.steps[0]!.keep(lsn, page);
    }
  }
}

test("OpenLayer: versions of a hot key begin at the last page that was kept, at every LSN", () => {
  const random = new SeededRandom(1);
  const { layer, lsns } = hotLayer(random);
  const chain = new VersionChain(STEP);
  const upTo = (lsn: Lsn) => lsns.findLastIndex((other) => other <= lsn) + 1;
  assert.deepEqual(collect(layer, chain, lsns.at(-1)!), numbers(0, COUNT));
  assert.equal(chain.steps.length, 1);
  const before = layer.sizeBytes;
  keepPages(chain, lsns);
  assert.ok(layer.sizeBytes - before > 8192 * (COUNT / STEP / 2));
  for (let round = 0; round < 3000; round++) {
    if (round % 3 === 0) {
      const lsn = toLsn(lsns.at(-1)! + random.int(2) * 8);
      layer.put(HOT, 0, lsn, VALUE_DELTA, Uint8Array.of(lsns.length & 0xff, lsns.length >> 8));
      lsns.push(lsn);
    }
    const lsn = toLsn(random.bool(0.2) ? lsns.at(-1)! : lsns[0]! + random.int(COUNT * 8));
    const found = collect(layer, chain, lsn);
    const isLow = upTo(lsn) < 2 * STEP + 10;
    assert.ok(isLow || chain.base === BASE_IMAGE || lsn > lsns[COUNT - 1]!);
    let from = 0;
    if (chain.base === BASE_IMAGE) {
      from = new DataView(chain.baseBuffer!.buffer).getUint32(0);
    }
    assert.deepEqual(found, numbers(from, upTo(lsn)), `${lsn} of ${lsns.at(-1)}`);
    if (lsn <= lsns[COUNT - 1]!) {
      // Some versions share an LSN with others, so two steps are a little further apart.
      assert.ok(found.length < 3 * STEP, `${found.length} deltas`);
    }
    if (chain.steps.length > 0) {
      keepPages(chain, lsns.slice(0, upTo(lsn)));
    }
  }
});

test("OpenLayer: pages at steps are left out where caches are", () => {
  const { layer, lsns } = hotLayer(new SeededRandom(2));
  const chain = new VersionChain(STEP);
  collect(layer, chain, lsns.at(-1)!);
  keepPages(chain, lsns);
  chain.usesCaches = false;
  assert.deepEqual(collect(layer, chain, lsns.at(-1)!), numbers(0, COUNT));
  assert.equal(chain.base, BASE_NONE);
});
