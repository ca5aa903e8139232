import assert from "node:assert/strict";
import {
  closeSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { SimulatedDisk } from "../../simulation/simulated-disk.ts";
import { WalBuilder } from "../../testing/wal-builder.ts";
import { REAL_DISK, writeFully } from "../base/disk.ts";
import { type Lsn, toLsn, walFileName } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import { PG_VERSIONS } from "../postgres/versions.ts";
import { findEndOfWal, listSegments, WalReader, WalStorage } from "./wal-storage.ts";

const SEGMENT = 1024 * 1024;
const START = toLsn(SEGMENT + 0x28 + 8192);

function inDirectory(body: (directory: string) => void): void {
  const directory = mkdtempSync(join(tmpdir(), "strata-wal-"));
  try {
    body(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

function makeWal(count: number, seed: number): WalBuilder {
  const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
  const random = new SeededRandom(seed);
  for (let i = 0; i < count; i++) {
    wal.appendFilled(random.pick([24, 60, 200, 9000, 60_000]));
  }
  return wal;
}

function writeAll(storage: WalStorage, wal: WalBuilder, to: Lsn, chunk: number): void {
  while (storage.writeLsn < to) {
    const at = storage.writeLsn;
    storage.write(at, wal.read(at, Math.min(at + chunk, to) as Lsn));
  }
}

const endOf = (directory: string, from: Lsn = START) =>
  findEndOfWal(directory, SEGMENT, from, START).endLsn;

test("WalStorage: what was written over segments is read back; a restart finds its end", () => {
  inDirectory((directory) => {
    const wal = makeWal(200, 1);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.endLsn, 40_000);
    storage.flush();
    assert.equal(storage.recordLsn, wal.endLsn);
    storage.close();
    assert.ok(readdirSync(directory).length >= 3);
    assert.equal(endOf(directory), wal.endLsn);
    assert.equal(endOf(directory, wal.recordEnds[100]!), wal.endLsn);
    const reader = new WalReader(directory, SEGMENT);
    assert.deepEqual(
      Buffer.from(reader.read(START, wal.endLsn - START)),
      Buffer.from(wal.read(START, wal.endLsn)),
    );
    reader.close();
  });
});

test("WalStorage: a torn tail is cut at the last whole record, wherever it is torn", () => {
  const wal = makeWal(30, 2);
  const last = wal.recordEnds.length - 1;
  const [start, end] = [wal.records[last]!.startLsn, wal.recordEnds[last]!];
  for (const cutAt of [start, start + 1, start + 20, start + 24, end - 9]) {
    inDirectory((directory) => {
      const storage = new WalStorage(directory, SEGMENT, START);
      writeAll(storage, wal, cutAt as Lsn, 100_000);
      storage.flush();
      storage.close();
      assert.equal(endOf(directory), wal.recordEnds[last - 1]);
    });
  }
});

test("WalStorage: truncate leaves nothing of the old tail, in this segment and later ones", () => {
  inDirectory((directory) => {
    const wal = makeWal(200, 3);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.endLsn, 50_000);
    storage.flush();
    const cutAt = wal.recordEnds[20]!;
    storage.truncate(cutAt);
    assert.equal(storage.writeLsn, cutAt);
    assert.equal(endOf(directory), cutAt);
    const last = Math.floor(cutAt / SEGMENT);
    assert.ok(wal.endLsn / SEGMENT > last + 1, "there was a segment after the cut");
    assert.equal(Math.max(...listSegments(directory, SEGMENT)), last);
    // A shorter WAL of another term: its end must be found, not the old records behind it.
    const other = wal.fork(cutAt);
    other.appendFilled(333, 99);
    writeAll(storage, other, other.endLsn, 1000);
    storage.flush();
    storage.close();
    assert.equal(endOf(directory), other.endLsn);
    const name = walFileName(Math.floor(cutAt / SEGMENT), 1, SEGMENT);
    const tail = readFileSync(join(directory, name)).subarray(other.endLsn % SEGMENT);
    assert.ok(tail.every((byte) => byte === 0));
    assert.equal(tail.length + (other.endLsn % SEGMENT), SEGMENT);
  });
});

test("WalStorage: truncate at a segment boundary and of an empty timeline", () => {
  inDirectory((directory) => {
    const storage = new WalStorage(directory, SEGMENT, START);
    storage.truncate(START);
    const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
    wal.appendFilled(100);
    const boundary = wal.appendSwitch();
    wal.appendFilled(50_000);
    writeAll(storage, wal, wal.endLsn, 8192);
    storage.flush();
    storage.truncate(boundary);
    assert.equal(endOf(directory), boundary);
    writeAll(storage, wal, wal.endLsn, 8192);
    storage.close();
    assert.equal(endOf(directory), wal.endLsn);
  });
});

test("WalStorage: zeros are written ahead of small writes only", () => {
  inDirectory((directory) => {
    const wal = new WalBuilder({ startLsn: START, segmentSize: SEGMENT });
    while (wal.endLsn - START < 700_000) {
      wal.appendFilled(5000);
    }
    let writtenBytes = 0;
    const disk = {
      ...REAL_DISK,
      write: (fd: number, bytes: Uint8Array, position: number) => {
        writtenBytes += bytes.length;
        REAL_DISK.write(fd, bytes, position);
      },
    };
    const storage = new WalStorage(directory, SEGMENT, START, disk);
    const append = (length: number) => {
      const [at, before] = [storage.writeLsn, writtenBytes];
      storage.write(at, wal.read(at, (at + length) as Lsn));
      return writtenBytes - before - length;
    };
    const ahead = append(300);
    assert.ok(ahead > 100_000 && ahead < 256 * 1024, `${ahead} zeros`);
    assert.equal(append(300), 0, "there already");
    assert.equal(append(128 * 1024), 0);
    assert.equal(append(256 * 1024), 0, "a bulk write gets its own blocks");
    assert.ok(append(300) > 0);
    storage.close();
  });
});

test("WalStorage: refuses what is not WAL or not at the end, and writes nothing of it", () => {
  inDirectory((directory) => {
    const wal = makeWal(20, 4);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.recordEnds[10]!, 50_000);
    const at = storage.writeLsn;
    assert.throws(() => storage.write(toLsn(at + 8), new Uint8Array(8)), {
      code: "wal-position-lost",
    });
    const damaged = wal.read(at, wal.endLsn);
    damaged[damaged.length - 12]! ^= 1;
    assert.throws(() => storage.write(at, damaged), { kind: "corrupt" });
    assert.throws(() => storage.write(at, wal.read(at, wal.endLsn)), { kind: "unavailable" });
    storage.truncate(at);
    writeAll(storage, wal, wal.endLsn, 50_000);
    storage.flush();
    storage.close();
    assert.equal(endOf(directory), wal.endLsn);
  });
});

test("WalStorage: WAL of another major is refused, at the start and after a truncation", () => {
  inDirectory((directory) => {
    const wal = makeWal(20, 4);
    const { pageMagic } = PG_VERSIONS[16];
    const storage = new WalStorage(directory, SEGMENT, START, REAL_DISK, pageMagic);
    const foreign = /page magic is d116 \(PostgreSQL 17\), expected d113 \(PostgreSQL 16\)/;
    assert.throws(() => storage.write(START, wal.read(START, wal.endLsn)), foreign);
    storage.truncate(START);
    assert.throws(() => storage.write(START, wal.read(START, wal.endLsn)), foreign);
    storage.close();
    assert.equal(endOf(directory), START);
  });
});

test("WalStorage: a full disk loses nothing that was flushed and is over when there is room", () => {
  inDirectory((directory) => {
    const wal = makeWal(60, 5);
    let room = 300_000;
    const storage = new WalStorage(directory, SEGMENT, START, {
      ...REAL_DISK,
      write(fd, bytes, position) {
        room -= bytes.length;
        if (room < 0) {
          // Half of it got through.
          writeSync(fd, bytes, 0, bytes.length >> 1, position);
          throw Object.assign(new Error("no space"), { code: "ENOSPC" });
        }
        writeFully(fd, bytes, position);
      },
    });
    let flushedTo: Lsn = START;
    assert.throws(
      () => {
        for (;;) {
          const at = storage.writeLsn;
          storage.write(at, wal.read(at, Math.min(at + 20_000, wal.endLsn) as Lsn));
          storage.flush();
          flushedTo = storage.recordLsn;
        }
      },
      { kind: "unavailable", code: "disk-full" },
    );
    assert.ok(flushedTo > START);
    assert.ok(endOf(directory) >= flushedTo);
    room = Number.MAX_SAFE_INTEGER;
    storage.truncate(flushedTo);
    writeAll(storage, wal, wal.endLsn, 20_000);
    storage.flush();
    storage.close();
    assert.equal(endOf(directory), wal.endLsn);
  });
});

test("WalStorage: after a failed fdatasync nothing is acknowledged any more", () => {
  inDirectory((directory) => {
    const wal = makeWal(3, 6);
    const storage = new WalStorage(directory, SEGMENT, START, {
      ...REAL_DISK,
      fdatasync() {
        throw Object.assign(new Error("i/o error"), { code: "EIO" });
      },
    });
    storage.write(START, wal.read(START, wal.endLsn));
    assert.throws(() => storage.flush(), { code: "wal-flush-failed" });
    assert.throws(() => storage.flush(), { code: "wal-flush-failed" });
    assert.throws(() => storage.write(wal.endLsn, new Uint8Array(8)), { code: "wal-flush-failed" });
    storage.close();
  });
});

/** Descriptors that were synced here, and those that were closed. */
function watched() {
  const synced: number[] = [];
  const closed: number[] = [];
  const disk = {
    ...REAL_DISK,
    fdatasync(fd: number) {
      synced.push(fd);
      REAL_DISK.fdatasync(fd);
    },
    close(fd: number) {
      closed.push(fd);
      REAL_DISK.close(fd);
    },
  };
  return { disk, synced, closed };
}

test("WalStorage.beginFlush: one at a time; who flushes meanwhile syncs all, through a descriptor of its own", () => {
  inDirectory((directory) => {
    const wal = makeWal(20, 9);
    const { disk, synced } = watched();
    const storage = new WalStorage(directory, SEGMENT, START, disk);
    assert.equal(storage.beginFlush(), undefined);
    writeAll(storage, wal, wal.recordEnds[10]!, 40_000);
    const fd = storage.beginFlush()!;
    assert.equal(storage.beginFlush(), undefined);
    storage.flush();
    assert.equal(synced.length, 1);
    assert.notEqual(synced[0], fd);
    storage.endFlush();
    storage.flush();
    assert.equal(synced.length, 1);
    writeAll(storage, wal, wal.endLsn, 40_000);
    assert.equal(storage.beginFlush(), fd);
    storage.endFlush();
    storage.close();
  });
});

test("WalStorage.beginFlush: the segment may end meanwhile; its descriptor is closed when the flush has ended", () => {
  inDirectory((directory) => {
    const wal = makeWal(200, 10);
    const { disk, closed } = watched();
    const storage = new WalStorage(directory, SEGMENT, START, disk);
    writeAll(storage, wal, (1.5 * SEGMENT) as Lsn, 40_000);
    const fd = storage.beginFlush()!;
    writeAll(storage, wal, (2.5 * SEGMENT) as Lsn, 40_000);
    assert.ok(closed.length > 0 && !closed.includes(fd));
    storage.endFlush();
    assert.deepEqual(
      closed.filter((each) => each === fd),
      [fd],
    );
    storage.close();
    assert.equal(
      endOf(directory),
      wal.recordEnds.findLast((lsn) => lsn <= 2.5 * SEGMENT),
    );
  });
});

test("WalStorage.beginFlush: who flushes meanwhile hears of its failure, though the kernel has told it already", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const wal = makeWal(3, 11);
  const storage = new WalStorage("/", SEGMENT, START, disk);
  storage.write(START, wal.read(START, wal.endLsn));
  disk.failingSyncs = 1;
  const end = disk.beginSync(storage.beginFlush()!);
  assert.throws(end, { code: "EIO" });
  // The other thread knows; this one has not looked yet.
  assert.throws(() => storage.flush(), { code: "wal-flush-failed" });
  assert.throws(() => storage.endFlush(), { code: "wal-flush-failed" });
});

