// `npm run test:failpoints`: a pageserver's process is killed, and finds its disk full, at each of its steps on real files.
//
// `npm run test:failpoints -- [WORD...] [--first N] [--stride N] [--failure kill|full] [--of STEPS]`. Words pick operations by a part
// of their name, STEPS steps: `rename disk/`. Then a whole Strata under TPC-B, whose pageserver is killed at any step.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { monotonicMs } from "../src/base/clock.ts";
import { OPERATIONS } from "../testing/failpoints/operations.ts";
import { PageHome } from "../testing/failpoints/page-home.ts";
import { type Failure, sweep } from "../testing/failpoints/sweep.ts";
import { WalSource } from "../testing/failpoints/wal-source.ts";
import { runSteps, testStep } from "./checks.ts";

const TPCB_TIMEOUT_MS = 30 * 60_000;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    stride: { type: "string", default: "1" },
    first: { type: "string", default: "1" },
    failure: { type: "string" },
    of: { type: "string" },
  },
});
const [stride, first] = [values.stride, values.first].map(Number) as [number, number];
const failures = (["kill", "full"] as const).filter((one) => (values.failure ?? one) === one);
const picked = OPERATIONS.filter(
  ({ name }) => positionals.length === 0 || positionals.some((word) => name.includes(word)),
);
if (
  ![stride, first].every((n) => Number.isSafeInteger(n) && n > 0) ||
  failures.length * picked.length === 0
) {
  console.error(
    "usage: npm run test:failpoints -- [WORD...] [--first N] [--stride N] [--failure kill|full] [--of STEPS]",
  );
  process.exit(1);
}

const directory = mkdtempSync(join(tmpdir(), "strata-failpoints-"));
const source = await WalSource.start();
const totals: Record<Failure, number> = { kill: 0, full: 0 };
let failed = 0;
try {
  const base = await PageHome.build(join(directory, "base"), source);
  for (const operation of picked) {
    for (const failure of failures) {
      const start = monotonicMs();
      try {
        const { steps, tries } = await sweep(base, operation, failure, {
          first,
          stride,
          ...(values.of === undefined ? {} : { of: values.of }),
        });
        totals[failure] += tries;
        const seconds = Math.round((monotonicMs() - start) / 1000);
        console.log(
          `ok      ${failure} ${operation.name}: ${steps} steps, ${tries} tries, ${seconds} s`,
        );
      } catch (error) {
        failed++;
        console.log(`FAILED  ${failure} ${error instanceof Error ? error.message : error}`);
      }
    }
  }
} finally {
  await source.close();
  await PageHome.destroyStockCluster();
  rmSync(directory, { recursive: true, force: true });
}
console.log(`${totals.kill} kills, ${totals.full} full disks, ${failed} operations FAILED`);
process.exitCode = failed > 0 ? 1 : 0;
if (positionals.length === 0) {
  const files = ["test/failpoints/tpcb.test.ts"];
  const step = testStep("TPC-B", files, { timeoutMs: TPCB_TIMEOUT_MS });
  runSteps([{ ...step, env: { STRATA_FAILPOINT_ROUNDS: "10", ...step.env } }]);
}
