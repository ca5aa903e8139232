import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { ReadWindow, WINDOW_BYTES } from "./read-window.ts";

/** Byte n of it is made of n; notes what was read. */
class File {
  readonly reads: [offset: number, length: number][] = [];
  readonly sizeBytes: number;
  readonly #salt: number;

  constructor(sizeBytes: number, salt = 0) {
    this.sizeBytes = sizeBytes;
    this.#salt = salt;
  }

  at(place: number): number {
    return (place * 7 + (place >>> 8) + this.#salt) & 0xff;
  }

  readInto(into: Uint8Array, offset: number, length: number): void {
    assert.ok(offset >= 0 && offset + length <= this.sizeBytes, "it reads past the end");
    this.reads.push([offset, length]);
    for (let i = 0; i < length; i++) {
      into[i] = this.at(offset + i);
    }
  }
}

function check(file: File, offset: number, bytes: Uint8Array | undefined): void {
  assert.ok(bytes !== undefined);
  for (const [i, byte] of bytes.entries()) {
    assert.equal(byte, file.at(offset + i), `byte ${offset + i}`);
  }
}

test("ReadWindow: who reads on gets more than it asked for, others just that", () => {
  const window = new ReadWindow();
  const file = new File(3 * WINDOW_BYTES);
  const take = (offset: number, length: number) =>
    check(file, offset, window.lend(file, offset, length));
  take(1000, 500);
  take(1500, 500);
  take(2000, 500);
  take(1600, 100);
  assert.deepEqual(file.reads, [
    [1000, 500],
    [1500, WINDOW_BYTES],
  ]);
  take(100_000, 50);
  // It begins within what is there.
  take(100_040, 50);
  take(3 * WINDOW_BYTES - 60, 60);
  take(3 * WINDOW_BYTES - 20, 20);
  assert.deepEqual(file.reads.slice(2), [
    [100_000, 50],
    [100_040, WINDOW_BYTES],
    [3 * WINDOW_BYTES - 60, 60],
  ]);
});

test("ReadWindow: any reads of some files give their bytes", () => {
  const random = new SeededRandom(1);
  const window = new ReadWindow();
  const files = [1, 2, 3].map((salt) => new File(WINDOW_BYTES * salt + salt, salt));
  const next = files.map(() => 0);
  for (let i = 0; i < 3000; i++) {
    const which = random.int(3);
    const file = files[which]!;
    const goesOn = random.bool(0.7) && next[which]! < file.sizeBytes;
    const offset = goesOn ? next[which]! : random.int(file.sizeBytes);
    const length = 1 + random.int(Math.min(file.sizeBytes - offset, 20_000));
    check(file, offset, window.lend(file, offset, length));
    next[which] = offset + length;
  }
});

test("ReadWindow: nothing is kept of what failed, of a file that may change, and of large pieces", () => {
  const window = new ReadWindow();
  const file = new File(3 * WINDOW_BYTES);
  window.lend(file, 0, 100);
  window.forget(new File(1));
  window.lend(file, 10, 20);
  assert.equal(file.reads.length, 1);
  window.forget(file);
  window.lend(file, 10, 20);
  assert.deepEqual(file.reads[1], [10, 20]);
  const broken = {
    sizeBytes: 1000,
    readInto: (into: Uint8Array) => {
      into.fill(1);
      throw new Error("no disk");
    },
  };
  assert.throws(() => window.lend(broken, 0, 10), /no disk/);
  check(file, 10, window.lend(file, 10, 20));
  assert.equal(file.reads.length, 3);
  assert.equal(window.lend(file, 0, WINDOW_BYTES + 1), undefined);
});

test("ReadWindow: a block before a place that cannot be read is read", () => {
  const window = new ReadWindow();
  const file = new File(WINDOW_BYTES);
  const damaged = {
    sizeBytes: WINDOW_BYTES,
    readInto: (into: Uint8Array, offset: number, length: number) => {
      assert.ok(offset + length <= 1000, "no such bytes");
      file.readInto(into, offset, length);
    },
  };
  for (const offset of [100, 400, 700]) {
    check(file, offset, window.lend(damaged, offset, 300));
  }
  assert.throws(() => window.lend(damaged, 1000, 300), /no such bytes/);
});