test("WalStorage.endFlush: a failure is final", () => {
  inDirectory((directory) => {
    const wal = makeWal(3, 6);
    const storage = new WalStorage(directory, SEGMENT, START);
    storage.write(START, wal.read(START, wal.endLsn));
    storage.beginFlush();
    assert.throws(() => storage.endFlush(new Error("i/o error")), { code: "wal-flush-failed" });
    assert.throws(() => storage.flush(), { code: "wal-flush-failed" });
    assert.throws(() => storage.write(wal.endLsn, new Uint8Array(8)), { code: "wal-flush-failed" });
    storage.close();
  });
});

for (const { what, method, first } of [
  { what: "the entry of a new segment", method: "fsyncDirectory", first: 2 },
  { what: "a new segment", method: "fsync", first: 2 },
  { what: "the removal of what is cut off", method: "fsyncDirectory", first: 3 },
  { what: "a cut", method: "fsync", first: 3 },
] as const) {
  test(`WalStorage: after a failed sync of ${what} nothing is acknowledged any more, though the next would succeed`, () => {
    inDirectory((directory) => {
      const wal = makeWal(200, 8);
      let syncs = 0;
      const storage = new WalStorage(directory, SEGMENT, START, {
        ...REAL_DISK,
        [method](of: never) {
          syncs++;
          if (syncs === first) {
            throw Object.assign(new Error("i/o error"), { code: "EIO" });
          }
          REAL_DISK[method](of);
        },
      });
      const work = () => {
        writeAll(storage, wal, toLsn(2.5 * SEGMENT), 100_000);
        storage.truncate(wal.recordEnds.findLast((lsn) => lsn < 1.5 * SEGMENT)!);
      };
      assert.throws(work, { code: "wal-flush-failed" });
      assert.equal(syncs, first);
      assert.throws(() => storage.truncate(START), { code: "wal-flush-failed" });
      assert.throws(() => storage.flush(), { code: "wal-flush-failed" });
      storage.close();
    });
  });
}

