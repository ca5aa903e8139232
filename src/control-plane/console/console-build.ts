// Where the built console lies, and how a checkout gets one: built when a browser first asks for it.
//
// The npm package ships the build. A checkout has the sources only, and its build needs packages that running Strata
// does not: they lie in console/node_modules, and come when they are needed.

import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, globSync, readFileSync, statSync } from "node:fs";
import { basename, join } from "node:path";
import type { Logger } from "../../base/log.ts";
import { ROOT } from "../../base/program-files.mjs";

export const CONSOLE_DIRECTORY = join(ROOT, "console");
/** Only in a checkout. */
const BUILD_SCRIPT = join(CONSOLE_DIRECTORY, "build.ts");
export const BUILD_DIRECTORY = join(CONSOLE_DIRECTORY, "dist");
/** In the build: `sourcesHash` of what it was made of. */
export const STAMP_FILE = "sources.sha256";
/** What is shown of a build that failed. */
const MAX_WORDS = 2000;

/** By its path below `assets/`; the page itself is `index.html`. */
export type BuiltFiles = ReadonlyMap<string, Buffer>;

/** All that a build is made of. */
export function sourcesHash(): string {
  const hash = createHash("sha256");
  const paths = globSync(["src/**/*", "index.html", "package-lock.json", "vite.config.ts"], {
    cwd: CONSOLE_DIRECTORY,
  }).toSorted();
  for (const path of paths) {
    const file = join(CONSOLE_DIRECTORY, path);
    if (statSync(file).isFile()) {
      hash.update(`${path}\0`).update(readFileSync(file)).update("\0");
    }
  }
  return hash.digest("hex");
}

/** Undefined where there is none, or one of other sources. */
export function readBuild(): BuiltFiles | undefined {
  const stamp = join(BUILD_DIRECTORY, STAMP_FILE);
  if (!existsSync(stamp)) {
    return undefined;
  }
  if (existsSync(BUILD_SCRIPT) && readFileSync(stamp, "utf8").trim() !== sourcesHash()) {
    return undefined;
  }
  const paths = globSync("assets/*", { cwd: BUILD_DIRECTORY });
  return new Map(
    ["index.html", ...paths].map((path) => [
      basename(path),
      readFileSync(join(BUILD_DIRECTORY, path)),
    ]),
  );
}

export type BuildState =
  | { readonly state: "ready"; readonly files: BuiltFiles }
  | { readonly state: "building" }
  | { readonly state: "failed"; readonly why: string };

/** Reads the build once, and has it made where that is needed. */
export class ConsoleBuild {
  readonly #logger: Logger;
  #current: BuildState | undefined;
  #settled = Promise.withResolvers<string>();

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  /** A build that has failed is tried again by `retry`. */
  state({ retry = false } = {}): BuildState {
    if (this.#current === undefined || (retry && this.#current.state === "failed")) {
      const files = readBuild();
      this.#current = files === undefined ? this.#build() : { state: "ready", files };
    }
    return this.#current;
  }

  /** Resolves with the state when nothing is being built. */
  async settled(): Promise<string> {
    const { state } = this.state();
    return state === "building" ? await this.#settled.promise : state;
  }

  #build(): BuildState {
    this.#settled = Promise.withResolvers<string>();
    if (!existsSync(BUILD_SCRIPT)) {
      return { state: "failed", why: `there is no ${BUILD_DIRECTORY}: this package is not whole` };
    }
    this.#logger.info({}, "building the console");
    const child = spawn(process.execPath, ["--disable-warning=ExperimentalWarning", BUILD_SCRIPT], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    child.unref();
    let words = "";
    child.stderr.on("data", (chunk: Buffer) => {
      words = `${words}${chunk}`.slice(-MAX_WORDS);
    });
    child.on("error", (error) => this.#failed(error.message));
    child.on("close", (code) => {
      const files = code === 0 ? readBuild() : undefined;
      if (files === undefined) {
        this.#failed(words.trim() || `exit code ${code}`);
      } else {
        this.#settle({ state: "ready", files });
      }
    });
    return { state: "building" };
  }

  #failed(why: string): void {
    this.#logger.warn({ reason: why }, "the console could not be built");
    this.#settle({ state: "failed", why });
  }

  #settle(state: BuildState): void {
    this.#current = state;
    this.#settled.resolve(state.state);
  }
}
