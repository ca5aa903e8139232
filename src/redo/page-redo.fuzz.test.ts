// A short run of the redo fuzzer; long ones by hand.

import assert from "node:assert/strict";
import { test } from "node:test";
import { run } from "./page-redo.fuzz.ts";

test("PageRedo survives damaged deltas and pages", () => {
  for (let seed = 1; seed <= 4; seed++) {
    const { applied, refused } = run(seed, 5000);
    assert.ok(
      applied > 500 && refused > 500,
      `seed ${seed}: ${applied} applied, ${refused} refused`,
    );
  }
});
