// WalDirectory on empty files: names are all that it looks at.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { toLsn, WAL_SEGMENT_SIZE } from "../base/lsn.ts";
import { WalDirectory } from "./wal-directory.ts";

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "strata-wal-directory-"));
});
afterEach(() => rmSync(directory, { recursive: true }));

function open(...names: string[]): WalDirectory {
  for (const name of names) {
    writeFileSync(join(directory, name), "");
  }
  return new WalDirectory(directory, WAL_SEGMENT_SIZE);
}

const segment = (timeline: number, segno: number) =>
  `0000000${timeline}00000000000000${segno.toString(16).toUpperCase().padStart(2, "0")}`;

function follow(wal: WalDirectory, timeline: number, startLsn = 0): (string | undefined)[] {
  wal.follow(timeline, toLsn(startLsn));
  return wal.segnos().map((segno) => basename(wal.pathOf(segno)!));
}

test("WalDirectory: a segment is read from the newest timeline that has begun by then", () => {
  const names = [1, 2, 3].flatMap((timeline) =>
    [1, 2, 3, 4, 5, 6].map((segno) => segment(timeline, segno)),
  );
  // Timeline 2 left 1 inside segment 3, timeline 3 left 2 at the very start of segment 5.
  writeFileSync(
    join(directory, "00000003.history"),
    "1\t0/3800000\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01\n",
  );
  const expected = [
    segment(1, 1),
    segment(1, 2),
    segment(2, 3),
    segment(2, 4),
    segment(3, 5),
    segment(3, 6),
  ];
  assert.deepEqual(follow(open(...names), 1), expected);
  assert.deepEqual(follow(open(), 2, 0x400_0000), [
    segment(2, 1),
    segment(2, 2),
    segment(2, 3),
    segment(2, 4),
    segment(3, 5),
    segment(3, 6),
  ]);
  assert.throws(
    () => follow(open(), 1, 0x400_0000),
    /is not in the history of timeline 3, which left/,
  );
});

test("WalDirectory: a partial segment stands for a whole one that is not there", () => {
  const wal = open(segment(1, 1), `${segment(1, 1)}.partial`, `${segment(1, 2)}.partial`);
  assert.deepEqual(follow(wal, 1), [segment(1, 1), `${segment(1, 2)}.partial`]);
});

test("WalDirectory: compressed segments matter where they are needed only", () => {
  const wal = open(`${segment(1, 1)}.gz`, segment(1, 2), `${segment(1, 3)}.zst`, "archive_status");
  assert.deepEqual(follow(wal, 1), [segment(1, 2)]);
  assert.throws(() => wal.pathOf(1), /\.gz' is compressed: decompress the WAL first/);
  assert.throws(() => wal.pathOf(3), /\.zst' is compressed/);
  assert.equal(wal.pathOf(4), undefined);
  assert.equal(wal.nameOf(4), segment(1, 4));
});
