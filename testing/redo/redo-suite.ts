// The tests that each family of resource managers must pass: equal to stock recovery at the end and in
// the middle, expected records seen, damage survived, every single fault caught.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { formatLsn, type Lsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { PageRedo } from "../../src/redo/page-redo.ts";
import { AfterImageChecker } from "../../src/wal-verify/after-images.ts";
import { fuzzCase } from "../fuzz/page-redo.fuzz.ts";
import { deltaName, deltaParts } from "./expected-deltas.ts";
import { RecordedHistory, type RecordOptions, type ReplayOptions } from "./recorded-history.ts";
import { assertSameAsRecovered, replayWithFault } from "./recovered-comparison.ts";
import type { Fault } from "./redo-faults.ts";
import { readWal } from "./replay-wal.ts";

export interface RedoSuite {
  readonly name: string;
  readonly record: RecordOptions;
  /** Names that must occur (expected-deltas.ts). */
  readonly expected: readonly string[];
  readonly minPages: number;
  /** LSNs in the middle, each a record's start, at which pages are compared too. */
  readonly middle: (history: RecordedHistory) => readonly Lsn[];
  /** Resource managers whose deltas are damaged; absent: all. */
  readonly rmids?: readonly number[];
  readonly faults: readonly Fault[];
}

/** Damaged copies that are tried of each delta, of the first ones of each page. */
const DAMAGES = 3;
const DAMAGED_DELTAS_PER_PAGE = 40;
/** How many damaged deltas redo must take, and refuse, of each resource manager named. */
const MIN_DAMAGED = 500;

/** Each takes a whole replay; `npm test` tries one of five, `npm run test:redo -- --faults` all. */
const ALL_FAULTS = process.env["STRATA_TEST_ALL_FAULTS"] === "1";

export function describeRedoSuite(suite: RedoSuite): void {
  describe(suite.name, () => {
    let history: RecordedHistory;
    let recovered: string;

    before(async () => {
      history = await RecordedHistory.record(suite.record);
      recovered = await history.recover("recovered");
    });

    after(() => history?.destroy());

    test("every page equals what Postgres recovers, and every record kind occurred", async () => {
      const seen = new Set<string>();
      const cluster = history.replay({
        prepare: (cluster) => {
          cluster.onDelta = ({ delta }) => {
            seen.add(deltaName(delta));
            for (const part of deltaParts(delta)) {
              seen.add(part);
            }
            return delta;
          };
        },
        afterRecord: ({ rmid, info }) => seen.add(`${rmid} ${(info & 0xf0).toString(16)}`),
      });
      try {
        const pages = await assertSameAsRecovered(cluster, recovered);
        assert.ok(pages > suite.minPages, `${pages} pages`);
        assert.deepEqual(
          suite.expected.filter((name) => !seen.has(name)),
          [],
        );
      } finally {
        cluster.close();
      }
    });

    test("so does every page at LSNs in the middle", async () => {
      for (const lsn of suite.middle(history)) {
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
      damageDeltas(history, suite.rmids);
    });

    for (const fault of suite.faults.filter((_, index) => ALL_FAULTS || index % 5 === 0)) {
      test(`the oracle catches: ${fault.name}`, async () => {
        const { injected, caught } = await replayWithFault(history, recovered, fault);
        assert.ok(injected > 0, "the workload gave no chance to inject it");
        assert.ok(caught, `${injected} injections changed no compared byte`);
      });
    }
  });
}

/** The starts of the records that are `fractions` of the way through a history. */
export function startsAt(history: RecordedHistory, fractions: readonly number[]): Lsn[] {
  const starts: Lsn[] = [];
  readWal(history, (record) => {
    starts.push(record.startLsn);
  });
  return fractions.map((fraction) => starts[Math.floor(starts.length * fraction)]!);
}

function damageDeltas(history: RecordedHistory, rmids: readonly number[] | undefined): void {
  const random = new SeededRandom(11);
  const redo = new PageRedo();
  const perPage = new Map<string, number>();
  const counts = new Map<number, { applied: number; refused: number }>();
  const damage = (rmid: number, given: Parameters<typeof fuzzCase>[2]) => {
    const count = counts.get(rmid) ?? { applied: 0, refused: 0 };
    counts.set(rmid, count);
    for (let n = 0; n < DAMAGES; n++) {
      if (fuzzCase(random, redo, given)) {
        count.applied++;
      } else {
        count.refused++;
      }
    }
  };
  const cluster = history.replay({
    prepare: (cluster) => {
      cluster.onDelta = ({ delta, rel, blkno, lsn, page }) => {
        const rmid = delta[0] === 1 ? delta[1]! : 0;
        if (rel !== undefined && (rmids === undefined || rmids.includes(rmid))) {
          const key = `${rel.dbOid}/${rel.relNumber}/${rel.fork}/${blkno}`;
          const done = perPage.get(key) ?? 0;
          perPage.set(key, done + 1);
          if (done < DAMAGED_DELTAS_PER_PAGE) {
            damage(rmid, { page, delta, lsn, blkno, fork: rel.fork });
          }
        }
        return delta;
      };
    },
  });
  cluster.close();
  for (const rmid of rmids ?? [9, 10, 11]) {
    const { applied, refused } = counts.get(rmid) ?? { applied: 0, refused: 0 };
    const enough = applied > MIN_DAMAGED && refused > MIN_DAMAGED;
    assert.ok(enough, `rmgr ${rmid}: ${applied} applied, ${refused} refused`);
  }
}

/** Replays and compares after-images as it goes; more than `minImages` of them, all equal. */
export function replayChecked(
  history: RecordedHistory,
  minImages: number,
  options: ReplayOptions = {},
): ReturnType<RecordedHistory["replay"]> {
  const mismatches: unknown[] = [];
  const checker = new AfterImageChecker((mismatch) => mismatches.push(mismatch));
  const cluster = history.replay({
    ...options,
    afterRecord: (record, cluster) => checker.check(record, cluster),
  });
  checker.finish();
  assert.deepEqual(mismatches.slice(0, 5), []);
  assert.ok(checker.compared > minImages, `${checker.compared} images`);
  return cluster;
}
