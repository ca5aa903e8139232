import assert from "node:assert/strict";
import { test } from "node:test";
import { CRC32C_START, crc32c, finishCrc32c, updateCrc32c } from "./crc32c.ts";

test("crc32c: the check value of the polynomial", () => {
  assert.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
});

test("crc32c: RFC 3720 B.4 vectors", () => {
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
  assert.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
  assert.equal(crc32c(Uint8Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e);
});

test("updateCrc32c: any split gives the same sum", () => {
  const bytes = Uint8Array.from({ length: 100 }, (_, i) => (i * 37) & 0xff);
  const whole = crc32c(bytes);
  for (let cut = 0; cut <= bytes.length; cut++) {
    const first = updateCrc32c(CRC32C_START, bytes, 0, cut);
    assert.equal(finishCrc32c(updateCrc32c(first, bytes, cut, bytes.length)), whole);
  }
});

test("crc32c: the same at every alignment and length, in any buffer", () => {
  const buffer = Uint8Array.from({ length: 4096 }, (_, i) => (i * 2654435761) >>> 11);
  for (let start = 0; start < 24; start++) {
    for (let length = 0; length < 90; length++) {
      const range = buffer.slice(start, start + length);
      const bytewise = range.reduce((crc, byte) => updateBitwise(crc, byte), -1);
      assert.equal(crc32c(buffer, start, start + length), ~bytewise >>> 0);
      assert.equal(crc32c(range), ~bytewise >>> 0);
      assert.equal(
        crc32c(buffer.subarray(3), start, start + length),
        crc32c(buffer, start + 3, start + 3 + length),
      );
    }
  }
});

/** The definition of the checksum, a bit at a time. */
function updateBitwise(crc: number, byte: number): number {
  let state = crc ^ byte;
  for (let bit = 0; bit < 8; bit++) {
    state = state & 1 ? (state >>> 1) ^ 0x82f63b78 : state >>> 1;
  }
  return state;
}
