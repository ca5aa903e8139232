// A short run of the redo fuzzer, and every case that it ever found; long runs by hand.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { PageRedo } from "../../src/redo/page-redo.ts";
import { checkedApply, restoreCase, run, type StoredCase } from "./page-redo.fuzz.ts";

test("PageRedo survives damaged deltas and pages", () => {
  for (let seed = 1; seed <= 4; seed++) {
    const { applied, refused } = run(seed, 5000);
    assert.ok(
      applied > 500 && refused > 500,
      `seed ${seed}: ${applied} applied, ${refused} refused`,
    );
  }
});

test("PageRedo survives what the fuzzer found before", () => {
  const path = join(import.meta.dirname, "testdata", "fuzz-findings.json");
  const found: readonly StoredCase[] = JSON.parse(readFileSync(path, "utf8"));
  assert.ok(found.length > 0);
  for (const stored of found) {
    checkedApply(new PageRedo(), restoreCase(stored), true);
  }
});
