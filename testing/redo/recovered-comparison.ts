// Replay of a recorded history held against what stock Postgres recovers from it, whole or with a fault.

import assert from "node:assert/strict";
import { StorageError } from "../../src/base/errors.ts";
import { openDataDirectory } from "../../src/data-directory/base-backup.ts";
import { INIT_FORK, MAIN_FORK, VM_FORK } from "../../src/postgres/relation-path.ts";
import {
  compareOtherFiles,
  compareRelationFiles,
  compareSlruPages,
} from "../../src/wal-verify/directory-comparison.ts";
import type { ReplayedCluster } from "../../src/wal-verify/replayed-cluster.ts";
import type { RecordedHistory } from "./recorded-history.ts";
import type { Fault } from "./redo-faults.ts";

/**
 * Every page but for its checksum, SLRU page, relation map and prepared transaction; the number of
 * relation pages.
 */
export async function assertSameAsRecovered(
  cluster: ReplayedCluster,
  directory: string,
): Promise<number> {
  const result = await compareRelationFiles({
    directory,
    source: cluster,
    forks: [MAIN_FORK, VM_FORK, INIT_FORK],
    ignoreChecksum: openDataDirectory(directory).control.dataChecksums,
  });
  assert.deepEqual(result.mismatches.slice(0, 5), []);
  const slru = compareSlruPages(
    directory,
    (kind, pageno) => cluster.readSlruPage(kind, pageno),
    (kind) => cluster.slruPageNumbers(kind),
  );
  assert.deepEqual(slru.mismatches, []);
  assert.ok(slru.pages >= 3);
  assert.deepEqual(compareOtherFiles(directory, cluster).mismatches, []);
  return result.pages;
}

/** How often the fault could be made, and whether it showed: in a page, or as an error of redo. */
export async function replayWithFault(
  history: RecordedHistory,
  recovered: string,
  fault: Fault,
): Promise<{ injected: number; caught: boolean }> {
  let injected = 0;
  let cluster: ReplayedCluster | undefined;
  try {
    cluster = history.replay({
      prepare: (cluster) => {
        cluster.onDelta = ({ delta, rel }) => {
          const changed = fault.inject(delta, rel);
          if (changed === "untouched") {
            return delta;
          }
          injected++;
          return changed;
        };
      },
    });
    const source = cluster;
    const result = await compareRelationFiles({ directory: recovered, source, maxMismatches: 1 });
    const slru = compareSlruPages(recovered, (kind, pageno) => source.readSlruPage(kind, pageno));
    return { injected, caught: result.mismatches.length + slru.mismatches.length > 0 };
  } catch (error) {
    // A fault that redo itself refuses is caught too, if it says so as it should.
    assert.ok(error instanceof StorageError && error.kind === "corrupt", String(error));
    return { injected, caught: true };
  } finally {
    cluster?.close();
  }
}
