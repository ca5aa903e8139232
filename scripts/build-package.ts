// Before `npm pack`: makes dist/, the JavaScript that the npm package holds in place of src/.
//
// Node runs no TypeScript below node_modules, so types are stripped here as Node itself strips them
// in a checkout; lines and columns stay what they are.

import {
  cpSync,
  globSync,
  mkdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { dirname, join } from "node:path";

const ROOT = dirname(import.meta.dirname);
const TARGET = join(ROOT, "dist");
const NOT_PRODUCT = /\.(test|fuzz|bench)\.ts$|(^|\/)testdata\//;
/** What `strata` may fetch, on every platform. */
const FETCHED = /^node_modules\/(postgres-\d+|node)-/;

rmSync(TARGET, { recursive: true, force: true });
for (const path of globSync("**/*", { cwd: join(ROOT, "src") })) {
  const source = join(ROOT, "src", path);
  if (statSync(source).isFile() && !NOT_PRODUCT.test(path)) {
    writeProduct(source, join(TARGET, path));
  }
}
writeFileSync(join(TARGET, "pins.json"), `${JSON.stringify({ packages: pins() }, undefined, 1)}\n`);

function writeProduct(source: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  if (source.endsWith(".ts")) {
    const text = stripTypeScriptTypes(readFileSync(source, "utf8"));
    // Imports, and the names of programs and threads: every string that ends so names a source file.
    const code = text.replaceAll(/(["'`])([^"'`\n]*[\w-])\.ts\1/g, "$1$2.js$1");
    writeFileSync(target.replace(/\.ts$/, ".js"), code);
  } else {
    cpSync(source, target);
  }
}

/** The part of package-lock.json that an installed package needs; npm leaves the file itself out. */
function pins(): Record<string, unknown> {
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8"));
  return Object.fromEntries(Object.entries(lock.packages).filter(([path]) => FETCHED.test(path)));
}
