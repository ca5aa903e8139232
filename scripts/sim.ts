// `npm run sim`: simulates the WAL quorum with seeded faults; replays a seed, or counts violations over many.
//
// SEED                    replays one run, narrowed down where it fails
// --runs N [--from SEED]  N runs (from a random seed), by --jobs N processes
// --power-cuts N          N power cuts under one safekeeper's storage
// --variant NAME          in these three: the code without one rule
// --list                  the broken variants
// --variants [--runs N]   runs each variant until it is caught, N (2000) runs at most

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { parseArgs } from "node:util";
import { describeFault } from "../simulation/faults.ts";
import { runPowerCuts } from "../simulation/power-cuts.ts";
import { kindOf, shrink } from "../simulation/shrink.ts";
import { type RunResult, run } from "../simulation/simulation.ts";
import {
  CUTS_A_SEED,
  type LoadedVariant,
  loadVariant,
  VARIANTS,
  violationOf,
} from "../simulation/variants/variants.ts";
import { errorMessage } from "../src/base/errors.ts";
import { randomInt } from "../src/base/random.ts";

const USAGE =
  "usage: npm run sim -- SEED | --runs N [--from SEED] [--jobs N] | --power-cuts N | --list | --variants [--runs N] | --help";
/** Lines of a failed run that are shown: those before the violation matter. */
const SHOWN_LINES = 60;
const MAX_SEED = 2 ** 31;
const SHOWN_VIOLATIONS = 10;

interface Tally {
  runs: number;
  violations: number;
  readonly totals: Record<string, number>;
}

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      runs: { type: "string" },
      from: { type: "string" },
      jobs: { type: "string", default: "1" },
      "power-cuts": { type: "string" },
      variant: { type: "string" },
      variants: { type: "boolean" },
      list: { type: "boolean" },
      /** For the processes of --jobs: a line of JSON a run instead of text. */
      json: { type: "boolean" },
    },
  });
  const code =
    values.variant === undefined ? { run, runPowerCuts } : await loadVariant(values.variant);
  const from =
    values.from === undefined ? 1 + randomInt(MAX_SEED / 2) : whole("--from", values.from);
  if (values.list === true) {
    for (const { name, rule } of VARIANTS) {
      console.log(`${name.padEnd(36)} without: ${rule}`);
    }
  } else if (values.variants === true) {
    await runVariants(whole("--runs", values.runs ?? "2000"));
  } else if (values["power-cuts"] !== undefined) {
    powerCuts(
      whole("--power-cuts", values["power-cuts"]),
      values.from === undefined ? 1 : from,
      code,
    );
  } else if (values.json === true) {
    const parent = process.ppid;
    const end = from + whole("--runs", values.runs ?? "");
    // Nobody reads on when the parent is gone.
    for (let seed = from; seed < end && process.ppid === parent; seed++) {
      const { counts, violation } = code.run(seed);
      const line = `${JSON.stringify({ seed, counts, message: violation?.message })}\n`;
      if (!process.stdout.write(line)) {
        await once(process.stdout, "drain");
      }
    }
  } else if (values.runs !== undefined) {
    await many(whole("--runs", values.runs), from, whole("--jobs", values.jobs), values.variant);
  } else if (positionals.length === 1) {
    replay(whole("the seed", positionals[0]!), code);
  } else {
    console.log(USAGE);
    process.exitCode = 2;
  }
}

function whole(what: string, text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) {
    throw new Error(`${what} must be a whole number, not "${text}"`);
  }
  return value;
}

/** The trace of a run; of one that fails, that of the shortest plan which still fails. */
function replay(seed: number, code: Pick<LoadedVariant, "run">): void {
  const first = code.run(seed);
  if (first.violation === undefined) {
    code.run(seed, { trace: printEvent });
    console.log(`seed ${seed}: no violation; ${describeCounts(first)}`);
    return;
  }
  console.log(`seed ${seed}: ${first.violation.message}`);
  const least = shrink(seed, first, code.run);
  console.log(
    `${first.faults.length} faults, of which ${least.faults.length} are enough to break the same rule:`,
  );
  for (const fault of least.faults) {
    console.log(`  ${fault.atMs.toFixed(0).padStart(8)}  ${describeFault(fault)}`);
  }
  const lines: string[] = [];
  code.run(seed, {
    faults: least.faults,
    trace: (atMs, who, text) => lines.push(formatEvent(atMs, who, text)),
  });
  console.log(
    lines.length > SHOWN_LINES ? `the last ${SHOWN_LINES} of ${lines.length} events:` : "",
  );
  console.log(lines.slice(-SHOWN_LINES).join("\n"));
  console.log(`violation: ${least.violation?.stack}`);
  process.exitCode = 1;
}

