// Ingest of WAL into a timeline with real layer files, against stock recovery of the same base and WAL.
//
// Both read the WAL from files. Ours is done when every record is in a layer file that is synced and
// named by the index (the flush runs on a thread of its own beside ingest, so up to two processors are
// busy; processor seconds are given too). Stock is done at "redo done", with all pages only in memory.

import { mkdtempSync, rmSync } from "node:fs";
import { open } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "../src/base/log.ts";
import {
  formatLsn,
  type Lsn,
  segmentNumber,
  segmentOffset,
  WAL_SEGMENT_SIZE,
  walFileName,
} from "../src/base/lsn.ts";
import {
  type StorageConfig,
  StorageResources,
} from "../src/pageserver/storage/storage-resources.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import { WalFeeder } from "../src/pageserver/wal-receiver.ts";
import type { PgMajor } from "../src/postgres/versions.ts";
import { openImportedTimeline } from "../testing/imported-timeline.ts";
import { type Recovery, recoverStock } from "./recovery.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { type RecordedWal, recordWal, WAL_KINDS } from "./wal-kinds.ts";

const CHUNK_BYTES = 256 * 1024;
const AIM_RATIO = 1.5;
const AIM_RECORDS = 2;

export interface IngestRun {
  /** Seconds until the last record can be read. */
  readonly readable: number;
  /** Seconds until everything is on disk. */
  readonly durable: number;
  /** Processor seconds of all threads. */
  readonly cpu: number;
  readonly records: number;
}

/** What the timelines of a benchmark share, as those of a pageserver do: a flush thread that has run for long. */
export function openResources(config: Partial<StorageConfig> = {}): StorageResources {
  return new StorageResources(createLogger("bench", "warn"), config);
}

/** An imported timeline at the start of the WAL; `directory` is made anew. */
export function openTimeline(
  resources: StorageResources,
  wal: RecordedWal,
  directory: string,
): Promise<Timeline> {
  rmSync(directory, { recursive: true, force: true });
  const pgMajor = wal.cluster.pgMajor as PgMajor;
  return openImportedTimeline(resources, wal.baseDir, directory, pgMajor);
}

/** Feeds all WAL, as it comes from a socket: the next piece is read while one is taken in. `onChunk` runs after each. */
export async function feedAll(
  wal: RecordedWal,
  timeline: Timeline,
  onChunk?: () => Promise<void>,
): Promise<number> {
  const feeder = new WalFeeder(timeline, createLogger("bench", "warn"));
  const buffers = [new Uint8Array(CHUNK_BYTES), new Uint8Array(CHUNK_BYTES)];
  let turn = 0;
  for (let lsn = timeline.lastRecordLsn as number; lsn < wal.end; ) {
    const segno = segmentNumber(lsn as Lsn);
    const file = await open(join(wal.walDir, walFileName(segno)), "r");
    const end = Math.min(wal.end, (segno + 1) * WAL_SEGMENT_SIZE);
    const read = (from: number) => {
      const buffer = buffers[turn++ % 2]!;
      const length = Math.min(CHUNK_BYTES, end - from);
      return length > 0 ? file.read(buffer, 0, length, segmentOffset(from as Lsn)) : undefined;
    };
    for (let pending = read(lsn); pending !== undefined; ) {
      const { buffer, bytesRead } = await pending;
      lsn += bytesRead;
      pending = read(lsn);
      await feeder.feed(buffer.subarray(0, bytesRead));
      feeder.publish();
      await timeline.ingestReady();
      await onChunk?.();
    }
    await file.close();
  }
  if (timeline.lastRecordLsn < wal.end) {
    const stopped = formatLsn(timeline.lastRecordLsn);
    throw new Error(`ingest stopped at ${stopped} of ${formatLsn(wal.end)}`);
  }
  return feeder.recordCount;
}

async function ingest(
  resources: StorageResources,
  wal: RecordedWal,
  directory: string,
): Promise<IngestRun> {
  const timeline = await openTimeline(resources, wal, directory);
  const cpu = process.cpuUsage();
  const began = performance.now();
  const records = await feedAll(wal, timeline);
  const readable = (performance.now() - began) / 1000;
  await timeline.checkpoint();
  const durable = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(cpu);
  await timeline.close();
  return { readable, durable, cpu: (user + system) / 1e6, records };
}

async function benchKind(id: string, pgMajor: PgMajor, rounds: number, scale: number) {
  await using wal = await recordWal(WAL_KINDS[id]!, pgMajor, scale);
  const scratch = mkdtempSync(join(tmpdir(), "strata-bench-ingest-"));
  const resources = openResources();
  const ours: IngestRun[] = [];
  const theirs: Recovery[] = [];
  try {
    // A pageserver has run for long: the first time, in which code is compiled, does not count.
    await ingest(resources, wal, join(scratch, "timeline"));
    for (let i = 0; i < rounds; i++) {
      ours.push(await ingest(resources, wal, join(scratch, "timeline")));
      theirs.push(await recoverStock(wal));
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  const us = (field: keyof IngestRun) => median(ours.map((run) => run[field]));
  const stock = (field: keyof Recovery) => median(theirs.map((run) => run[field]));
  const megabytes = (wal.end - wal.start) / 1e6;
  const millions = us("records") / 1e6;
  const name = `${wal.kind.name}, ${pgMajor}, ${megabytes.toFixed(0)} MB, ${millions.toFixed(2)} M records`;
  const seconds = (value: number) => `${value.toFixed(2)} s`;
  progress(
    `${name}: readable ${seconds(us("readable"))}, durable ${seconds(us("durable"))}, ` +
      `stock redo ${seconds(stock("redo"))}, durable ${seconds(stock("durable"))}`,
  );
  const rows: Row[] = [
    {
      what: `ingest ${name}: all on disk`,
      ours: `${seconds(us("durable"))} (cpu ${us("cpu").toFixed(2)})`,
      theirs: `${seconds(stock("redo"))} (cpu ${stock("redoCpu").toFixed(2)})`,
      ratio: ratio(stock("redo"), us("durable")),
      aim: `≥ ${AIM_RATIO}`,
    },
    {
      what: "  ... against recovery with its checkpoint",
      ours: seconds(us("durable")),
      theirs: seconds(stock("durable")),
      ratio: ratio(stock("durable"), us("durable")),
      aim: "",
    },
    {
      what: "  ... readable, M records/s",
      ours: (millions / us("readable")).toFixed(2),
      theirs: (millions / stock("redo")).toFixed(2),
      ratio: ratio(stock("redo"), us("readable")),
      aim: id === "tpcb" ? `≥ ${AIM_RECORDS} M/s` : "",
    },
  ];
  return rows;
}

export async function benchIngest(pgMajor: PgMajor, rounds: number, scale: number): Promise<Row[]> {
  const rows: Row[] = [];
  for (const id of Object.keys(WAL_KINDS)) {
    rows.push(...(await benchKind(id, pgMajor, rounds, scale)));
  }
  return rows;
}
