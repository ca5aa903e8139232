// The claim protocol of blocks under many processes at once, in a few short runs: `npm run test:shim` has many, and canaries.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import {
  expectCountedRight,
  LIMITED,
  ONE_PASS,
  REWRITTEN,
  STRESS_PAGE_BYTES,
  stress,
} from "../../../testing/compute/claim-stress.ts";
import { NO_COMPILER as skip } from "../../../testing/compute/shim-program.ts";
import { findShim } from "./shim-loader.ts";

const workdir = mkdtempSync(join(tmpdir(), "strata-shim-"));
after(() => rmSync(workdir, { recursive: true }));

test("claims: no write is lost and no zero is read, whatever runs at once", { skip }, async () => {
  const { code, stderr, waits } = await stress(findShim(workdir), 1, ONE_PASS);
  assert.equal(code, 0, stderr);
  assert.ok(waits > 0, "no process met another one: the test does not test");
});

test("cache: blocks come and go under eight processes, and all that is read is right", {
  skip,
}, async () => {
  const load = { ...LIMITED, blocks: 1000, operations: 500, passes: 3, limitBlocks: 100 };
  const stressed = await stress(findShim(workdir), 1, load);
  assert.equal(stressed.code, 0, stressed.stderr);
  const { cleanBytes, keptBytes, evictedBytes, fetchedAgainBytes } = stressed.usage!;
  const allBytes = load.blocks * STRESS_PAGE_BYTES;
  assert.ok(fetchedAgainBytes > allBytes, `the test does not test: ${fetchedAgainBytes}`);
  assert.ok(fetchedAgainBytes <= evictedBytes, `${fetchedAgainBytes} of ${evictedBytes}`);
  // At the end one process alone has read all. Written blocks count; an eighth is for others anyway.
  const limitBytes = load.limitBlocks * STRESS_PAGE_BYTES;
  const roomBytes = Math.max(limitBytes - keptBytes, limitBytes / 8);
  assert.ok(cleanBytes <= roomBytes + 32 * STRESS_PAGE_BYTES, `${cleanBytes} beside ${keptBytes}`);
  expectCountedRight(stressed, load);
});

for (const { name, storedBlocks } of [
  { name: "", storedBlocks: 1000 },
  { name: ", also what was added", storedBlocks: 300 },
  { name: ", also of a file that was made here", storedBlocks: 0 },
]) {
  test(`cache: what was written goes once storage has it, under eight processes, and all that is read is right${name}`, {
    skip,
  }, async () => {
    const load = {
      ...REWRITTEN,
      blocks: 1000,
      operations: 100,
      passes: 3,
      limitBlocks: 100,
      storedBlocks,
    };
    const stressed = await stress(findShim(workdir), 3, load);
    assert.equal(stressed.code, 0, stressed.stderr);
    // How much has gone is a matter of speed: shim-cache-scenes.test.ts shows that it does.
    expectCountedRight(stressed, load);
  });
}
