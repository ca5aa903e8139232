// Timeline storage: rate of small puts, image reads, reads of 10 deltas, branch creation, deep branches.

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMs } from "../../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { toLsn } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import {
  type KeyPrefix,
  relBlockPrefix,
  relSizePrefix,
  slruBlockPrefix,
} from "../../src/pageserver/layers/key.ts";
import { FIRST_KEY, LAST_KEY, LAYER_KIND_IMAGE } from "../../src/pageserver/layers/layer-format.ts";
import { LayerWriter } from "../../src/pageserver/layers/layer-writer.ts";
import { VALUE_IMAGE } from "../../src/pageserver/layers/version-chain.ts";
import { TenantManager } from "../../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../../src/pageserver/storage/timeline.ts";
import { clogDelta, START_LSN } from "../store-root.ts";

const IMAGE_BLOCKS = 16_384;

/** Processor time too, which says more than the clock does on a busy machine. */
interface Start {
  readonly ms: number;
  readonly cpu: NodeJS.CpuUsage;
}

function begin(): Start {
  return { ms: monotonicMs(), cpu: process.cpuUsage() };
}

function report(name: string, count: number, start: Start): void {
  const ns = ((monotonicMs() - start.ms) * 1e6) / count;
  const cpu = process.cpuUsage(start.cpu);
  const cpuNs = ((cpu.user + cpu.system) * 1000) / count;
  const columns = [ns, cpuNs].map((value) => value.toFixed(0).padStart(10));
  console.log(`${name.padEnd(58)} ${columns[0]} ns, processor ${columns[1]} ns`);
}

