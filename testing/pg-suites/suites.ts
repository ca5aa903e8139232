// Postgres's own suites and those of an extension: which there are in a source tree, and how the driver of one is called.

import { existsSync, globSync } from "node:fs";
import { basename, join } from "node:path";
import type { Installation } from "../../src/postgres/installation.ts";
import { type BuiltTools, makeVariables } from "./build.ts";

export const SUITE_KINDS = ["regress", "isolation", "contrib"] as const;
export type SuiteKind = (typeof SUITE_KINDS)[number];

export interface Suite {
  /** Unique, such as `contrib/hstore`. */
  readonly name: string;
  /** Below the source tree of Postgres, or absolute: `sql` or `specs`, `expected`, `data`. */
  readonly folder: string;
  readonly driver: "pg_regress" | "pg_isolation_regress";
  /** What the driver is told beside where servers and files are. */
  readonly args: readonly string[];
  /** A file in its folder that lists tests, and those of them that are left out. */
  readonly schedule?: { readonly file: string; readonly without: readonly string[] };
  /** The database whose tables it leaves behind, where they are worth a look. */
  readonly endState?: string;
}

export interface SkippedSuite {
  readonly name: string;
  readonly why: string;
}

export interface SuiteList {
  readonly suites: readonly Suite[];
  readonly skipped: readonly SkippedSuite[];
}

/** What contrib's suites ask for where no installation has it: on both sides. */
export const CONTRIB_SETTINGS: Readonly<Record<string, string>> = {
  // test_decoding's logical.conf.
  wal_level: "logical",
  max_replication_slots: "4",
  logical_decoding_work_mem: "64kB",
  shared_preload_libraries: "pg_stat_statements",
};

/** Of an endpoint for good, so of stock too: pg_walinspect's test looks for a full-page image. Other suites do not see it. */
export const CONTRIB_STOCK_SETTINGS: Readonly<Record<string, string>> = { full_page_writes: "off" };

/** Parallel connections of pg_regress; max_connections is 100. */
const PARALLEL = ["--max-connections=8"];

/** `tests`: only those; none for all of the schedule but those `without`. */
export function coreSuite(
  kind: "regress" | "isolation",
  tools: BuiltTools,
  tests: readonly string[],
  without: readonly string[] = [],
): Suite {
  const folder = join("src", "test", kind);
  const input = join(tools.source.directory, folder);
  const isolation = kind === "isolation";
  const file = isolation ? "isolation_schedule" : "parallel_schedule";
  // From 15 on it makes the tables that all others read.
  const first = existsSync(join(input, "sql", "test_setup.sql")) ? ["test_setup"] : [];
  const some = isolation ? tests : [...first.filter((one) => !tests.includes(one)), ...tests];
  // In 14 a location, which pg_regress makes where it is told so; later the test's tablespaces are in place.
  const location = existsSync(join(input, "input", "tablespace.source"));
  return {
    name: kind,
    folder,
    driver: isolation ? "pg_isolation_regress" : "pg_regress",
    ...(tests.length > 0 ? {} : { schedule: { file, without } }),
    ...(isolation ? {} : { endState: "regression" }),
    args: [
      `--dbname=${isolation ? "isolation_regression" : "regression"}`,
      ...(isolation ? [] : [...PARALLEL, "--max-concurrent-tests=20"]),
      ...(location ? ["--make-testtablespace-dir"] : []),
      ...(tests.length > 0 ? some : []),
    ],
  };
}

/** The text of a schedule without some tests; throws where it has one of them not. */
export function scheduleWithout(text: string, without: readonly string[]): string {
  const left = new Set(without);
  const lines = text.split("\n").map((line) => {
    const [, names] = /^test:(.*)$/.exec(line) ?? [];
    if (names === undefined) {
      return line;
    }
    const kept = names.split(/\s+/).filter((name) => name !== "" && !without.includes(name));
    for (const name of names.split(/\s+/)) {
      left.delete(name);
    }
    return kept.length === 0 ? "" : `test: ${kept.join(" ")}`;
  });
  if (left.size > 0) {
    throw new Error(`the schedule has no test ${[...left].join(", ")}`);
  }
  return lines.join("\n");
}

