// Runs every `x.fuzz.ts`: its exported `run(seed, steps)` throws where an invariant breaks.
//
// `node scripts/run.mjs scripts/fuzz.ts [NAME...] [--seed N] [--seeds N] [--steps N]`; one that fails is
// replayed with the seed that the message names.

import { globSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { inRepository } from "./checks.ts";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: "string", default: "1" },
    seeds: { type: "string", default: "100" },
    steps: { type: "string", default: "1000" },
  },
});
const first = Number(values.seed);
const count = Number(values.seeds);
const steps = Number(values.steps);

const files = globSync("src/**/*.fuzz.ts", { cwd: inRepository(".") }).toSorted();
for (const file of files) {
  if (positionals.length > 0 && !positionals.some((part) => file.includes(part))) {
    continue;
  }
  const module: { run?: (seed: number, steps: number) => unknown } = await import(
    pathToFileURL(inRepository(file)).href
  );
  if (module.run === undefined) {
    console.log(`${file}: exports no run(seed, steps)`);
    process.exitCode = 1;
    continue;
  }
  try {
    for (let seed = first; seed < first + count; seed++) {
      try {
        await module.run(seed, steps);
      } catch (error) {
        console.log(
          `${file}: failed; replay: scripts/fuzz.ts ${file} --seed ${seed} --seeds 1 --steps ${steps}`,
        );
        throw error;
      }
    }
    console.log(`${file}: ${count} seeds from ${first}, ${steps} steps each: ok`);
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
