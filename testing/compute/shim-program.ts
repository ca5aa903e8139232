// Small C programs that a test runs under a shim as if they were Postgres.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import {
  SHIM_SOURCE_DIRECTORY,
  type ShimEnvironmentOptions,
  shimEnvironment,
} from "../../src/compute/shim/shim-loader.ts";
import { loaderEnvironment } from "../../src/postgres/installation.ts";
import { SANITIZER_ENVIRONMENT, type ShimSubject } from "./broken-shim.ts";

/** Why none can be built here; false where they can. */
export const NO_COMPILER = spawnSync("cc", ["--version"]).status === 0 ? false : "no C compiler";

/** The source of a program, beside the shim's tests. */
export function shimProgramSource(name: string): string {
  return join(SHIM_SOURCE_DIRECTORY, "..", `${name}.c`);
}

const built = new Map<string, string>();

/** The program of `NAME.c`, built once in a process. */
function programOf(name: string): string {
  const before = built.get(name);
  if (before !== undefined) {
    return before;
  }
  const directory = mkdtempSync(join(tmpdir(), "strata-shim-program-"));
  process.once("exit", () => rmSync(directory, { recursive: true, force: true }));
  const path = join(directory, name);
  const flags = ["-O1", "-Wall", "-Wextra", "-Werror", "-o", path];
  const cc = spawnSync("cc", [...flags, shimProgramSource(name), "-ldl", "-pthread"]);
  assert.equal(cc.status, 0, String(cc.stderr));
  built.set(name, path);
  return path;
}

export interface EndedProgram {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs it until all that have its output are gone; `directory` has the socket `s`, and is the data directory where `options` has no other. */
export async function runUnderShim(
  subject: ShimSubject,
  name: string,
  args: readonly string[],
  directory: string,
  options: Partial<ShimEnvironmentOptions>,
  environment: Readonly<Record<string, string>> = {},
): Promise<EndedProgram> {
  const [shim, program] =
    typeof subject === "string" ? [subject, programOf(name)] : [undefined, subject.program];
  const child = spawn(program, args, {
    env: {
      ...shimEnvironment({
        shimPath: shim ?? "",
        dataDirectory: directory,
        socketPath: join(directory, "s"),
        wal: "none",
        walSegmentSize: 1 << 24,
        versionDirectory: "PG_17_1",
        ...options,
      }),
      ...(shim === undefined ? SANITIZER_ENVIRONMENT : loaderEnvironment(shim)),
      STRATA_SHIM_PROGRAM: basename(program),
      ...environment,
    },
  });
  const said = { stdout: "", stderr: "" };
  for (const stream of ["stdout", "stderr"] as const) {
    child[stream].on("data", (chunk) => {
      said[stream] += String(chunk);
    });
  }
  const code = await new Promise<number | null>((resolve) => child.once("close", resolve));
  return { code, ...said };
}
