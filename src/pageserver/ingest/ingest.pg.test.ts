// Stock Postgres's WAL through import, ingest and layers, compared byte for byte with stock recovery.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { openImportedTimeline, pageSource } from "../../../testing/imported-timeline.ts";
import { prepareMixedWorkload, runMixedWorkload } from "../../../testing/mixed-workload.ts";
import { recoverStock } from "../../../testing/redo/stock-recovery.ts";
import { StockCluster } from "../../../testing/stock-cluster.ts";
import { createLogger } from "../../base/log.ts";
import { formatLsn, type Lsn, parseWalFileName, WAL_SEGMENT_SIZE } from "../../base/lsn.ts";
import { SeededRandom } from "../../base/random.ts";
import { decodeControlFile } from "../../postgres/control-file.ts";
import { compareRelationFiles, compareSlruPages } from "../../wal-verify/directory-comparison.ts";
import { readComputeState } from "../compute-state.ts";
import { slruBlockPrefix } from "../layers/key.ts";
import { StorageResources } from "../storage/storage-resources.ts";
import type { Timeline } from "../storage/timeline.ts";
import { WalFeeder } from "../wal-receiver.ts";

const logger = createLogger("test");
logger.level = "warn";

let scratch: string;
let cluster: StockCluster;
let baseDir: string;

before(async () => {
  scratch = await mkdtemp(join(tmpdir(), "strata-ingest-"));
  cluster = await StockCluster.create({ settings: { full_page_writes: "off" } });
  await cluster.start();
  const client = await cluster.connect();
  await prepareMixedWorkload(client);
  await cluster.stop();
  baseDir = cluster.copyData("base");
  await cluster.start();
  await runMixedWorkload(cluster, { scale: 0.5, seed: 7 });
  await cluster.stop();
});

after(async () => {
  await cluster.destroy();
  await rm(scratch, { recursive: true, force: true });
});

function openTimeline(name: string, checkpointDistanceBytes: number): Promise<Timeline> {
  const resources = new StorageResources(logger, { checkpointDistanceBytes });
  return openImportedTimeline(resources, baseDir, join(scratch, name));
}

/** All WAL of the cluster from `start` on; the last segment ends in zeros. */
function* readWal(start: Lsn): Generator<Uint8Array> {
  const directory = join(cluster.dataDir, "pg_wal");
  for (const name of readdirSync(directory).sort()) {
    const segno = parseWalFileName(name);
    if (segno !== undefined && (segno + 1) * WAL_SEGMENT_SIZE > start) {
      const bytes = readFileSync(join(directory, name));
      yield bytes.subarray(Math.max(0, start - segno * WAL_SEGMENT_SIZE));
    }
  }
}

function endOfWal(): Lsn {
  const control = decodeControlFile(readFileSync(join(cluster.dataDir, "global/pg_control")), 17);
  return control.checkPointLsn;
}

/** Feeds everything; returns some LSNs at which records ended, ascending. */
async function ingestAll(timeline: Timeline, seed: number): Promise<Lsn[]> {
  const random = new SeededRandom(seed);
  const feeder = new WalFeeder(timeline, logger);
  const ends: Lsn[] = [];
  const last = endOfWal();
  for (const segment of readWal(timeline.startLsn)) {
    for (let at = 0; at < segment.length; ) {
      const size = Math.min(
        random.bool(0.2) ? 1 + random.int(200) : 1 + random.int(128 << 10),
        segment.length - at,
      );
      try {
        await feeder.feed(segment.subarray(at, at + size));
      } catch (error) {
        feeder.publish();
        assert.ok(
          timeline.lastRecordLsn > last,
          `stopped at ${formatLsn(timeline.lastRecordLsn)} before ${formatLsn(last)}: ${error}`,
        );
        return ends;
      }
      at += size;
      if (random.bool(0.3)) {
        feeder.publish();
        ends.push(timeline.lastRecordLsn);
        await timeline.ingestReady();
      }
    }
  }
  feeder.publish();
  return ends;
}

async function compareWithRecovery(timeline: Timeline, lsn: Lsn, name: string): Promise<void> {
  const outDir = join(cluster.workdir, name);
  await recoverStock({
    baseDir,
    walDir: join(cluster.dataDir, "pg_wal"),
    targetLsn: lsn,
    outDir,
  });
  const result = await compareRelationFiles({
    directory: outDir,
    source: pageSource(timeline, lsn),
  });
  assert.deepEqual(result.mismatches, []);
  assert.ok(result.pages > 1000, `${result.pages} pages compared`);
  const slru = compareSlruPages(outDir, (kind, pageno) =>
    timeline.readPage(slruBlockPrefix(kind, Math.floor(pageno / 32)), pageno % 32, lsn),
  );
  assert.deepEqual(slru.mismatches, []);
  await rm(outDir, { recursive: true, force: true });
}

test("ingest of a mixed workload equals stock recovery, at the end and in between", async () => {
  const timeline = await openTimeline("mixed", 8 << 20);
  const ends = await ingestAll(timeline, 1);
  await compareWithRecovery(timeline, timeline.lastRecordLsn, "out-end");
  const middle = ends[Math.floor(ends.length / 2)]!;
  assert.ok(middle < timeline.lastRecordLsn);
  await compareWithRecovery(timeline, middle, "out-middle");
  await timeline.close();
});

test("the checkpoint that ingest tracks covers everything the cluster used", async () => {
  const timeline = await openTimeline("counters", 256 << 20);
  await ingestAll(timeline, 2);
  const state = readComputeState(timeline, timeline.lastRecordLsn);
  const control = decodeControlFile(readFileSync(join(cluster.dataDir, "global/pg_control")), 17);
  for (const [name, value] of Object.entries(control.checkPoint)) {
    const expected =
      typeof value === "bigint" ? `${value}` : name === "redo" ? formatLsn(value as Lsn) : value;
    assert.equal(state.checkPoint[name], expected, name);
  }
  const map = state.relationMaps.find((entry) => entry.spcOid === 1664);
  assert.deepEqual(
    Buffer.from(map!.base64, "base64"),
    readFileSync(join(cluster.dataDir, "global/pg_filenode.map")),
  );
  const onDisk = readdirSync(join(cluster.dataDir, "base")).filter((name) => /^\d+$/.test(name));
  assert.deepEqual(state.databases.map((database) => `${database.dbOid}`).sort(), onDisk.sort());
  for (const { spcOid, dbOid, base64 } of state.relationMaps) {
    if (spcOid === 1663) {
      assert.deepEqual(
        Buffer.from(base64, "base64"),
        readFileSync(join(cluster.dataDir, "base", `${dbOid}`, "pg_filenode.map")),
      );
    }
  }
  const prepared = readdirSync(join(cluster.dataDir, "pg_twophase")).sort();
  assert.deepEqual(
    state.twoPhase.map(({ fullXid }) =>
      BigInt(fullXid).toString(16).toUpperCase().padStart(16, "0"),
    ),
    prepared,
  );
  for (const { fullXid, base64 } of state.twoPhase) {
    const name = BigInt(fullXid).toString(16).toUpperCase().padStart(16, "0");
    const file = readFileSync(join(cluster.dataDir, "pg_twophase", name));
    assert.deepEqual(Buffer.from(base64, "base64"), file.subarray(0, file.length - 4));
  }
  await timeline.close();
});
