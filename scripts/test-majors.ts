// `npm run test:majors`: the compute's and the system tests on each major that `npm test` does not run them on.
//
// Arguments pick majors, and test files by a part of their name: `npm run test:majors -- 14 kill9`.

import { SUPPORTED_MAJORS } from "../src/postgres/installation.ts";
import { postgresTests, runSteps, systemTests, testStep } from "./checks.ts";

const TIMEOUT_MS = 20 * 60_000;
/** The major of `npm test`. */
const DEFAULT_OF_TESTS = 17;

const words = process.argv.slice(2);
const majors = words.filter((word) => /^\d+$/.test(word)).map(Number);
const parts = words.filter((word) => !/^\d+$/.test(word));
/** What does not depend on the major, or goes through all of them by itself. */
const EVERY_TIME =
  /majors|quick-start|test\/disk-full|large|bad-|wal-(dump|verify)|test\/(daemons|fresh|http|redo)\//;
const files = [
  ...postgresTests().filter((path) => path.startsWith("src/compute/")),
  ...systemTests().filter((path) => !EVERY_TIME.test(path)),
].filter((path) => parts.length === 0 || parts.some((part) => path.includes(part)));

runSteps(
  (majors.length > 0 ? majors : SUPPORTED_MAJORS.filter((one) => one !== DEFAULT_OF_TESTS)).map(
    (major) => ({
      ...testStep(`PostgreSQL ${major}`, files, { concurrency: 2, timeoutMs: TIMEOUT_MS }),
      env: { STRATA_PG_VERSION: `${major}` },
    }),
  ),
);
