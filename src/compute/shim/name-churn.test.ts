// A compute that makes and removes names without end: the tables of the shim keep their size (STRATA_CHURN_NAMES: how many).

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { loaderEnvironment } from "../../postgres/installation.ts";
import { findShim, shimEnvironment } from "./shim-loader.ts";

const SOURCE = join(import.meta.dirname, "name_churn.c");
const NAMES = Number(process.env["STRATA_CHURN_NAMES"] ?? 20_000);
const PROCESSES = 2;
/** Of the process that is looked at: a name and its relation take a place of 24 bytes each, four apart, until the cache's million places are full. */
const MOST_SHARED_KB = Math.min(32 * 1024, 600 + ((NAMES / PROCESSES) * 2 * 4 * 24) / 1024);

const skip = spawnSync("cc", ["--version"]).status === 0 ? false : "no C compiler";

test(`names: ${NAMES} that are made and removed take no more memory than the cache of names`, {
  skip,
}, async (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-churn-"));
  try {
    const program = join(directory, "name_churn");
    const built = spawnSync("cc", ["-O1", "-Wall", "-Werror", "-o", program, SOURCE, "-pthread"]);
    assert.equal(built.status, 0, String(built.stderr));
    mkdirSync(join(directory, "data", "base", "5"), { recursive: true });
    const shim = findShim(directory);
    const child = spawn(program, [String(NAMES), String(PROCESSES)], {
      env: {
        ...shimEnvironment({
          shimPath: shim,
          dataDirectory: join(directory, "data"),
          socketPath: join(directory, "s"),
          wal: "none",
          walSegmentSize: 1 << 24,
          versionDirectory: "PG_17_1",
        }),
        ...loaderEnvironment(shim),
        STRATA_SHIM_PROGRAM: "name_churn",
      },
    });
    let stdout = "";
    let stderr = "";
    child.stdout.on("data", (chunk) => {
      stdout += String(chunk);
    });
    child.stderr.on("data", (chunk) => {
      stderr += String(chunk);
    });
    const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
    assert.equal(code, 0, stderr);
    t.diagnostic(`${stdout.trim()} kB are shared`);
    assert.ok(Number(stdout) > 0 && Number(stdout) < MOST_SHARED_KB, `${stdout} kB are shared`);
  } finally {
    rmSync(directory, { recursive: true });
  }
});
