#!/usr/bin/env node
// The `strata` command, in a checkout and in the npm package.

import { run } from "./run.mjs";

await run("cli/main.ts", process.argv.slice(2), { everything: false });
