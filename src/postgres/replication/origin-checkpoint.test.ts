import assert from "node:assert/strict";
import { test } from "node:test";
import { crc32c } from "../../base/crc32c.ts";
import { decodeOriginCheckpoint, encodeOriginCheckpoint } from "./origin-checkpoint.ts";

const STATES = [
  { originId: 2, remoteLsn: 0xffff_ffff_0000_0010n },
  { originId: 1, remoteLsn: 0n },
];

test("replorigin_checkpoint: layout, round trip, and an empty one", () => {
  const bytes = encodeOriginCheckpoint(STATES);
  const hex = Buffer.from(bytes.subarray(0, 36)).toString("hex");
  assert.equal(
    hex,
    "deda5712" + "0200000000000000" + "10000000ffffffff" + "0100000000000000" + "0000000000000000",
  );
  assert.equal(bytes.length, 40);
  assert.deepEqual(decodeOriginCheckpoint(bytes), STATES);
  assert.deepEqual(decodeOriginCheckpoint(encodeOriginCheckpoint([])), []);
});

test("replorigin_checkpoint: damage, other lengths and repeated origins are corrupt", () => {
  const good = encodeOriginCheckpoint(STATES);
  for (let at = 0; at < good.length; at++) {
    const bad = good.slice();
    bad[at]! ^= 4;
    assert.throws(() => decodeOriginCheckpoint(bad), { kind: "corrupt" }, `byte ${at}`);
  }
  for (const length of [0, 4, 7, 9, 24, 39]) {
    const bad = good.slice(0, length);
    assert.throws(() => decodeOriginCheckpoint(bad), { kind: "corrupt" }, `${length} bytes`);
  }
  for (const originId of [0, 2]) {
    const bad = good.slice();
    const view = new DataView(bad.buffer);
    view.setUint16(20, originId, true);
    view.setUint32(36, crc32c(bad, 0, 36), true);
    assert.throws(() => decodeOriginCheckpoint(bad), { kind: "corrupt" }, `origin ${originId}`);
  }
});
