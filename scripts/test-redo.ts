// `npm run test:redo`: our redo against Postgres's, on every installation and every kind of record.
//
// --major N      only that major (may be repeated)
// --pg-bin DIR   these binaries instead, or too where there is a --major (may be repeated)
// --quick        full_page_writes off only, a smaller workload
// --faults       the single faults that the oracle must catch, instead (Postgres 17)
// --write-table  the result into docs/redo-conformance.md; only where all majors ran, and passed
// --seed N       of the workload

import { writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { MAJORS } from "../src/postgres/versions.ts";
import { findProblems } from "../test/redo/expectations.ts";
import { type TestedInstallation, testedInstallations } from "../test/redo/installations.ts";
import { type RunResult, runConformance } from "../test/redo/run.ts";
import { type InstallationResult, renderTable } from "../test/redo/table.ts";
import { inRepository, postgresTests, runSteps, testStep } from "./checks.ts";

const SCALE = 0.3;
const QUICK_SCALE = 0.2;
const SUITES = postgresTests().filter((path) => path.startsWith("src/redo/"));

const { values: options } = parseArgs({
  options: {
    major: { type: "string", multiple: true, default: [] },
    "pg-bin": { type: "string", multiple: true, default: [] },
    quick: { type: "boolean", default: false },
    faults: { type: "boolean", default: false },
    "write-table": { type: "boolean", default: false },
    seed: { type: "string", default: "1" },
  },
});

async function testInstallation(installation: TestedInstallation): Promise<InstallationResult> {
  const { major, pgBin, version, origin } = installation;
  const runs: RunResult[] = [];
  for (const fullPageWrites of options.quick ? [false] : [false, true]) {
    const started = performance.now();
    const run = await runConformance({
      pgMajor: major,
      pgBin,
      fullPageWrites,
      seed: Number(options.seed),
      scale: options.quick ? QUICK_SCALE : SCALE,
    });
    runs.push(run);
    const sum = (of: (report: RunResult["reports"][number]) => number) =>
      run.reports.reduce((total, report) => total + of(report), 0);
    console.log(
      `${version} (${origin}), full_page_writes ${fullPageWrites ? "on" : "off"}: ` +
        `${sum((r) => r.records)} records, ${sum((r) => r.images)} images and ` +
        `${sum((r) => r.against?.pages ?? 0)} pages compared, ${sum((r) => r.mismatches)} mismatches ` +
        `(${((performance.now() - started) / 1000).toFixed(0)} s)`,
    );
  }
  const problems = findProblems(major, runs, { deltas: !options.quick });
  for (const problem of problems) {
    console.log(`  ${problem}`);
  }
  return { installation, runs, problems };
}

if (options.faults) {
  runSteps([
    {
      ...testStep("faults", SUITES, {
        concurrency: 1,
        timeoutMs: 30 * 60_000,
        extra: ["--test-name-pattern=the oracle catches"],
      }),
      env: { STRATA_TEST_ALL_FAULTS: "1" },
    },
  ]);
} else {
  const installations = testedInstallations(options.major.map(Number), options["pg-bin"]);
  const results: InstallationResult[] = [];
  for (const installation of installations) {
    results.push(await testInstallation(installation));
  }
  const failed = results.filter(({ problems }) => problems.length > 0);
  if (failed.length > 0) {
    const names = failed.map(({ installation }) => installation.version).join(", ");
    console.log(`FAILED: ${names}`);
    process.exitCode = 1;
  } else if (options["write-table"]) {
    const missing = MAJORS.filter((major) => !installations.some((i) => i.major === major));
    if (missing.length > 0 || options.quick) {
      console.log(`not written: the table needs whole runs of all majors`);
      process.exitCode = 1;
    } else {
      writeFileSync(inRepository("docs/redo-conformance.md"), renderTable(results));
    }
  }
}
