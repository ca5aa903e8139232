// Reads of the page store alone, warm: how they go with branch depth, layers, hot keys and keys that are not there.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { monotonicMs } from "../src/base/clock.ts";
import { generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { type Lsn, toLsn } from "../src/base/lsn.ts";
import { SeededRandom } from "../src/base/random.ts";
import { relBlockPrefix, relSizePrefix, slruBlockPrefix } from "../src/pageserver/layers/key.ts";
import { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { progress, type Row, ratio } from "./report.ts";
import { clogDelta, makeRoot, UNSYNCED_DISK } from "./store-root.ts";

const REL = relBlockPrefix(1663, 5, 16384, 0);
const BLOCKS = 2000;
/** What each layer of a branch has besides one changed block of the relation. */
const SMALL_KEYS = 20;
const HOT = slruBlockPrefix(0, 1);

interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

interface Shape {
  /** Branches of each other. */
  readonly depth: number;
  /** Flushes of each. */
  readonly layers: number;
  /** As a pageserver that runs does it meanwhile; else all layers lie on each other. */
  readonly compacted?: boolean;
}

type Cell = Shape & Quantiles;

/** One root with an image layer, in a directory that goes at the end. */
async function withRoot<R>(body: (manager: TenantManager, root: Timeline) => Promise<R>) {
  const directory = await mkdtemp(join(tmpdir(), "strata-store-reads-"));
  try {
    const manager = await TenantManager.open({
      workdir: directory,
      logger: createLogger("test", "silent"),
      config: { inlineFlushBytes: 1 << 30, blockCacheBytes: 1 << 30 },
      disk: UNSYNCED_DISK,
    });
    const values = Array.from({ length: BLOCKS }, (_, index) => ({
      prefix: REL,
      index,
      value: new Uint8Array(8192).fill(index & 0xff),
    }));
    const root = await makeRoot(manager, directory, values);
    const result = await body(manager, root);
    await manager.close({ flush: false });
    return result;
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}

function nextLsn(timeline: Timeline): Lsn {
  return toLsn(timeline.lastRecordLsn + 64);
}

async function writeLayer(timeline: Timeline, random: SeededRandom): Promise<void> {
  const lsn = nextLsn(timeline);
  timeline.putImage(REL, random.int(BLOCKS), lsn, new Uint8Array(8192).fill(random.int(256)));
  for (let i = 0; i < SMALL_KEYS; i++) {
    const size = relSizePrefix(1663, 5, 20_000 + random.int(5000), 0);
    timeline.putImage(size, 0, lsn, new Uint8Array(4));
  }
  timeline.advance(lsn, toLsn(0));
  await timeline.checkpoint();
}

/** The newest of the branches of each other, on a fresh root. */
async function makeChain(
  manager: TenantManager,
  root: Timeline,
  { depth, layers, compacted }: Shape,
): Promise<Timeline> {
  const random = new SeededRandom(depth);
  const tenant = manager.tenant(root.tenantId);
  let tip = root;
  for (let at = 0; at < depth; at++) {
    tip = await tenant.createBranch({
      timelineId: generateTimelineId(),
      ancestorTimelineId: tip.timelineId,
    });
    for (let layer = 0; layer < layers; layer++) {
      await writeLayer(tip, random);
      while (compacted === true && (await tip.compact())) {
        // Until nothing is to be done.
      }
    }
  }
  return tip;
}

/** Microseconds a read, of `count` reads of random blocks. */
function timeReads(timeline: Timeline, count: number, seed: number): Float64Array {
  const random = new SeededRandom(seed);
  const lsn = timeline.lastRecordLsn;
  const times = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const block = random.int(BLOCKS);
    const began = process.hrtime.bigint();
    timeline.readPage(REL, block, lsn);
    times[i] = Number(process.hrtime.bigint() - began) / 1000;
  }
  return times;
}

function quantiles(times: Float64Array): Quantiles {
  const sorted = times.toSorted();
  const at = (q: number) => sorted[Math.floor((sorted.length - 1) * q)]!;
  return { p50: at(0.5), p99: at(0.99) };
}

/** Reads of all chains in turns, so that what else the machine does hits all of them. */
async function measure(
  chains: readonly Timeline[],
  rounds: number,
  settled: () => Promise<void>,
): Promise<Quantiles[]> {
  for (const chain of chains) {
    for (let round = 0; round < 3; round++) {
      timeReads(chain, 2 * BLOCKS, round);
      await settled();
    }
  }
  const found = chains.map(() => [] as Quantiles[]);
  for (let round = 0; round < rounds; round++) {
    for (const [at, chain] of chains.entries()) {
      found[at]!.push(quantiles(timeReads(chain, 5000, 10 + round)));
    }
  }
  const middle = (values: number[]) => values.sort((a, b) => a - b)[values.length >> 1]!;
  return found.map((cells) => ({
    p50: middle(cells.map(({ p50 }) => p50)),
    p99: middle(cells.map(({ p99 }) => p99)),
  }));
}

async function depthRows(quick: boolean): Promise<Row[]> {
  const shapes: Shape[] = [
    { depth: 1, layers: 1 },
    { depth: 8, layers: 1 },
    { depth: 64, layers: 1 },
    { depth: 512, layers: 1 },
    { depth: 1, layers: 10 },
    { depth: 8, layers: 10 },
    { depth: 64, layers: 10 },
    ...(quick ? [] : [{ depth: 512, layers: 10 }]),
    { depth: 1, layers: 1000, compacted: true },
    { depth: 1, layers: 1000 },
  ];
  return withRoot(async (manager, root) => {
    const chains: Timeline[] = [];
    for (const shape of shapes) {
      chains.push(await makeChain(manager, root, shape));
      progress(`chain of depth ${shape.depth}, ${describeLayers(shape)}`);
    }
    const firstMs = chains.map((chain) => {
      const began = monotonicMs();
      chain.readPage(REL, 0, chain.lastRecordLsn);
      return monotonicMs() - began;
    });
    progress(`first reads: ${firstMs.map((ms) => ms.toFixed(1)).join(", ")} ms`);
    const settled = () => manager.resources.spanBuilder.settled();
    const found = await measure(chains, quick ? 5 : 21, settled);
    const cells = shapes.map((shape, at): Cell => ({ ...shape, ...found[at]! }));
    return cells.map((cell) => cellRow(cell, cells[0]!));
  });
}

function describeLayers({ layers, compacted }: Shape): string {
  return compacted === true
    ? `${layers} layers, compacted as they come`
    : `${layers} layers each, on each other`;
}

function cellRow(cell: Cell, base: Cell): Row {
  const { p50, p99 } = cell;
  return {
    what: `warm read at depth ${cell.depth}, ${describeLayers(cell)}, µs: p50, p99`,
    ours: `${p50.toFixed(2)}, ${p99.toFixed(2)}`,
    theirs: "-",
    ratio: `${ratio(p50, base.p50)}, ${ratio(p99, base.p99)}`,
    aim: "1.10 x depth 1",
  };
}

async function hotRows(deltas: number): Promise<Row[]> {
  return withRoot(async (_manager, root) => {
    const first = nextLsn(root);
    for (let i = 0; i < deltas; i++) {
      const lsn = nextLsn(root);
      root.putDelta(HOT, 0, lsn, clogDelta(32 * 32_768 + (i & 32_767)), i === 0);
      root.advance(lsn, toLsn(0));
    }
    const read = (lsn: Lsn) => {
      const began = monotonicMs();
      root.readPage(HOT, 0, lsn);
      return monotonicMs() - began;
    };
    const { lastRecordLsn } = root;
    const random = new SeededRandom(3);
    const span = lastRecordLsn - first;
    const times = Array.from({ length: 21 }, () =>
      read(toLsn(first + Math.floor((random.next() * span) / 64) * 64)),
    );
    const firstRead = times[0]!;
    const anywhere = times.slice(1).sort((a, b) => a - b)[10]!;
    const early = read(toLsn(first + 64 * 300));
    const what = `hot page, ${deltas} deltas in memory: `;
    const row = (name: string, ms: number): Row => ({
      what: what + name,
      ours: `${ms.toFixed(3)} ms`,
      theirs: "-",
      ratio: "-",
      aim: "-",
    });
    return [
      row("first read", firstRead),
      row("read at any LSN", anywhere),
      row("read at an early LSN", early),
      row("read at the newest LSN", read(lastRecordLsn)),
    ];
  });
}

function heldBytes(): number {
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void;
  // What the first one frees is counted off in the background; the second one waits for that.
  collectGarbage();
  collectGarbage();
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return heapUsed + external + arrayBuffers;
}

/** Asks for relations that are not there: what stays in memory of them. */
async function absentRows(asks: number): Promise<Row[]> {
  return withRoot(async (_manager, root) => {
    const ask = (from: number, count: number) => {
      for (let rel = from; rel < from + count; rel++) {
        root.readValue(relSizePrefix(1663, 5, rel, 0), 0, root.lastRecordLsn);
      }
    };
    ask(1_000_000, 20_000);
    const before = heldBytes();
    ask(2_000_000, asks);
    const held = Math.max(0, heldBytes() - before);
    return [
      {
        what: `memory after ${asks} asks for relations that are not there`,
        ours: `${(held / 1e6).toFixed(1)} MB`,
        theirs: "-",
        ratio: "-",
        aim: "0",
      },
    ];
  });
}

export async function benchStoreReads(quick: boolean): Promise<Row[]> {
  return [
    ...(await absentRows(500_000)),
    ...(await hotRows(quick ? 100_000 : 1_000_000)),
    ...(await depthRows(quick)),
  ];
}
