import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { KeyHashes } from "./key-hashes.ts";

test("KeyHashes: has what was added, and nothing else", () => {
  const random = new SeededRandom(1);
  const added = new Set<number>();
  const one = new KeyHashes();
  const other = new KeyHashes();
  for (let i = 0; i < 5000; i++) {
    const hash = (random.bool() ? random.int(2 ** 32) : random.int(4000) * 4096) | 0;
    (random.bool() ? one : other).add(hash);
    added.add(hash);
  }
  const both = new KeyHashes();
  both.addAll(one);
  both.addAll(other);
  assert.equal(both.count, added.size);
  for (const hash of added) {
    assert.ok(both.has(hash));
  }
  for (let i = 0; i < 5000; i++) {
    const hash = random.int(2 ** 32) | 0;
    assert.equal(both.has(hash), added.has(hash));
  }
});

test("KeyHashes: a hash of 0 is there once it was added", () => {
  const hashes = new KeyHashes();
  assert.ok(!hashes.has(0));
  hashes.add(0);
  assert.ok(hashes.has(0));
  assert.equal(hashes.count, 1);
});
