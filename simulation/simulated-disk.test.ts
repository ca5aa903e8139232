import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../src/base/random.ts";
import { SECTOR_BYTES, SimulatedCrash, SimulatedDisk } from "./simulated-disk.ts";

function writeFile(disk: SimulatedDisk, path: string, bytes: Uint8Array): number {
  const fd = disk.open(path, disk.exists(path) ? "r+" : "w");
  disk.write(fd, bytes, 0);
  return fd;
}

const filled = (length: number, value: number) => new Uint8Array(length).fill(value);

test("SimulatedDisk: a power cut takes what was not synced, a killed process nothing", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const fd = writeFile(disk, "/a", filled(2000, 1));
  disk.fsync(fd);
  disk.fsyncDirectory("/");
  disk.write(fd, filled(2000, 2), 0);
  disk.processEnded();
  assert.deepEqual(disk.peek("/a"), filled(2000, 2));
  disk.powerCut("nothing");
  assert.deepEqual(disk.peek("/a"), filled(2000, 1));
});

test("SimulatedDisk: a sync under way brings what was there when it began, once it has ended", () => {
  for (const hasEnded of [false, true]) {
    const disk = new SimulatedDisk(new SeededRandom(1));
    const fd = writeFile(disk, "/a", filled(2000, 1));
    disk.fsync(fd);
    disk.fsyncDirectory("/");
    disk.write(fd, filled(2000, 2), 0);
    const end = disk.beginSync(fd);
    disk.write(fd, filled(2000, 3), 0);
    if (hasEnded) {
      end();
    }
    disk.powerCut("nothing");
    assert.deepEqual(disk.peek("/a"), filled(2000, hasEnded ? 2 : 1));
  }
});

test("SimulatedDisk: a sync that is waited for takes what one under way has begun with, and is not undone by its end", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const fd = writeFile(disk, "/a", filled(2000, 1));
  const end = disk.beginSync(fd);
  disk.write(fd, filled(1000, 2), 0);
  disk.fsync(fd);
  disk.fsyncDirectory("/");
  end();
  disk.powerCut("nothing");
  assert.deepEqual(disk.peek("/a")?.subarray(0, 1000), filled(1000, 2));
  assert.deepEqual(disk.peek("/a")?.subarray(1000), filled(1000, 1));
});

test("SimulatedDisk: each open file is told of a failed sync once", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const fd = writeFile(disk, "/a", filled(2000, 1));
  const other = disk.open("/a", "r");
  disk.failingSyncs = 1;
  const end = disk.beginSync(fd);
  assert.throws(end, { code: "EIO" });
  disk.fsync(fd);
  assert.throws(() => disk.fsync(other), { code: "EIO" });
  disk.fsync(other);
});

test("SimulatedDisk: a synced file without a synced directory entry is gone", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  disk.fsync(writeFile(disk, "/a", filled(10, 1)));
  disk.rename("/a", "/b");
  disk.powerCut("nothing");
  assert.deepEqual(disk.list("/"), []);
});

test("SimulatedDisk: a rename is all or nothing, directory changes keep their order", () => {
  for (let seed = 1; seed < 50; seed++) {
    const disk = new SimulatedDisk(new SeededRandom(seed));
    disk.fsync(writeFile(disk, "/a", filled(10, 1)));
    disk.fsync(writeFile(disk, "/b.tmp", filled(10, 2)));
    disk.fsyncDirectory("/");
    disk.rename("/b.tmp", "/a");
    disk.fsync(writeFile(disk, "/c", filled(10, 3)));
    disk.powerCut("sectors");
    const value = disk.peek("/a")?.[0];
    assert.ok(value === 1 ? disk.exists("/b.tmp") : value === 2 && !disk.exists("/b.tmp"));
    assert.ok(!disk.exists("/c") || value === 2);
  }
});

test("SimulatedDisk: writes are torn at sectors or blocks", () => {
  const mixed = { sectors: 0, blocks: 0 };
  for (let seed = 1; seed < 50; seed++) {
    for (const tear of ["sectors", "blocks"] as const) {
      const disk = new SimulatedDisk(new SeededRandom(seed));
      const fd = writeFile(disk, "/a", filled(16_384, 1));
      disk.fsync(fd);
      disk.fsyncDirectory("/");
      disk.write(fd, filled(16_384, 2), 0);
      disk.powerCut(tear);
      const found = disk.peek("/a")!;
      assert.equal(found.length, 16_384);
      for (let at = 0; at < found.length; at += SECTOR_BYTES) {
        assert.ok(found.subarray(at, at + SECTOR_BYTES).every((byte) => byte === found[at]));
      }
      mixed[tear] += new Set(found.subarray(0, 4096)).size > 1 ? 1 : 0;
    }
  }
  assert.ok(mixed.sectors > 30, `${mixed.sectors} blocks of two writes`);
  // Only where the kernel wrote some sectors back before.
  assert.ok(mixed.blocks < 10, `${mixed.blocks} blocks of two writes`);
});

test("SimulatedDisk: after a failed sync the bytes count as clean and are lost later", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const fd = writeFile(disk, "/a", filled(600, 1));
  disk.fsync(fd);
  disk.fsyncDirectory("/");
  disk.write(fd, filled(600, 2), 0);
  disk.failingSyncs = 1;
  assert.throws(() => disk.fsync(fd), { code: "EIO" });
  disk.fsync(fd);
  assert.deepEqual(disk.peek("/a"), filled(600, 2));
  disk.powerCut("nothing");
  assert.deepEqual(disk.peek("/a"), filled(600, 1));
});

test("SimulatedDisk: full, rotten, and dead in the middle of an operation", () => {
  const disk = new SimulatedDisk(new SeededRandom(1));
  const fd = writeFile(disk, "/a", filled(600, 1));
  disk.full = true;
  assert.throws(() => disk.write(fd, filled(600, 2), 600), { code: "ENOSPC" });
  disk.full = false;
  assert.ok(disk.rot("/a", 5, 3));
  const buffer = new Uint8Array(10);
  disk.read(fd, buffer, 0, 10, 0);
  assert.deepEqual([buffer[4], buffer[5]], [1, 1 ^ 8]);
  disk.write(fd, filled(600, 1), 0);
  disk.read(fd, buffer, 0, 10, 0);
  assert.equal(buffer[5], 1);
  disk.operationsLeft = 1;
  disk.write(fd, filled(10, 3), 0);
  assert.throws(() => disk.write(fd, filled(10, 4), 0), SimulatedCrash);
  assert.throws(() => disk.size(fd), SimulatedCrash);
  disk.processEnded();
  assert.throws(() => disk.size(fd), { code: "EBADF" });
});
