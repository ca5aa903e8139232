// Gist, SP-GiST and hash redo against Postgres's own recovery: every page equal, nothing masked.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import type { Lsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { GIST_SPGIST_HASH_FAULTS } from "../testing/gist-spgist-hash-faults.ts";
import {
  type GistSpgistHashOptions,
  prepareGistSpgistHashWorkload,
  runGistSpgistHashWorkload,
} from "../testing/gist-spgist-hash-workload.ts";
import { RecordedHistory, type RecordOptions } from "../testing/recorded-history.ts";
import {
  assertSameAsRecovered,
  deltaName,
  replayWithFault,
} from "../testing/recovered-comparison.ts";
import { readWal } from "../testing/replay-wal.ts";
import { WalConsistencyChecker } from "../testing/wal-consistency.ts";
import { fuzzCase } from "./page-redo.fuzz.ts";
import { PageRedo } from "./page-redo.ts";

const HASH = 12;
const GIST = 14;
const SPGIST = 16;
const OURS = [HASH, GIST, SPGIST];

/**
 * Opcodes, then deltas by opcode and reference, that the workload must have made. Not there:
 * - gist 70 (ASSIGN_LSN): written with wal_level minimal only, which no standby and no pageserver reads;
 * - hash 50 0 (SPLIT_PAGE) as a delta: it always has an image;
 * - hash 30 3 (ADD_OVFL_PAGE, new bitmap page): the index must have 32,768 overflow pages before, 256 MB;
 * - hash 80 4 (SQUEEZE_PAGE, page after the freed one): the page freed is always the last of its chain.
 * The last two are in gist-spgist-hash.test.ts.
 */
const EXPECTED: Readonly<Record<number, readonly string[]>> = {
  [GIST]: [
    ...["0", "10", "20", "30", "60", "0 0", "0 1", "10 0"],
    ...["30 0", "30 1", "30 2", "30 3", "60 0", "60 1"],
  ],
  [SPGIST]: [
    ...["10", "20", "30", "40", "50", "60", "70", "80"],
    ...["10 0", "10 1", "20 0", "20 1", "20 2", "30 0", "30 1", "30 2", "40 0", "40 1"],
    ...["50 0", "50 1", "50 2", "50 3", "60 0", "70 0", "80 0"],
  ],
  [HASH]: [
    ...["0", "10", "20", "30", "40", "50", "60", "70", "80", "90", "a0", "b0", "c0"],
    ...["0 0", "10 0", "10 1", "20 0", "20 1", "30 0", "30 1", "30 2", "30 4"],
    ...["40 0", "40 1", "40 2", "60 0", "60 1", "70 0", "70 1", "70 2"],
    ...["80 0", "80 1", "80 2", "80 3", "80 5", "80 6", "90 0", "90 1", "a0 0", "b0 0"],
    ...["c0 0", "c0 1"],
  ],
};

function workload(options: GistSpgistHashOptions): Pick<RecordOptions, "prepare" | "run"> {
  return {
    prepare: prepareGistSpgistHashWorkload,
    run: (cluster) => runGistSpgistHashWorkload(cluster, options),
  };
}

