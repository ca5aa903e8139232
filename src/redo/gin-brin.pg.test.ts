// GIN, BRIN and generic redo against Postgres's own recovery: every page equal, nothing masked.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { formatLsn, type Lsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { GIN_BRIN_FAULTS } from "../testing/gin-brin-faults.ts";
import { prepareGinBrinWorkload, runGinBrinWorkload } from "../testing/gin-brin-workload.ts";
import { RecordedHistory } from "../testing/recorded-history.ts";
import {
  assertSameAsRecovered,
  deltaName,
  replayWithFault,
} from "../testing/recovered-comparison.ts";
import { dataAt, mainAt } from "../testing/redo-faults.ts";
import { readWal } from "../testing/replay-wal.ts";
import { WalConsistencyChecker } from "../testing/wal-consistency.ts";
import { fuzzCase } from "./page-redo.fuzz.ts";
import { PageRedo } from "./page-redo.ts";

const GIN = 13;
const BRIN = 17;
const GENERIC = 20;
const DATA_LEAF = 3;

/** What the workload must have made: opcodes, then deltas by opcode and reference, then their parts. */
const EXPECTED = [
  ...["10", "20", "30", "40", "50", "60", "70", "80", "90"].map((op) => `${GIN} ${op}`),
  ...["0", "10", "20", "30", "40", "50", "90", "a0"].map((op) => `${BRIN} ${op}`),
  `${GENERIC} 0`,
  ...["10 0", "20 0", "20 1", "30 3", "50 0", "50 1", "50 2", "60 0", "60 1", "70 0"].map(
    (name) => `${GIN} ${name}`,
  ),
  ...["80 0", "80 1", "80 16", "90 0"].map((name) => `${GIN} ${name}`),
  ...["0 0", "10 0", "10 1", "20 0", "20 1", "20 2", "30 0", "40 0", "40 1"].map(
    (name) => `${BRIN} ${name}`,
  ),
  ...["50 0", "50 1", "90 0", "90 1", "a0 0", "a0 1", "a0 2"].map((name) => `${BRIN} ${name}`),
  ...["0 0", "0 1"].map((name) => `${GENERIC} ${name}`),
  "insert into tree 0",
  "insert into tree 1",
  "insert into tree 2, delete 0",
  "insert into tree 2, delete 1",
  ...["20 1", "20 2", "20 3", "20 4", "90 1", "90 3"].map((name) => `leaf ${name}`),
  "tail gets tuples",
  "tail gets a link",
];

/** What a GIN delta does beyond its opcode: kind of tree, action on posting lists. */
function ginParts(delta: Uint8Array): string[] {
  const opcode = delta[2]! & 0xf0;
  const view = new DataView(delta.buffer, delta.byteOffset, delta.length);
  const main = mainAt(delta);
  const data = dataAt(delta);
  if (opcode === 0x60 && delta[3] === 1) {
    return [view.getInt32(main + 80, true) > 0 ? "tail gets tuples" : "tail gets a link"];
  }
  if ((opcode !== 0x20 && opcode !== 0x90) || delta[3] !== 0) {
    return [];
  }
  const flags = opcode === 0x90 ? DATA_LEAF : view.getUint16(main, true);
  if (flags !== DATA_LEAF) {
    const isDelete = flags === 2 ? `, delete ${delta[data + 2]}` : "";
    return [`insert into tree ${flags}${isDelete}`];
  }
  const parts: string[] = [];
  let at = data + 2;
  for (let actions = view.getUint16(data, true); actions > 0; actions--) {
    const action = delta[at + 1]!;
    parts.push(`leaf ${opcode.toString(16)} ${action}`);
    at += 2;
    if (action === 2 || action === 3) {
      at += 8 + ((view.getUint16(at + 6, true) + 1) & ~1);
    } else if (action === 4) {
      at += 2 + view.getUint16(at, true) * 6;
    }
  }
  return parts;
}

describe("GIN and BRIN redo against stock recovery, full_page_writes off", () => {
  let history: RecordedHistory;
  let recovered: string;

  before(async () => {
    history = await RecordedHistory.record({
      prepare: prepareGinBrinWorkload,
      run: runGinBrinWorkload,
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
          if (delta[0] === 1 && delta[1] === GIN) {
            for (const part of ginParts(delta)) {
              seen.add(part);
            }
          }
          return delta;
        };
      },
      afterRecord: (record) => seen.add(`${record.rmid} ${(record.info & 0xf0).toString(16)}`),
    });
    try {
      const pages = await assertSameAsRecovered(cluster, recovered);
      assert.ok(pages > 4000, `${pages} pages`);
      assert.deepEqual(
        EXPECTED.filter((name) => !seen.has(name)),
        [],
      );
    } finally {
      cluster.close();
    }
  });

  test("so does every page at LSNs in the middle", async () => {
    const starts: Lsn[] = [];
    readWal({ ...history, endLsn: history.endLsn }, (record) => {
      starts.push(record.startLsn);
    });
    for (const fraction of [0.35, 0.86]) {
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
    const random = new SeededRandom(12);
    const redo = new PageRedo();
    const fuzzed = new PageRedo();
    let applied = 0;
    let refused = 0;
    try {
      for (const { rel, blkno, base, deltas, lsns } of cluster.chains()) {
        let page: Uint8Array = base ?? new Uint8Array(8192);
        for (let i = 0; i < Math.min(deltas.length, 40); i++) {
          const given = { page, delta: deltas[i]!, lsn: lsns[i]!, blkno, fork: rel.fork };
          for (let n = 0; n < 3 && [GIN, BRIN, GENERIC].includes(given.delta[1]!); n++) {
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
    assert.ok(applied > 5000 && refused > 5000, `${applied} applied, ${refused} refused`);
  });

  for (const fault of GIN_BRIN_FAULTS) {
    test(`the oracle catches: ${fault.name}`, async () => {
      const { injected, caught } = await replayWithFault(history, recovered, fault);
      assert.ok(injected > 0, "the workload gave no chance to inject it");
      assert.ok(caught, `${injected} injections changed no compared byte`);
    });
  }
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
      const checker = new WalConsistencyChecker();
      const cluster = history.replay({
        afterRecord: (record, cluster) => checker.check(record, cluster),
      });
      try {
        assert.deepEqual(checker.mismatches, []);
        assert.ok(checker.compared > 15_000, `${checker.compared} images`);
        await assertSameAsRecovered(cluster, recovered);
      } finally {
        cluster.close();
      }
    } finally {
      await history.destroy();
    }
  });
});
