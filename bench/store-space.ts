// What storage costs under TPC-B that writes many times the database's size: bytes kept and bytes written.
//
// Real WAL of a stock server goes into a timeline as fast as it takes it in; layers are compacted and history below
// the horizon is collected meanwhile, as a pageserver does with a PITR interval of 0.

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { turn } from "../src/base/clock.ts";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { writeTemplate } from "../src/pageserver/ingest/initdb-import.ts";
import { KEYSPACE_RELATION_SIZE } from "../src/pageserver/layers/key.ts";
import { LayerUpkeep } from "../src/pageserver/retention/layer-upkeep.ts";
import { DEFAULT_UPKEEP } from "../src/pageserver/retention/tenant-config.ts";
import { TenantManager } from "../src/pageserver/storage/tenant-manager.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { decodeControlFile } from "../src/postgres/control-file.ts";
import { PAGE_SIZE } from "../src/postgres/page.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import { withClient } from "../testing/tpcb.ts";
import { feedAll } from "./ingest.ts";
import { type Recovery, recoverStock } from "./recovery.ts";
import { progress, type Row, ratio } from "./report.ts";
import type { StockCluster } from "./stock.ts";
import { prepareTpcb, type RecordedWal, recordWal, runTpcb, type WalKind } from "./wal-kinds.ts";

const logger = createLogger("bench", "warn");
const TRANSACTIONS_A_RUN = 50_000;
/** WAL between two looks at the cutoff, and between two samples. */
const COLLECT_EVERY = 32 << 20;
const SAMPLE_EVERY = 8 << 20;
const HORIZON_BYTES = DEFAULT_UPKEEP.gcHorizonBytes;

export interface StoreScale {
  readonly scale: number;
  /** WAL, in database sizes. */
  readonly times: number;
  readonly branches: number;
}

/** TPC-B until there is so much WAL; the history is emptied between runs, as pgbench does it, and vacuum runs. */
function longTpcb(times: number): WalKind {
  return {
    name: `TPC-B, ${times} times the database`,
    settings: { full_page_writes: "off", autovacuum: "on" },
    prepare: prepareTpcb,
    run: async (cluster: StockCluster, scale: number) => {
      const ask = (sql: string) =>
        withClient(cluster.url, async (client) => Number((await client.query(sql)).rows[0].n));
      const size = await ask("select sum(pg_database_size(oid)) as n from pg_database");
      const at = () => ask("select pg_current_wal_lsn() - '0/0'::pg_lsn as n");
      const end = (await at()) + size * times;
      while ((await at()) < end) {
        await withClient(cluster.url, (client) => client.query("truncate pgbench_history"));
        await runTpcb(cluster, scale, TRANSACTIONS_A_RUN);
      }
    },
  };
}

/** Bytes of all relations at the timeline's end, as Neon's logical size. */
function logicalSize(timeline: Timeline): number {
  let blocks = 0;
  for (const { value } of timeline.scan([KEYSPACE_RELATION_SIZE], timeline.lastRecordLsn)) {
    blocks += new DataView(value.buffer, value.byteOffset).getUint32(0, true);
  }
  return blocks * PAGE_SIZE;
}

/** Bytes of all files, unfinished ones too. */
function diskSize(directory: string): number {
  let bytes = 0;
  for (const name of readdirSync(directory, { recursive: true, encoding: "utf8" })) {
    bytes += statSync(join(directory, name), { throwIfNoEntry: false })?.size ?? 0;
  }
  return bytes;
}

/** Bytes that this process has handed to `write`, in all of its threads. */
function writtenBytes(): number {
  return Number(/^wchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))![1]);
}

/** A pageserver's storage in a directory of its own, and a root timeline at the WAL's start. */
export async function openStore(wal: RecordedWal, scratch: string) {
  const pgMajor = wal.cluster.pgMajor as PgMajor;
  const workdir = join(scratch, "pageserver");
  const template = join(scratch, "template");
  for (const directory of [workdir, template]) {
    rmSync(directory, { recursive: true, force: true });
    mkdirSync(directory, { recursive: true });
  }
  const { layer, lsn, prevRecordLsn } = await writeTemplate(wal.baseDir, pgMajor, template);
  const control = decodeControlFile(
    readFileSync(join(wal.baseDir, "global", "pg_control")),
    pgMajor,
  );
  const tenants = await TenantManager.open({ workdir, logger });
  const tenant = await tenants.createTenant(generateTenantId());
  const timeline = await tenant.createRoot({
    timelineId: generateTimelineId(),
    pgVersion: pgMajor,
    dataChecksums: control.dataChecksums,
    systemId: control.systemId,
    walSegmentSize: control.segmentSize,
    startLsn: lsn,
    prevRecordLsn,
    layerPaths: [{ path: join(template, layer.fileName), sizeBytes: layer.sizeBytes }],
  });
  return { tenants, tenant, timeline, workdir };
}

interface SpaceRun {
  readonly walBytes: number;
  readonly seconds: number;
  /** Until nothing is left to compact. */
  readonly settledSeconds: number;
  readonly written: number;
  /** Bytes on disk, and what they are compared with: after each few MB of WAL, and at the end. */
  readonly samples: readonly { readonly disk: number; readonly live: number }[];
  readonly atEnd: { readonly disk: number; readonly live: number };
  readonly peakMemory: number;
}

