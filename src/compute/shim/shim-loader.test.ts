import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { errnoCode } from "../../base/errors.ts";
import {
  compileShim,
  SHIM_PREBUILT_DIRECTORY,
  type ShimManifest,
  shimSourceHash,
} from "./shim-loader.ts";

test("prebuilt shims are made from the source as it is; if not: npm run shim", () => {
  const path = join(SHIM_PREBUILT_DIRECTORY, "manifest.json");
  const manifest = JSON.parse(readFileSync(path, "utf8")) as ShimManifest;
  assert.equal(manifest.sourceSha256, shimSourceHash());
  assert.deepEqual(Object.keys(manifest.files).sort(), ["linux-arm64", "linux-x64"]);
  for (const { name, sha256 } of Object.values(manifest.files)) {
    const bytes = readFileSync(join(SHIM_PREBUILT_DIRECTORY, name));
    assert.equal(createHash("sha256").update(bytes).digest("hex"), sha256, name);
  }
});

test("compileShim: a compiler that finds no space is told from one that cannot", (t) => {
  const directory = mkdtempSync(join(tmpdir(), "strata-compiler-"));
  t.after(() => rmSync(directory, { recursive: true }));
  const codeOf = (says: string) => {
    const compiler = join(directory, "cc");
    writeFileSync(compiler, `#!/bin/sh\necho '${says}' >&2\nexit 1\n`, { mode: 0o755 });
    try {
      compileShim(compiler, join(directory, "shim.so"));
      return undefined;
    } catch (error) {
      return errnoCode(error);
    }
  };
  assert.equal(codeOf("ld: final link failed: No space left on device"), "disk-full");
  assert.equal(codeOf("error: unknown type name"), "shim-not-built");
});
