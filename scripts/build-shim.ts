// Builds the shim for every platform into src/compute/shim/prebuilt, with the manifest that ties them to the source.
//
// `npm run shim`. Needs cc and the cross compiler of the other platform (aarch64-linux-gnu-gcc or
// x86_64-linux-gnu-gcc). A platform whose compiler is missing is left out of the manifest, and
// computes there build the shim themselves.

import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { errorMessage } from "../src/base/errors.ts";
import {
  compileShim,
  SHIM_PREBUILT_DIRECTORY,
  type ShimManifest,
  shimSourceHash,
} from "../src/compute/shim/shim-loader.ts";

const CROSS_COMPILER: Readonly<Record<string, string>> = {
  x64: "x86_64-linux-gnu-gcc",
  arm64: "aarch64-linux-gnu-gcc",
};

const files: Record<string, { name: string; sha256: string }> = {};
mkdirSync(SHIM_PREBUILT_DIRECTORY, { recursive: true });
for (const [arch, cross] of Object.entries(CROSS_COMPILER)) {
  const platform = `linux-${arch}`;
  const name = `strata_shim.${platform}.so`;
  const path = join(SHIM_PREBUILT_DIRECTORY, name);
  try {
    compileShim(arch === process.arch ? "cc" : cross, path);
  } catch (error) {
    console.error(`${platform}: ${errorMessage(error)}`);
    process.exitCode = 1;
    continue;
  }
  const sha256 = createHash("sha256").update(readFileSync(path)).digest("hex");
  files[platform] = { name, sha256 };
  console.log(`${platform}: ${name} ${sha256}`);
}
const manifest: ShimManifest = { sourceSha256: shimSourceHash(), files };
// Readable by everybody, as git has it: computes of ordinary users look at it too.
writeFileSync(
  join(SHIM_PREBUILT_DIRECTORY, "manifest.json"),
  `${JSON.stringify(manifest, null, 2)}\n`,
);
