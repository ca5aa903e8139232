// A short run of the fuzzer on recorded WAL; long ones by hand (`npm run fuzz -- recorded-wal`).

import assert from "node:assert/strict";
import { before, test } from "node:test";
import { prepare, run } from "./recorded-wal.fuzz.ts";

before(() => prepare([17]));

test("decoder, interpreter and PageRedo survive damage to real WAL", () => {
  for (let seed = 1; seed <= 4; seed++) {
    const { cases, applied, refused, intact } = run(seed, 3000);
    assert.ok(cases >= 3000);
    assert.ok(applied > 300 && refused > 300, `${applied} applied, ${refused} refused`);
    assert.ok(intact > 100, `${intact} records in front of the damage`);
  }
});