describe("gist, SP-GiST and hash redo against stock recovery, full_page_writes off", () => {
  let history: RecordedHistory;
  let recovered: string;

  before(async () => {
    history = await RecordedHistory.record({
      ...workload({ seed: 1, scale: 0.3 }),
      settings: { full_page_writes: "off", autovacuum: "off" },
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
      afterRecord: (record) => seen.add(`${record.rmid} ${(record.info & 0xf0).toString(16)}`),
    });
    try {
      const pages = await assertSameAsRecovered(cluster, recovered);
      assert.ok(pages > 3500, `${pages} pages`);
      const expected = OURS.flatMap((rmid) => EXPECTED[rmid]!.map((name) => `${rmid} ${name}`));
      assert.deepEqual(
        expected.filter((name) => !seen.has(name)),
        [],
      );
    } finally {
      cluster.close();
    }
  });

  test("so does every page in the middle of splits and of squeezing", async () => {
    // Between a split and the record that ends it, pages have flags that are gone in the end; a page
    // before a freed overflow page is mostly freed next.
    const after: Record<string, Lsn[]> = { gistSplit: [], hashSplit: [], squeeze: [] };
    let wanted: string | undefined;
    readWal({ ...history, endLsn: history.endLsn }, (record) => {
      if (wanted !== undefined) {
        after[wanted]!.push(record.startLsn);
      }
      const opcode = record.info & 0xf0;
      wanted = undefined;
      if (record.rmid === GIST && opcode === 0x30) {
        wanted = "gistSplit";
      } else if (record.rmid === HASH && opcode === 0x40) {
        wanted = "hashSplit";
      } else if (record.rmid === HASH && opcode === 0x80) {
        record.decode();
        wanted = record.blockId.subarray(0, record.blockCount).includes(3) ? "squeeze" : undefined;
      }
    });
    for (const lsns of Object.values(after)) {
      const lsn = lsns[lsns.length >> 1]!;
      const directory = await history.recover(`at-${lsn}`, lsn);
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
    const random = new SeededRandom(14);
    const redo = new PageRedo();
    const fuzzed = new PageRedo();
    const applied = new Map<number, number>();
    const refused = new Map<number, number>();
    try {
      for (const { rel, blkno, base, deltas, lsns } of cluster.chains()) {
        let page: Uint8Array = base ?? new Uint8Array(8192);
        for (let i = 0; i < Math.min(deltas.length, 40); i++) {
          const given = { page, delta: deltas[i]!, lsn: lsns[i]!, blkno, fork: rel.fork };
          const rmid = given.delta[1]!;
          for (let n = 0; n < 3 && OURS.includes(rmid); n++) {
            const counts = fuzzCase(random, fuzzed, given) ? applied : refused;
            counts.set(rmid, (counts.get(rmid) ?? 0) + 1);
          }
          redo.load(page);
          redo.apply(given.delta, given.lsn, blkno, rel.fork);
          page = redo.copyOut();
        }
      }
    } finally {
      cluster.close();
    }
    for (const rmid of OURS) {
      assert.ok((applied.get(rmid) ?? 0) > 1000, `rmgr ${rmid}: ${applied.get(rmid)} applied`);
      assert.ok((refused.get(rmid) ?? 0) > 1000, `rmgr ${rmid}: ${refused.get(rmid)} refused`);
    }
  });

  for (const fault of GIST_SPGIST_HASH_FAULTS) {
    test(`the oracle catches: ${fault.name}`, async () => {
      const { injected, caught } = await replayWithFault(history, recovered, fault);
      assert.ok(injected > 0, "the workload gave no chance to inject it");
      assert.ok(caught, `${injected} injections changed no compared byte`);
    });
  }
});

describe("gist, SP-GiST and hash redo against stock recovery, other settings", () => {
  test("images at every checkpoint, also of pages that redo changes after it restored them", async () => {
    const history = await RecordedHistory.record({
      ...workload({ seed: 2, scale: 0.1, checkpoints: true }),
      settings: { full_page_writes: "on", autovacuum: "off", wal_compression: "pglz" },
    });
    try {
      const recovered = await history.recover("recovered");
      let oldBucketImages = 0;
      const cluster = history.replay({
        afterRecord: (record) => {
          const isSplit = record.rmid === HASH && (record.info & 0xf0) === 0x40;
          oldBucketImages += isSplit && record.imageApply[0] === 1 ? 1 : 0;
        },
      });
      await assertSameAsRecovered(cluster, recovered);
      assert.ok(cluster.imageCount > 2000, `${cluster.imageCount} images`);
      assert.ok(oldBucketImages > 0, "no split began with an image");
      cluster.close();
    } finally {
      await history.destroy();
    }
  });

  test("wal_consistency_checking's after-images", async () => {
    const history = await RecordedHistory.record({
      ...workload({ seed: 3, scale: 0.02 }),
      settings: {
        full_page_writes: "off",
        autovacuum: "off",
        wal_consistency_checking: "'gist, spgist, hash'",
      },
    });
    try {
      // No recovery: Postgres's own check refuses what replay of gist DELETE makes (wal-consistency.ts).
      const checker = new WalConsistencyChecker();
      const cluster = history.replay({
        afterRecord: (record, cluster) => checker.check(record, cluster),
      });
      assert.deepEqual(checker.mismatches, []);
      assert.ok(checker.compared > 10_000, `${checker.compared} images`);
      cluster.close();
    } finally {
      await history.destroy();
    }
  });
});