async function runSpace(wal: RecordedWal, scratch: string, branches: number): Promise<SpaceRun> {
  const { tenants, tenant, timeline, workdir } = await openStore(wal, scratch);
  const settings = {
    compactionPeriodMs: 200,
    pitrIntervalMs: 0,
    gcHorizonBytes: HORIZON_BYTES,
  };
  const upkeep = new LayerUpkeep(tenants, settings, logger);
  const start = timeline.lastRecordLsn as number;
  const walBytes = wal.end - start;
  const branchEvery = branches === 0 ? Number.POSITIVE_INFINITY : walBytes / branches;
  const model = { size: logicalSize(timeline), synthetic: logicalSize(timeline), branch: start };
  const samples: { disk: number; live: number }[] = [];
  let collected = start;
  let sampled = start;
  let peakMemory = 0;
  const live = () => {
    const since = timeline.lastRecordLsn - Math.max(start, model.branch);
    return branches === 0
      ? logicalSize(timeline) + Math.min(HORIZON_BYTES, timeline.lastRecordLsn - start)
      : model.synthetic + Math.min(since, logicalSize(timeline));
  };
  const sample = () => ({ disk: diskSize(join(workdir, "tenants")), live: live() });
  const onChunk = async () => {
    const lsn = timeline.lastRecordLsn;
    if (lsn - model.branch >= branchEvery) {
      await tenant.createBranch({
        timelineId: generateTimelineId(),
        ancestorTimelineId: timeline.timelineId,
        ancestorLsn: lsn,
      });
      // The cheapest way to keep it: the WAL since the branch before, or a copy.
      model.synthetic += Math.min(lsn - model.branch, logicalSize(timeline));
      model.branch = lsn;
    }
    if (lsn - collected >= COLLECT_EVERY) {
      collected = lsn;
      await upkeep.collect(timeline);
    }
    if (lsn - sampled >= SAMPLE_EVERY) {
      sampled = lsn;
      samples.push(sample());
      peakMemory = Math.max(peakMemory, process.memoryUsage.rss());
    }
  };
  const writtenBefore = writtenBytes();
  const began = performance.now();
  await feedAll(wal, timeline, onChunk);
  await timeline.checkpoint();
  const seconds = (performance.now() - began) / 1000;
  do {
    await upkeep.collect(timeline);
    await turn();
  } while (await timeline.compact());
  const settledSeconds = (performance.now() - began) / 1000;
  const written = writtenBytes() - writtenBefore;
  const atEnd = sample();
  await upkeep.close();
  await tenants.close({ flush: false });
  return { walBytes, seconds, settledSeconds, written, samples, atEnd, peakMemory };
}

const mb = (bytes: number) => `${(bytes / 1e6).toFixed(0)} MB`;

function rowsOf(what: string, run: SpaceRun, stock: Recovery | undefined): Row[] {
  const { walBytes, seconds, settledSeconds, written, samples, atEnd } = run;
  const worst = samples.reduce((a, b) => (a.disk / a.live > b.disk / b.live ? a : b), atEnd);
  const rate = (s: number) => `${(walBytes / 1e6 / s).toFixed(0)} MB/s`;
  const space = (name: string, { disk, live }: SpaceRun["atEnd"]): Row => ({
    what: name,
    ours: mb(disk),
    theirs: mb(live),
    ratio: ratio(disk, live),
    aim: "≤ 2",
  });
  const rows = [
    space(`${what}: bytes kept at the end`, atEnd),
    space("  ... at the worst moment, files being written included", worst),
    {
      what: "  ... written, against WAL",
      ours: mb(written),
      theirs: mb(walBytes),
      ratio: ratio(written, walBytes),
      aim: "≤ 3",
    },
  ];
  if (stock !== undefined) {
    rows.push(
      {
        what: "  ... ingest to disk with compaction, against stock recovery",
        ours: rate(seconds),
        theirs: rate(stock.redo),
        ratio: ratio(stock.redo, seconds),
        aim: "",
      },
      {
        what: "  ... until nothing is left to compact, against recovery with its checkpoint",
        ours: rate(settledSeconds),
        theirs: rate(stock.durable),
        ratio: ratio(stock.durable, settledSeconds),
        aim: "",
      },
    );
  }
  return rows;
}

export async function benchStoreSpace(
  pgMajor: PgMajor,
  { scale, times, branches }: StoreScale,
): Promise<Row[]> {
  await using wal = await recordWal(longTpcb(times), pgMajor, scale);
  const scratch = await mkdtemp(join(tmpdir(), "strata-bench-store-"));
  const name = `TPC-B scale ${scale}, WAL of ${times} times its size`;
  progress(`${name}: ${mb(wal.end - wal.start)} of WAL recorded`);
  try {
    const alone = await runSpace(wal, scratch, 0);
    progress(`${name}: peak memory ${mb(alone.peakMemory)}, ${alone.seconds.toFixed(0)} s`);
    const branched = await runSpace(wal, scratch, branches);
    progress(`${name}: with ${branches} branches ${branched.seconds.toFixed(0)} s`);
    const stock = await recoverStock(wal);
    return [
      ...rowsOf(name, alone, stock),
      ...rowsOf(`  with ${branches} branches, against the synthetic size`, branched, undefined),
    ];
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
}
