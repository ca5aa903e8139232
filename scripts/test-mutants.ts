// `npm run test:mutants`: breaks one rule at a time and looks whether the test that guards it fails.
//
// `npm run test:mutants -- [--only WORD]... [--jobs N] [--list]`. Works on copies of the repository in a temporary
// folder. First each named test must pass on the code as it is; then it must fail on each of its mutants. The list
// is testing/mutants/. Exit code 1 where a mutant survives, does not run, or no longer fits the code.

import { type ChildProcess, spawn } from "node:child_process";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { stripTypeScriptTypes } from "node:module";
import { availableParallelism, tmpdir } from "node:os";
import { join, relative } from "node:path";
import { parseArgs } from "node:util";
import { MUTANT_PARTS } from "../testing/mutants/all.ts";
import { type Mutant, type MutantPart, occurrences } from "../testing/mutants/mutant.ts";
import { inRepository, NODE_FLAGS } from "./checks.ts";

const ROOT = inRepository("");
/** Of the repository what a copy does without: it is large, or of somebody's own. */
const NOT_COPIED =
  /^((console\/)?node_modules|dist|console\/\.build|\.git|\.strata|strata-.*\.tgz)$/;
/** A test that hangs on a mutant has noticed it, too; but a slow machine is no failure. */
const LEAST_TIMEOUT_MS = 120_000;
const TIMEOUT_FACTOR = 8;
/** What ends a program that was never right: that is no answer to the question. */
const DOES_NOT_RUN = /SyntaxError|ReferenceError|ERR_MODULE_NOT_FOUND|compile the shim/;

interface Task extends Mutant {
  readonly part: MutantPart;
}

interface Outcome {
  readonly task: Task;
  readonly verdict: "killed" | "survived" | "does not run";
  /** The first thing that the test complained of. */
  readonly why: string;
  readonly seconds: number;
}

interface TestRun {
  readonly passed: number;
  readonly ok: boolean;
  readonly output: string;
  readonly timedOut: boolean;
  readonly milliseconds: number;
}

const children = new Set<ChildProcess>();
const folders: string[] = [];

function endAll(): void {
  for (const child of children) {
    endGroup(child);
  }
  for (const folder of folders) {
    rmSync(folder, { recursive: true, force: true });
  }
}

function endGroup(child: ChildProcess): void {
  try {
    process.kill(-child.pid!, "SIGKILL");
  } catch {
    // It has ended.
  }
}

/** A whole copy; node_modules is shared. Readable by everybody: Postgres runs as another user. */
function copyRepository(): string {
  const folder = mkdtempSync(join(tmpdir(), "strata-mutants-"));
  folders.push(folder);
  chmodSync(folder, 0o755);
  cpSync(ROOT, folder, {
    recursive: true,
    filter: (path) => !NOT_COPIED.test(relative(ROOT, path)),
  });
  symlinkSync(join(ROOT, "node_modules"), join(folder, "node_modules"));
  // Where they are not there, the first test that opens the console fetches them.
  const ofConsole = join("console", "node_modules");
  if (existsSync(join(ROOT, ofConsole))) {
    symlinkSync(join(ROOT, ofConsole), join(folder, ofConsole));
  }
  return folder;
}

