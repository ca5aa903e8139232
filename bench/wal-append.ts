// WAL appended by a safekeeper's timeline beside plain sequential writes to the same disk, a flush a piece.

import { closeSync, fdatasyncSync, mkdtempSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { generateTenantId, generateTimelineId } from "../src/base/ids.ts";
import { createLogger } from "../src/base/log.ts";
import { addLsn, type Lsn, toLsn, WAL_SEGMENT_SIZE } from "../src/base/lsn.ts";
import { PG_VERSIONS } from "../src/postgres/versions.ts";
import { SafekeeperMetrics } from "../src/safekeeper/metrics.ts";
import { Timeline } from "../src/safekeeper/timeline.ts";
import { NO_MEMBERSHIP } from "../src/safekeeper-protocol/membership.ts";
import { MAX_SEND_SIZE } from "../src/safekeeper-protocol/messages.ts";
import { WalBuilder } from "../testing/wal-builder.ts";
import { openFilled } from "./bare-disk.ts";
import { median, progress, type Row, ratio } from "./report.ts";

const START = toLsn(WAL_SEGMENT_SIZE + 40);
const RECORD_BYTES = 300;
const KB = 1024;
/** Bytes that one flush makes durable, and how many of them a round writes. */
const PIECES = [
  { pieceBytes: 8 * KB, count: 1500 },
  { pieceBytes: 128 * KB, count: 400 },
  { pieceBytes: 1024 * KB, count: 60 },
];

function buildWal(bytes: number): Uint8Array {
  const wal = new WalBuilder({ startLsn: START });
  while (wal.endLsn - START < bytes) {
    wal.appendFilled(RECORD_BYTES);
  }
  return wal.bytes;
}

/** An empty timeline that waits for the WAL of term 1. */
function createTimeline(directory: string): Timeline {
  const positions = {
    timelineStartLsn: START,
    localStartLsn: START,
    commitLsn: START,
    backupLsn: START,
    peerHorizonLsn: START,
    remoteConsistentLsn: START,
    flushedLsn: START,
  };
  const timeline = Timeline.create(
    {
      nodeId: 1,
      logger: createLogger("bench", "silent"),
      metrics: new SafekeeperMetrics(),
      onChange: () => undefined,
    },
    directory,
    {
      tenantId: generateTenantId(),
      timelineId: generateTimelineId(),
      pgVersion: PG_VERSIONS[17].major * 10_000,
      systemId: 42n,
      walSegSize: WAL_SEGMENT_SIZE,
      mconf: NO_MEMBERSHIP,
      term: 0,
      termHistory: [],
      ...positions,
    },
  );
  timeline.receive({ type: "vote-request", generation: 0, term: 1 });
  timeline.receive({
    type: "elected",
    generation: 0,
    term: 1,
    startStreamingAt: START,
    termHistory: [{ term: 1, lsn: START }],
  });
  return timeline;
}

/** Megabytes a second through AppendRequests, each piece settled before the next one comes. */
function appendRate(wal: Uint8Array, pieceBytes: number, count: number): number {
  const directory = mkdtempSync(join(tmpdir(), "strata-append-"));
  const timeline = createTimeline(join(directory, "timeline"));
  try {
    const started = performance.now();
    for (let at = 0; at < count * pieceBytes; at += pieceBytes) {
      for (let sent = at; sent < at + pieceBytes; sent += MAX_SEND_SIZE) {
        const end = Math.min(sent + MAX_SEND_SIZE, at + pieceBytes);
        const [beginLsn, endLsn] = [addLsn(START, sent), addLsn(START, end)] as [Lsn, Lsn];
        timeline.receive({
          type: "append-request",
          generation: 0,
          term: 1,
          beginLsn,
          endLsn,
          commitLsn: START,
          truncateLsn: START,
          walData: wal.subarray(sent, end),
        });
      }
      timeline.settle();
    }
    return (count * pieceBytes) / 1000 / (performance.now() - started);
  } finally {
    timeline.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The same bytes into one file that is there in full, as `dd conv=notrunc,fdatasync` a piece. */
function plainRate(wal: Uint8Array, pieceBytes: number, count: number): number {
  const directory = mkdtempSync(join(tmpdir(), "strata-append-"));
  const fd = openFilled(join(directory, "file"), count * pieceBytes);
  try {
    const started = performance.now();
    for (let at = 0; at < count * pieceBytes; at += pieceBytes) {
      writeSync(fd, wal, at, pieceBytes, at);
      fdatasyncSync(fd);
    }
    return (count * pieceBytes) / 1000 / (performance.now() - started);
  } finally {
    closeSync(fd);
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Interleaved: the real timeline and WAL storage, without the network, against the bare disk. */
export async function benchWalAppend(rounds: number): Promise<Row[]> {
  const wal = buildWal(Math.max(...PIECES.map(({ pieceBytes, count }) => pieceBytes * count)));
  const rows: Row[] = [];
  for (const { pieceBytes, count } of PIECES) {
    const [ours, theirs]: [number[], number[]] = [[], []];
    for (let i = 0; i < rounds; i++) {
      ours.push(appendRate(wal, pieceBytes, count));
      theirs.push(plainRate(wal, pieceBytes, count));
    }
    const what = `safekeeper append, ${pieceBytes / KB} kB a flush, MB/s (stock: plain writes)`;
    progress(`${what}: ${median(ours).toFixed(1)} / ${median(theirs).toFixed(1)}`);
    rows.push({
      what,
      ours: median(ours).toFixed(1),
      theirs: median(theirs).toFixed(1),
      ratio: ratio(median(ours), median(theirs)),
      aim: "",
    });
  }
  return rows;
}
