// Builds what Postgres's suites are run with out of its source: psql, the test drivers, regress.so; no server.

import { spawnSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import type { PostgresSource } from "./source.ts";

export interface BuiltTools {
  readonly source: PostgresSource;
  /** Absolute; as the source tree, with what was built. */
  readonly directory: string;
}

/** None of them is in the outputs of the suites; what the server was built with is its own. */
const CONFIGURE = ["--without-icu", "--without-readline", "--without-zlib", "--disable-rpath"];
const TARGETS: readonly (readonly string[])[] = [
  ["src/backend", "generated-headers"],
  ["src/test/regress", "all"],
  ["src/test/isolation", "all"],
  ["src/bin/psql", "all"],
];

/** Into `cache`, once for each version of the source; an unfinished build is made anew. */
export function buildTools(source: PostgresSource, cache: string): BuiltTools {
  const directory = join(cache, `build-${source.version}`);
  const done = join(directory, "strata-built");
  const tools = { source, directory };
  if (existsSync(done) && readFileSync(done, "utf8") === source.directory) {
    return tools;
  }
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true, mode: 0o755 });
  step(directory, join(source.directory, "configure"), CONFIGURE);
  for (const [folder, target] of TARGETS) {
    step(directory, "make", ["-s", `-j${availableParallelism()}`, "-C", folder!, target!]);
  }
  writeFileSync(done, source.directory);
  return tools;
}

function step(directory: string, program: string, args: readonly string[]): void {
  const path = join(directory, "strata-build.log");
  const log = openSync(path, "a");
  try {
    const { status } = spawnSync("nice", [program, ...args], {
      cwd: directory,
      stdio: ["ignore", log, log],
      env: { ...process.env, LC_ALL: "C", MAKEFLAGS: "" },
    });
    if (status !== 0) {
      const end = readFileSync(path, "utf8").trim().split("\n").slice(-8).join("\n");
      throw new Error(`${program} ${args.join(" ")} in ${directory} failed (${path}):\n${end}`);
    }
  } finally {
    closeSync(log);
  }
}

/** What the makefile of `folder`, below the tree, says of its variables; in their order. */
export function makeVariables(
  tools: BuiltTools,
  folder: string,
  names: readonly string[],
): readonly string[][] {
  const print = names.map((name) => `@echo '${name}=$(strip $(${name}))'`).join("\n\t");
  const result = spawnSync(
    "make",
    ["-s", "-C", folder, "--eval", `strata-print:\n\t${print}`, "strata-print"],
    { cwd: tools.directory, encoding: "utf8", env: { ...process.env, LC_ALL: "C", MAKEFLAGS: "" } },
  );
  if (result.status !== 0) {
    throw new Error(`make -C ${folder}: ${result.stderr.trim()}`);
  }
  return names.map((name) => {
    const line = result.stdout.split("\n").find((one) => one.startsWith(`${name}=`)) ?? "";
    return line
      .slice(name.length + 1)
      .split(" ")
      .filter((word) => word !== "");
  });
}
