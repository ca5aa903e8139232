// Measures a pageserver on real WAL: ingest rate, and GetPage over the loopback at several depths.
//
// Beside it stands what the WAL alone costs: decoding it with a sink that does nothing.

import { mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monotonicMs } from "../../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../../src/base/ids.ts";
import { createLogger } from "../../src/base/log.ts";
import { type Lsn, parseWalFileName, WAL_SEGMENT_SIZE } from "../../src/base/lsn.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { PagestreamClient } from "../../src/pageserver/client.ts";
import { writeTemplate } from "../../src/pageserver/ingest/initdb-import.ts";
import { Pageserver } from "../../src/pageserver/pageserver.ts";
import { WalFeeder } from "../../src/pageserver/wal-receiver.ts";
import { decodeControlFile } from "../../src/postgres/control-file.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";
import { StockCluster } from "../../testing/stock-cluster.ts";

const logger = createLogger("bench");
logger.level = "warn";
const ROWS = 200_000;
const UPDATES = 400_000;

const scratch = await mkdtemp(join(tmpdir(), "strata-bench-"));
const cluster = await StockCluster.create({ settings: { full_page_writes: "off" } });
try {
  await cluster.start();
  const setup = await cluster.connect();
  await setup.query(
    "CREATE TABLE t (id int PRIMARY KEY, n int, filler text) WITH (fillfactor = 90)",
  );
  await setup.query(
    `INSERT INTO t SELECT g, 0, repeat('x', 80) FROM generate_series(1, ${ROWS}) g`,
  );
  await setup.query("VACUUM t");
  await cluster.stop();
  const baseDir = cluster.copyData("base");
  await cluster.start();
  const client = await cluster.connect();
  for (let done = 0; done < UPDATES; done += 2000) {
    await client.query(
      `UPDATE t SET n = n + 1 WHERE id IN (SELECT (random() * ${ROWS})::int FROM generate_series(1, 2000))`,
    );
  }
  const relNumber = Number((await client.query("SELECT pg_relation_filenode('t') AS f")).rows[0].f);
  await cluster.stop();
  await run(baseDir, { spcOid: 1663, dbOid: 5, relNumber, fork: 0 });
} finally {
  await cluster.destroy();
  rmSync(scratch, { recursive: true, force: true });
}

async function run(
  baseDir: string,
  rel: { spcOid: number; dbOid: number; relNumber: number; fork: number },
): Promise<void> {
  const control = decodeControlFile(readFileSync(join(baseDir, "global/pg_control")), 17);
  const ids = { tenantId: generateTenantId(), timelineId: generateTimelineId() };
  const template = join(scratch, "template");
  mkdirSync(template);
  const { layer, lsn: startLsn, prevRecordLsn } = await writeTemplate(baseDir, 17, template);
  mkdirSync(join(scratch, "ps"));
  const pageserver = await Pageserver.start({
    id: 1,
    workdir: join(scratch, "ps"),
    listenPg: "127.0.0.1:0",
    listenHttp: "127.0.0.1:0",
    logger,
  });
  const tenant = await pageserver.tenants.createTenant(ids.tenantId);
  const timeline = await tenant.createRoot({
    timelineId: ids.timelineId,
    pgVersion: 17,
    dataChecksums: false,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn,
    prevRecordLsn,
    layerPaths: [{ path: join(template, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
  const end = decodeControlFile(
    readFileSync(join(cluster.dataDir, "global/pg_control")),
    17,
  ).checkPointLsn;
  const wal = readWal(startLsn, end);
  const megabytes = wal.reduce((sum, chunk) => sum + chunk.length, 0) / 1e6;

  const stream = new WalStream({ startLsn, pageMagic: 0xd116 });
  let records = 0;
  const decodeStart = monotonicMs();
  for (const chunk of wal) {
    stream.feed(chunk);
    while (stream.next()) {
      stream.record.decode();
      records++;
    }
  }
  report("decode only", records, monotonicMs() - decodeStart, megabytes);

  const feeder = new WalFeeder(timeline, logger);
  let ingestMs = 0;
  for (const chunk of wal) {
    const start = monotonicMs();
    await feeder.feed(chunk);
    feeder.publish();
    ingestMs += monotonicMs() - start;
    await timeline.ingestReady();
  }
  report("ingest", feeder.recordCount, ingestMs, megabytes);

  const client = await PagestreamClient.connect(`127.0.0.1:${pageserver.pgPort}`, ids);
  for (const [what, lsn] of [
    ["images (at the start)", startLsn],
    ["with deltas (at the end)", timeline.lastRecordLsn],
  ] as const) {
    const blocks = await client.relSize(rel, lsn);
    for (const depth of [1, 8, 64]) {
      await measureGetPage(client, rel, blocks, lsn, depth, what);
    }
  }
  client.close();
  await pageserver.close({ flush: false });
}

function readWal(start: Lsn, end: Lsn): Uint8Array[] {
  const chunks: Uint8Array[] = [];
  const directory = join(cluster.dataDir, "pg_wal");
  for (const name of readdirSync(directory).sort()) {
    const segno = parseWalFileName(name);
    if (segno === undefined) {
      continue;
    }
    const first = segno * WAL_SEGMENT_SIZE;
    const bytes = readFileSync(join(directory, name));
    for (let at = Math.max(0, start - first); first + at < end && at < bytes.length; at += 65536) {
      chunks.push(bytes.subarray(at, Math.min(at + 65536, end - first)));
    }
  }
  return chunks;
}

async function measureGetPage(
  client: PagestreamClient,
  rel: { spcOid: number; dbOid: number; relNumber: number; fork: number },
  blocks: number,
  lsn: Lsn,
  depth: number,
  what: string,
): Promise<void> {
  const random = new SeededRandom(depth);
  const latencies: number[] = [];
  const start = monotonicMs();
  const worker = async () => {
    while (monotonicMs() - start < 2000) {
      const before = monotonicMs();
      await client.getPage(rel, random.int(blocks), lsn);
      latencies.push(monotonicMs() - before);
    }
  };
  await Promise.all(Array.from({ length: depth }, worker));
  const elapsedMs = monotonicMs() - start;
  latencies.sort((a, b) => a - b);
  const at = (share: number) => latencies[Math.floor(latencies.length * share)]!.toFixed(3);
  console.log(
    `GetPage ${what}, depth ${depth}: ${Math.round((latencies.length / elapsedMs) * 1000)}/s, ` +
      `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`,
  );
}

function report(what: string, records: number, elapsedMs: number, megabytes: number): void {
  console.log(
    `${what}: ${records} records, ${megabytes.toFixed(0)} MB in ${elapsedMs.toFixed(0)} ms: ` +
      `${(records / elapsedMs / 1000).toFixed(2)} M records/s, ` +
      `${((megabytes / elapsedMs) * 1000).toFixed(0)} MB/s`,
  );
}
