import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { REAL_DISK } from "../../base/disk.ts";
import { Generation } from "./generation.ts";

test("Generation: greater in each life, and no layer number is given twice", async () => {
  const workdir = await mkdtemp(join(tmpdir(), "strata-generation-"));
  try {
    const first = await Generation.begin(workdir, REAL_DISK);
    assert.deepEqual(first.nextLayer(), { generation: 2, sequence: 0 });
    assert.deepEqual(first.nextLayer(), { generation: 2, sequence: 1 });
    const second = await Generation.begin(workdir, REAL_DISK);
    assert.deepEqual(second.nextLayer(), { generation: 3, sequence: 0 });
    for (const text of ["", "x", "0", "1.5", "4294967295"]) {
      writeFileSync(join(workdir, "generation"), text);
      await assert.rejects(Generation.begin(workdir, REAL_DISK), { code: "bad-generation" });
    }
  } finally {
    await rm(workdir, { recursive: true });
  }
});
