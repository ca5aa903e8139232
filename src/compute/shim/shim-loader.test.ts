import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { SHIM_PREBUILT_DIRECTORY, type ShimManifest, shimSourceHash } from "./shim-loader.ts";

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
