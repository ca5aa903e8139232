// `npm run prepack`, as `npm pack` runs it: makes what the npm package holds in place of sources, bundles and the console's build, and beside them its pins and licences.

import { globSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { ROOT } from "../../src/base/program-files.mjs";
import { buildBundles, packagesInBundles } from "./build-bundles.ts";

const TARGET = join(ROOT, "dist");
/** What `strata` may fetch, on every platform. */
const FETCHED = /^node_modules\/(postgres-\d+|node)-/;

await import("../../console/build.ts");

mkdirSync(TARGET, { recursive: true });
for (const name of readdirSync(TARGET).filter((one) => one !== "bundles")) {
  rmSync(join(TARGET, name), { recursive: true });
}
await buildBundles({ keptMs: 0 });
writeFileSync(join(TARGET, "pins.json"), `${JSON.stringify({ packages: pins() }, undefined, 1)}\n`);
writeFileSync(join(TARGET, "licences.txt"), packagesInBundles().map(licence).join("\n\n"));

/** The part of package-lock.json that an installed package needs; npm leaves the file itself out. */
function pins(): Record<string, unknown> {
  const lock = JSON.parse(readFileSync(join(ROOT, "package-lock.json"), "utf8"));
  return Object.fromEntries(Object.entries(lock.packages).filter(([path]) => FETCHED.test(path)));
}

/** Of a package whose code is in our bundles: its name and its terms. */
function licence(path: string): string {
  const directory = join(ROOT, path);
  const manifest = JSON.parse(readFileSync(join(directory, "package.json"), "utf8"));
  const files = globSync("{LICENSE,LICENCE,license,licence,NOTICE}*", { cwd: directory });
  const texts = files
    .toSorted()
    .map((name) => readFileSync(join(directory, basename(name)), "utf8"));
  const title = `${manifest.name} ${manifest.version} (${manifest.license})`;
  return [title, "-".repeat(title.length), ...texts].join("\n");
}