test("findEndOfWal: damage below the known end, a missing or a short segment", () => {
  inDirectory((directory) => {
    const wal = makeWal(200, 7);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.endLsn, 100_000);
    storage.flush();
    storage.close();
    const known = wal.recordEnds.findLast((lsn) => lsn < 3 * SEGMENT)!;
    const path = (segno: number) => join(directory, walFileName(segno, 1, SEGMENT));
    // A flipped bit in the not yet known part ends the WAL there.
    const at = wal.records.find(({ startLsn }) => startLsn > known + 100_000)!.startLsn;
    const fd = openSync(path(Math.floor(at / SEGMENT)), "r+");
    writeSync(fd, Uint8Array.of(0xee), 0, 1, (at % SEGMENT) + 20);
    closeSync(fd);
    const end = findEndOfWal(directory, SEGMENT, known, START);
    assert.equal(
      end.endLsn,
      wal.recordEnds.findLast((lsn) => lsn <= at),
    );
    assert.match(end.stoppedBy ?? "", /checksum/);
    // A later segment that has no size yet is an end, one below the known end is a loss.
    truncateSync(path(3), 0);
    assert.equal(endOf(directory, known) <= 3 * SEGMENT + 24, true);
    rmSync(path(2));
    assert.throws(() => endOf(directory, known), { kind: "corrupt", code: "wal-segment-missing" });
    writeFileSync(path(2), new Uint8Array(100));
    assert.throws(() => endOf(directory, known), { kind: "corrupt", code: "wal-segment-short" });
  });
});

