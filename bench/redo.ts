// Redo beside stock recovery, and what one page costs from 1 to 1000 deltas.
//
// Replay the pageserver's way: WAL is decoded into deltas in memory, then every page that it changed
// is built, one after the other, which is when redo runs. One thread, nothing written. Stock does the
// same record by record in shared buffers ("redo done" of its own log).

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createLogger } from "../src/base/log.ts";
import type { Lsn } from "../src/base/lsn.ts";
import { WalIngest } from "../src/pageserver/ingest/walingest.ts";
import { isPagePrefix, type KeyPrefix, prefixField5 } from "../src/pageserver/layers/key.ts";
import { PrefixMap } from "../src/pageserver/layers/prefix-map.ts";
import type { Timeline } from "../src/pageserver/storage/timeline.ts";
import type { TimelineStorage } from "../src/pageserver/storage/timeline-storage.ts";
import { PG_VERSIONS, type PgMajor } from "../src/postgres/versions.ts";
import { PageRedo } from "../src/redo/page-redo.ts";
import { interpretRecord } from "../src/wal-decoder/interpret-record.ts";
import { WalStream } from "../src/wal-decoder/wal-stream.ts";
import { readWalFiles } from "../testing/wal-files.ts";
import { feedAll, openResources, openTimeline } from "./ingest.ts";
import { type Recovery, recoverStock } from "./recovery.ts";
import { median, progress, type Row, ratio } from "./report.ts";
import { type RecordedWal, recordWal, WAL_KINDS } from "./wal-kinds.ts";

const DELTA_COUNTS = [1, 10, 50, 200, 1000];
/** All in memory, and no page is kept or written early: every delta is applied by the read that is timed. */
const resources = openResources({
  checkpointDistanceBytes: 1 << 30,
  cacheAfterDeltas: Number.MAX_SAFE_INTEGER,
  imageAfterDeltas: Number.MAX_SAFE_INTEGER,
});

/** What WAL did to one page on its base, up to the first record that makes it anew. */
interface Chain {
  readonly prefix: KeyPrefix;
  readonly index: number;
  readonly deltas: Uint8Array[];
  readonly lsns: Lsn[];
  ended: boolean;
}

/** Ingests into `timeline` and remembers each changed page, with its deltas where `keep` says so. */
function collectChains(wal: RecordedWal, timeline: Timeline, keep: number): Chain[] {
  const chains = new PrefixMap<Map<number, Chain>>();
  const note = (prefix: KeyPrefix, index: number, lsn: Lsn, delta: Uint8Array | undefined) => {
    if (!isPagePrefix(prefix)) {
      return;
    }
    const pages = chains.get(prefix) ?? new Map<number, Chain>();
    chains.set(prefix, pages);
    const chain = pages.get(index) ?? { prefix, index, deltas: [], lsns: [], ended: false };
    pages.set(index, chain);
    chain.ended ||= delta === undefined;
    if (delta !== undefined && !chain.ended && chain.deltas.length < keep) {
      chain.deltas.push(delta.slice());
      chain.lsns.push(lsn);
    }
  };
  const storage: TimelineStorage = {
    startLsn: timeline.startLsn,
    lastRecordLsn: timeline.lastRecordLsn,
    prevRecordLsn: timeline.prevRecordLsn,
    diskConsistentLsn: timeline.diskConsistentLsn,
    putDelta: (prefix, index, lsn, delta, willInit) =>
      note(prefix, index, lsn, willInit ? undefined : delta),
    putImage: (prefix, index, lsn) => note(prefix, index, lsn, undefined),
    putTombstone: () => {},
    keepReplicaStarts: () => {},
    advance: () => {},
    readPage: (prefix, index, lsn) => timeline.readPage(prefix, index, lsn),
    readValue: (prefix, index, lsn) => timeline.readValue(prefix, index, lsn),
    scan: (fields, lsn) => timeline.scan(fields, lsn),
    makeRoom: () => undefined,
    whenResident: (read) => timeline.whenResident(read),
    waitForLsn: (lsn, timeoutMs) => timeline.waitForLsn(lsn, timeoutMs),
  };
  const ingest = new WalIngest(storage, createLogger("bench", "warn"));
  const { pageMagic } = PG_VERSIONS[wal.cluster.pgMajor as PgMajor];
  const stream = new WalStream({ startLsn: timeline.lastRecordLsn, pageMagic });
  for (const chunk of readWalFiles(wal.walDir, timeline.lastRecordLsn, wal.end)) {
    stream.feed(chunk);
    while (stream.next()) {
      ingest.beginRecord(stream.record.startLsn, stream.record.endLsn);
      interpretRecord(stream.record, ingest);
      ingest.endRecord();
    }
  }
  return [...chains].flatMap(([, pages]) => [...pages.values()]);
}

