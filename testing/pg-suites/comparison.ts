// Runs suites on a Strata endpoint and on stock, compares what they wrote, and prints a table.

import { familyProcessorSeconds } from "../compute/child-processes.ts";
import { type ComparedFile, compareOutputs } from "./compare.ts";
import { checkEndState } from "./end-state.ts";
import { checkRecoveredPages } from "./recovered-pages.ts";
import type { SuiteDirectory, SuiteRun } from "./run.ts";
import { type ServerOptions, startStock, startStrata, type TestedServer } from "./servers.ts";
import type { Suite, SuiteList } from "./suites.ts";

/** Of each file that is not equal, so much is printed; `--keep` keeps all. */
const DIFF_MAX_LENGTH = 20_000;

interface MeasuredRun extends SuiteRun {
  /** Of Postgres's processes. */
  readonly processorSeconds: number;
}

/** By the name of the suite. */
type Runs = ReadonlyMap<string, MeasuredRun>;

/** Prints as it goes on; false where a file differs. Each server is there for itself, for the suites one after another. */
export async function compareSuites(
  list: SuiteList,
  directory: SuiteDirectory,
  options: ServerOptions,
): Promise<boolean> {
  const { suites } = list;
  const server = await startStrata(options);
  const wrong: string[] = [];
  const ours = await onServer(server, suites, directory, "strata", async () => {
    for (const { endState } of suites) {
      wrong.push(...(endState === undefined ? [] : await checkEndState(server.cluster, endState)));
    }
    directory.makeLocation();
    wrong.push(...(await checkRecoveredPages(server.cluster, server.recovery)));
  });
  const stock = await onStock(suites, directory, options, ours.settings, "stock");
  const differs = suites.filter((suite) =>
    compareRuns(suite, stock, ours.runs).some(({ verdict }) => verdict !== "equal"),
  );
  // All of it again: what a suite finds is what those before it left.
  const again =
    differs.length === 0
      ? undefined
      : await onStock(suites, directory, options, ours.settings, "stock-again");
  const compared = new Map(
    suites.map((suite) => [suite, compareRuns(suite, stock, ours.runs, again)]),
  );
  for (const file of [...compared.values()].flat()) {
    if (file.verdict !== "equal") {
      console.log(
        `\n${file.verdict.toUpperCase()}: ${file.name}\n${file.diff.slice(0, DIFF_MAX_LENGTH)}`,
      );
    }
  }
  printTable(list, compared, stock, ours.runs);
  for (const line of wrong) {
    console.log(`WRONG: ${line}`);
  }
  return (
    wrong.length === 0 &&
    [...compared.values()].flat().every(({ verdict }) => verdict !== "different")
  );
}

async function onStock(
  suites: readonly Suite[],
  directory: SuiteDirectory,
  options: ServerOptions,
  settings: Readonly<Record<string, string>>,
  name: string,
): Promise<Runs> {
  const server = await startStock({ ...options, settings });
  return (await onServer(server, suites, directory, name)).runs;
}

/** Stops it in the end. */
async function onServer(
  server: TestedServer,
  suites: readonly Suite[],
  directory: SuiteDirectory,
  name: string,
  afterwards: () => Promise<void> = async () => {},
): Promise<{ runs: Runs; settings: Readonly<Record<string, string>> }> {
  const runs = new Map<string, MeasuredRun>();
  try {
    for (const suite of suites) {
      const before = familyProcessorSeconds(server.pid());
      const run = await directory.run(suite, server, name);
      const processorSeconds = familyProcessorSeconds(server.pid()) - before;
      const { tests, unexpected, seconds } = run;
      console.log(
        `${suite.name} on ${name}: ${tests} tests, ${unexpected} not as Postgres's own files, ${seconds.toFixed(0)} s`,
      );
      runs.set(suite.name, { ...run, processorSeconds });
    }
    await afterwards();
  } finally {
    await server.stop();
  }
  return { runs, settings: server.settings };
}

function compareRuns(suite: Suite, stock: Runs, ours: Runs, again?: Runs): ComparedFile[] {
  const outputs = (runs: Runs) => runs.get(suite.name)!.outputs;
  return compareOutputs(
    outputs(stock),
    outputs(ours),
    again === undefined ? undefined : outputs(again),
  ).map((file) => ({ ...file, name: `${suite.name}/${file.name}` }));
}

function printTable(
  { skipped }: SuiteList,
  compared: ReadonlyMap<Suite, readonly ComparedFile[]>,
  stock: Runs,
  ours: Runs,
): void {
  console.log(
    "\n| suite | tests | not as Postgres's own files: stock, Strata | output files | equal | unstable on stock | different | stock | Strata | Postgres's processor time: stock, Strata |",
  );
  console.log("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");
  for (const [{ name }, files] of compared) {
    const count = (wanted: string) => files.filter(({ verdict }) => verdict === wanted).length;
    const seconds = (runs: Runs) => `${runs.get(name)!.seconds.toFixed(0)} s`;
    const processor = [stock, ours]
      .map((runs) => `${runs.get(name)!.processorSeconds.toFixed(1)} s`)
      .join(", ");
    const { tests } = ours.get(name)!;
    const unexpected = [stock, ours].map((runs) => runs.get(name)!.unexpected).join(", ");
    console.log(
      `| ${[name, tests, unexpected, files.length, count("equal"), count("unstable"), count("different"), seconds(stock), seconds(ours), processor].join(" | ")} |`,
    );
  }
  const files = [...compared.values()].flat();
  const equal = files.filter(({ verdict }) => verdict === "equal").length;
  console.log(`\n${files.length} output files, ${equal} equal`);
  for (const { name, why } of skipped) {
    console.log(`skipped: ${name}: ${why}`);
  }
}
