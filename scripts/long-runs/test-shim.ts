// `npm run test:shim`: eight processes against one file under the shim, and under shims with a rule broken.
//
// --part right       --rounds N (10) seeds from --seed S (1) on with a shim that breaks no rule, each with six loads
// --part sanitizers  the same as threads under the thread sanitizer, which must see races that are made; once under those of
//                    addresses and undefined behaviour, with scenes
// --part canaries    each shim with a rule broken, until that is seen; --canary WORD: those whose name has it
//
// All three parts where none is named. The C programs that are run are src/compute/shim/claim_*.c.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { findShim } from "../../src/compute/shim/shim-loader.ts";
import {
  brokenShim,
  lacksSanitizers,
  type ShimChange,
  sanitizedProgram,
} from "../../testing/compute/broken-shim.ts";
import {
  eachIsSeen,
  expectCountedRight,
  LIMITED,
  ONE_PASS,
  RACES,
  REWRITTEN,
  SLOWLY,
  STRESS_CANARIES,
  type StressLoad,
  stress,
  WRITTEN_SLOWLY,
} from "../../testing/compute/claim-stress.ts";
import { shimProgramSource } from "../../testing/compute/shim-program.ts";
import { playScene, type Scene, sceneProgram } from "../../testing/compute/shim-scenes.ts";

const USAGE =
  "usage: npm run test:shim -- [--rounds N] [--seed S] [--part right|sanitizers|canaries] [--canary WORD]";
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
    await withDirectory(async (directory) => {
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
    });
  }
}

/** Scenes in which nobody has to stop between two lines. */
const SCENES: readonly Scene[] = [
  ...["write", "cut", "short-write", "short-write-continued", "churn", "forks", "evict-none"],
  ...["evict-written", "evict-map", "evict-hints"],
].map((scene) => ({ scene }));

/** The stress as eight threads, and scenes, under sanitizers; false where the compiler has none. */
async function runSanitized(sanitizers: string, rounds: number, seed: number): Promise<boolean> {
  const lack = lacksSanitizers(sanitizers);
  if (lack !== undefined) {
    console.log(`skipped: ${lack}`);
    return false;
  }
  await withDirectory(async (directory) => {
    const subject = sanitizedProgram(directory, shimProgramSource("claim_stress"), sanitizers, {
      asThreads: true,
    });
    for (const { name, load } of RIGHT.filter(({ slowly }) => slowly !== SLOWLY)) {
      for (let at = seed; at < seed + rounds; at++) {
        const { code, stderr } = await stress(subject, at, load);
        assert.equal(code, 0, `-fsanitize=${sanitizers}: ${name}, seed ${at}: ${stderr}`);
        console.log(`-fsanitize=${sanitizers}: ${name}, seed ${at}: ok`);
      }
    }
  });
  return true;
}

async function runSanitizedScenes(sanitizers: string): Promise<void> {
  for (const [program, scenes] of Map.groupBy(SCENES, sceneProgram)) {
    await withDirectory(async (directory) => {
      const source = shimProgramSource(program);
      const subject = sanitizedProgram(directory, source, sanitizers, { asThreads: false });
      for (const scene of scenes) {
        const { code, stderr } = await playScene(subject, scene);
        assert.equal(code, 0, `-fsanitize=${sanitizers}: scene ${scene.scene}: ${stderr}`);
      }
    });
  }
  console.log(`-fsanitize=${sanitizers}: ${SCENES.length} scenes: ok`);
}

/** Each race that was made is seen by the thread sanitizer. */
async function runRaces(seed: number): Promise<void> {
  for (const { name, change } of RACES) {
    await withDirectory(async (directory) => {
      const options = { asThreads: true, changes: [change] };
      const subject = sanitizedProgram(
        directory,
        shimProgramSource("claim_stress"),
        "thread",
        options,
      );
      for (let runs = 1; ; runs++) {
        assert.ok(runs <= MOST_RUNS, `${name}: not seen in ${MOST_RUNS} runs`);
        const { code, stderr } = await stress(subject, seed + runs - 1, LIMITED);
        if (code !== 0) {
          assert.match(stderr, /ThreadSanitizer: data race/);
          console.log(`seen in run ${runs}: ${name}: ${/SUMMARY: (.*)/.exec(stderr)?.[1]}`);
          return;
        }
      }
    });
  }
}

async function runSanitizers(rounds: number, seed: number): Promise<void> {
  if (await runSanitized("thread", rounds, seed)) {
    await runRaces(seed);
  }
  if (await runSanitized("address,undefined", 1, seed)) {
    await runSanitizedScenes("address,undefined");
  }
}

async function withDirectory(use: (directory: string) => Promise<void>): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "strata-shim-"));
  try {
    await use(directory);
  } finally {
    rmSync(directory, { recursive: true });
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
    rounds: { type: "string", default: "10" },
    seed: { type: "string", default: "1" },
    part: { type: "string" },
    canary: { type: "string", default: "" },
  },
});
const [rounds, seed] = [values.rounds, values.seed].map(Number) as [number, number];
const PARTS: Readonly<Record<string, () => Promise<void>>> = {
  right: () => runRight(rounds, seed),
  sanitizers: () => runSanitizers(rounds, seed),
  canaries: () => runCanaries(seed, values.canary),
};
const parts = Object.keys(PARTS).filter((part) => part === (values.part ?? part));
if (![rounds, seed].every((one) => Number.isSafeInteger(one) && one >= 0) || parts.length === 0) {
  console.error(USAGE);
  process.exit(1);
} else {
  for (const part of parts) {
    await PARTS[part]!();
  }
}
