import assert from "node:assert/strict";
import { test } from "node:test";
import { toLsn } from "../../base/lsn.ts";
import { LayerMap } from "./layer-map.ts";

test("invalidate: reaches every descendant, of which there may be more than a call takes arguments", () => {
  const root = new LayerMap(toLsn(1000));
  const children = Array.from(
    { length: 130_000 },
    () => new LayerMap(toLsn(1000), { map: root, lsn: toLsn(1000) }),
  );
  const grandchild = new LayerMap(toLsn(1000), { map: children.at(-1)!, lsn: toLsn(1000) });
  const before = [children[0]!.path, grandchild.path];
  assert.equal(children[0]!.path, before[0]);
  root.invalidate();
  assert.notEqual(children[0]!.path, before[0]);
  assert.notEqual(grandchild.path, before[1]);
});
