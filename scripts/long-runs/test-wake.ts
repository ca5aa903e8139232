// `npm run test:wake -- [--rounds N] [--seed S] [--sleepers N]`: rounds of sleeping and waking under clients, with kills.

import { parseArgs } from "node:util";
import { runSteps, testStep } from "../checks.ts";

/** Where much else runs; with the endpoints that are woken at once. */
const ROUND_TIMEOUT_MS = 60_000;
const LEAST_TIMEOUT_MS = 60 * 60_000;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "50" },
    seed: { type: "string", default: "1" },
    sleepers: { type: "string", default: "50" },
  },
});
const numbers = [values.rounds, values.seed, values.sleepers].map(Number);
const [rounds, seed, sleepers] = numbers as [number, number, number];
if (numbers.some((one) => !Number.isSafeInteger(one) || one < 0) || rounds < 1) {
  console.error("usage: npm run test:wake -- [--rounds N] [--seed S] [--sleepers N]");
  process.exit(1);
}
runSteps([
  {
    ...testStep(`wake, ${rounds} rounds, seed ${seed}`, ["test/proxy/wake-rounds.test.ts"], {
      timeoutMs: LEAST_TIMEOUT_MS + rounds * ROUND_TIMEOUT_MS,
    }),
    env: {
      STRATA_WAKE_ROUNDS: `${rounds}`,
      STRATA_WAKE_SEED: `${seed}`,
      STRATA_WAKE_SLEEPERS: `${sleepers}`,
    },
  },
]);
