// `npm run test:shim -- [--rounds N] [--seed S]`: eight processes against one file under the shim, and under shims with a rule broken.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findShim } from "../../src/compute/shim/shim-loader.ts";
import { brokenShim, type ShimChange } from "../../testing/compute/broken-shim.ts";
import {
  eachIsSeen,
  expectCountedRight,
  LIMITED,
  ONE_PASS,
  REWRITTEN,
  SLOWLY,
  STRESS_CANARIES,
  type StressLoad,
  stress,
  WRITTEN_SLOWLY,
} from "../../testing/compute/claim-stress.ts";

const USAGE = "usage: npm run test:shim -- [--rounds N] [--seed S] [--canary WORD]";
/** Who gets between whom is chance: most are seen in the first run, some in one of six, and on some machines not in eight. */
const MOST_RUNS = 200;

/** With a shim that breaks no rule: each seed of a round is content with all of them. */
const RIGHT: readonly {
  readonly name: string;
  readonly load: StressLoad;
  readonly slowly: readonly ShimChange[];
}[] = [
  { name: "no limit", load: ONE_PASS, slowly: [] },
  { name: "come and go", load: LIMITED, slowly: [] },
  { name: "come and go, slowed", load: LIMITED, slowly: SLOWLY },
  { name: "written ones go", load: REWRITTEN, slowly: WRITTEN_SLOWLY },
  { name: "added ones go", load: { ...REWRITTEN, storedBlocks: 1000 }, slowly: WRITTEN_SLOWLY },
  { name: "a made file's go", load: { ...REWRITTEN, storedBlocks: 0 }, slowly: WRITTEN_SLOWLY },
];

async function runRight(rounds: number, firstSeed: number): Promise<void> {
  for (const { name, load, slowly } of RIGHT) {
    const directory = mkdtempSync(join(tmpdir(), "strata-shim-"));
    try {
      const shim = slowly.length > 0 ? brokenShim(directory, ...slowly) : findShim(directory);
      for (let seed = firstSeed; seed < firstSeed + rounds; seed++) {
        const stressed = await stress(shim, seed, load);
        assert.equal(stressed.code, 0, `${name}, seed ${seed}: ${stressed.stderr}`);
        if (load.limitBlocks !== undefined) {
          expectCountedRight(stressed, load);
        }
        const { usage, waits } = stressed;
        assert.ok(
          load !== ONE_PASS || waits > 50,
          `${name}: only ${waits} waits: it does not test`,
        );
        assert.ok(
          !name.endsWith("ones go") || usage!.unlikeComparisons > 0,
          `${name}: nothing was compared: it does not test`,
        );
        console.log(
          `${name}, seed ${seed}: ok; ${waits} waits, ${usage?.repeatedReads} reads repeated, MB given back ${megabytes(usage?.evictedBytes)}, of them written ${megabytes(usage?.writtenEvictedBytes)}`,
        );
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  }
}

function megabytes(bytes = 0): string {
  return (bytes / 1e6).toFixed(1);
}

/** Those whose name has `word`. */
async function runCanaries(seed: number, word: string): Promise<void> {
  for (const { load, slowly, canaries } of STRESS_CANARIES) {
    const chosen = canaries.filter(({ name }) => name.includes(word));
    await eachIsSeen(chosen, slowly, {
      ...{ load, seed, mostRuns: MOST_RUNS },
      onSeen: ({ name }, runs, said) =>
        console.log(`seen in run ${runs}: ${name}: ${said.split("\n")[0]}`),
    });
  }
}

const { values } = parseArgs({
  options: {
    help: { type: "boolean", default: false },
    rounds: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
    canary: { type: "string", default: "" },
  },
});
const [rounds, seed] = [values.rounds, values.seed].map(Number) as [number, number];
if (values.help) {
  console.log(`${USAGE}
Right shims with N seeds from S on (10, 1), each with six loads, then each shim with a rule broken until that is seen.
--canary WORD: only the broken ones whose name has it. The C programs that are run are src/compute/shim/claim_*.c.`);
} else if (![rounds, seed].every((one) => Number.isSafeInteger(one) && one >= 0)) {
  console.error(USAGE);
  process.exit(1);
} else {
  const onlyCanaries = values.canary !== "";
  await runRight(onlyCanaries ? 0 : rounds, seed);
  await runCanaries(seed, values.canary);
}
