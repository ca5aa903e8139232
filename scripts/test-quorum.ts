// `npm run test:quorum`: the WAL quorum on real processes and hosts, for as many rounds of faults as asked for.
//
// `npm run test:quorum -- [NAME...] [--rounds N] [--seed N]`. Names pick test files by a part of their path;
// the seed picks the faults. Then each round also runs the kill -9 test and the fuzz of bad input.

import { parseArgs } from "node:util";
import { runSteps, systemTests, testStep } from "./checks.ts";

/** For all rounds of one file. */
const ROUND_TIMEOUT_MS = 5 * 60_000;
const FUZZ_STEPS = 300;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    rounds: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
  },
});
const [rounds, seed] = [values.rounds, values.seed].map(Number) as [number, number];
if (!Number.isSafeInteger(rounds) || rounds < 1 || !Number.isSafeInteger(seed) || seed < 0) {
  console.error("usage: npm run test:quorum -- [NAME...] [--rounds N] [--seed N]");
  process.exit(1);
}

const files = systemTests().filter((path) => /^test\/(quorum-|kill9|bad-proposer)/.test(path));
const picked = files.filter(
  (path) => positionals.length === 0 || positionals.some((part) => path.includes(part)),
);
const fuzz = ["scripts/fuzz.ts", "bad-input", "--steps", `${FUZZ_STEPS}`];

runSteps([
  {
    ...testStep(`quorum, ${rounds} rounds, seed ${seed}`, picked, {
      concurrency: 1,
      timeoutMs: rounds * ROUND_TIMEOUT_MS,
    }),
    env: {
      STRATA_QUORUM_ROUNDS: `${rounds}`,
      STRATA_QUORUM_SEED: `${seed}`,
      STRATA_KILL_ROUNDS: `${rounds}`,
    },
  },
  ...(positionals.length === 0
    ? [{ name: "bad input", args: [...fuzz, "--seed", `${seed + 1}`, "--seeds", `${rounds}`] }]
    : []),
]);