/** Runs a program in `folder`, in a process group of its own, which ends with it. */
function run(folder: string, args: readonly string[], timeoutMs: number): Promise<TestRun> {
  const start = performance.now();
  const child = spawn(process.execPath, [...NODE_FLAGS, ...args], {
    cwd: folder,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  children.add(child);
  const chunks: Buffer[] = [];
  child.stdout.on("data", (chunk: Buffer) => chunks.push(chunk));
  child.stderr.on("data", (chunk: Buffer) => chunks.push(chunk));
  return new Promise((resolve) => {
    let timedOut = false;
    const timer = setTimeout(() => {
      timedOut = true;
      endGroup(child);
    }, timeoutMs);
    child.on("close", (code) => {
      clearTimeout(timer);
      endGroup(child);
      children.delete(child);
      const output = Buffer.concat(chunks).toString();
      const passed = Number(/^# pass (\d+)$/m.exec(output)?.[1] ?? 0);
      const milliseconds = performance.now() - start;
      resolve({ passed, ok: code === 0, output, timedOut, milliseconds });
    });
  });
}

function runTest(folder: string, { test, name }: Mutant, timeoutMs: number): Promise<TestRun> {
  const pattern = name.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  const flags = ["--test", "--test-reporter=tap", `--test-name-pattern=${pattern}`];
  return run(folder, [...flags, test], timeoutMs);
}

/** Every mutant must change its file in exactly one place, and leave a program. */
function problemOf(mutant: Mutant): string | undefined {
  let text: string;
  try {
    text = readFileSync(inRepository(mutant.file), "utf8");
  } catch {
    return "there is no such file";
  }
  const count = occurrences(text, mutant.search);
  if (count !== 1) {
    return `its text is there ${count} times instead of once`;
  }
  try {
    if (mutant.file.endsWith(".ts")) {
      stripTypeScriptTypes(text.replace(mutant.search, () => mutant.replace));
    }
    return undefined;
  } catch (error) {
    return `it leaves no program: ${error instanceof Error ? error.message : String(error)}`;
  }
}

async function tryMutant(folder: string, task: Task, timeoutMs: number): Promise<Outcome> {
  const path = join(folder, task.file);
  const text = readFileSync(path, "utf8");
  const outcome = (verdict: Outcome["verdict"], why: string, milliseconds = 0) => ({
    task,
    verdict,
    why,
    seconds: milliseconds / 1000,
  });
  writeFileSync(
    path,
    text.replace(task.search, () => task.replace),
  );
  try {
    const { ok, output, timedOut, milliseconds } = await runTest(folder, task, timeoutMs);
    if (ok) {
      return outcome("survived", "", milliseconds);
    }
    const brokenProgram = DOES_NOT_RUN.exec(output);
    return brokenProgram === null
      ? outcome("killed", timedOut ? "it hangs" : complaint(output), milliseconds)
      : outcome("does not run", brokenProgram[0], milliseconds);
  } finally {
    writeFileSync(path, text);
  }
}

function complaint(output: string): string {
  const line = /^ *error: (?:\|-\n *)?['"]?(.*?)['"]?$/m.exec(output)?.[1] ?? "";
  return line.length > 90 ? `${line.slice(0, 87)}...` : line;
}

/** Hands out items to `jobs` workers, each with a folder of its own. */
async function inFolders<Item, Result>(
  copies: readonly string[],
  items: readonly Item[],
  work: (folder: string, item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  let next = 0;
  const worker = async (folder: string) => {
    while (next < items.length) {
      const at = next++;
      results[at] = await work(folder, items[at]!);
    }
  };
  await Promise.all(copies.map(worker));
  return results;
}

function print(task: Task): string {
  return `${task.part.part.padEnd(12)} ${task.rule}`;
}

/** The tests as they are: which fail, and how long each takes. */
async function baseline(
  copies: readonly string[],
  tasks: readonly Task[],
): Promise<{ failed: string[]; timeoutMs: (task: Task) => number }> {
  const keyOf = ({ test, name }: Mutant) => `${test}: ${name}`;
  const tests = [...new Map(tasks.map((task) => [keyOf(task), task])).values()];
  const times = new Map<string, number>();
  const failed: string[] = [];
  await inFolders(copies, tests, async (folder, task) => {
    const { ok, passed, milliseconds, output } = await runTest(folder, task, 10 * LEAST_TIMEOUT_MS);
    times.set(keyOf(task), milliseconds);
    if (!ok || passed === 0) {
      failed.push(`${keyOf(task)}: ${ok ? "no such test" : complaint(output)}`);
    }
  });
  const timeoutMs = (task: Task) =>
    Math.max(LEAST_TIMEOUT_MS, TIMEOUT_FACTOR * times.get(keyOf(task))!);
  return { failed, timeoutMs };
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      only: { type: "string", multiple: true, default: [] },
      jobs: { type: "string", default: `${Math.max(1, availableParallelism())}` },
      list: { type: "boolean", default: false },
    },
  });
  const jobs = Number(values.jobs);
  if (!Number.isSafeInteger(jobs) || jobs < 1) {
    console.error("usage: npm run test:mutants -- [--only WORD]... [--jobs N] [--list]");
    return 1;
  }
  const all: Task[] = MUTANT_PARTS.flatMap((part) =>
    part.mutants.map((mutant) => ({ ...mutant, part })),
  );
  const matches = (task: Task, word: string) =>
    [task.part.part, task.rule, task.file, task.test].some((text) => text.includes(word));
  const tasks = all.filter(
    (task) => values.only.length === 0 || values.only.some((word) => matches(task, word)),
  );
  const stale = tasks.flatMap((task) => {
    const problem = problemOf(task);
    return problem === undefined ? [] : [`${print(task)}\n  ${task.file}: ${problem}`];
  });
  if (values.list || stale.length > 0) {
    console.log((stale.length > 0 ? stale : tasks.map(print)).join("\n"));
    console.log(`${tasks.length} mutants, ${stale.length} of them no longer fit the code`);
    return stale.length === 0 ? 0 : 1;
  }
  const copies = Array.from({ length: Math.min(jobs, tasks.length) }, copyRepository);
  const { failed, timeoutMs } = await baseline(copies, tasks);
  if (failed.length > 0) {
    console.log(`these tests fail on the code as it is:\n${failed.join("\n")}`);
    return 1;
  }
  const outcomes = await inFolders(copies, tasks, async (folder, task) => {
    const outcome = await tryMutant(folder, task, timeoutMs(task));
    const time = `${outcome.seconds.toFixed(1)} s`.padStart(7);
    console.log(
      `${outcome.verdict.padEnd(8)} ${time}  ${print(task)}\n${" ".repeat(31)}${outcome.why}`,
    );
    return outcome;
  });
  const alive = outcomes.filter(({ verdict }) => verdict !== "killed");
  console.log(`\n${outcomes.length - alive.length} of ${outcomes.length} mutants were killed`);
  for (const { task, verdict } of alive) {
    console.log(`${verdict}: ${print(task)}\n  ${task.file}; ${task.test}: ${task.name}`);
  }
  return alive.length === 0 ? 0 : 1;
}

process.on("exit", endAll);
for (const signal of ["SIGINT", "SIGTERM"] as const) {
  process.on(signal, () => process.exit(1));
}
process.exitCode = await main();