async function benchReplay(wal: RecordedWal, directory: string, rounds: number): Promise<Row> {
  const seconds: number[] = [];
  const cpus: number[] = [];
  const theirs: Recovery[] = [];
  const base = await openTimeline(resources, wal, directory);
  const pages = collectChains(wal, base, 0);
  await base.close();
  // A pageserver has run for long: the first time, in which code is compiled, does not count.
  for (let i = -1; i < rounds; i++) {
    const timeline = await openTimeline(resources, wal, directory);
    const cpu = process.cpuUsage();
    const began = performance.now();
    await feedAll(wal, timeline);
    for (const { prefix, index } of pages) {
      timeline.readPage(prefix, index, timeline.lastRecordLsn);
    }
    const took = (performance.now() - began) / 1000;
    const { user, system } = process.cpuUsage(cpu);
    await timeline.close();
    if (i >= 0) {
      seconds.push(took);
      cpus.push((user + system) / 1e6);
      theirs.push(await recoverStock(wal));
    }
  }
  const redo = median(theirs.map((run) => run.redo));
  const redoCpu = median(theirs.map((run) => run.redoCpu));
  const megabytes = ((wal.end - wal.start) / 1e6).toFixed(0);
  const name = `${wal.kind.name}, ${wal.cluster.pgMajor}, ${megabytes} MB, ${pages.length} pages`;
  progress(`replay ${name}: ${median(seconds).toFixed(2)} s, stock ${redo.toFixed(2)} s`);
  return {
    what: `decode and redo ${name}`,
    ours: `${median(seconds).toFixed(2)} s (cpu ${median(cpus).toFixed(2)})`,
    theirs: `${redo.toFixed(2)} s (cpu ${redoCpu.toFixed(2)})`,
    ratio: ratio(redo, median(seconds)),
    aim: "≥ 1.5",
  };
}

/** Microseconds a page, of processor time: other load on the machine counts less. */
function timePages(pages: number, build: (page: number) => void): number {
  const rounds: number[] = [];
  for (let round = 0; round < 9; round++) {
    const began = process.cpuUsage();
    for (let page = 0; page < pages; page++) {
      build(page);
    }
    const { user, system } = process.cpuUsage(began);
    rounds.push((user + system) / pages);
  }
  return median(rounds);
}

/** The first `count` deltas of a chain one behind the other in one buffer, as in a layer. */
function packDeltas(chain: Chain, count: number): { bytes: Uint8Array; offsets: Int32Array } {
  const offsets = new Int32Array(count);
  let length = 0;
  for (let i = 0; i < count; i++) {
    offsets[i] = length;
    length = (length + chain.deltas[i]!.length + 7) & ~7;
  }
  const bytes = new Uint8Array(length);
  for (let i = 0; i < count; i++) {
    bytes.set(chain.deltas[i]!, offsets[i]);
  }
  return { bytes, offsets };
}

/** A timeline on which the given pages have exactly their first `count` deltas, in memory. */
async function timelineOf(
  wal: RecordedWal,
  directory: string,
  chains: readonly Chain[],
  count: number,
): Promise<Timeline> {
  const timeline = await openTimeline(resources, wal, directory);
  const puts = chains
    .flatMap((chain) => chain.deltas.slice(0, count).map((delta, i) => ({ chain, delta, i })))
    .toSorted((a, b) => a.chain.lsns[a.i]! - b.chain.lsns[b.i]!);
  for (const { chain, delta, i } of puts) {
    timeline.putDelta(chain.prefix, chain.index, chain.lsns[i]!, delta, false);
  }
  timeline.advance(wal.end, wal.start);
  return timeline;
}

/** The first n deltas of pages that have so many, on their base: redo alone, and a read of storage. */
async function benchPages(wal: RecordedWal, directory: string): Promise<Row[]> {
  const base = await openTimeline(resources, wal, directory);
  const chains = collectChains(wal, base, DELTA_COUNTS.at(-1)!);
  await base.close();
  const redo = new PageRedo();
  const rows: Row[] = [];
  for (const count of DELTA_COUNTS) {
    const long = chains
      .filter((chain) => chain.deltas.length >= count && prefixField5(chain.prefix) === 0)
      .slice(0, 100);
    const timeline = await timelineOf(wal, directory, long, count);
    const usable = long.map((chain) => ({
      ...chain,
      ...packDeltas(chain, count),
      lengths: Int32Array.from(chain.deltas, (delta) => delta.length),
      page: timeline.readPage(chain.prefix, chain.index, timeline.startLsn)!,
    }));
    const times = Math.max(usable.length, Math.ceil(20_000 / count));
    const alone = timePages(times, (page) => {
      const { page: base, bytes, offsets, lengths, lsns, index } = usable[page % usable.length]!;
      redo.load(base);
      for (let i = 0; i < count; i++) {
        redo.applyAt(bytes, offsets[i]!, lengths[i]!, lsns[i]!, index, 0);
      }
    });
    const read = timePages(times, (page) => {
      const chain = usable[page % usable.length]!;
      timeline.readPage(chain.prefix, chain.index, wal.end);
    });
    await timeline.close();
    const name = `one page from ${count} delta${count === 1 ? "" : "s"}`;
    const each = (us: number) => `${us.toFixed(1)} µs, ${((us * 1000) / count).toFixed(0)} ns each`;
    const row = (what: string, us: number, aim: string) =>
      rows.push({ what: `${name}, ${what}`, ours: each(us), theirs: "", ratio: "", aim });
    row(`redo alone (${usable.length} pages)`, alone, "≤ 250 ns each");
    row("by the storage, from memory", read, "");
  }
  return rows;
}

export async function benchRedo(pgMajor: PgMajor, rounds: number, scale: number): Promise<Row[]> {
  const rows: Row[] = [];
  const scratch = mkdtempSync(join(tmpdir(), "strata-bench-redo-"));
  const directory = join(scratch, "timeline");
  try {
    for (const [id, kind] of Object.entries(WAL_KINDS)) {
      await using wal = await recordWal(kind, pgMajor, scale);
      rows.push(await benchReplay(wal, directory, rounds));
      if (id === "tpcb") {
        rows.push(...(await benchPages(wal, directory)));
      }
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  return rows;
}
