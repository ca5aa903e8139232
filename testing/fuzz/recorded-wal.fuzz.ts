// Fuzzes decoder, interpreter and redo with damage to real WAL of every major; `run(seed, steps)`.
//
// The WAL is recorded from stock Postgres when the fuzz begins (`prepare`): all index methods, without
// full-page images. A case is one of
// - a recorded delta or its page, damaged: `checkedApply` of page-redo.fuzz.ts holds;
// - a random delta for a recorded page: the same;
// - a whole record damaged as a writer with a good CRC could send it: interpretRecord gives deltas,
//   images and so on, or `corrupt` or `unsupported` with an LSN; each delta applied to the page that
//   it was for, or another: `checkedApply` holds again;
// - a piece of WAL damaged behind the CRC's back: WalStream hands out no record, and RecordWalker no
//   record end, that was not there before, whatever the chunks.

import assert from "node:assert/strict";
import { StorageError } from "../../src/base/errors.ts";
import { SeededRandom } from "../../src/base/random.ts";
import { MAJORS, type PgMajor } from "../../src/postgres/versions.ts";
import { XLogRecord } from "../../src/postgres/xlog-record.ts";
import { PageRedo } from "../../src/redo/page-redo.ts";
import { interpretRecord } from "../../src/wal-decoder/interpret-record.ts";
import type { RecordSink, RelationFork } from "../../src/wal-decoder/record-sink.ts";
import { RecordWalker } from "../../src/wal-decoder/record-walker.ts";
import { WalStream } from "../../src/wal-decoder/wal-stream.ts";
import { buildDelta } from "../redo/delta-builder.ts";
import {
  type Corpus,
  type RecordedPiece,
  type RecordedRecord,
  recordCorpus,
} from "../redo/recorded-corpus.ts";
import { recordingSink } from "../redo/recording-sink.ts";
import {
  checkedApply,
  damage,
  type FuzzResult,
  fuzzCase,
  SLOW_MS,
  spentMs,
} from "./page-redo.fuzz.ts";

/** scripts/fuzz.ts leaves it out of its short runs. */
export const needsPostgres = true;

const SEGMENT_SIZE = 16 * 1024 * 1024;
/** Cases for which one corpus and PageRedo are kept: their code and data stay in the caches. */
const BATCH = 200;

/** Managers whose records change pages. */
const PAGE_RMGRS = [0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 20];

let corpora: readonly Corpus[] = [];

/** Records the WAL: about 15 seconds a major. */
export async function prepare(majors: readonly PgMajor[] = MAJORS): Promise<void> {
  const recorded: Corpus[] = [];
  for (const major of majors) {
    recorded.push(await recordCorpus(major));
  }
  corpora = recorded;
}

export interface RecordedFuzzResult extends FuzzResult {
  /** Records taken from damaged WAL before the damage was met. */
  readonly intact: number;
}

export function run(seed: number, steps: number): RecordedFuzzResult {
  assert.ok(corpora.length > 0, "prepare() comes first");
  const random = new SeededRandom(seed);
  const sums = { cases: 0, applied: 0, refused: 0, intact: 0 };
  while (sums.cases < steps) {
    const corpus = random.pick(corpora);
    const redo = new PageRedo({ walLogHints: random.bool() });
    for (let i = 0; i < BATCH; i++) {
      const kind = random.int(100);
      if (kind < 8) {
        sums[fuzzRandomDelta(random, redo, corpus) ? "applied" : "refused"]++;
      } else if (kind < 60) {
        const { deltas, endLsn } = random.pick(corpus.records);
        if (deltas.length === 0) {
          continue;
        }
        const { page, delta, blkno, rel } = random.pick(deltas);
        const given = { page, delta, lsn: endLsn, blkno, fork: rel?.fork ?? 0 };
        sums[fuzzCase(random, redo, given) ? "applied" : "refused"]++;
      } else if (kind < 98) {
        sums[fuzzRecord(random, redo, random.pick(corpus.records)) ? "applied" : "refused"]++;
      } else {
        sums.intact += fuzzPiece(random, random.pick(corpus.pieces));
        sums.refused++;
      }
      sums.cases++;
    }
  }
  return sums;
}

/** Nothing but the frame of the delta is as it should be; the page is real. */
function fuzzRandomDelta(random: SeededRandom, redo: PageRedo, corpus: Corpus): boolean {
  const { deltas, endLsn, pageMagic } = random.pick(corpus.records);
  const { page, blkno, rel } = deltas[0] ?? {
    page: new Uint8Array(8192),
    blkno: 0,
    rel: undefined,
  };
  const fork = rel?.fork ?? 0;
  const noise = (length: number) => {
    const small = random.bool();
    return Uint8Array.from({ length }, () => (small && random.bool(0.8) ? 0 : random.int(256)));
  };
  const delta = buildDelta({
    rmid: random.pick(PAGE_RMGRS),
    info: random.int(16) << 4,
    blockId: random.int(3),
    pageMagic,
    references: [0, 1, 2].map((id) => ({ id, blkno, fork, willInit: random.bool(0.2) })),
    main: noise(random.int(64)),
    data: noise(random.int(200)),
  });
  return checkedApply(redo, { page, delta, lsn: endLsn, blkno, fork }, true);
}

