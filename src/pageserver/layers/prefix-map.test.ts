import assert from "node:assert/strict";
import { test } from "node:test";
import { type KeyPrefix, keyPrefix } from "./key.ts";
import { PrefixMap } from "./prefix-map.ts";

test("PrefixMap: by fields, also where hashes are the same", () => {
  const map = new PrefixMap<string>();
  const one = keyPrefix(0, 1663, 5, 16384, 0);
  const same: KeyPrefix = { ...one };
  const collides: KeyPrefix = { ...one, field4: 7 };
  const third: KeyPrefix = { ...one, field5: 1 };
  map.set(one, "one");
  map.set(collides, "other");
  map.set(third, "third");
  map.set(same, "replaced");
  assert.equal(map.size, 3);
  assert.deepEqual(
    [one, same, collides, third].map((prefix) => map.get(prefix)),
    ["replaced", "replaced", "other", "third"],
  );
  assert.equal(map.get({ ...one, field2: 8 }), undefined);
  assert.equal(map.get(keyPrefix(1, 1, 1, 1, 1)), undefined);
  assert.deepEqual(
    new Set([...map].map(([, value]) => value)),
    new Set(["replaced", "other", "third"]),
  );
  map.clear();
  assert.equal(map.size, 0);
  assert.equal(map.get(one), undefined);
});
