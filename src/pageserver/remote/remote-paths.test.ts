import assert from "node:assert/strict";
import { test } from "node:test";
import { StorageError } from "../../base/errors.ts";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { checkObjectKey } from "../../object-store/object-store.ts";
import {
  indexKey,
  layerKey,
  manifestKey,
  newestIndexes,
  parseRemoteKey,
  tenantPrefix,
} from "./remote-paths.ts";

const TENANT = parseTenantId("11".repeat(16));
const A = parseTimelineId("aa".repeat(16));
const B = parseTimelineId("bb".repeat(16));
const RANGE = `${"0".repeat(36)}-${"F".repeat(36)}__0000000100000000`;
const LAYERS: readonly [string, number][] = [
  [`${RANGE}-0000000100100000-0000000a-00000007`, 10],
  [`${RANGE}-fffffffe-ffffffff`, 0xffff_fffe],
  [`${RANGE}-0000000100100000-v1-00000001`, 1],
  [`${RANGE}-v1-00000001`, 1],
];

test("remote keys: what is formatted is parsed", () => {
  for (const [fileName, generation] of LAYERS) {
    const key = layerKey(TENANT, A, fileName);
    checkObjectKey(key);
    assert.deepEqual(parseRemoteKey(key), {
      kind: "layer",
      tenantId: TENANT,
      timelineId: A,
      fileName,
      generation,
    });
  }
  assert.deepEqual(parseRemoteKey(indexKey(TENANT, A, 0x12ab)), {
    kind: "index",
    tenantId: TENANT,
    timelineId: A,
    generation: 0x12ab,
  });
  assert.deepEqual(parseRemoteKey(manifestKey(TENANT, 3)), {
    kind: "manifest",
    tenantId: TENANT,
    generation: 3,
  });
  assert.equal(
    indexKey(TENANT, A, 0x12ab),
    `tenants/${TENANT}/timelines/${A}/index_part.json-000012ab`,
  );
  assert.equal(manifestKey(TENANT, 3), `tenants/${TENANT}/tenant-manifest.json-00000003`);
});

test("remote keys: nothing else is parsed", () => {
  const prefix = `tenants/${TENANT}/timelines/${A}/`;
  for (const key of [
    "",
    `${prefix}index_part.json`,
    `${prefix}index_part.json-0000000A`,
    `${prefix}index_part.json-000000001`,
    `${prefix}tenant-manifest.json-00000001`,
    `${prefix}${RANGE}`,
    `${prefix}${RANGE}-00000001`,
    `${prefix}x/${LAYERS[0]![0]}`,
    `${tenantPrefix(TENANT)}index_part.json-00000001`,
    `tenants/xyz/timelines/${A}/index_part.json-00000001`,
    `a/${manifestKey(TENANT, 1)}`,
  ]) {
    assert.equal(parseRemoteKey(key), undefined, key);
  }
});

test("newestIndexes: the highest generation of each timeline, at or below one's own", () => {
  const keys = [
    indexKey(TENANT, A, 9),
    indexKey(TENANT, A, 16),
    indexKey(TENANT, A, 2),
    layerKey(TENANT, B, LAYERS[1]![0]),
    indexKey(TENANT, B, 1),
    manifestKey(TENANT, 1),
    layerKey(TENANT, parseTimelineId("cc".repeat(16)), LAYERS[0]![0]),
  ];
  const newest = newestIndexes(keys, 16);
  assert.deepEqual(
    [...newest.values()].map(({ timelineId, generation }) => [timelineId, generation]),
    [
      [A, 16],
      [B, 1],
    ],
  );
  assert.throws(
    () => newestIndexes(keys, 15),
    (error) =>
      error instanceof StorageError &&
      error.kind === "conflict" &&
      error.message.includes(indexKey(TENANT, A, 16)),
  );
});

test("newestIndexes: an index from before the newest manifest came too late", () => {
  const keys = [
    manifestKey(TENANT, 3),
    manifestKey(TENANT, 5),
    indexKey(TENANT, A, 4),
    indexKey(TENANT, B, 4),
    indexKey(TENANT, B, 5),
  ];
  assert.deepEqual([...newestIndexes(keys, 6).keys()], [B]);
  assert.throws(
    () => newestIndexes([manifestKey(TENANT, 7)], 6),
    (error) => error instanceof StorageError && error.kind === "conflict",
  );
});
