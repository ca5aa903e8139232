#!/usr/bin/env node
// The `strata` command: `npx strata ...` in the repository.

import { run } from "./run.mjs";

await run("src/cli/main.ts", process.argv.slice(2));
