// `npm run sim:pages`: simulates pageservers with an object store, beside a model of what they owe.
//
// `npm run sim:pages -- SEED` replays one run and prints what happens; `--runs N`, `--from SEED` and `--jobs J` make many, of which
// each is another seed. `--variants` looks whether each broken variant is noticed, within `--runs` seeds; `--variant NAME` runs that
// one's code. Exit code 1 where a run fails or a variant is not noticed.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { runPageservers } from "../simulation/pages/run.ts";
import { loadPageVariant, PAGE_VARIANTS } from "../simulation/variants/variants.ts";
import { errorMessage } from "../src/base/errors.ts";

const USAGE =
  "usage: npm run sim:pages -- [SEED] [--runs N] [--from SEED] [--jobs J] [--variants] [--variant NAME]";
const SHOWN_VIOLATIONS = 20;
const PROGRESS_EVERY = 1000;
/** Errors are everyday here, and where they come from costs a tenth of a run. */
const NODE_FLAGS = ["--disable-warning=ExperimentalWarning", "--stack-trace-limit=0"];

interface Line {
  readonly seed: number;
  readonly counts: Record<string, number>;
  readonly message: string | undefined;
}

const { values, positionals } = parseArgs({
  options: {
    runs: { type: "string", default: "300" },
    from: { type: "string", default: "1" },
    jobs: { type: "string", default: "1" },
    variants: { type: "boolean", default: false },
    variant: { type: "string" },
    json: { type: "boolean", default: false },
  },
  allowPositionals: true,
});

function whole(what: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new Error(`${what} must be a whole number above 0, not "${text}"`);
  }
  return value;
}

async function main(): Promise<void> {
  const [runs, from] = [whole("--runs", values.runs), whole("--from", values.from)];
  if (values.variants) {
    await tryVariants(runs);
    return;
  }
  const { variant } = values;
  const run =
    variant === undefined ? runPageservers : (await loadPageVariant(variant)).runPageservers;
  if (values.json) {
    await lines(run, from, runs);
  } else if (positionals.length === 1) {
    const { violation } = await run(whole("the seed", positionals[0]!), console.log);
    console.log(violation ?? "no violation");
    process.exitCode = violation === undefined ? 0 : 1;
  } else {
    await many(from, runs, whole("--jobs", values.jobs));
  }
}

/** For the process that started this one. */
async function lines(run: typeof runPageservers, from: number, runs: number): Promise<void> {
  const parent = process.ppid;
  let seed = from;
  // A rejection that nobody hears ends a daemon's process, and this one: who reads it needs the seed.
  process.on("uncaughtExceptionMonitor", () => console.error(`seed ${seed} ends the process:`));
  for (; seed < from + runs && process.ppid === parent; seed++) {
    const { counts, violation } = await run(seed);
    const message = violation?.message;
    const line = `${JSON.stringify({ seed, counts: Object.fromEntries(counts), message })}\n`;
    if (!process.stdout.write(line)) {
      await once(process.stdout, "drain");
    }
  }
}

async function many(from: number, runs: number, jobs: number): Promise<void> {
  console.log(`seeds ${from} to ${from + runs - 1}`);
  const totals = new Map<string, number>();
  let [done, violations] = [0, 0];
  const share = Math.ceil(runs / jobs);
  const parts = Array.from({ length: jobs }, (_, job) => from + job * share);
  await Promise.all(
    parts.map((begin) =>
      part(begin, Math.min(share, from + runs - begin), ({ counts, message }) => {
        done++;
        for (const [what, count] of Object.entries(counts)) {
          totals.set(what, (totals.get(what) ?? 0) + count);
        }
        if (message !== undefined && ++violations <= SHOWN_VIOLATIONS) {
          console.log(message);
        }
        if (done % PROGRESS_EVERY === 0) {
          console.log(`... ${done} runs, ${violations} violations`);
        }
      }),
    ),
  );
  const sorted = [...totals].toSorted(([a], [b]) => (a < b ? -1 : 1));
  console.log(sorted.map(([what, count]) => `${what} ${count}`).join(", "));
  console.log(`${done} runs, ${violations} violations`);
  process.exitCode = violations === 0 && done === runs ? 0 : 1;
}

/** In a process of its own, so that several fill several cores. */
async function part(from: number, runs: number, take: (line: Line) => void): Promise<void> {
  if (runs < 1) {
    return;
  }
  const args = ["--json", "--from", String(from), "--runs", String(runs)];
  const variant = values.variant === undefined ? [] : ["--variant", values.variant];
  const child = spawn(
    process.execPath,
    [...NODE_FLAGS, import.meta.filename, ...args, ...variant],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    take(JSON.parse(line) as Line);
  }
  const [code] = await exited;
  if (code !== 0) {
    throw new Error(`the process for ${runs} runs from seed ${from} ended with ${code}`);
  }
}

async function tryVariants(runs: number): Promise<void> {
  let missed = 0;
  for (const { name, seed: noted } of PAGE_VARIANTS) {
    const { runPageservers: run } = await loadPageVariant(name);
    let caught: string | undefined;
    for (let tries = 0; tries < runs && caught === undefined; tries++) {
      caught = (await run(tries === 0 ? noted : tries)).violation?.message;
    }
    missed += caught === undefined ? 1 : 0;
    console.log(`${name.padEnd(30)} ${caught ?? "NOT CAUGHT"}`);
  }
  console.log(`${PAGE_VARIANTS.length} variants, ${missed} not caught`);
  process.exitCode = missed === 0 ? 0 : 1;
}

try {
  await main();
} catch (error) {
  console.error(errorMessage(error));
  console.error(USAGE);
  process.exitCode = 2;
}
