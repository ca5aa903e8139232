// A shim with one rule broken, which a test must notice.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  compileShim,
  SHIM_COMPILER_FLAGS,
  SHIM_SOURCE_DIRECTORY,
} from "../../src/compute/shim/shim-loader.ts";

/** Builds it in `directory`; `text` is in the shim's sources once, and is replaced. */
export function brokenShim(directory: string, text: string, by: string): string {
  const sources = join(directory, "sources");
  mkdirSync(sources);
  let found = 0;
  for (const name of readdirSync(SHIM_SOURCE_DIRECTORY)) {
    const source = readFileSync(join(SHIM_SOURCE_DIRECTORY, name), "utf8");
    found += source.split(text).length - 1;
    writeFileSync(join(sources, name), source.replace(text, by));
  }
  assert.equal(found, 1, `how often the text to break is there: ${text}`);
  const shim = join(directory, "broken.so");
  // Quickly rather than well.
  const flags = SHIM_COMPILER_FLAGS.filter((flag) => flag !== "-Werror" && flag !== "-O2");
  compileShim("cc", shim, sources, [...flags, "-O0", "-w"]);
  return shim;
}
