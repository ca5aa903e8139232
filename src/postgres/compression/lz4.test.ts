import assert from "node:assert/strict";
import { test } from "node:test";
import { SeededRandom } from "../../base/random.ts";
import { compressLz4Block, decompressLz4Block } from "./lz4.ts";

/** Text-like, page-like or random bytes: runs, repeats from near and far, noise. */
function someBytes(random: SeededRandom, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const run = 1 + random.int(random.pick([4, 20, 300, 9000]));
    const back = 1 + random.int(random.pick([1, 4, 8, 100, 70_000]));
    const kind = random.int(3);
    for (const end = Math.min(length, at + run); at < end; at++) {
      bytes[at] = kind === 0 ? random.int(256) : at >= back ? bytes[at - back]! : kind;
    }
  }
  return bytes;
}

/** The format, word for word, with the rules for the end that other readers rely on. */
function decodeByTheBook(source: Uint8Array): Uint8Array {
  const out: number[] = [];
  let at = 0;
  let matchAt = 0;
  const length = (first: number) => {
    let sum = first;
    for (let more = first === 15 ? 255 : 0; more === 255; sum += more) {
      more = source[at++]!;
    }
    return sum;
  };
  for (;;) {
    const token = source[at++]!;
    const literals = length(token >> 4);
    out.push(...source.subarray(at, at + literals));
    at += literals;
    if (at === source.length) {
      assert.ok(matchAt === 0 || (literals >= 5 && matchAt <= out.length - 12), "end of block");
      return Uint8Array.from(out);
    }
    const distance = source[at++]! + 256 * source[at++]!;
    assert.ok(distance > 0 && distance <= out.length, "distance");
    matchAt = out.length;
    for (let left = length(token & 15) + 4; left > 0; left--) {
      out.push(out[out.length - distance]!);
    }
  }
}

test("LZ4: what is compressed comes back, and any reader of the format understands it", () => {
  for (let seed = 0; seed < 300; seed++) {
    const random = new SeededRandom(seed);
    const bytes = someBytes(random, random.int(random.pick([20, 300, 9000, 150_000])));
    const target = new Uint8Array(bytes.length * 2 + 100);
    const compressed = target.slice(0, compressLz4Block(bytes, target));
    assert.deepEqual(decodeByTheBook(compressed), bytes, `seed ${seed}`);
    const around = new Uint8Array(bytes.length + 64).fill(0xaa);
    const inside = around.subarray(32, 32 + bytes.length);
    assert.equal(decompressLz4Block(compressed, inside), true, `seed ${seed}`);
    assert.deepEqual(inside, bytes, `seed ${seed}`);
    assert.deepEqual(around.subarray(32 + bytes.length), new Uint8Array(32).fill(0xaa));
    assert.equal(decompressLz4Block(compressed, around), false, `seed ${seed}`);
  }
});

test("compressLz4Block: 0 where the target is too small, and nothing outside it is written", () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new SeededRandom(seed);
    const bytes = someBytes(random, random.int(9000));
    const around = new Uint8Array(2 * bytes.length + 100).fill(0xaa);
    const size = random.int(bytes.length + 50);
    const length = compressLz4Block(bytes, around.subarray(0, size));
    assert.ok(length <= size, `seed ${seed}`);
    assert.ok(around.subarray(size).every((byte) => byte === 0xaa));
    if (length > 0) {
      assert.deepEqual(decodeByTheBook(around.subarray(0, length)), bytes, `seed ${seed}`);
    }
  }
});

test("decompressLz4Block: damaged bytes end, within the target", () => {
  for (let seed = 0; seed < 2000; seed++) {
    const random = new SeededRandom(seed);
    const bytes = someBytes(random, random.int(3000));
    const target = new Uint8Array(7000);
    const compressed = target.slice(0, compressLz4Block(bytes, target));
    for (let faults = random.int(4); faults >= 0; faults--) {
      compressed[random.int(compressed.length)] = random.pick([0, 255, random.int(256)]);
    }
    const around = new Uint8Array(bytes.length + 64);
    decompressLz4Block(compressed.subarray(random.int(3)), around.subarray(0, bytes.length));
    assert.ok(
      around.subarray(bytes.length).every((byte) => byte === 0),
      `seed ${seed}`,
    );
  }
});
