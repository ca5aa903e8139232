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
