// The committed pictures are those that the script draws from today's tables.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { PICTURES } from "../../scripts/draw-pictures.ts";

test("pictures: each is what `npm run pictures` draws", () => {
  for (const [path, draw] of Object.entries(PICTURES)) {
    const committed = readFileSync(join(import.meta.dirname, "..", "..", path), "utf8");
    assert.equal(committed, draw(), `${path} is old: npm run pictures`);
  }
});
