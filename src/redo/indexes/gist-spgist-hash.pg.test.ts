// Gist, SP-GiST and hash redo against Postgres's own recovery: every page equal, nothing masked.

import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { GIST_SPGIST_HASH_DELTAS } from "../../../testing/redo/expected-deltas.ts";
import { GIST_SPGIST_HASH_FAULTS } from "../../../testing/redo/gist-spgist-hash-faults.ts";
import {
  type GistSpgistHashOptions,
  prepareGistSpgistHashWorkload,
  runGistSpgistHashWorkload,
} from "../../../testing/redo/gist-spgist-hash-workload.ts";
import { RecordedHistory, type RecordOptions } from "../../../testing/redo/recorded-history.ts";
import { assertSameAsRecovered } from "../../../testing/redo/recovered-comparison.ts";
import { describeRedoSuite, replayChecked } from "../../../testing/redo/redo-suite.ts";
import { readWal } from "../../../testing/redo/replay-wal.ts";
import type { Lsn } from "../../base/lsn.ts";

const HASH = 12;
const GIST = 14;
const SPGIST = 16;

function workload(options: GistSpgistHashOptions): Pick<RecordOptions, "prepare" | "run"> {
  return {
    prepare: prepareGistSpgistHashWorkload,
    run: (cluster) => runGistSpgistHashWorkload(cluster, options),
  };
}

/**
 * In the middle of splits and of squeezing. Between a split and the record that ends it, pages have
 * flags that are gone in the end; a page before a freed overflow page is mostly freed next.
 */
function unfinished(history: RecordedHistory): Lsn[] {
  const after: Record<string, Lsn[]> = { gistSplit: [], hashSplit: [], squeeze: [] };
  let wanted: string | undefined;
  readWal(history, (record) => {
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
  return Object.values(after).map((lsns) => lsns[lsns.length >> 1]!);
}

describeRedoSuite({
  name: "gist, SP-GiST and hash redo against stock recovery, full_page_writes off",
  record: {
    ...workload({ seed: 1, scale: 0.3 }),
    settings: { full_page_writes: "off", autovacuum: "off" },
  },
  expected: GIST_SPGIST_HASH_DELTAS,
  minPages: 3500,
  middle: unfinished,
  rmids: [HASH, GIST, SPGIST],
  faults: GIST_SPGIST_HASH_FAULTS,
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
      assert.ok(cluster.imageCount > 500, `${cluster.imageCount} images`);
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
      // No recovery: Postgres's own check refuses what replay of gist DELETE makes (page-masks.ts).
      replayChecked(history, 10_000).close();
    } finally {
      await history.destroy();
    }
  });
});
