// A short form of `npm run test:redo` on the majors that the suites in src/redo do not run on.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EACH_MAJOR } from "../../testing/each-major.ts";
import { findProblems } from "./expectations.ts";
import { runConformance } from "./run.ts";

const RUNS = [
  [14, false],
  [15, true],
  [16, false],
  [18, true],
] as const;

for (const [pgMajor, fullPageWrites] of RUNS.filter(([major]) => EACH_MAJOR.includes(major))) {
  test(`redo of every record kind of Postgres ${pgMajor} equals stock recovery`, async () => {
    const run = await runConformance({ pgMajor, fullPageWrites, seed: 7, scale: 0.2, brief: true });
    const unseen = /^Gin (DELETE_PAGE|VACUUM_DATA_LEAF_PAGE) never occurred$/;
    const problems = findProblems(pgMajor, [run], { deltas: false });
    assert.deepEqual(
      problems.filter((problem) => !unseen.test(problem)),
      [],
    );
    const pages = run.reports.reduce((sum, { against }) => sum + (against?.pages ?? 0), 0);
    assert.ok(pages > 5000, `${pages} pages`);
  });
}
