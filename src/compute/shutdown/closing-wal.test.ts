// Tests of the WAL behind a shutdown checkpoint: readers find every record and every byte of it again.

import assert from "node:assert/strict";
import {
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { type Lsn, toLsn, XLOG_BLCKSZ } from "../../base/lsn.ts";
import { encodeImageRecord, restoreImage } from "../../postgres/fpi.ts";
import { PAGE_SIZE } from "../../postgres/page.ts";
import { PG_VERSIONS } from "../../postgres/versions.ts";
import { encodeRecord } from "../../postgres/xlog-record.ts";
import { encodeStatisticsMessage } from "../../wal-decoder/logical-message-records.ts";
import { RecordWalker } from "../../wal-decoder/record-walker.ts";
import { WalStream } from "../../wal-decoder/wal-stream.ts";
import { appendRecords } from "./closing-wal.ts";

const SEGMENT = 1024 * 1024;
const START = toLsn(SEGMENT);
const version = PG_VERSIONS[17];
const BLOCK = { spcOid: 16400, dbOid: 5, relNumber: 16401, fork: 1, blkno: 131073 };

/** As a shutdown leaves it: zeros behind the last record, up to the end of the segment. */
function withWal(
  recordBytes: readonly number[],
  body: (directory: string, end: { lsn: Lsn; lastRecordLsn: Lsn }) => void,
) {
  const directory = mkdtempSync(join(tmpdir(), "strata-closing-"));
  try {
    const builder = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
    for (const length of recordBytes) {
      builder.appendFilled(length);
    }
    const path = join(directory, "000000010000000000000001");
    writeFileSync(path, builder.bytes);
    truncateSync(path, SEGMENT);
    body(directory, { lsn: builder.endLsn, lastRecordLsn: builder.records.at(-1)!.startLsn });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const pages = [0, 1, 2].map((kind) =>
  // Of zeros; without a run of them; with a hole.
  Uint8Array.from({ length: PAGE_SIZE }, (_, i) =>
    kind === 0 ? 0 : kind === 1 ? (i % 255) + 1 : i < 100 || i > 5000 ? (i % 7) + 1 : 0,
  ),
);

test("appendRecords: found again, wherever the last record ended", () => {
  // In the middle of a page, at its very end, right behind it, and just before the segment's end.
  const firstPage = XLOG_BLCKSZ - 40;
  const lasts = [
    [100],
    [firstPage],
    [firstPage - 8],
    [firstPage + 24],
    [...Array.from({ length: 127 }, () => 8192 - 24), 8000],
  ];
  for (const lengths of lasts) {
    withWal(lengths, (directory, end) => {
      const statistics = Buffer.alloc(50_000, "statistics");
      const written = appendRecords(
        { directory, version, systemId: 42n, segmentSize: SEGMENT },
        end,
        [
          ...pages.map(
            (page) => (prevLsn: Lsn) => encodeImageRecord({ version, prevLsn, block: BLOCK, page }),
          ),
          (prevLsn) =>
            encodeRecord({
              ...{ rmid: 21, info: 0, xid: 0, prevLsn },
              mainData: encodeStatisticsMessage(statistics),
            }),
        ],
      );
      checkWal(directory, end, written);
    });
  }
});

function checkWal(directory: string, end: { lsn: Lsn; lastRecordLsn: Lsn }, written: Lsn): void {
  const names = ["000000010000000000000001", "000000010000000000000002"];
  const segments = names
    .slice(0, written > START + SEGMENT ? 2 : 1)
    .map((name) => readFileSync(join(directory, name)));
  for (const segment of segments) {
    assert.equal(segment.length, SEGMENT);
  }
  const wal = Buffer.concat(segments).subarray(0, written - START);
  const walker = new RecordWalker({
    ...{ startLsn: START, pageMagic: version.pageMagic, segmentSize: SEGMENT, systemId: 42n },
  });
  walker.tryFeed(wal);
  assert.ok(walker.recordEndLsn > end.lsn && written - walker.recordEndLsn < XLOG_BLCKSZ);
  const stream = new WalStream({
    ...{ startLsn: end.lsn, pageMagic: version.pageMagic, segmentSize: SEGMENT },
  });
  stream.feed(wal.subarray(end.lsn - START));
  let found = 0;
  let previous = end.lastRecordLsn;
  const { record } = stream;
  while (stream.next()) {
    record.decode();
    assert.equal(record.prevLsn, previous);
    previous = record.startLsn;
    if (found < pages.length) {
      const page = new Uint8Array(PAGE_SIZE).fill(0xee);
      restoreImage(record, 0, page);
      assert.deepEqual(page, pages[found]);
      assert.equal(record.blockNumber[0], BLOCK.blkno);
    }
    found++;
  }
  assert.equal(found, pages.length + 1);
}

test("appendRecords: a link in the place of the next segment leads nowhere", () => {
  withWal([...Array.from({ length: 127 }, () => 8192 - 24), 8000], (directory, end) => {
    const other = join(directory, "other");
    writeFileSync(other, "not WAL");
    symlinkSync(other, join(directory, "000000010000000000000002"));
    const wal = { directory, version, systemId: 42n, segmentSize: SEGMENT };
    const image = (prevLsn: Lsn) =>
      encodeImageRecord({ version, prevLsn, block: BLOCK, page: pages[1]! });
    assert.throws(() => appendRecords(wal, end, [image, image]), { code: "EEXIST" });
    assert.equal(readFileSync(other, "utf8"), "not WAL");
  });
});
