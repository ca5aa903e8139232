// The steps that `npm run check` and `npm test` are made of.

import { spawnSync } from "node:child_process";
import { globSync, mkdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";
import { makeRunDirectory, removeRunDirectory } from "../testing/homes/run-directory.ts";

const ROOT = dirname(import.meta.dirname);
export const NODE_FLAGS = ["--disable-warning=ExperimentalWarning"];

/** The platform's own binary: the wrapper package cannot be locked where a registry lacks a platform. */
export const BIOME = join(ROOT, "node_modules", "@biomejs", `cli-linux-${process.arch}`, "biome");

export interface Step {
  readonly name: string;
  /** Default: this Node. */
  readonly command?: string;
  readonly args: readonly string[];
  /** Beside our own environment. */
  readonly env?: Readonly<Record<string, string>>;
}

export const STATIC_STEPS: readonly Step[] = [
  {
    name: "format and lint",
    command: BIOME,
    args: ["check", "--error-on-warnings", "."],
  },
  { name: "types", args: ["node_modules/typescript/bin/tsc", "--noEmit"] },
  { name: "console", args: [...NODE_FLAGS, "console/build.ts"] },
  {
    name: "types of the console",
    args: ["node_modules/typescript/bin/tsc", "--noEmit", "--project", "console"],
  },
];

/** Daemons and commands start in half of the time then. */
export const BUNDLES_STEP: Step = {
  name: "bundles",
  args: [...NODE_FLAGS, "scripts/package/build-bundles.ts"],
};

export const FUZZ_STEP: Step = {
  name: "fuzz smoke",
  args: [...NODE_FLAGS, "scripts/fuzz.ts", "--seeds", "3", "--steps", "300"],
};

function find(pattern: string): string[] {
  return globSync(pattern, { cwd: ROOT }).toSorted();
}

/** Unit tests beside their source, also of the test tools; those that start Postgres are named x.pg.test.ts. */
export function unitTests(): string[] {
  return find("{src,testing,simulation}/**/*.test.ts").filter(
    (path) => !path.endsWith(".pg.test.ts"),
  );
}

export function postgresTests(): string[] {
  return find("{src,testing}/**/*.pg.test.ts");
}

/** Whole-system tests: real daemons, real Postgres. */
export function systemTests(): string[] {
  return find("test/**/*.test.ts").filter((path) => !path.startsWith("test/large/"));
}

/** Of much data, or with a clock, which needs the machine for itself: `npm run test:large`. */
export function largeTests(): string[] {
  return find("test/large/*.test.ts");
}

/** node:test over files, `concurrency` files at a time; it prints the closing counts. */
export function testStep(
  name: string,
  files: readonly string[],
  options: { concurrency?: number; timeoutMs: number; extra?: readonly string[] },
): Step {
  const concurrency = options.concurrency ?? Math.max(1, availableParallelism());
  return {
    name,
    // What daemons answer is what their schemas say (src/http).
    env: { STRATA_CHECK_ANSWERS: "1" },
    args: [
      ...NODE_FLAGS,
      "--test",
      `--test-concurrency=${concurrency}`,
      `--test-timeout=${options.timeoutMs}`,
      "--test-reporter=spec",
      "--test-reporter-destination=stdout",
      `--test-reporter=${pathToFileURL(inRepository("scripts/closing-lines.ts"))}`,
      "--test-reporter-destination=stdout",
      ...(options.extra ?? []),
      ...files,
    ],
  };
}

/** Runs every step, also after a failure, and ends the process with 1 where one failed. */
export function runSteps(steps: readonly Step[]): void {
  const directory = makeRunDirectory();
  // Of this run, as the code that makes what is in there may be another in the next.
  const templates = join(directory, "templates");
  mkdirSync(templates, { mode: 0o700 });
  try {
    runEach(steps, { TMPDIR: directory, STRATA_TEST_TEMPLATES: templates });
  } finally {
    removeRunDirectory(directory);
  }
}

function runEach(steps: readonly Step[], variables: Readonly<Record<string, string>>): void {
  const failed: string[] = [];
  for (const step of steps) {
    const start = performance.now();
    console.log(`\n== ${step.name}`);
    const result = spawnSync(step.command ?? process.execPath, step.args, {
      cwd: ROOT,
      stdio: "inherit",
      env: { ...process.env, ...variables, ...step.env },
    });
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const ok = result.status === 0;
    console.log(`== ${step.name}: ${ok ? "ok" : "FAILED"} (${seconds} s)`);
    if (!ok) {
      failed.push(step.name);
    }
  }
  if (failed.length > 0) {
    console.log(`\nFAILED: ${failed.join(", ")}`);
    process.exitCode = 1;
  }
}

/** Absolute path of a file of the repository. */
export function inRepository(path: string): string {
  return join(ROOT, path);
}
