// Tests of segments as the object store keeps them: what goes in comes out, and nothing that is damaged does.

import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import { type Lsn, toLsn } from "../base/lsn.ts";
import { SeededRandom } from "../base/random.ts";
import {
  decodeFrames,
  decodeStoredHead,
  decodeStoredSegment,
  encodeStoredSegment,
  framesOf,
  MAX_HEAD_BYTES,
} from "./stored-segment.ts";

const SEGMENT = 1024 * 1024;
const START = toLsn(0x12_0340_0000);

function finish<T>(steps: Generator<void, T, unknown>): T {
  for (let step = steps.next(); ; step = steps.next()) {
    if (step.done === true) {
      return step.value;
    }
  }
}

/** Zeros below `begin`, then half noise, half repetition. */
function segmentBytes(random: SeededRandom, begin: number, end: number): Uint8Array {
  const bytes = new Uint8Array(end);
  for (let i = begin; i < end; i++) {
    bytes[i] = (i & 4096) === 0 ? random.int(256) : i & 15;
  }
  return bytes;
}

function encode(bytes: Uint8Array, begin: number, startLsn: Lsn = START): Uint8Array {
  return new Uint8Array(
    finish(encodeStoredSegment({ startLsn, segmentSize: SEGMENT, begin, bytes })),
  );
}

/** What bytes of the head would be with its checksum made right again. */
function patched(object: Uint8Array, at: number, value: number): Uint8Array {
  const copy = object.slice();
  const view = new DataView(copy.buffer);
  view.setUint32(at, value, true);
  const end = 40 + 8 * new DataView(object.buffer, object.byteOffset).getUint32(36, true);
  view.setUint32(end, crc32(copy.subarray(0, end)), true);
  return copy;
}

test("encodeStoredSegment: any part of any segment comes back", () => {
  const random = new SeededRandom(7);
  for (let round = 0; round < 40; round++) {
    const end = random.bool(0.3) ? SEGMENT : random.int(SEGMENT + 1);
    const begin = random.bool(0.3) ? 0 : random.int(end + 1);
    const bytes = segmentBytes(random, begin, end);
    const object = encode(bytes, begin);
    assert.ok(Buffer.from(bytes).equals(decodeStoredSegment(object, "it")));
    const head = decodeStoredHead(object.subarray(0, MAX_HEAD_BYTES), "it")!;
    assert.deepEqual(
      [head.startLsn, head.segmentSize, head.begin, head.end, head.sizeBytes],
      [START, SEGMENT, begin, end, object.length],
    );
    for (let part = 0; part < 8; part++) {
      const from = random.int(end + 1);
      const to = from + random.int(end - from + 1);
      const range = framesOf(head, from, to);
      const stored = object.subarray(range.start, range.end);
      const got = finish(decodeFrames(head, range, stored, [from, to], "it"));
      assert.ok(Buffer.from(bytes.subarray(from, to)).equals(got), `[${from}, ${to})`);
      // No more of the object than the frames at the edges.
      assert.ok((range.last - range.first) * head.frameBytes <= to - from + 2 * head.frameBytes);
    }
  }
});

test("encodeStoredSegment: what lies below the timeline's own WAL costs nothing, and it is compressed", () => {
  const random = new SeededRandom(8);
  const own = encode(segmentBytes(random, SEGMENT - 83_000, SEGMENT), SEGMENT - 83_000);
  assert.ok(own.length < 60_000, `${own.length} bytes for 83,000`);
  const noise = segmentBytes(random, 0, SEGMENT);
  for (let i = 0; i < SEGMENT; i++) {
    noise[i] = random.int(256);
  }
  const object = encode(noise, 0);
  assert.ok(object.length < SEGMENT + 200, "what cannot be compressed stays as it is");
});

test("decodeStoredSegment: a segment of a release before is what it was", () => {
  const bytes = segmentBytes(new SeededRandom(9), 8192, SEGMENT);
  assert.equal(decodeStoredSegment(bytes, "it"), bytes);
  assert.equal(decodeStoredHead(bytes.subarray(0, MAX_HEAD_BYTES), "it"), undefined);
});

test("decodeStoredSegment: no wrong byte and no missing end gets through", () => {
  const bytes = segmentBytes(new SeededRandom(10), 500, 9000);
  const object = encode(bytes, 500);
  const wrong = { kind: "corrupt", code: "stored-wal-damaged", message: /^pg: / };
  // Without its magic it counts as a segment of before, of a size that none has.
  for (let at = 8; at < object.length; at++) {
    const damaged = object.slice();
    damaged[at]! ^= 1 << (at & 7);
    if (at >= 8 && at < 12) {
      assert.throws(() => decodeStoredSegment(damaged, "pg"), { kind: "unsupported" });
    } else {
      assert.throws(() => decodeStoredSegment(damaged, "pg"), wrong, `byte ${at}`);
    }
  }
  for (let length = 8; length < object.length; length++) {
    assert.throws(() => decodeStoredSegment(object.subarray(0, length), "pg"), wrong);
  }
});

test("decodeStoredHead: hostile numbers under a right checksum", () => {
  const object = encode(segmentBytes(new SeededRandom(11), 0, 300_000), 0);
  const wrong = { kind: "corrupt", code: "stored-wal-damaged" };
  const cases: [at: number, value: number][] = [
    [12, 0x8000_0000],
    [20, 0xffff_ffff],
    [24, 400_000],
    [28, 299_999 - 128 * 1024],
    [28, 0xffff_ffff],
    [32, 0],
    [32, 1],
    [40, 0xffff_ffff],
    // A frame that unpacks to more, or less, than it says.
    [28, 299_999],
    [28, 300_001],
    [24, 1],
  ];
  for (const [at, value] of cases) {
    const hostile = patched(object, at, value);
    assert.throws(() => decodeStoredSegment(hostile, "it"), wrong, `${value} at ${at}`);
  }
  assert.ok(decodeStoredSegment(patched(object, 12, SEGMENT), "it").length === 300_000);
});
