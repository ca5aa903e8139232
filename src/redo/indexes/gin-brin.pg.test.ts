// GIN, BRIN and generic redo against Postgres's own recovery: every page equal, nothing masked.

import { describe, test } from "node:test";
import { GIN_BRIN_DELTAS } from "../../../testing/redo/expected-deltas.ts";
import { GIN_BRIN_FAULTS } from "../../../testing/redo/gin-brin-faults.ts";
import {
  prepareGinBrinWorkload,
  runGinBrinWorkload,
} from "../../../testing/redo/gin-brin-workload.ts";
import { RecordedHistory } from "../../../testing/redo/recorded-history.ts";
import { assertSameAsRecovered } from "../../../testing/redo/recovered-comparison.ts";
import { describeRedoSuite, replayChecked, startsAt } from "../../../testing/redo/redo-suite.ts";

describeRedoSuite({
  name: "GIN and BRIN redo against stock recovery, full_page_writes off",
  record: {
    prepare: prepareGinBrinWorkload,
    run: runGinBrinWorkload,
    settings: { full_page_writes: "off", autovacuum: "off" },
  },
  expected: GIN_BRIN_DELTAS,
  minPages: 4000,
  middle: (history) => startsAt(history, [0.35, 0.86]),
  rmids: [13, 17, 20],
  faults: GIN_BRIN_FAULTS,
});

describe("GIN and BRIN redo against stock recovery, other settings", () => {
  test("full_page_writes, and wal_consistency_checking's after-images", async () => {
    const history = await RecordedHistory.record({
      prepare: prepareGinBrinWorkload,
      run: (cluster) => runGinBrinWorkload(cluster, true),
      settings: {
        full_page_writes: "on",
        autovacuum: "off",
        wal_compression: "pglz",
        wal_consistency_checking: "'gin, brin, generic'",
      },
    });
    try {
      const recovered = await history.recover("recovered");
      const cluster = replayChecked(history, 15_000);
      await assertSameAsRecovered(cluster, recovered);
      cluster.close();
    } finally {
      await history.destroy();
    }
  });
});
