import assert from "node:assert/strict";
import { test } from "node:test";
import {
  formatTenantShardId,
  parseTenantId,
  parseTenantShardId,
  shardOf,
  unshardedId,
} from "./ids.ts";

const TENANT = parseTenantId("1f359dd625e519a1a4e8d7509690f6fc");

test("TenantShardId: Neon's form, both ways", () => {
  const cases = [
    [unshardedId(TENANT), `${TENANT}`],
    [shardOf(TENANT, 0, 1), `${TENANT}-0001`],
    [shardOf(TENANT, 1, 4), `${TENANT}-0104`],
    [shardOf(TENANT, 0xab, 0xff), `${TENANT}-abff`],
  ] as const;
  for (const [id, text] of cases) {
    assert.equal(formatTenantShardId(id), text);
    assert.deepEqual(parseTenantShardId(text), id);
    assert.deepEqual(parseTenantShardId(text.toUpperCase()), id);
  }
  assert.deepEqual(parseTenantShardId(`${TENANT}-0000`), unshardedId(TENANT));
});

test("TenantShardId: what is none, or a shard that there is not, is refused", () => {
  const suffixes = ["-", "-01", "-010", "-01044", "-0g04", "-0404", "-0504", "-0100", "_0104", " "];
  for (const text of ["", "x", TENANT.slice(1), ...suffixes.map((suffix) => TENANT + suffix)]) {
    assert.throws(() => parseTenantShardId(text), { kind: "invalid" }, JSON.stringify(text));
  }
  for (const [number, count] of [
    [1, 1],
    [-1, 4],
    [0.5, 4],
    [0, 256],
    [3, 2],
  ] as const) {
    assert.throws(() => shardOf(TENANT, number, count), { kind: "invalid" });
  }
});
