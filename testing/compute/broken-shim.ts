// A shim with one rule broken, which a test must notice.

import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  compileShim,
  SHIM_COMPILER_FLAGS,
  SHIM_SOURCE_DIRECTORY,
} from "../../src/compute/shim/shim-loader.ts";

/** Builds it in `directory`; the first text of each change is in the shim's sources once, and the second comes in its place. */
export function brokenShim(
  directory: string,
  ...changes: readonly (readonly [text: string, by: string])[]
): string {
  const sources = join(directory, "sources");
  mkdirSync(sources);
  const found = changes.map(() => 0);
  for (const name of readdirSync(SHIM_SOURCE_DIRECTORY)) {
    let source = readFileSync(join(SHIM_SOURCE_DIRECTORY, name), "utf8");
    changes.forEach(([text, by], i) => {
      found[i]! += source.split(text).length - 1;
      source = source.replace(text, by);
    });
    writeFileSync(join(sources, name), source);
  }
  changes.forEach(([text], i) => {
    assert.equal(found[i], 1, `how often the text to break is there: ${text}`);
  });
  const shim = join(directory, "broken.so");
  // Quickly rather than well.
  const flags = SHIM_COMPILER_FLAGS.filter((flag) => flag !== "-Werror" && flag !== "-O2");
  compileShim("cc", shim, sources, [...flags, "-O0", "-w"]);
  return shim;
}