function formatEvent(atMs: number, who: string, text: string): string {
  return `${atMs.toFixed(1).padStart(10)}  ${who.padEnd(10)} ${text}`;
}

function printEvent(atMs: number, who: string, text: string): void {
  console.log(formatEvent(atMs, who, text));
}

function describeCounts(result: RunResult): string {
  return Object.entries(result.counts)
    .map(([name, count]) => `${name} ${count}`)
    .join(", ");
}

async function many(
  runs: number,
  from: number,
  jobs: number,
  variant: string | undefined,
): Promise<void> {
  console.log(`seeds ${from} to ${from + runs - 1}`);
  const tally: Tally = { runs: 0, violations: 0, totals: {} };
  const share = Math.ceil(runs / jobs);
  const parts = Array.from({ length: jobs }, (_, index) => {
    const begin = from + index * share;
    return { begin, count: Math.min(share, from + runs - begin) };
  }).filter(({ count }) => count > 0);
  await Promise.all(parts.map(({ begin, count }) => runPart(begin, count, variant, tally)));
  const totals = Object.entries(tally.totals).map(([name, count]) => `${name} ${count}`);
  console.log(totals.join(", "));
  console.log(`${tally.runs} runs, ${tally.violations} violations`);
  process.exitCode = tally.violations > 0 || tally.runs < runs ? 1 : 0;
}

/** In a process of its own, so that several fill several cores. */
async function runPart(
  from: number,
  count: number,
  variant: string | undefined,
  tally: Tally,
): Promise<void> {
  const args = ["--json", "--from", String(from), "--runs", String(count)];
  const child = spawn(
    process.execPath,
    [
      "--disable-warning=ExperimentalWarning",
      "--stack-trace-limit=0",
      import.meta.filename,
      ...args,
      ...(variant === undefined ? [] : ["--variant", variant]),
    ],
    { stdio: ["ignore", "pipe", "inherit"] },
  );
  const exited = once(child, "exit");
  for await (const line of createInterface({ input: child.stdout })) {
    const { seed, counts, message } = JSON.parse(line) as {
      seed: number;
      counts: Record<string, number>;
      message?: string;
    };
    tally.runs += 1;
    for (const [name, value] of Object.entries(counts)) {
      tally.totals[name] = (tally.totals[name] ?? 0) + value;
    }
    if (message !== undefined) {
      tally.violations += 1;
      if (tally.violations <= SHOWN_VIOLATIONS) {
        console.log(`seed ${seed}: ${message}`);
      }
    }
    if (tally.runs % 5000 === 0) {
      console.log(`... ${tally.runs} runs, ${tally.violations} violations`);
    }
  }
  const [code] = await exited;
  if (code !== 0) {
    throw new Error(`the process for ${count} runs from seed ${from} ended with ${code}`);
  }
}

function powerCuts(count: number, from: number, code: Pick<LoadedVariant, "runPowerCuts">): void {
  let done = 0;
  let violations = 0;
  let tornSectors = 0;
  let bytes = 0;
  for (let seed = from; done < count; seed++) {
    const wanted = Math.min(CUTS_A_SEED, count - done);
    const result = code.runPowerCuts(seed, wanted);
    done += result.violation === undefined ? result.powerCuts : wanted;
    tornSectors += result.tornSectors;
    bytes += result.acknowledgedBytes;
    if (result.violation !== undefined) {
      violations += 1;
      console.log(`seed ${seed}: after ${result.powerCuts} power cuts: ${result.violation}`);
    }
  }
  console.log(`${bytes} bytes acknowledged, ${tornSectors} unsynced sectors dropped`);
  console.log(`${done} power cuts, ${violations} violations`);
  process.exitCode = violations > 0 ? 1 : 0;
}

async function runVariants(runs: number): Promise<void> {
  let missed = 0;
  for (const variant of VARIANTS) {
    const code = await loadVariant(variant.name);
    let caught: string | undefined;
    let seed = variant.seed;
    for (let tries = 0; tries < runs && caught === undefined; tries++) {
      seed = tries === 0 ? variant.seed : tries;
      caught = violationOf(variant, code, seed);
    }
    missed += caught === undefined ? 1 : 0;
    const what = caught === undefined ? "NOT CAUGHT" : `seed ${seed}: ${kindOf(caught)}`;
    console.log(`${variant.name.padEnd(36)} ${what}`);
  }
  console.log(`${VARIANTS.length} variants, ${missed} not caught`);
  process.exitCode = missed > 0 ? 1 : 0;
}

try {
  await main();
} catch (error) {
  console.error(errorMessage(error));
  console.error(USAGE);
  process.exitCode = 2;
}
