import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { runPowerCuts } from "./power-cuts.ts";
import { shrink } from "./shrink.ts";
import { run } from "./simulation.ts";
import { changed, loadVariant, VARIANTS, violationOf } from "./variants/variants.ts";

const SEEDS = 200;
const CUTS = 300;
/** Tries beside the seed that is noted for a variant. */
const OTHER_SEEDS = 1000;

test("simulation: every seed keeps the invariants and ends in progress", () => {
  const totals = {
    elections: 0,
    acknowledgedBytes: 0,
    powerCuts: 0,
    refills: 0,
    changes: 0,
    resumes: 0,
    removals: 0,
    removalsWithoutStore: 0,
    evictions: 0,
  };
  for (let seed = 1; seed <= SEEDS; seed++) {
    const { counts, violation } = run(seed);
    assert.equal(violation, undefined, `seed ${seed}: ${violation?.message}`);
    totals.elections += counts.elections;
    totals.acknowledgedBytes += counts.acknowledgedBytes;
    totals.powerCuts += counts.powerCuts;
    totals.refills += counts.refills;
    totals.changes += counts.membershipChanges;
    totals.resumes += counts.resumes;
    totals.removals += counts.removals;
    totals.removalsWithoutStore += counts.removalsWithoutStore;
    totals.evictions += counts.evictions;
  }
  // A simulation in which nothing happens proves nothing.
  assert.ok(totals.elections > SEEDS * 2, `only ${totals.elections} elections`);
  assert.ok(totals.acknowledgedBytes > SEEDS * 5000, `only ${totals.acknowledgedBytes} bytes`);
  assert.ok(totals.powerCuts > SEEDS, `only ${totals.powerCuts} power cuts`);
  assert.ok(totals.refills > SEEDS / 10, `only ${totals.refills} disks filled again`);
  assert.ok(totals.changes > SEEDS / 10, `only ${totals.changes} changes of membership`);
  assert.ok(totals.resumes > SEEDS / 10, `only ${totals.resumes} computes that resumed`);
  assert.ok(totals.removals > SEEDS / 2, `only ${totals.removals} segments removed`);
  const { removalsWithoutStore } = totals;
  assert.ok(removalsWithoutStore > SEEDS / 10, `only ${removalsWithoutStore} without a store`);
  assert.ok(totals.evictions > SEEDS / 4, `only ${totals.evictions} logs evicted`);
});

test("simulation: the same seed is the same run, event by event", () => {
  const lines = () => {
    const trace: string[] = [];
    run(97, { trace: (atMs, who, text) => trace.push(`${atMs} ${who} ${text}`) });
    return trace;
  };
  const first = lines();
  assert.ok(first.length > 50);
  assert.deepEqual(lines(), first);
});

test("simulation: power cuts under the storage lose nothing acknowledged", () => {
  let acknowledgedBytes = 0;
  let tornSectors = 0;
  for (let seed = 1; seed <= CUTS / 10; seed++) {
    const result = runPowerCuts(seed, 10);
    assert.equal(result.violation, undefined, `seed ${seed}`);
    acknowledgedBytes += result.acknowledgedBytes;
    tornSectors += result.tornSectors;
  }
  assert.ok(acknowledgedBytes > CUTS * 500 && tornSectors > CUTS / 2);
});

test("variants: every change fits the code, so that none of them is the code itself", () => {
  for (const { name, changes } of VARIANTS) {
    const files = new Map<string, string>();
    for (const change of changes) {
      const { file } = change;
      const path = join(import.meta.dirname, "..", file);
      files.set(file, changed(files.get(file) ?? readFileSync(path, "utf8"), change, name));
    }
  }
});

for (const variant of VARIANTS) {
  const { name, rule, seed } = variant;
  test(`simulation: catches the variant ${name} (without: ${rule})`, async () => {
    const code = await loadVariant(name);
    const fails = (candidate: number) => violationOf(variant, code, candidate) !== undefined;
    const others = Array.from({ length: OTHER_SEEDS }, (_, index) => index + 1);
    assert.ok([seed, ...others].some(fails), "no seed noticed it");
  });
}

test("simulation: the power cuts catch what is not synced", async () => {
  for (const name of ["ack-before-fsync", "rename-not-synced", "cut-before-lower-position"]) {
    const code = await loadVariant(name);
    const seeds = Array.from({ length: 30 }, (_, index) => index + 1);
    assert.ok(
      seeds.some((seed) => code.runPowerCuts(seed, 10).violation !== undefined),
      name,
    );
  }
});

test("shrink: leaves the faults without which the run would not fail", async () => {
  const code = await loadVariant("vote-not-persisted");
  const seed = VARIANTS.find(({ name }) => name === "vote-not-persisted")!.seed;
  const failed = code.run(seed);
  const least = shrink(seed, failed, code.run);
  assert.ok(least.violation !== undefined && least.faults.length < failed.faults.length);
  assert.equal(run(seed, { faults: least.faults }).violation, undefined);
});
