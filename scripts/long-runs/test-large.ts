// `npm run test:large`: what takes gigabytes, or measures how long a browser needs, one file after the other.
//
// Arguments pick files by a part of their name: `npm run test:large -- console`.

import { largeTests, runSteps, testStep } from "../checks.ts";

const TIMEOUT_MS = 20 * 60_000;

const parts = process.argv.slice(2);
const files = largeTests().filter(
  (path) => parts.length === 0 || parts.some((part) => path.includes(part)),
);
if (files.length === 0) {
  console.error(
    "usage: npm run test:large -- [WORD...]\nno file of test/large has that in its name",
  );
  process.exit(1);
}
runSteps([testStep("large", files, { concurrency: 1, timeoutMs: TIMEOUT_MS })]);
