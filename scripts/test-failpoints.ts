// `npm run test:failpoints`: a pageserver's process is killed, and finds its disk full, at each of its steps on real files; and at each
// request to a store on S3 that changes something it is killed before and after, and refused.
//
// `npm run test:failpoints -- [WORD...] [--store directory|s3] [--failure kill|full|before|after|refused] [--first N] [--stride N] [--of STEPS]`.
// Words pick operations by a part of their name, STEPS steps: `rename disk/`, `PUT .*index_part`. Absent: kill and full in a directory, the other failures
// on S3. Then a whole Strata under TPC-B, whose pageserver is killed at any step.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { monotonicMs } from "../src/base/clock.ts";
import type { Failure } from "../testing/failpoints/hooked-process.ts";
import { OPERATIONS } from "../testing/failpoints/operations.ts";
import { PageHome } from "../testing/failpoints/page-home.ts";
import { StoreRequests } from "../testing/failpoints/store-requests.ts";
import { sweep } from "../testing/failpoints/sweep.ts";
import { WalSource } from "../testing/failpoints/wal-source.ts";
import { runSteps, testStep } from "./checks.ts";

const TPCB_TIMEOUT_MS = 30 * 60_000;
const FILE_FAILURES: readonly Failure[] = ["kill", "full"];
const REQUEST_FAILURES: readonly Failure[] = ["before", "after", "refused"];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    stride: { type: "string", default: "1" },
    first: { type: "string", default: "1" },
    failure: { type: "string" },
    of: { type: "string" },
    store: { type: "string" },
  },
});
const [stride, first] = [values.stride, values.first].map(Number) as [number, number];
const isPicked = (failure: Failure) => (values.failure ?? failure) === failure;
/** What is tried with each kind of store. */
const plan = [
  { store: "directory", failures: FILE_FAILURES.filter(isPicked) },
  {
    store: "s3",
    failures: [...(values.store === "s3" ? FILE_FAILURES : []), ...REQUEST_FAILURES].filter(
      isPicked,
    ),
  },
].filter(({ store, failures }) => (values.store ?? store) === store && failures.length > 0);
const picked = OPERATIONS.filter(
  ({ name }) => positionals.length === 0 || positionals.some((word) => name.includes(word)),
);
if (
  ![stride, first].every((n) => Number.isSafeInteger(n) && n > 0) ||
  plan.length * picked.length === 0
) {
  console.error(
    "usage: npm run test:failpoints -- [WORD...] [--store directory|s3] [--failure kill|full|before|after|refused] [--first N] [--stride N] [--of STEPS]",
  );
  process.exit(1);
}

const directory = mkdtempSync(join(tmpdir(), "strata-failpoints-"));
const source = await WalSource.start();
const totals = new Map<Failure, number>();
let failed = 0;

async function sweepOperation(
  base: PageHome,
  store: string,
  operation: (typeof OPERATIONS)[number],
  failure: Failure,
): Promise<void> {
  const start = monotonicMs();
  const what = `${store} ${failure}`;
  try {
    const { steps, tries } = await sweep(base, operation, failure, {
      first,
      stride,
      ...(values.of === undefined ? {} : { of: values.of }),
    });
    totals.set(failure, (totals.get(failure) ?? 0) + tries);
    const seconds = Math.round((monotonicMs() - start) / 1000);
    console.log(`ok      ${what} ${operation.name}: ${steps} steps, ${tries} tries, ${seconds} s`);
  } catch (error) {
    failed++;
    console.log(`FAILED  ${what} ${error instanceof Error ? error.message : error}`);
  }
}

try {
  for (const { store, failures } of plan) {
    const requests = store === "s3" ? await StoreRequests.start() : undefined;
    try {
      const base = await PageHome.build(join(directory, store, "base"), source, requests);
      for (const operation of picked) {
        for (const failure of failures) {
          await sweepOperation(base, store, operation, failure);
        }
      }
    } finally {
      await requests?.close();
    }
  }
} finally {
  await source.close();
  await PageHome.destroyStockCluster();
  rmSync(directory, { recursive: true, force: true });
}
const counts = [...totals].map(([failure, tries]) => `${failure} ${tries}`).join(", ");
console.log(`tries: ${counts}; ${failed} operations FAILED`);
process.exitCode = failed > 0 ? 1 : 0;
if (positionals.length === 0) {
  const files = ["test/failpoints/tpcb.test.ts"];
  const step = testStep("TPC-B", files, { timeoutMs: TPCB_TIMEOUT_MS });
  runSteps([{ ...step, env: { STRATA_FAILPOINT_ROUNDS: "10", ...step.env } }]);
}
