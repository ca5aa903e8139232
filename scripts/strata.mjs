#!/usr/bin/env node
// The `strata` command, in a checkout and in the npm package.

import { readFileSync } from "node:fs";

const args = process.argv.slice(2);
if (args.length === 1 && (args[0] === "--version" || args[0] === "-V")) {
  // Nothing else is needed for it, nor must be installed.
  const about = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  console.log(JSON.parse(about).version);
} else {
  const { run } = await import("./run.mjs");
  await run("cli/main.ts", args, { everything: false, hereIfPossible: true });
}
