// Redo of heap, btree, sequences and SLRUs against Postgres's own recovery: every page equal, nothing masked.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { HEAP_DELTAS, IMPLIED_MAP_DELTAS } from "../../testing/redo/expected-deltas.ts";
import { RecordedHistory } from "../../testing/redo/recorded-history.ts";
import { assertSameAsRecovered } from "../../testing/redo/recovered-comparison.ts";
import { FAULTS } from "../../testing/redo/redo-faults.ts";
import { describeRedoSuite, replayChecked, startsAt } from "../../testing/redo/redo-suite.ts";
import { compareRelationFiles } from "../wal-verify/directory-comparison.ts";

describeRedoSuite({
  name: "PageRedo against stock recovery, full_page_writes off",
  record: {
    settings: { full_page_writes: "off", track_commit_timestamp: "on" },
    workload: { seed: 1, scale: 0.4 },
  },
  expected: [...HEAP_DELTAS, ...IMPLIED_MAP_DELTAS],
  minPages: 4000,
  // With transactions open.
  middle: (history) => startsAt(history, [0.13, 0.57, 0.91]),
  faults: FAULTS,
});

describe("PageRedo against stock recovery, other settings", () => {
  test("full_page_writes, wal_log_hints and compressed images", async () => {
    const history = await RecordedHistory.record({
      settings: { full_page_writes: "on", wal_log_hints: "on", wal_compression: "pglz" },
      workload: { seed: 2, scale: 0.2 },
    });
    try {
      const recovered = await history.recover("recovered");
      const cluster = history.replay();
      await assertSameAsRecovered(cluster, recovered);
      assert.ok(cluster.imageCount > 1000);
      cluster.close();
      const withoutHints = history.replay({ walLogHints: false });
      const { mismatches } = await compareRelationFiles({
        directory: recovered,
        source: withoutHints,
        maxMismatches: 1,
      });
      withoutHints.close();
      assert.equal(mismatches.length, 1, "without walLogHints heap pages lack VISIBLE's LSN");
    } finally {
      await history.destroy();
    }
  });

  test("data checksums, wal_level logical, and wal_consistency_checking's after-images", async () => {
    const history = await RecordedHistory.record({
      initdbArgs: ["--data-checksums"],
      settings: {
        full_page_writes: "off",
        wal_level: "logical",
        wal_consistency_checking: "'all'",
      },
      workload: { seed: 3, scale: 0.05 },
    });
    try {
      const recovered = await history.recover("recovered");
      const cluster = replayChecked(history, 10_000);
      await assertSameAsRecovered(cluster, recovered);
      cluster.close();
    } finally {
      await history.destroy();
    }
  });
});
