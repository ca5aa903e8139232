import assert from "node:assert/strict";
import { test } from "node:test";
import { freeMemory } from "./free-memory.ts";

test("freeMemory: what is whole and large is gone for every view of it, what others may share stays", () => {
  const whole = Buffer.allocUnsafeSlow(20_000);
  const view = new Uint8Array(whole.buffer, 100, 50);
  freeMemory(whole);
  assert.deepEqual([whole.length, view.length], [0, 0]);
  freeMemory(whole);
  const shared = new Uint8Array(40_000).fill(7);
  freeMemory(shared.subarray(0, 20_000));
  freeMemory(shared.subarray(20_000));
  assert.ok(shared.length === 40_000 && shared.every((byte) => byte === 7));
  const small = new Uint8Array(100);
  freeMemory(small);
  assert.equal(small.length, 100);
});
