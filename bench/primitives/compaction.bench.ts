// Compaction: merge and rewrite rate of ten layers of 64 MB with what a pgbench load leaves in them.
//
// Pages of an SLRU stand in for a table's, as their redo costs next to nothing: compaction itself is
// measured. Values have the lengths of TPC-B's records: about 150 bytes, on 100,000 pages evenly and on a
// few hot ones.

import { readdirSync, rmSync, statSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMs } from "../../src/base/clock.ts";
import { REAL_DISK } from "../../src/base/disk.ts";
import { type Lsn, MAX_LSN, toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import {
  type CompactionOptions,
  compactLayers,
} from "../../src/pageserver/compaction/compact-layers.ts";
import type { CompactionInput } from "../../src/pageserver/compaction/layer-cursor.ts";
import { MergeCursor } from "../../src/pageserver/compaction/merge-cursor.ts";
import { VersionBatch } from "../../src/pageserver/compaction/version-batch.ts";
import { slruBlockPrefix } from "../../src/pageserver/layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_DELTA } from "../../src/pageserver/layers/layer-format.ts";
import { LayerWriter } from "../../src/pageserver/layers/layer-writer.ts";
import { VALUE_DELTA } from "../../src/pageserver/layers/version-chain.ts";
import { encodeClogStatus } from "../../src/wal-decoder/implied-deltas.ts";

const LAYERS = 10;
const LAYER_BYTES = 64 << 20;
const PAGES = 100_000;
const PAGES_A_SEGMENT = 32;
const HOT_PAGES = 200;
const FIRST_LSN = 0x1_0000_0000;
const LSN_STEP = 160;
const directory = await mkdtemp(join(tmpdir(), "strata-bench-"));
const outputs = join(directory, "out");
REAL_DISK.makeDirectory(outputs);

/** A layer as a flush leaves it: sorted by page, then LSN. */
async function writeLayer(random: SeededRandom, number: number): Promise<CompactionInput> {
  const versions = Math.floor(LAYER_BYTES / 164);
  const lsnStart = FIRST_LSN + number * versions * LSN_STEP;
  const byPage = new Map<number, number[]>();
  for (let i = 0; i < versions; i++) {
    const page = random.int(5) === 0 ? random.int(HOT_PAGES) * 500 : random.int(PAGES);
    const lsns = byPage.get(page) ?? [];
    lsns.push(lsnStart + i * LSN_STEP);
    byPage.set(page, lsns);
  }
  const writer = await LayerWriter.create(directory, LAYER_KIND_DELTA);
  for (const page of [...byPage.keys()].sort((a, b) => a - b)) {
    const segment = Math.floor(page / PAGES_A_SEGMENT);
    const index = page % PAGES_A_SEGMENT;
    const first = (page * 32768) % 2 ** 32;
    for (const lsn of byPage.get(page)!) {
      const xids = Array.from({ length: 20 + random.int(30) }, () => first + random.int(32768));
      writer.add(
        slruBlockPrefix(0, segment),
        index,
        lsn as Lsn,
        VALUE_DELTA,
        encodeClogStatus(xids, 1),
      );
    }
    if (writer.pendingBytes > 1 << 20) {
      await writer.drain();
    }
  }
  const name = {
    kind: LAYER_KIND_DELTA,
    keyStart: FIRST_KEY,
    keyEnd: LAST_KEY,
    lsnStart: toLsn(lsnStart),
    lsnEnd: toLsn(lsnStart + versions * LSN_STEP),
  } as const;
  const { fileName, sizeBytes } = await writer.finish(name);
  return { path: join(directory, fileName), name, sizeBytes, maxLsn: MAX_LSN };
}

/** Wall clock and processor time, since this machine may be busy; peak memory so far. */
async function measure(what: string, bytes: number, run: () => Promise<string>): Promise<void> {
  const start = monotonicMs();
  const cpuStart = process.cpuUsage();
  const detail = await run();
  const { user, system } = process.cpuUsage(cpuStart);
  const rate = (ms: number) => (bytes / 1e3 / ms).toFixed(0).padStart(5);
  const peak = (process.resourceUsage().maxRSS / 1024).toFixed(0);
  const columns = `${rate(monotonicMs() - start)} MB/s, processor ${rate((user + system) / 1e3)} MB/s`;
  console.log(`${what.padEnd(44)} ${columns}, peak ${peak} MB  ${detail}`);
}

async function compact(
  inputs: readonly CompactionInput[],
  what: Partial<CompactionOptions>,
): Promise<string> {
  const { layers } = await compactLayers(inputs, {
    directory: outputs,
    disk: REAL_DISK,
    number: { generation: 2, sequence: 1 },
    range: { start: FIRST_KEY, end: LAST_KEY },
    retained: [],
    cutoff: 0 as Lsn,
    cutPoints: [],
    keyCuts: [],
    targetBytes: 128 << 20,
    imageLayerLsn: undefined,
    moreBelow: false,
    walLogHints: false,
    pages: async (requests) => requests.map(() => ({ state: "none" })),
    cancelled: () => false,
    sliceMs: Number.POSITIVE_INFINITY,
    ...what,
  });
  const size = layers.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  for (const name of readdirSync(outputs)) {
    rmSync(join(outputs, name));
  }
  return `${layers.length} files, ${(size / 1e6).toFixed(0)} MB`;
}

try {
  const random = new SeededRandom(1);
  const inputs: CompactionInput[] = [];
  for (let number = 0; number < LAYERS; number++) {
    inputs.push(await writeLayer(random, number));
  }
  const bytes = inputs.reduce((sum, { path }) => sum + statSync(path).size, 0);
  const end = inputs.at(-1)!.name.lsnEnd;
  const cutoff = toLsn(end - 1);
  console.log(
    `${LAYERS} layers, ${(bytes / 1e6).toFixed(0)} MB, ${PAGES} pages; baseline RSS ` +
      `${(process.memoryUsage.rss() / 2 ** 20).toFixed(0)} MB`,
  );
  for (let round = 0; round < 3; round++) {
    await measure("merge", bytes, async () => {
      const range = { start: FIRST_KEY, end: LAST_KEY };
      const merge = await MergeCursor.open(inputs, range, REAL_DISK, 8 << 20);
      const batch = new VersionBatch();
      let versions = 0;
      while (await merge.next(batch)) {
        versions += batch.count;
      }
      await merge.close();
      return `${versions} versions`;
    });
    await measure("L0 to L1, nothing dropped", bytes, () => compact(inputs, {}));
    await measure("one retained LSN at the end", bytes, () =>
      compact(inputs, { retained: [cutoff], cutoff }),
    );
    await measure("image layers at the end, nothing else", bytes, () =>
      compact(inputs, { cutoff, imageLayerLsn: cutoff }),
    );
    const points = Array.from({ length: 64 }, (_, i) =>
      toLsn(Math.floor(FIRST_LSN + ((end - FIRST_LSN) * (i + 1)) / 65)),
    );
    await measure("64 cut points, nothing dropped", bytes, () =>
      compact(inputs, { cutPoints: points }),
    );
  }
} finally {
  await rm(directory, { recursive: true, force: true });
}
