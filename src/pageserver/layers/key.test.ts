import assert from "node:assert/strict";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { turn } from "../../base/clock.ts";
import {
  comparePrefixes,
  decodeKey,
  encodeKey,
  formatKey,
  isPagePrefix,
  keyPrefix,
  PREPARED_SLOT_PREFIX,
  prefixFields,
  prefixStartsWith,
  relBlockPrefix,
  relmapPrefix,
  samePrefix,
  slruBlockPrefix,
  slruSizePrefix,
} from "./key.ts";

const u8 = fc.integer({ min: 0, max: 0xff });
const u32 = fc.oneof(fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 0xffff_ffff }));
const fields = fc.tuple(u8, u32, u32, u32, u8);

test("keyPrefix, samePrefix: the fields, and back", () => {
  fc.assert(
    fc.property(fields, fields, (a, b) => {
      const prefix = keyPrefix(...a);
      const other = keyPrefix(...b);
      assert.deepEqual(prefixFields(prefix), a);
      assert.ok(samePrefix(keyPrefix(...a), prefix));
      assert.equal(
        samePrefix(prefix, other),
        a.every((field, i) => field === b[i]),
      );
    }),
  );
});

test("keyPrefix: what nobody holds leaves memory", async () => {
  const held = keyPrefix(0x61, 1663, 5, 1, 0);
  const made = Array.from(
    { length: 20_000 },
    (_, rel) => new WeakRef(keyPrefix(0x61, 1663, 5, rel, 0)),
  );
  // What a WeakRef was made of stays until the next turn.
  await turn();
  setFlagsFromString("--expose-gc");
  (runInNewContext("gc") as () => void)();
  const alive = made.filter((ref) => ref.deref() !== undefined).length;
  assert.ok(alive <= 1100, `${alive} of 20,000 are still there`);
  assert.deepEqual(prefixFields(held), [0x61, 1663, 5, 1, 0]);
});

test("comparePrefixes: as the encoded bytes compare", () => {
  fc.assert(
    fc.property(fields, fields, u32, (a, b, index) => {
      const [left, right] = [keyPrefix(...a), keyPrefix(...b)];
      const bytes = Buffer.compare(encodeKey(left, index), encodeKey(right, index));
      assert.equal(Math.sign(comparePrefixes(left, right)), bytes);
    }),
  );
});

test("encodeKey and decodeKey: round trip; a wrong length is corrupt", () => {
  fc.assert(
    fc.property(fields, u32, (a, index) => {
      const prefix = keyPrefix(...a);
      assert.deepEqual(decodeKey(encodeKey(prefix, index)), { prefix, index });
    }),
  );
  assert.throws(() => decodeKey(new Uint8Array(17)), { kind: "corrupt" });
});

test("keyspaces: as in the table", () => {
  assert.equal(
    formatKey(relBlockPrefix(1663, 5, 16384, 2), 9),
    "000000067F00000005000040000200000009",
  );
  assert.equal(formatKey(slruBlockPrefix(2, 0x10), 31), "01000000020000000100000010000000001F");
  assert.deepEqual(prefixFields(slruSizePrefix(1, 7)), [0x66, 1, 7, 0, 0]);
  assert.deepEqual(prefixFields(PREPARED_SLOT_PREFIX), [0x69, 0, 0, 0, 0]);
  assert.ok(isPagePrefix(relBlockPrefix(1663, 5, 16384, 0)));
  assert.ok(!isPagePrefix(relmapPrefix(1663, 5)));
});

test("keyPrefix: fields out of range are invalid", () => {
  for (const bad of [-1, 0x1_0000_0000, 1.5, Number.NaN]) {
    assert.throws(() => keyPrefix(0, 1, 2, bad, 0), { kind: "invalid" });
    assert.throws(() => keyPrefix(0, bad, 2, 3, 0), { kind: "invalid" });
  }
  assert.throws(() => keyPrefix(0, 1, 2, 3, 256), { kind: "invalid" });
});

test("prefixStartsWith: any number of fields", () => {
  const prefix = keyPrefix(0x61, 1663, 5, 16384, 1);
  assert.ok(prefixStartsWith(prefix, []));
  assert.ok(prefixStartsWith(prefix, [0x61, 1663]));
  assert.ok(prefixStartsWith(prefix, [0x61, 1663, 5, 16384, 1]));
  assert.ok(!prefixStartsWith(prefix, [0x61, 1663, 5, 16384, 0]));
  assert.ok(!prefixStartsWith(prefix, [0x61, 1664]));
});
