// Page redo against Postgres's own recovery of the same base and WAL: every page equal, nothing masked.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { RecordedHistory } from "../testing/recorded-history.ts";
import {
  assertSameAsRecovered,
  deltaName,
  replayWithFault,
} from "../testing/recovered-comparison.ts";
import { FAULTS } from "../testing/redo-faults.ts";
import { readWal } from "../testing/replay-wal.ts";
import { compareRelationFiles } from "../testing/stock-recovery.ts";
import { WalConsistencyChecker } from "../testing/wal-consistency.ts";
import { fuzzCase } from "./page-redo.fuzz.ts";
import { PageRedo } from "./page-redo.ts";

/** Every page kind of record that the workload must have made: rmid, opcode, reference. */
const EXPECTED_DELTAS = [
  ...["0", "10", "20", "40", "50", "60", "70", "80", "a0"].map((op) => `10 ${op} 0`),
  "10 20 1",
  "10 a0 1",
  ...["10", "20", "30", "40", "50", "60", "d0"].map((op) => `9 ${op} 0`),
  "9 40 1",
  ...["0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "a0", "b0", "c0", "e0"].map(
    (op) => `11 ${op} 0`,
  ),
  ...["10 1", "20 1", "20 2", "30 1", "30 2", "40 1", "40 2", "40 3", "80 1", "80 2", "80 3"].map(
    (op) => `11 ${op}`,
  ),
  ...["90 2", "90 4", "a0 1", "a0 2", "b0 1"].map((op) => `11 ${op}`),
  "15 0 0",
  "kind 2",
  "kind 3",
  "kind 4",
  "kind 5",
  "kind 6",
];

describe("PageRedo against stock recovery, full_page_writes off", () => {
  let history: RecordedHistory;
  let recovered: string;

  before(async () => {
    history = await RecordedHistory.record({
      settings: { full_page_writes: "off" },
      workload: { seed: 1, scale: 0.4 },
    });
    recovered = await history.recover("recovered");
  });

  after(() => history?.destroy());

  test("every page equals what Postgres recovers, and every record kind occurred", async () => {
    const seen = new Set<string>();
    const cluster = history.replay({
      prepare: (cluster) => {
        cluster.onDelta = (delta) => {
          seen.add(deltaName(delta));
          return delta;
        };
      },
    });
    try {
      const pages = await assertSameAsRecovered(cluster, recovered);
      assert.ok(pages > 4000, `${pages} pages`);
      assert.ok(cluster.deltaCount > 50_000, `${cluster.deltaCount} deltas`);
      const missing = EXPECTED_DELTAS.filter((name) => !seen.has(name));
      assert.deepEqual(missing, []);
    } finally {
      cluster.close();
    }
  });

  test("so does every page at LSNs in the middle, with transactions open", async () => {
    const starts: Lsn[] = [];
    readWal({ ...history, endLsn: history.endLsn }, (record) => {
      starts.push(record.startLsn);
    });
    for (const fraction of [0.13, 0.57, 0.91]) {
      const lsn = starts[Math.floor(starts.length * fraction)]!;
      const directory = await history.recover(`at-${formatLsn(lsn).replace("/", "-")}`, lsn);
      const cluster = history.replay({ endLsn: lsn });
      try {
        await assertSameAsRecovered(cluster, directory);
      } finally {
        cluster.close();
      }
    }
  });

  test("survives damage to real pages and deltas", () => {
    const cluster = history.replay();
    const random = new SeededRandom(11);
    const redo = new PageRedo();
    const fuzzed = new PageRedo();
    let applied = 0;
    let refused = 0;
    try {
      for (const { rel, blkno, base, deltas, lsns } of cluster.chains()) {
        let page: Uint8Array = base ?? new Uint8Array(8192);
        for (let i = 0; i < Math.min(deltas.length, 40); i++) {
          const given = { page, delta: deltas[i]!, lsn: lsns[i]!, blkno, fork: rel.fork };
          for (let n = 0; n < 3; n++) {
            if (fuzzCase(random, fuzzed, given)) {
              applied++;
            } else {
              refused++;
            }
          }
          redo.load(page);
          redo.apply(given.delta, given.lsn, blkno, rel.fork);
          page = redo.copyOut();
        }
      }
    } finally {
      cluster.close();
    }
    assert.ok(applied > 10_000 && refused > 5000, `${applied} applied, ${refused} refused`);
  });

  for (const fault of FAULTS) {
    test(`the oracle catches: ${fault.name}`, async () => {
      const { injected, caught } = await replayWithFault(history, recovered, fault);
      assert.ok(injected > 0, "the workload gave no chance to inject it");
      assert.ok(caught, `${injected} injections changed no compared byte`);
    });
  }
});

describe("PageRedo against stock recovery, other settings", () => {
  test("full_page_writes, wal_log_hints and compressed images", async () => {
    const history = await RecordedHistory.record({
      settings: { full_page_writes: "on", wal_log_hints: "on", wal_compression: "pglz" },
      workload: { seed: 2, scale: 0.2 },
    });
    try {
      const recovered = await history.recover("recovered");
      const cluster = history.replay({ walLogHints: true });
      await assertSameAsRecovered(cluster, recovered);
      assert.ok(cluster.imageCount > 1000);
      cluster.close();
      const withoutOption = history.replay();
      const { mismatches } = await compareRelationFiles({
        directory: recovered,
        source: withoutOption,
        maxMismatches: 1,
      });
      withoutOption.close();
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
      const checker = new WalConsistencyChecker();
      const cluster = history.replay({
        walLogHints: true,
        afterRecord: (record, cluster) => checker.check(record, cluster),
      });
      assert.deepEqual(checker.mismatches, []);
      assert.ok(checker.compared > 10_000, `${checker.compared} images`);
      await assertSameAsRecovered(cluster, recovered, true);
      cluster.close();
    } finally {
      await history.destroy();
    }
  });
});
