import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { REAL_DISK } from "../../base/disk.ts";
import { DiskRemovals } from "./disk-removals.ts";

/** Removals wait for `go`. */
function gated(t: TestContext) {
  const directory = mkdtempSync(join(tmpdir(), "strata-removals-"));
  t.after(() => rmSync(directory, { recursive: true, force: true }));
  const go = Promise.withResolvers<void>();
  const removeTree = async (path: string) => {
    await go.promise;
    await REAL_DISK.background.removeTree(path);
  };
  const background = { ...REAL_DISK.background, removeTree };
  return { directory, go, removals: new DiskRemovals({ ...REAL_DISK, background }) };
}

test("remove: the file counts as gone at once, and who writes it again waits", async (t) => {
  const { directory, go, removals } = gated(t);
  const path = join(directory, "layer");
  writeFileSync(path, "old");
  const removal = removals.remove(path);
  assert.equal(removals.remove(path), removal);
  assert.ok(removals.isLeaving(path));
  const order: string[] = [];
  const written = removals.write(path, async () => {
    order.push(existsSync(path) ? "too early" : "written");
    writeFileSync(path, "new");
  });
  go.resolve();
  await Promise.all([removal, written]);
  assert.deepEqual(order, ["written"]);
  assert.ok(existsSync(path));
  assert.ok(!removals.isLeaving(path));
});

test("removeEmptied: what lies in a directory that is leaving is leaving; one that is written to stays", async (t) => {
  const { directory, go, removals } = gated(t);
  const timeline = join(directory, "timeline");
  const path = join(timeline, "layer");
  mkdirSync(timeline);
  writeFileSync(path, "");
  await removals.removeEmptied(timeline, "mark");
  assert.ok(!removals.isLeaving(path), "a layer is in it");
  rmSync(path);
  writeFileSync(join(timeline, "mark"), "");
  const written = removals.write(path, async () => {
    void removals.removeEmptied(timeline, "mark");
    assert.ok(!removals.isLeaving(path), "it is being written to");
  });
  // It waits for its turn.
  void removals.removeEmptied(timeline, "mark");
  assert.ok(!removals.isLeaving(path), "it is about to be written to");
  await written;
  const removal = removals.removeEmptied(timeline, "mark");
  assert.ok(removals.isLeaving(path));
  go.resolve();
  await removal;
  assert.ok(!existsSync(timeline));
  await removals.removeEmptied(timeline, "mark");
});
