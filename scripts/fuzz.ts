// Runs every `x.fuzz.ts`: its exported `run(seed, steps)` throws where an invariant breaks.
//
// `npm run fuzz -- [NAME...] [--seconds N | --cases N | --seeds N] [--seed N] [--steps N]`. Seconds and
// cases are shared out evenly among the targets; by default it is 100 seeds each. A target that needs
// Postgres (`needsPostgres`, with a `prepare()`) runs where it is named or given seconds or cases. A
// failure names the seed that replays it.

import { globSync } from "node:fs";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { inRepository } from "./checks.ts";

interface FuzzTarget {
  /** May tell how many cases it tried; else they are its steps. */
  readonly run?: (seed: number, steps: number) => unknown;
  readonly needsPostgres?: boolean;
  readonly prepare?: () => Promise<void>;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    seed: { type: "string", default: "1" },
    seeds: { type: "string" },
    steps: { type: "string", default: "1000" },
    seconds: { type: "string" },
    cases: { type: "string" },
  },
});

function numberOf(name: "seed" | "seeds" | "steps" | "seconds" | "cases"): number | undefined {
  const text = values[name];
  if (text === undefined) {
    return undefined;
  }
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) {
    console.error(`--${name} wants a number from 1 on, not '${text}'`);
    process.exit(1);
  }
  return value;
}

const first = numberOf("seed")!;
const steps = numberOf("steps")!;
const seconds = numberOf("seconds");
const cases = numberOf("cases");
const seeds = numberOf("seeds") ?? (seconds === undefined && cases === undefined ? 100 : Infinity);

const all = globSync("testing/fuzz/*.fuzz.ts", { cwd: inRepository(".") }).toSorted();
const named = all.filter((file) => positionals.some((part) => file.includes(part)));
if (positionals.length > 0 && named.length === 0) {
  console.error(`no target has '${positionals.join("' or '")}' in its path:\n${all.join("\n")}`);
  process.exit(1);
}

/** Cases that one call of `run` tried. */
function casesOf(result: unknown): number {
  return typeof result === "object" && result !== null && "cases" in result
    ? Number(result.cases)
    : steps;
}

let totalCases = 0;
let totalMs = 0;

async function fuzz(file: string, target: FuzzTarget, share: number): Promise<void> {
  const { run } = target;
  if (run === undefined) {
    throw new Error(`${file}: exports no run(seed, steps)`);
  }
  await target.prepare?.();
  const limitMs = seconds === undefined ? Infinity : (seconds * 1000) / share;
  const limitCases = cases === undefined ? Infinity : cases / share;
  const started = performance.now();
  let done = 0;
  let seed = first;
  for (; seed < first + seeds && done < limitCases; seed++) {
    if (performance.now() - started >= limitMs) {
      break;
    }
    try {
      done += casesOf(await run(seed, steps));
    } catch (error) {
      const replay = `npm run fuzz -- ${file} --seed ${seed} --seeds 1 --steps ${steps}`;
      console.log(`${file}: failed; replay: ${replay}`);
      throw error;
    }
  }
  const ms = performance.now() - started;
  totalCases += done;
  totalMs += ms;
  console.log(
    `${file}: ${seed - first} seeds from ${first}, ${steps} steps each: ok, ${rate(done, ms)}`,
  );
}

function rate(count: number, ms: number): string {
  const perSecond = Math.round((1000 * count) / ms);
  return `${count} cases in ${(ms / 1000).toFixed(1)} s, ${perSecond} a second`;
}

const bounded = seconds !== undefined || cases !== undefined;
const targets: [string, FuzzTarget][] = [];
for (const file of positionals.length > 0 ? named : all) {
  const target: FuzzTarget = await import(pathToFileURL(inRepository(file)).href);
  if (target.needsPostgres === true && positionals.length === 0 && !bounded) {
    console.log(`${file}: left out: it records WAL from Postgres; name it, or give --seconds`);
  } else {
    targets.push([file, target]);
  }
}
for (const [file, target] of targets) {
  try {
    await fuzz(file, target, targets.length);
  } catch (error) {
    console.error(error);
    process.exitCode = 1;
  }
}
console.log(`all: ${process.exitCode === 1 ? "FAILED" : "ok"}, ${rate(totalCases, totalMs)}`);