/** False where the record, or one of its deltas, was refused. */
function fuzzRecord(random: SeededRandom, redo: PageRedo, given: RecordedRecord): boolean {
  const bytes = damagedRecord(random, given.bytes);
  const before = bytes.slice();
  const record = new XLogRecord();
  const started = process.cpuUsage();
  const deltas: { rel: RelationFork | undefined; blkno: number; delta: Uint8Array }[] = [];
  let refused = false;
  try {
    const view = new DataView(bytes.buffer);
    record.setHeader(bytes, view, 0, given.startLsn, given.endLsn, given.pageMagic);
    interpretRecord(record, deltaSink(deltas));
  } catch (error) {
    checkRefusal(error);
    refused = true;
  }
  assert.ok(spentMs(started) < SLOW_MS, "a record took too long");
  assert.equal(Buffer.compare(bytes, before), 0, "the record changed");
  for (const { rel, blkno, delta } of deltas) {
    const fork = rel?.fork ?? 0;
    const own = given.deltas.find(
      (it) => it.blkno === blkno && it.rel?.fork === fork && it.delta[3] === delta[3],
    );
    const page = (own ?? given.deltas[0])?.page ?? new Uint8Array(8192);
    // On a page of another kind even a sound delta may do anything, within the page.
    const isOther = own === undefined;
    if (!checkedApply(redo, { page, delta, lsn: given.endLsn, blkno, fork }, isOther)) {
      refused = true;
    }
  }
  return !refused;
}

function damagedRecord(random: SeededRandom, given: Uint8Array): Uint8Array<ArrayBuffer> {
  let bytes = Uint8Array.from(given);
  if (random.bool(0.15)) {
    const cut = Uint8Array.from(bytes.subarray(0, 24 + random.int(bytes.length - 23)));
    bytes = cut;
    new DataView(bytes.buffer).setUint32(0, bytes.length, true);
  } else {
    // Not the length; and rarely the resource manager: mostly refused at once.
    const from = random.bool(0.1) ? 16 : Math.min(24, bytes.length - 1);
    damage(random, bytes.subarray(from), random.bool(0.5) ? 60 : bytes.length);
  }
  return bytes;
}

function checkRefusal(error: unknown): void {
  if (
    !(error instanceof StorageError) ||
    (error.kind !== "corrupt" && error.kind !== "unsupported") ||
    typeof error.fields["lsn"] !== "string"
  ) {
    throw error;
  }
}

function deltaSink(
  deltas: { rel: RelationFork | undefined; blkno: number; delta: Uint8Array }[],
): RecordSink {
  const others = recordingSink([]);
  return new Proxy(others, {
    get(target, name: keyof RecordSink) {
      if (name === "blockDelta") {
        return (rel: RelationFork, blkno: number, delta: Uint8Array) =>
          deltas.push({ rel, blkno, delta: delta.slice() });
      }
      if (name === "blockImage") {
        return (_: RelationFork, __: number, page: Uint8Array) => assert.equal(page.length, 8192);
      }
      return target[name];
    },
  });
}

/** Returns how many records came out of the damaged piece. */
function fuzzPiece(random: SeededRandom, piece: RecordedPiece): number {
  const { startLsn, pageMagic } = piece;
  const bytes = Uint8Array.from(piece.bytes);
  damageBytes(random, bytes);
  const before = bytes.slice();
  const stream = new WalStream({ startLsn, pageMagic });
  const walker = new RecordWalker({ startLsn, pageMagic, segmentSize: SEGMENT_SIZE });
  const started = process.cpuUsage();
  let records = 0;
  try {
    for (let at = 0; at < bytes.length; ) {
      const end = Math.min(bytes.length, at + 1 + random.int(random.bool() ? 100 : 9000));
      stream.feed(bytes, at, end);
      at = end;
      while (stream.next()) {
        const { record } = stream;
        const original = piece.records.get(record.startLsn);
        assert.ok(original !== undefined, "a record that was never written");
        const got = record.bytes.subarray(record.offset, record.offset + record.length);
        assert.equal(Buffer.compare(got, original), 0, "a damaged record with a good CRC");
        records++;
      }
    }
  } catch (error) {
    checkRefusal(error);
  }
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(bytes.length, at + 1 + random.int(random.bool() ? 100 : 9000));
    const good = walker.tryFeed(bytes.subarray(at, end));
    assert.ok(piece.ends.has(walker.recordEndLsn), "a record end that was never there");
    if (!good) {
      break;
    }
    at = end;
  }
  assert.ok(spentMs(started) < SLOW_MS, "a piece of WAL took too long");
  assert.equal(Buffer.compare(bytes, before), 0, "the WAL changed");
  return records;
}

function damageBytes(random: SeededRandom, bytes: Uint8Array): void {
  for (let i = 1 + random.int(3); i > 0; i--) {
    const at = random.int(bytes.length);
    switch (random.int(3)) {
      case 0:
        bytes[at]! ^= 1 << random.int(8);
        break;
      case 1:
        bytes[at] = random.int(256);
        break;
      default:
        bytes.fill(random.bool() ? 0 : random.int(256), at, at + random.int(100));
    }
  }
}
