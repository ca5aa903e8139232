// `npm run test:replica -- [--rounds N] [--seed S]`: promotions of replicas under load, with faults.

import { parseArgs } from "node:util";
import { runSteps, testStep } from "../checks.ts";

/** Where much else runs. */
const ROUND_TIMEOUT_MS = 60_000;
const LEAST_TIMEOUT_MS = 60 * 60_000;

const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "50" },
    seed: { type: "string", default: "1" },
  },
});
const [rounds, seed] = [values.rounds, values.seed].map(Number) as [number, number];
if (![rounds, seed].every((one) => Number.isSafeInteger(one) && one >= 0) || rounds < 1) {
  console.error("usage: npm run test:replica -- [--rounds N] [--seed S]");
  process.exit(1);
}
runSteps([
  {
    ...testStep(
      `promotions, ${rounds} rounds, seed ${seed}`,
      ["test/replica/promotion-rounds.test.ts"],
      {
        timeoutMs: LEAST_TIMEOUT_MS + rounds * ROUND_TIMEOUT_MS,
      },
    ),
    env: { STRATA_REPLICA_ROUNDS: `${rounds}`, STRATA_REPLICA_SEED: `${seed}` },
  },
]);
