// Tests of the WAL from before a start: which bytes of it come, into which files, and what can be read in them.

import assert from "node:assert/strict";
import {
  lstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { WalBuilder } from "../../../testing/wal-builder.ts";
import { StorageError } from "../../base/errors.ts";
import { createLogger } from "../../base/log.ts";
import { addLsn, type Lsn, pageStart, toLsn, walFileName } from "../../base/lsn.ts";
import { PG_VERSIONS } from "../../postgres/versions.ts";
import { checkPageHeader, XLP_LONG_HEADER } from "../../postgres/wal-page.ts";
import { WalStream } from "../../wal-decoder/wal-stream.ts";
import { OldWal, type OldWalOptions } from "./old-wal.ts";

const SEGMENT = 1024 * 1024;
const FIRST = toLsn(SEGMENT);
const version = PG_VERSIONS[17];

/** Three segments and a bit, of records that cross pages and segments. */
const builder = new WalBuilder({ startLsn: FIRST, segmentSize: SEGMENT });
while (builder.endLsn < FIRST + 3 * SEGMENT + 300_000) {
  builder.appendFilled(5000);
}
const wal = builder.bytes;
const end = builder.endLsn;
const recordAfter = (lsn: number) => builder.records.find((one) => one.startLsn >= lsn)!;

interface World {
  readonly directory: string;
  readonly asked: [Lsn, Lsn][];
  readonly oldWal: OldWal;
}

/** A pg_wal that has the start's segment, with zeros before the start. */
async function withOldWal(
  options: Partial<OldWalOptions> & { readonly oldest: Lsn },
  body: (world: World) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "strata-old-wal-"));
  try {
    const asked: [Lsn, Lsn][] = [];
    writeFileSync(join(directory, walFileName(4, 1, SEGMENT)), Buffer.alloc(SEGMENT));
    const oldWal = new OldWal({
      ...{ directory, end, version, systemId: 42n, segmentSize: SEGMENT },
      ...{ timelineStartLsn: FIRST, logger: createLogger("test") },
      slots: [{ name: "s", restartLsn: options.oldest }],
      read: async (from, to, onWal) => {
        if (to - from > 1) {
          asked.push([from, to]);
        }
        // In pieces of no round size, as they may come.
        for (let at = from; at < to; at = addLsn(at, 100_003)) {
          const until = Math.min(to, at + 100_003);
          onWal(at, wal.subarray(at - FIRST, until - FIRST));
        }
      },
      ...options,
    });
    await body({ directory, asked, oldWal });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Reads from `from` on as a decoder does; how many records it finds up to the start. */
function recordsFrom(directory: string, from: Lsn): number {
  const firstSegment = Math.floor(from / SEGMENT);
  const files = [1, 2, 3, 4]
    .filter((segno) => segno >= firstSegment)
    .map((segno) => readFileSync(join(directory, walFileName(segno, 1, SEGMENT))));
  const bytes = Buffer.concat(files);
  const start = firstSegment * SEGMENT;
  const stream = new WalStream({
    ...{ startLsn: from, pageMagic: version.pageMagic, segmentSize: SEGMENT },
  });
  stream.feed(bytes.subarray(from - start, end - start));
  let found = 0;
  while (stream.next()) {
    found++;
  }
  return found;
}

test("OldWal: from the oldest page that a slot needs up to the start, and nothing else", async () => {
  const oldest = recordAfter(FIRST + SEGMENT + 500_000).startLsn;
  await withOldWal({ oldest }, async ({ directory, asked, oldWal }) => {
    assert.deepEqual(await oldWal.prepare(), []);
    assert.deepEqual(asked, [[toLsn(4 * SEGMENT), end]]);
    assert.equal(await oldWal.fetchSegment(1), false);
    assert.equal(await oldWal.fetchSegment(4), false, "Postgres has that");
    assert.equal(await oldWal.fetchSegment(5), false);
    assert.equal(asked.length, 1);
    const [third, again] = [oldWal.fetchSegment(3), oldWal.fetchSegment(3)];
    assert.deepEqual(await Promise.all([third, again]), [true, true]);
    assert.equal(await oldWal.fetchSegment(2), true);
    assert.deepEqual(asked.slice(1), [
      [toLsn(3 * SEGMENT), toLsn(4 * SEGMENT)],
      [pageStart(oldest), toLsn(3 * SEGMENT)],
    ]);
    assert.equal(
      recordsFrom(directory, oldest),
      builder.records.filter(({ startLsn }) => startLsn >= oldest).length,
    );
    // Readers check the first header of a segment, wherever they begin in it.
    const second = readFileSync(join(directory, walFileName(2, 1, SEGMENT)));
    const long = { pageMagic: version.pageMagic, segmentSize: SEGMENT, systemId: 42n };
    const view = new DataView(second.buffer, second.byteOffset, second.length);
    assert.equal(checkPageHeader(view, 0, toLsn(2 * SEGMENT), long), XLP_LONG_HEADER);
    assert.equal(second.length, SEGMENT);
  });
});

test("OldWal: a slot that needs only a part of the start's segment", async () => {
  const oldest = recordAfter(4 * SEGMENT + 100_000).startLsn;
  await withOldWal({ oldest }, async ({ directory, asked, oldWal }) => {
    assert.deepEqual(await oldWal.prepare(), []);
    assert.deepEqual(asked, [[pageStart(oldest), end]]);
    assert.equal(await oldWal.fetchSegment(3), false);
    assert.equal(
      recordsFrom(directory, oldest),
      builder.records.filter(({ startLsn }) => startLsn >= oldest).length,
    );
  });
});

test("OldWal: a timeline that begins in the middle of a page", async () => {
  const first = recordAfter(4 * SEGMENT + 50_000);
  await withOldWal(
    { oldest: first.startLsn, timelineStartLsn: first.startLsn },
    async ({ directory, asked, oldWal }) => {
      assert.deepEqual(await oldWal.prepare(), []);
      assert.deepEqual(asked, [[first.startLsn, end]]);
      assert.equal(
        recordsFrom(directory, first.startLsn),
        builder.records.filter(({ startLsn }) => startLsn >= first.startLsn).length,
      );
      const segment = readFileSync(join(directory, walFileName(4, 1, SEGMENT)));
      const page = pageStart(first.startLsn) - 4 * SEGMENT;
      const length = first.startLsn - pageStart(first.startLsn) - 24;
      assert.equal(segment.readUInt16LE(page), version.pageMagic);
      assert.equal(
        segment.readUInt32LE(page + 16),
        length,
        "whoever begins with the page skips to it",
      );
    },
  );
});

test("OldWal: slots whose WAL is gone are told, and those behind it go on", async () => {
  const [gone, kept] = [recordAfter(FIRST + 1000), recordAfter(4 * SEGMENT + 100_000)];
  const slots = [
    { name: "kept", restartLsn: kept.startLsn },
    { name: "gone", restartLsn: gone.startLsn },
  ];
  const read: OldWalOptions["read"] = async (from, to, onWal) => {
    if (from < 3 * SEGMENT) {
      throw new StorageError("not-found", "test", "no safekeeper has it");
    }
    onWal(from, wal.subarray(from - FIRST, to - FIRST));
  };
  await withOldWal({ oldest: FIRST, slots, read }, async ({ directory, oldWal }) => {
    assert.deepEqual(await oldWal.prepare(), ["gone"]);
    assert.equal(
      recordsFrom(directory, kept.startLsn),
      builder.records.filter(({ startLsn }) => startLsn >= kept.startLsn).length,
    );
    assert.equal(await oldWal.fetchSegment(1), false);
  });
});

test("OldWal: what is gone meanwhile is no file, and what may come later is an error", async () => {
  let kind: "not-found" | "unavailable" | undefined;
  const read = async () => {
    if (kind !== undefined) {
      throw new StorageError(kind, "test", "no safekeeper gives it");
    }
  };
  await withOldWal({ oldest: FIRST, read }, async ({ directory, oldWal }) => {
    kind = "unavailable";
    await assert.rejects(oldWal.prepare(), { kind: "unavailable" });
    kind = undefined;
    assert.deepEqual(await oldWal.prepare(), []);
    const before = readdirSync(directory);
    kind = "unavailable";
    await assert.rejects(oldWal.fetchSegment(2), { kind: "unavailable" });
    kind = "not-found";
    assert.equal(await oldWal.fetchSegment(2), false);
    assert.deepEqual(readdirSync(directory), before);
  });
});

test("OldWal: a link of a segment's name leads nowhere", async () => {
  await withOldWal({ oldest: FIRST }, async ({ directory, oldWal }) => {
    const other = join(directory, "other");
    writeFileSync(other, "not WAL");
    const path = join(directory, walFileName(2, 1, SEGMENT));
    symlinkSync(other, `${path}.fetched`);
    symlinkSync(other, path);
    await oldWal.prepare();
    assert.equal(await oldWal.fetchSegment(2), true);
    assert.equal(readFileSync(other, "utf8"), "not WAL");
    assert.ok(lstatSync(path).isFile());
  });
});
