// A compute that makes and removes names without end: the tables of the shim keep their size (STRATA_CHURN_NAMES: how many).

import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { NO_COMPILER, runUnderShim } from "../../../testing/compute/shim-program.ts";
import { findShim } from "./shim-loader.ts";

const NAMES = Number(process.env["STRATA_CHURN_NAMES"] ?? 20_000);
const PROCESSES = 2;
/** Of the process that is looked at: a name and its relation take a place of 24 bytes each, four apart, until the cache's million places are full. */
const MOST_SHARED_KB = Math.min(32 * 1024, 600 + ((NAMES / PROCESSES) * 2 * 4 * 24) / 1024);

test(`names: ${NAMES} that are made and removed take no more memory than the cache of names`, {
  skip: NO_COMPILER,
}, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-churn-"));
  try {
    const dataDirectory = join(directory, "data");
    mkdirSync(join(dataDirectory, "base", "5"), { recursive: true });
    const args = [String(NAMES), String(PROCESSES)];
    const { code, stdout, stderr } = await runUnderShim(
      findShim(directory),
      "name_churn",
      args,
      directory,
      { dataDirectory },
    );
    assert.equal(code, 0, stderr);
    t.diagnostic(`${stdout.trim()} kB are shared`);
    assert.ok(Number(stdout) > 0 && Number(stdout) < MOST_SHARED_KB, `${stdout} kB are shared`);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