test("findEndOfWal: a segment that is short because its cut was not finished still ends its WAL", () => {
  inDirectory((directory) => {
    const wal = makeWal(40, 9);
    const storage = new WalStorage(directory, SEGMENT, START);
    const cutAt = wal.recordEnds.findLast((lsn) => lsn < 2 * SEGMENT)!;
    writeAll(storage, wal, cutAt, 100_000);
    storage.flush();
    storage.close();
    // The first half of a cut: the file ends at it, and has not got its full size again.
    truncateSync(join(directory, walFileName(1, 1, SEGMENT)), cutAt % SEGMENT);
    assert.equal(endOf(directory), cutAt);
  });
});

test("WalStorage.settleAfterStart: syncs what was found, and nothing is left behind it", () => {
  inDirectory((directory) => {
    const wal = makeWal(60, 10);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.endLsn, 100_000);
    storage.close();
    const known = wal.recordEnds[3]!;
    const end = wal.recordEnds.findLast((lsn) => lsn < 2 * SEGMENT)!;
    const synced: number[] = [];
    const restarted = new WalStorage(directory, SEGMENT, end, {
      ...REAL_DISK,
      write(fd, bytes, position) {
        synced.push(position, position + bytes.length);
        writeFully(fd, bytes, position);
      },
    });
    restarted.settleAfterStart(known);
    assert.equal(Math.min(...synced), known % SEGMENT);
    assert.equal(Math.max(...synced), end % SEGMENT);
    assert.deepEqual(readdirSync(directory), [walFileName(1, 1, SEGMENT)]);
    assert.equal(endOf(directory), end);
    const reader = new WalReader(directory, SEGMENT);
    assert.deepEqual(
      Buffer.from(reader.read(START, end - START)),
      Buffer.from(wal.read(START, end)),
    );
    reader.close();
    writeAll(restarted, wal, wal.endLsn, 50_000);
    restarted.flush();
    restarted.close();
    assert.equal(endOf(directory), wal.endLsn);
  });
});

test("WalStorage.removeBelow: keeps the segment that holds the LSN", () => {
  inDirectory((directory) => {
    const wal = makeWal(200, 8);
    const storage = new WalStorage(directory, SEGMENT, START);
    writeAll(storage, wal, wal.endLsn, 100_000);
    assert.equal(storage.removeBelow(toLsn(3 * SEGMENT + 5)), 2);
    assert.equal(storage.removeBelow(toLsn(3 * SEGMENT + 5)), 0);
    storage.close();
    assert.equal(endOf(directory, wal.recordEnds.find((lsn) => lsn > 3 * SEGMENT)!), wal.endLsn);
  });
});
