// `npm run test:pg -- --major N`: Postgres's own suites on a Strata endpoint and on stock of the same binary, output by output.
//
// --source DIR      an unpacked source tree of that major; else root on Debian fetches one, and what it is built with
// --suite NAME      regress, isolation or contrib (may be repeated; all)
// --tests A,B       only these tests of regress or isolation, or modules of contrib
// --without A,B     all of them but these
// --local-cache N   a limit of the endpoint's disk, such as 32MB
// --extension NAME  no suite of Postgres's but tests of an extension: those of its source tree with --extension-tests DIR, else ours,
//                   which are there of vector and postgis; --extension-dir DIR has it, built for that major
// --kill            regress on an endpoint only, whose processes are killed meanwhile, one kind after another
// --keep            what the suites wrote stays, and its place is printed

import { join, resolve } from "node:path";
import { parseArgs } from "node:util";
import { DEFAULT_MAJOR, findInstallation } from "../../src/postgres/installation.ts";
import { storeDirectory } from "../../src/postgres/package-store.mjs";
import { buildTools } from "../../testing/pg-suites/build.ts";
import { compareSuites } from "../../testing/pg-suites/comparison.ts";
import { runUnderKills } from "../../testing/pg-suites/kills.ts";
import { SuiteDirectory } from "../../testing/pg-suites/run.ts";
import { installedBeside } from "../../testing/pg-suites/servers.ts";
import { findSource, installTools } from "../../testing/pg-suites/source.ts";
import {
  CONTRIB_SETTINGS,
  CONTRIB_STOCK_SETTINGS,
  contribSuites,
  coreSuite,
  extensionSuite,
  ownTestsOf,
  SUITE_KINDS,
  type SuiteList,
} from "../../testing/pg-suites/suites.ts";

const { values: options } = parseArgs({
  options: {
    major: { type: "string", default: `${DEFAULT_MAJOR}` },
    source: { type: "string" },
    suite: { type: "string", multiple: true, default: [...SUITE_KINDS] },
    tests: { type: "string", default: "" },
    without: { type: "string", default: "" },
    "local-cache": { type: "string" },
    extension: { type: "string" },
    "extension-dir": { type: "string" },
    "extension-tests": { type: "string" },
    kill: { type: "boolean", default: false },
    keep: { type: "boolean", default: false },
  },
});
const { extension, "extension-dir": extensionDir } = options;
const kinds = SUITE_KINDS.filter((kind) => options.suite.includes(kind));
const unknown = options.suite.filter((name) => kinds.every((kind) => kind !== name));
const listOf = (text: string) => text.split(",").filter((name) => name !== "");
const tests = listOf(options.tests);
const without = listOf(options.without);
const misused =
  (tests.length + without.length > 0 && kinds.length !== 1 && extension === undefined) ||
  (without.length > 0 && tests.length > 0) ||
  (options.kill && options.suite.join() !== "regress") ||
  (extension !== undefined && (options.kill || kinds.length < SUITE_KINDS.length)) ||
  (extension === undefined) !== (extensionDir === undefined) ||
  (extension === undefined && options["extension-tests"] !== undefined);
const cacheRoot = storeDirectory();
if (unknown.length > 0 || misused || cacheRoot === undefined) {
  console.error(
    cacheRoot === undefined
      ? "no directory of this user can be written to build Postgres's tests in"
      : `usage: npm run test:pg -- [--major N] [--source DIR] [--suite ${SUITE_KINDS.join("|")}] [--tests A,B | --without A,B] (with one --suite) [--local-cache SIZE] [--keep] [--kill] (with --suite regress) | [--major N] [--source DIR] --extension NAME --extension-dir DIR [--extension-tests DIR] [--tests A,B | --without A,B] [--local-cache SIZE] [--keep]`,
  );
  process.exit(1);
}

const major = Number(options.major);
const installation = findInstallation(major);
const cache = join(cacheRoot, "pg-suites");
installTools();
const source = findSource(major, {
  given: options.source,
  cache,
  wanted: installation.version,
});
console.log(`server ${installation.version}, tests of ${source.version} (${source.directory})`);
if (source.version !== installation.version) {
  // 18.6's sqljson, for one, ends any server of 18.4, and what ran beside it breaks off.
  console.log("versions differ: a test of what was mended between them can end the server");
}
const tools = buildTools(source, cache);
const abort = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => abort.abort());
}
const directory = new SuiteDirectory(tools, abort.signal);
try {
  const server = { major, settings: {}, localCache: options["local-cache"] };
  if (extension !== undefined && extensionDir !== undefined) {
    const source = resolve(options["extension-tests"] ?? ownTestsOf(extension));
    const list = { suites: [extensionSuite(extension, source, tests, without)], skipped: [] };
    const own = resolve(extensionDir);
    const stockBin = installedBeside(installation, own, join(directory.path, "stock"));
    const told = { ...server, extensionDir: own, stockBin };
    const passed = await compareSuites(list, directory, told);
    process.exitCode = passed ? 0 : 1;
  }
  for (const kind of extension === undefined ? kinds : []) {
    const list: SuiteList =
      kind === "contrib"
        ? contribSuites(tools, installation, tests, without)
        : { suites: [coreSuite(kind, tools, tests, without)], skipped: [] };
    const contrib = { settings: CONTRIB_SETTINGS, stockSettings: CONTRIB_STOCK_SETTINGS };
    const told = { ...server, ...(kind === "contrib" ? contrib : {}) };
    const passed = options.kill
      ? await runUnderKills(list.suites[0]!, directory, told)
      : await compareSuites(list, directory, told);
    process.exitCode = passed ? process.exitCode : 1;
  }
} finally {
  if (options.keep) {
    console.log(`kept: ${join(directory.path, "kept")}`);
  } else {
    directory.remove();
  }
}