/** Why a module's tests say nothing here, beside a library that the installation does not have. */
const NOT_HERE: Readonly<Record<string, string>> = {
  basic_archive: "needs archive_mode, which an endpoint does not have",
  dblink: "its server connects to itself where no socket of either side is",
  postgres_fdw: "its server connects to itself where no socket of either side is",
};

/** Modules of contrib with tests for the drivers; `modules`: only those, none for all but those `without`. Throws where one of them is no module. */
export function contribSuites(
  tools: BuiltTools,
  installation: Installation,
  modules: readonly string[],
  without: readonly string[] = [],
): SuiteList {
  const suites: Suite[] = [];
  const skipped: SkippedSuite[] = [];
  // What our configure leaves out is listed apart; the installation may have it.
  const all = makeVariables(tools, "contrib", ["SUBDIRS", "ALWAYS_SUBDIRS"]).flat().toSorted();
  const absent = without.filter((one) => !all.includes(one));
  if (absent.length > 0) {
    throw new Error(`contrib has no ${absent.join(", ")}`);
  }
  const wanted = modules.length === 0 ? all.filter((one) => !without.includes(one)) : modules;
  for (const module of all.filter((one) => wanted.includes(one))) {
    const folder = join("contrib", module);
    const names = ["REGRESS", "ISOLATION", "REGRESS_OPTS", "MODULE_big", "MODULES"];
    const [regress, isolation, told, big, libraries] = makeVariables(
      tools,
      folder,
      names,
    ) as string[][];
    if (regress!.length + isolation!.length === 0) {
      continue;
    }
    const missing = [...big!, ...libraries!].filter(
      (one) => !existsSync(join(libraryDirectory(installation), `${one}.so`)),
    );
    const why =
      NOT_HERE[module] ??
      (missing.length > 0 ? `the installation has no ${missing.join(", ")}.so` : undefined);
    if (why !== undefined) {
      skipped.push({ name: folder, why });
      continue;
    }
    if (regress!.length > 0) {
      // Of the others, a configuration of their own: CONTRIB_SETTINGS is what they ask for there.
      const extensions = told!.filter((one) => one.startsWith("--load-extension="));
      const args = ["--dbname=contrib_regression", ...extensions, ...regress!];
      suites.push({ name: folder, folder, driver: "pg_regress", args });
    }
    if (isolation!.length > 0) {
      const args = ["--dbname=isolation_regression", ...isolation!];
      suites.push({ name: `${folder} (isolation)`, folder, driver: "pg_isolation_regress", args });
    }
  }
  const found = new Set([...suites, ...skipped].map(({ name }) => name.split(/[/ ]/)[1]));
  const unknown = modules.filter((one) => !found.has(one));
  if (unknown.length > 0) {
    throw new Error(`contrib has no tests of ${unknown.join(", ")}`);
  }
  return { suites, skipped };
}

/** Ours of an extension, which leave its indexes behind: those of its authors mostly drop what they make. */
export function ownTestsOf(extension: string): string {
  return join(import.meta.dirname, "extensions", extension);
}

/**
 * The tests of an extension in `source`, a tree as PGXS has them: `sql` and `expected` there or below `test`. `tests`: only those;
 * none for all that have an expected output. Throws where it has no tests, or not those.
 */
export function extensionSuite(
  extension: string,
  source: string,
  tests: readonly string[],
  without: readonly string[] = [],
): Suite {
  const folder = [join(source, "test"), source].find((one) => existsSync(join(one, "expected")));
  const all =
    folder === undefined
      ? []
      : globSync("sql/*.sql", { cwd: folder })
          .map((path) => basename(path, ".sql"))
          .filter((one) => existsSync(join(folder, "expected", `${one}.out`)))
          .toSorted();
  const unknown = [...tests, ...without].filter((one) => !all.includes(one));
  if (folder === undefined || all.length === 0 || unknown.length > 0) {
    throw new Error(`${source} has no tests ${unknown.join(", ")}`.trimEnd());
  }
  const wanted = tests.length > 0 ? tests : all.filter((one) => !without.includes(one));
  const args = ["--dbname=contrib_regression", `--load-extension=${extension}`, ...wanted];
  return { name: `extension/${extension}`, folder, driver: "pg_regress", args };
}

function libraryDirectory(installation: Installation): string {
  return join(installation.binDir, "..", "lib", "postgresql");
}