async function makeRoot(directory: string, manager: TenantManager): Promise<Timeline> {
  const writer = await LayerWriter.create(directory, LAYER_KIND_IMAGE);
  const rel = relBlockPrefix(1663, 5, 16384, 0);
  const page = new Uint8Array(8192).fill(7);
  const started = begin();
  for (let block = 0; block < IMAGE_BLOCKS; block++) {
    writer.add(rel, block, START_LSN, VALUE_IMAGE, page);
    if (writer.pendingBytes > 1 << 20) {
      await writer.drain();
    }
  }
  const layer = await writer.finish({
    kind: LAYER_KIND_IMAGE,
    keyStart: FIRST_KEY,
    keyEnd: LAST_KEY,
    lsnStart: START_LSN,
    lsnEnd: toLsn(START_LSN + 1),
  });
  report("write an image layer, a page", IMAGE_BLOCKS, started);
  const tenant = await manager.createTenant(generateTenantId());
  const linkStarted = begin();
  const timeline = await tenant.createRoot({
    timelineId: generateTimelineId(),
    pgVersion: 17,
    dataChecksums: false,
    systemId: 1n,
    walSegmentSize: 1 << 24,
    startLsn: START_LSN,
    prevRecordLsn: toLsn(0),
    layerPaths: [{ path: join(directory, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
  report("create a root timeline from an imported layer", 1, linkStarted);
  return timeline;
}

/** pgbench-like: random block of a table, then the same few hot ones. */
async function benchPuts(timeline: Timeline, count: number): Promise<void> {
  const random = new SeededRandom(1);
  const accounts = relBlockPrefix(1663, 5, 20000, 0);
  const hot = [20001, 20002, 20003].map((rel) => relBlockPrefix(1663, 5, rel, 0));
  const delta = new Uint8Array(70);
  delta[0] = 99;
  let lsn = timeline.lastRecordLsn;
  let putMs = 0;
  const total = begin();
  for (let done = 0; done < count; ) {
    const started = monotonicMs();
    for (let i = 0; i < 1000; i++, done++) {
      lsn = toLsn(lsn + 80);
      const cold = (done & 3) === 0;
      const prefix = cold ? accounts : hot[done & 1]!;
      timeline.putImage(prefix, cold ? random.int(100_000) : random.int(50), lsn, delta);
      timeline.advance(lsn, toLsn(lsn - 80));
    }
    putMs += monotonicMs() - started;
    await timeline.ingestReady();
  }
  const perPut = ((putMs * 1e6) / count).toFixed(0);
  console.log(`${"put, 70 bytes (in put and advance)".padEnd(58)} ${perPut.padStart(10)} ns`);
  report("put, 70 bytes (with flushing to disk)", count, total);
  await timeline.checkpoint();
  report("... until all of it is on disk", count, total);
}

function benchReads(
  name: string,
  timeline: Timeline,
  prefix: KeyPrefix,
  blocks: number,
  count: number,
): void {
  const random = new SeededRandom(2);
  const lsn = timeline.lastRecordLsn;
  const started = begin();
  for (let i = 0; i < count; i++) {
    timeline.readPage(prefix, random.int(blocks), lsn);
  }
  report(name, count, started);
}

function putDeltas(timeline: Timeline, prefix: KeyPrefix, blocks: number, deltas: number): void {
  let lsn = timeline.lastRecordLsn;
  for (let round = 0; round < deltas; round++) {
    for (let block = 0; block < blocks; block++) {
      lsn = toLsn(lsn + 64);
      timeline.putDelta(prefix, block, lsn, clogDelta(block * 32768 + round), round === 0);
      timeline.advance(lsn, toLsn(lsn - 64));
    }
  }
}

async function benchBranches(manager: TenantManager, root: Timeline): Promise<void> {
  const tenant = manager.tenant(root.tenantId);
  let tip = root;
  const started = begin();
  for (let depth = 0; depth < 500; depth++) {
    tip = await tenant.createBranch({
      timelineId: generateTimelineId(),
      ancestorTimelineId: tip.timelineId,
    });
  }
  report("create a branch (each of the one before)", 500, started);
  const rel = relBlockPrefix(1663, 5, 16384, 0);
  benchReads("read an image, depth 0", root, rel, 2000, 100_000);
  benchReads("read an image, depth 500", tip, rel, 2000, 100_000);
  const size = relSizePrefix(1663, 5, 16384, 0);
  for (let at: Timeline | undefined = tip; at !== undefined && at !== root; at = at.ancestor) {
    const lsn = toLsn(at.lastRecordLsn + 8);
    at.putImage(size, 0, lsn, new Uint8Array(4));
    at.advance(lsn, toLsn(0));
  }
  benchReads("read an image, depth 500, each with an open layer", tip, rel, 2000, 20_000);
}

const directory = await mkdtemp(join(tmpdir(), "strata-timeline-bench-"));
try {
  const manager = await TenantManager.open({
    workdir: directory,
    logger: createLogger("test", "silent"),
    config: { cacheAfterDeltas: 11 },
  });
  const root = await makeRoot(directory, manager);
  const image = relBlockPrefix(1663, 5, 16384, 0);
  benchReads("read an image, 16 MiB, first time (verified)", root, image, 2000, 2000);
  benchReads("read an image, 16 MiB, in the block cache", root, image, 2000, 100_000);
  benchReads("read an image, 128 MiB, in the page cache of the system", root, image, 16384, 30_000);
  const clog = slruBlockPrefix(0, 0);
  putDeltas(root, clog, 32, 10);
  benchReads("read 10 deltas, open layer", root, clog, 32, 100_000);
  await root.checkpoint();
  benchReads("read 10 deltas, delta layer", root, clog, 32, 100_000);
  const hot = slruBlockPrefix(0, 1);
  putDeltas(root, hot, 32, 10_000);
  benchReads("read 10000 deltas, open layer, first time", root, hot, 1, 1);
  benchReads("read 10000 deltas, open layer, again", root, hot, 1, 1000);
  await root.checkpoint();
  benchReads("read 10000 deltas, delta layer", root, hot, 32, 1000);
  await benchBranches(manager, root);
  await benchPuts(root, 3_000_000);
  console.log(`delta layers: ${root.layers.length - 1}, bytes ${root.physicalSizeBytes}`);
  benchReads("read an image below those layers", root, image, 2000, 50_000);
  await manager.close({ flush: false });
} finally {
  await rm(directory, { recursive: true, force: true });
}
