// The layers of a branch: which are seen, how keys are called.

import assert from "node:assert/strict";
import { test } from "node:test";
import { parseTenantId, parseTimelineId } from "../../base/ids.ts";
import { formatLsn, toLsn } from "../../base/lsn.ts";
import type { LayerMapInfo, TimelineInfo } from "../../pageserver/api.ts";
import { keyWords } from "./key-words.ts";
import { groupLayers, type LayerMapSource, lsnRange, readBranchLayers } from "./layer-map.ts";

const TENANT = parseTenantId("1".repeat(32));
const ROOT = "a".repeat(32);
const CHILD = "b".repeat(32);
const OTHER = "c".repeat(32);
const FIRST = "0".repeat(36);
const LAST = "F".repeat(36);

const at = (lsn: number) => formatLsn(toLsn(lsn));

function timeline(id: string, ancestor: string | null, ancestorLsn: number, head: number) {
  return {
    timeline_id: id,
    ancestor_timeline_id: ancestor,
    ancestor_lsn: ancestor === null ? null : at(ancestorLsn),
    start_lsn: at(ancestor === null ? 100 : ancestorLsn),
    min_readable_lsn: at(150),
    last_record_lsn: at(head),
  } as TimelineInfo;
}

type Layer = LayerMapInfo["historic_layers"][number];

function layer(
  kind: Layer["kind"],
  lsnStart: number,
  lsnEnd: number,
  more: Partial<Layer> = {},
): Layer {
  return {
    layer_file_name: `${kind}-${lsnStart}-${more.key_start ?? ""}`,
    layer_file_size: 1000,
    kind,
    key_start: FIRST,
    key_end: LAST,
    lsn_start: at(lsnStart),
    lsn_end: at(lsnEnd),
    timeline_id: ROOT,
    cap_lsn: null,
    remote: false,
    ...more,
  };
}

function source(layers: Readonly<Record<string, readonly Layer[]>>): LayerMapSource {
  return {
    timelines: async () => [
      timeline(ROOT, null, 0, 900),
      timeline(CHILD, ROOT, 400, 700),
      timeline(OTHER, CHILD, 500, 500),
    ],
    layers: async (_tenant, id) => ({
      in_memory_layers: id === CHILD ? [{ kind: "Open", lsn_start: at(600) }] : [],
      historic_layers: [...(layers[id] ?? [])],
    }),
  };
}

test("readBranchLayers: its own layers, and its ancestor's up to the branch point", async () => {
  const map = await readBranchLayers(
    source({
      [ROOT]: [
        layer("Image", 100, 101),
        layer("Delta", 101, 401),
        layer("Delta", 401, 900),
        layer("Delta", 300, 500),
      ],
      [CHILD]: [layer("Delta", 401, 601, { cap_lsn: at(450), remote: true })],
    }),
    TENANT,
    parseTimelineId(CHILD),
  );
  assert.deepEqual(
    map.layers.map((one) => [one.isOwn, one.kind, lsnRange(one), one.isRemote]),
    [
      [true, "Delta", `${at(401)} to ${at(450)}`, true],
      [false, "Image", at(100), false],
      [false, "Delta", `${at(101)} to ${at(400)}`, false],
      [false, "Delta", `${at(300)} to ${at(400)}`, false],
    ],
  );
  assert.deepEqual(map.branchPoints, [{ timelineId: OTHER, lsn: 500 }]);
  assert.deepEqual(
    [map.headLsn, map.beginLsn, map.minReadableLsn, map.memoryFrom],
    [700, 400, 150, 600],
  );
});

test("keyWords: what a key is of", () => {
  const key = (text: string) => keyWords(text.replaceAll(" ", "").toUpperCase());
  assert.equal(key("00 0000067f 00000005 00004000 02 00000007"), "1663/5/16384_vm block 7");
  assert.equal(key("00 00000680 00000000 00000000 00 00000000"), "relation map of 1664/0");
  assert.equal(key("01 00000000 00000001 0000000a 00 00000003"), "pg_xact segment 000A block 3");
  assert.equal(key("61 0000067f 00000005 00004000 00 00000000"), "size of 1663/5/16384");
  assert.equal(
    key("66 00000001 00000002 00000000 00 00000000"),
    "size of pg_multixact/members segment 0002",
  );
  assert.equal(keyWords(FIRST), "the first key");
  assert.equal(keyWords(LAST), "the last key");
  assert.equal(
    key("70 00000001 00000002 00000000 00 00000000"),
    "700000000100000002000000000000000000",
  );
});

test("groupLayers: one line for those of a range, of 10,000", async () => {
  const many: Layer[] = [];
  for (let band = 0; band < 10; band++) {
    for (let i = 0; i < 1000; i++) {
      const key_start = `00${i.toString(16).padStart(34, "0")}`.toUpperCase();
      many.push(
        layer("Delta", 101 + band * 30, 131 + band * 30, { key_start, key_end: key_start }),
      );
    }
  }
  const map = await readBranchLayers(source({ [ROOT]: many }), TENANT, parseTimelineId(ROOT));
  assert.equal(map.layers.length, 10_000);
  const groups = groupLayers(map.layers, false);
  assert.equal(groups.length, 10);
  assert.deepEqual([groups[0]!.count, groups[0]!.sizeBytes], [1000, 1_000_000]);
  assert.equal(groups[0]!.keyEnd, `00${(999).toString(16).padStart(34, "0")}`.toUpperCase());
  assert.equal(groupLayers(map.layers, true).length, 10_000);
});
