// After the suites: every page of storage beside stock Postgres's recovery of the same WAL.

import { parseTenantId, parseTimelineId } from "../../src/base/ids.ts";
import { formatLsn, type Lsn, parseLsn } from "../../src/base/lsn.ts";
import { SafekeeperHttpClient } from "../../src/safekeeper/client.ts";
import type { TestCluster } from "../cluster.ts";
import type { BranchRecovery } from "../redo/branch-recovery.ts";
import { compareWithStorage } from "../redo/storage-comparison.ts";

/** Fewer than initdb makes: nothing was compared. */
const LEAST_PAGES = 1000;
/** Of those that differ, so many are told. */
const TOLD = 20;

/** Stops endpoint `main`. Prints what it looked at; what is wrong, a line each. */
export async function checkRecoveredPages(
  cluster: TestCluster,
  recovery: BranchRecovery,
): Promise<string[]> {
  await cluster.ok("endpoint", "stop", "main");
  const spec = cluster.endpointSpec("main");
  const began = performance.now();
  const endLsn = await committedLsn(cluster);
  const directory = await recovery.recover(spec, endLsn, "recovered");
  const seconds = ((performance.now() - began) / 1000).toFixed(0);
  console.log(`stock recovered all WAL, to ${formatLsn(endLsn)}, in ${seconds} s`);
  let quarters = 0;
  const compared = await compareWithStorage(
    directory,
    spec.pageserver.pgAddr,
    spec,
    endLsn,
    (done, total) => {
      if (done * 4 >= total * (quarters + 1)) {
        quarters = Math.floor((done * 4) / total);
        console.log(`compared ${done} of ${total} pages`);
      }
    },
  );
  const { forks, pages, slruPages, files, mismatches } = compared;
  console.log(
    `at ${formatLsn(endLsn)} beside stock recovery of the same WAL: ${pages} pages of ${forks} forks, ` +
      `${slruPages} SLRU pages, ${files} relation maps and prepared transactions: ${mismatches.length} differ`,
  );
  const few = pages < LEAST_PAGES ? [`only ${pages} pages were compared`] : [];
  return [...few, ...mismatches.slice(0, TOLD).map((line) => `beside stock recovery: ${line}`)];
}

async function committedLsn(cluster: TestCluster): Promise<Lsn> {
  const { tenantId, timelineId, safekeepers } = cluster.endpointSpec("main");
  const ends = await Promise.all(
    safekeepers.map(async ({ httpAddr }) => {
      const client = new SafekeeperHttpClient(httpAddr);
      const status = await client.timelineStatus(
        parseTenantId(tenantId),
        parseTimelineId(timelineId),
      );
      return parseLsn(status.commit_lsn)!;
    }),
  );
  return Math.max(...ends) as Lsn;
}
