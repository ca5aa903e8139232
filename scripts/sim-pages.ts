// `npm run sim:pages`: simulates a pageserver's storage through crashes, beside a model of what it owes.
//
// `npm run sim:pages -- SEED` replays one run; `--runs N` and `--from SEED` make many, of which each is another seed.
// Exit code 1 where one fails; its error names the seed.

import { parseArgs } from "node:util";
import { runPages } from "../simulation/page-store/lives.ts";
import { errorMessage } from "../src/base/errors.ts";

const { values, positionals } = parseArgs({
  options: {
    runs: { type: "string", default: "300" },
    from: { type: "string", default: "1" },
  },
  allowPositionals: true,
});

const [seed] = positionals.map(Number);
const first = seed ?? Number(values.from);
const runs = seed === undefined ? Number(values.runs) : 1;
if (!Number.isInteger(first) || !Number.isInteger(runs) || runs < 1) {
  console.error("usage: npm run sim:pages -- [SEED] [--runs N] [--from SEED]");
  process.exit(2);
}

let failed = 0;
for (let next = first; next < first + runs; next++) {
  try {
    await runPages(next);
  } catch (error) {
    failed++;
    console.error(runs === 1 ? error : describe(error));
  }
}
console.log(`${runs} runs, ${failed} failed`);
process.exitCode = failed === 0 ? 0 : 1;

function describe(error: unknown): string {
  const cause = error instanceof Error ? error.cause : undefined;
  return `${errorMessage(error)}: ${errorMessage(cause).split("\n")[0]}`;
}
