import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { changed, loadPageVariant, PAGE_VARIANTS } from "../variants/variants.ts";
import { runPageservers } from "./run.ts";

const SEEDS = 150;
/** What each run must come to now and then, or it proves nothing: so often in all of them. */
const LEAST: Readonly<Record<string, number>> = {
  crash: SEEDS / 5,
  takeover: SEEDS / 5,
  "empty disk": SEEDS / 10,
  "WAL trimmed": SEEDS,
  branch: SEEDS / 2,
  archive: SEEDS / 4,
  unarchive: SEEDS / 10,
  detach: SEEDS / 4,
  delete: SEEDS / 4,
  "delete tenant": SEEDS / 20,
  "compaction step": SEEDS / 4,
  collect: SEEDS / 2,
  lease: SEEDS / 4,
  "lease of an ancestor's history": SEEDS / 30,
  reset: SEEDS / 20,
  "create again": SEEDS / 10,
  eviction: SEEDS / 10,
  scrub: SEEDS / 10,
  "read of a key": SEEDS * 50,
};

test("pageservers: every seed keeps what was promised, and leaves nothing behind", async () => {
  const totals = new Map<string, number>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts, violation } = await runPageservers(seed);
    assert.equal(violation, undefined, violation?.message);
    for (const [what, count] of counts) {
      totals.set(what, (totals.get(what) ?? 0) + count);
    }
  }
  for (const [what, least] of Object.entries(LEAST)) {
    assert.ok((totals.get(what) ?? 0) >= least, `only ${totals.get(what) ?? 0} of: ${what}`);
  }
});

test("pageservers: the same seed is the same run, step by step", async () => {
  const lines = async () => {
    const trace: string[] = [];
    for (const seed of [7, 8, 9]) {
      await runPageservers(seed, (text) => trace.push(text));
    }
    return trace;
  };
  const first = await lines();
  assert.ok(first.length > 100, `${first.length} lines`);
  assert.deepEqual(await lines(), first);
});

test("page variants: every change fits the code, so that none of them is the code itself", () => {
  for (const { name, changes } of PAGE_VARIANTS) {
    for (const change of changes) {
      const path = join(import.meta.dirname, "..", "..", change.file);
      const source = readFileSync(path, "utf8");
      assert.notEqual(changed(source, change, name), source);
    }
  }
});

/** All of them: `npm run sim:pages -- --variants`. */
const QUICKLY_NOTICED = new Set([
  "index-before-layer",
  "absent-layer-uploaded",
  "delete-without-validation",
]);
const TRIED_HERE = PAGE_VARIANTS.filter(({ name }) => QUICKLY_NOTICED.has(name));

for (const { name, rule, seed } of TRIED_HERE) {
  test(`pageservers: the simulation notices the variant ${name} (without: ${rule})`, async () => {
    const { runPageservers: run } = await loadPageVariant(name);
    const seeds = [seed, ...Array.from({ length: 100 }, (_, index) => index + 1)];
    for (const candidate of seeds) {
      if ((await run(candidate)).violation !== undefined) {
        return;
      }
    }
    assert.fail("no seed noticed it");
  });
}
