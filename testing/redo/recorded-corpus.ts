// Real records with the pages that they change, and pieces of real WAL, recorded from stock Postgres.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import {
  type Lsn,
  pageStart,
  segmentNumber,
  segmentOffset,
  walFileName,
} from "../../src/base/lsn.ts";
import type { PgMajor } from "../../src/postgres/versions.ts";
import type { RelationFork } from "../../src/wal-decoder/record-sink.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";
import { prepareMixedWorkload, runMixedWorkload } from "../mixed-workload.ts";
import { prepareGinBrinWorkload, runGinBrinWorkload } from "./gin-brin-workload.ts";
import {
  prepareGistSpgistHashWorkload,
  runGistSpgistHashWorkload,
} from "./gist-spgist-hash-workload.ts";
import { RecordedHistory } from "./recorded-history.ts";

const SCALE = 0.02;
/** Kept of each kind of record and of the pages it changes. */
const SAMPLES_PER_KIND = 5;
const PIECE_BYTES = 4 * 8192;
const PIECES = 24;

/** One page's part of a record, and that page before it. */
export interface RecordedDelta {
  readonly delta: Uint8Array;
  /** Undefined: a page of an SLRU. */
  readonly rel: RelationFork | undefined;
  readonly blkno: number;
  readonly page: Uint8Array;
}

export interface RecordedRecord {
  readonly bytes: Uint8Array;
  readonly startLsn: Lsn;
  readonly endLsn: Lsn;
  readonly pageMagic: number;
  readonly deltas: readonly RecordedDelta[];
}

/** WAL from a record's start on; the records that are whole in it. */
export interface RecordedPiece {
  readonly startLsn: Lsn;
  readonly pageMagic: number;
  readonly bytes: Uint8Array;
  /** Bytes of each by its start. */
  readonly records: ReadonlyMap<number, Uint8Array>;
  readonly ends: ReadonlySet<number>;
}

export interface Corpus {
  readonly major: PgMajor;
  readonly records: readonly RecordedRecord[];
  readonly pieces: readonly RecordedPiece[];
}

/** Runs all workloads, without full-page images, so that each record is one that redo must apply. */
export async function recordCorpus(major: PgMajor): Promise<Corpus> {
  const history = await RecordedHistory.record({
    pgMajor: major,
    settings: { full_page_writes: "off", track_commit_timestamp: "on" },
    prepare: async (client) => {
      await prepareMixedWorkload(client);
      await prepareGistSpgistHashWorkload(client);
      await prepareGinBrinWorkload(client);
    },
    run: async (cluster) => {
      await runMixedWorkload(cluster, { scale: SCALE });
      await runGistSpgistHashWorkload(cluster, { scale: SCALE });
      await runGinBrinWorkload(cluster, true);
    },
  });
  try {
    return collect(history, major);
  } finally {
    await history.destroy();
  }
}

function collect(history: RecordedHistory, major: PgMajor): Corpus {
  const records: RecordedRecord[] = [];
  const counts = new Map<string, number>();
  const starts: Lsn[] = [];
  let deltas: RecordedDelta[] = [];
  const cluster = history.replay({
    prepare: (replayed) => {
      replayed.onDelta = ({ delta, rel, blkno, page }) => {
        deltas.push({ delta, rel, blkno, page: page.slice() });
        return delta;
      };
    },
    afterRecord: (record) => {
      const found = deltas;
      deltas = [];
      starts.push(record.startLsn);
      const forks = found.map(({ rel, delta }) => `${rel?.fork}.${delta[0]}.${delta[3]}`);
      const kind = `${record.rmid} ${record.info} ${forks.join(" ")}`;
      const count = counts.get(kind) ?? 0;
      if (count < SAMPLES_PER_KIND) {
        counts.set(kind, count + 1);
        records.push({
          bytes: record.bytes.slice(record.offset, record.offset + record.length),
          startLsn: record.startLsn,
          endLsn: record.endLsn,
          pageMagic: record.pageMagic,
          deltas: found,
        });
      }
    },
  });
  cluster.close();
  return { major, records, pieces: cutPieces(history, starts, records[0]!.pageMagic) };
}

function cutPieces(
  history: RecordedHistory,
  starts: readonly Lsn[],
  pageMagic: number,
): RecordedPiece[] {
  const pieces: RecordedPiece[] = [];
  for (let i = 0; i < PIECES; i++) {
    const first = Math.floor((i * starts.length) / PIECES);
    const startLsn = starts[first]!;
    const segment = readFileSync(join(history.walDir, walFileName(segmentNumber(startLsn))));
    const at = segmentOffset(startLsn);
    const bytes = Uint8Array.from(
      segment.subarray(at, segmentOffset(pageStart(startLsn)) + PIECE_BYTES),
    );
    pieces.push({ startLsn, pageMagic, bytes, ...wholeRecords(startLsn, pageMagic, bytes) });
  }
  return pieces;
}

function wholeRecords(startLsn: Lsn, pageMagic: number, bytes: Uint8Array) {
  const stream = new WalStream({ startLsn, pageMagic });
  const records = new Map<number, Uint8Array>();
  const ends = new Set<number>([startLsn]);
  stream.feed(bytes);
  while (stream.next()) {
    const { record } = stream;
    const { offset, length } = record;
    records.set(record.startLsn, record.bytes.slice(offset, offset + length));
    ends.add(record.endLsn);
  }
  return { records, ends };
}
