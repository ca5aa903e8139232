// `npm run test:majors`: the compute's and the system tests on each major that `npm test` does not run them on, and
// the tests that go through majors by themselves on all of them.
//
// Arguments pick majors, and test files by a part of their name: `npm run test:majors -- 14 kill9`.

import { readFileSync } from "node:fs";
import { SUPPORTED_MAJORS } from "../src/postgres/installation.ts";
import {
  inRepository,
  postgresTests,
  runSteps,
  type Step,
  systemTests,
  testStep,
  unitTests,
} from "./checks.ts";

const TIMEOUT_MS = 20 * 60_000;
/** The major of `npm test`. */
const DEFAULT_OF_TESTS = 17;

const words = process.argv.slice(2);
const majors = words.filter((word) => /^\d+$/.test(word)).map(Number);
const parts = words.filter((word) => !/^\d+$/.test(word));
/** What does not depend on the major, or goes through all of them by itself. */
const EVERY_TIME =
  /majors|quick-start|test\/disk-full|bad-|wal-(dump|verify)|test\/(daemons|fresh|http|redo)\//;
const files = [
  ...postgresTests().filter((path) => path.startsWith("src/compute/")),
  ...systemTests().filter((path) => !EVERY_TIME.test(path)),
].filter((path) => parts.length === 0 || parts.some((part) => path.includes(part)));

/** Those that go through majors by themselves: here through all of them. */
const through = [...unitTests(), ...postgresTests(), ...systemTests()].filter(
  (path) =>
    readFileSync(inRepository(path), "utf8").includes("EACH_MAJOR") &&
    (parts.length === 0 || parts.some((part) => path.includes(part))),
);
const each: Step[] =
  majors.length > 0 || through.length === 0
    ? []
    : [
        {
          ...testStep("every major", through, { concurrency: 2, timeoutMs: TIMEOUT_MS }),
          env: { STRATA_TEST_EACH_MAJOR: "1" },
        },
      ];

runSteps([
  ...each,
  ...(majors.length > 0 ? majors : SUPPORTED_MAJORS.filter((one) => one !== DEFAULT_OF_TESTS)).map(
    (major) => ({
      ...testStep(`PostgreSQL ${major}`, files, { concurrency: 2, timeoutMs: TIMEOUT_MS }),
      env: { STRATA_PG_VERSION: `${major}` },
    }),
  ),
]);
