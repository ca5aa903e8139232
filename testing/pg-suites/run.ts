// Runs one of Postgres's suites against one server, and takes what it wrote.

import { execFileSync, spawn } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { giveToPostgres, postgresUser, SUPERUSER } from "../../src/postgres/installation.ts";
import type { BuiltTools } from "./build.ts";
import { type Outputs, parseSummary, readOutputs, type Summary } from "./compare.ts";
import type { TestedServer } from "./servers.ts";
import { type Suite, scheduleWithout } from "./suites.ts";

/** Where much else runs: regress takes minutes, isolation too. */
const TIMEOUT_MS = 90 * 60_000;

export interface SuiteRun extends Summary {
  readonly outputs: Outputs;
  readonly seconds: number;
}

/** Input and output of the suites, at the same paths for every server: some outputs hold them. */
export class SuiteDirectory {
  readonly path = mkdtempSync(join(tmpdir(), "strata-pg-suites-"));
  /** Of the suite that runs. */
  readonly #place = join(this.path, "suite");
  readonly #tools: BuiltTools;
  readonly #abort: AbortSignal;

  constructor(tools: BuiltTools, abort: AbortSignal) {
    this.#tools = tools;
    this.#abort = abort;
    giveToPostgres(this.path);
  }

  /**
   * Against `server`; what the driver says and all files are kept below `name`. Throws where it does not come to its
   * end; what tests make of it is in their outputs. `told`: what else the driver is told.
   */
  async run(
    suite: Suite,
    server: TestedServer,
    name: string,
    told: readonly string[] = [],
  ): Promise<SuiteRun> {
    const place = this.#place;
    rmSync(place, { recursive: true, force: true });
    // As in a build inside of its tree: servers and psql read files of it, by absolute and by relative names, and
    // write there. Both run as a user that may not be allowed into the source tree.
    cpSync(resolve(this.#tools.source.directory, suite.folder), place, { recursive: true });
    if (suite.schedule !== undefined) {
      const path = join(place, suite.schedule.file);
      const text = readFileSync(path, "utf8");
      writeFileSync(path, scheduleWithout(text, suite.schedule.without));
    }
    const user = postgresUser();
    if (user !== undefined) {
      execFileSync("chown", ["-R", `${user.uid}:${user.gid}`, place]);
    }
    const began = performance.now();
    const said = await this.#drive(suite, server, place, told);
    const seconds = (performance.now() - began) / 1000;
    const kept = join(this.path, "kept", name, suite.name.replaceAll(/\W/g, "_"));
    mkdirSync(join(kept, ".."), { recursive: true });
    renameSync(place, kept);
    writeFileSync(join(kept, "driver.log"), said);
    const summary = parseSummary(said);
    if (summary === undefined) {
      const end = said.trim().split("\n").slice(-10).join("\n");
      throw new Error(`${suite.driver} of ${suite.name} on ${name} broke off:\n${end}`);
    }
    const outputs = readOutputs(join(kept, "results"));
    // Two empty directories are equal, and say nothing.
    if (outputs.size < summary.tests) {
      throw new Error(`${suite.name} on ${name}: ${summary.tests} tests, ${outputs.size} outputs`);
    }
    return { ...summary, seconds, outputs };
  }

  /** Stock recovery replays the tablespaces of 14's tests, whose location went with the outputs of their suite. */
  makeLocation(): void {
    for (const path of [this.#place, join(this.#place, "testtablespace")]) {
      mkdirSync(path, { recursive: true, mode: 0o700 });
      giveToPostgres(path);
    }
  }

  /** How many files the tests of the suite that runs have begun to write. */
  outputsSoFar(): number {
    const results = join(this.#place, "results");
    return existsSync(results) ? readdirSync(results).length : 0;
  }

  #drive(
    suite: Suite,
    server: TestedServer,
    place: string,
    told: readonly string[],
  ): Promise<string> {
    const built = (...below: string[]) => join(this.#tools.directory, "src", ...below);
    const folder = suite.driver === "pg_regress" ? "regress" : "isolation";
    const args = [
      `--host=${server.host}`,
      `--port=${server.port}`,
      `--user=${SUPERUSER}`,
      `--bindir=${built("bin", "psql")}`,
      `--dlpath=${built("test", "regress")}`,
      `--inputdir=${place}`,
      `--outputdir=${place}`,
      ...(suite.schedule === undefined ? [] : [`--schedule=${join(place, suite.schedule.file)}`]),
      ...told,
      ...suite.args,
    ];
    const user = postgresUser();
    const child = spawn(built("test", folder, suite.driver), args, {
      cwd: place,
      env: testEnvironment(built("interfaces", "libpq")),
      stdio: ["ignore", "pipe", "pipe"],
      signal: AbortSignal.any([this.#abort, AbortSignal.timeout(TIMEOUT_MS)]),
      ...(user === undefined ? {} : { uid: user.uid, gid: user.gid }),
    });
    const said: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => said.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => said.push(chunk));
    return new Promise((resolve, reject) => {
      child.on("error", reject);
      // Its exit code only says whether outputs are as Postgres's developers expect.
      child.on("close", () => resolve(Buffer.concat(said).toString("utf8")));
    });
  }

  remove(): void {
    rmSync(this.path, { recursive: true, force: true });
  }
}

/** Ours without what would steer psql. */
function testEnvironment(libraries: string): Record<string, string> {
  const env: Record<string, string> = { LD_LIBRARY_PATH: libraries, LC_ALL: "C", TZ: "UTC" };
  for (const name of ["PATH", "TMPDIR"]) {
    const value = process.env[name];
    if (value !== undefined) {
      env[name] = value;
    }
  }
  return env;
}
