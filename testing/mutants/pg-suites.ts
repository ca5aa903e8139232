// Broken rules of what Postgres's own suites are judged by, which would say that all is equal.

import type { MutantPart } from "./mutant.ts";

const COMPARE = "testing/pg-suites/compare.ts";
const COMPARE_TEST = "testing/pg-suites/compare.test.ts";
const SUITES = "testing/pg-suites/suites.ts";
const SUITES_TEST = "testing/pg-suites/suites.test.ts";
const END_STATE = "testing/pg-suites/end-state.ts";
const KILLS = "testing/pg-suites/kills.ts";
const KILLS_TEST = "testing/pg-suites/kills.test.ts";
const STORAGE = "testing/redo/storage-comparison.ts";
const STORAGE_TEST = "test/branches-match-stock.test.ts";
const END_STATE_TEST = "testing/pg-suites/end-state.test.ts";

export const PG_SUITE_MUTANTS: MutantPart = {
  part: "pg-suites",
  mutants: [
    {
      rule: "an output that one side lacks is as an empty one",
      file: COMPARE,
      search: "  return one !== undefined && other !== undefined && one.equals(other);",
      replace: "  return (one ?? Buffer.of()).equals(other ?? Buffer.of());",
      test: COMPARE_TEST,
      name: "compareOutputs: a file that one side lacks",
    },
    {
      rule: "outputs that only Strata wrote are not looked at",
      file: COMPARE,
      search: "new Set([...stock.keys(), ...ours.keys()])",
      replace: "new Set(stock.keys())",
      test: COMPARE_TEST,
      name: "compareOutputs: a file that one side lacks",
    },
    {
      rule: "what differs is called unstable where stock's second run is as its first",
      file: COMPARE,
      search: "again !== undefined && !isSame(stock.get(name), again.get(name))",
      replace: "again !== undefined",
      test: COMPARE_TEST,
      name: "compareOutputs: unstable is only",
    },
    {
      rule: "a suite that broke off counts as one that passed",
      file: COMPARE,
      search: "  return passed === null ? undefined : { tests: Number(passed[1]), unexpected: 0 };",
      replace: "  return { tests: Number(passed?.[1] ?? 0), unexpected: 0 };",
      test: COMPARE_TEST,
      name: "parseSummary: both of pg_regress's ways",
    },
    {
      rule: "tables that a restart or a branch lost are not looked at",
      file: END_STATE,
      search: "new Set([...before.sums.keys(), ...after.sums.keys()])",
      replace: "new Set(after.sums.keys())",
      test: END_STATE_TEST,
      name: "compareEndStates: another sum, a table",
    },
    {
      rule: "what amcheck found after a restart is not told",
      file: END_STATE,
      search: "  return [...changed, ...indexes, ...after.damaged];",
      replace: "  return [...changed, ...indexes];",
      test: END_STATE_TEST,
      name: "compareEndStates: another sum, a table",
    },
    {
      rule: "a test that is to be left out and is misspelt is left out nowhere",
      file: SUITES,
      search: "  if (left.size > 0) {",
      replace: "  if (left.size > without.length) {",
      test: SUITES_TEST,
      name: "scheduleWithout: a test that is not there",
    },
    {
      rule: "a relation that only storage has is not told",
      file: STORAGE,
      search: "forks: () => [...sizes.values()].map(({ rel }) => rel),",
      replace: "forks: () => [],",
      test: STORAGE_TEST,
      name: "five branches taken during TPC-B",
    },
    {
      rule: "visibility maps are not compared with those that stock recovers",
      file: STORAGE,
      search: "forks: [MAIN_FORK, VM_FORK, INIT_FORK],",
      replace: "forks: [MAIN_FORK, INIT_FORK],",
      test: STORAGE_TEST,
      name: "five branches taken during TPC-B",
    },
    {
      rule: "SLRU pages that differ from those that stock recovers are not told",
      file: STORAGE,
      search: "[...slrus.mismatches, ...others.mismatches]",
      replace: "others.mismatches",
      test: STORAGE_TEST,
      name: "five branches taken during TPC-B",
    },
    {
      rule: "relation maps that differ from those that stock recovers are not told",
      file: STORAGE,
      search: "[...slrus.mismatches, ...others.mismatches]",
      replace: "slrus.mismatches",
      test: STORAGE_TEST,
      name: "five branches taken during TPC-B",
    },
    {
      rule: "14's tablespaces have no location to be made in",
      file: SUITES,
      search: "      ...(location ? [",
      replace: "      ...(location && isolation ? [",
      test: SUITES_TEST,
      name: "coreSuite: pg_regress is told",
    },
    {
      rule: "a test under kills starts while nobody answers",
      file: KILLS,
      search: "[ $tries -ge 1200 ]",
      replace: "[ $tries -ge 1 ]",
      test: KILLS_TEST,
      name: "LAUNCHER: psql of a test starts",
    },
    {
      rule: "the statements of a test under kills go to who asks whether the server answers",
      file: KILLS,
      search: "-c '' </dev/null",
      replace: "-c ''",
      test: KILLS_TEST,
      name: "LAUNCHER: psql of a test starts",
    },
  ],
};
