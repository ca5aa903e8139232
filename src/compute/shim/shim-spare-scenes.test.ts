// What becomes of files of relations that were removed: the next ones that are made.

import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { CAN_STOP, stopAt } from "../../../testing/compute/broken-shim.ts";
import { NO_COMPILER as skip } from "../../../testing/compute/shim-program.ts";
import { playScene, withBrokenShim } from "../../../testing/compute/shim-scenes.ts";
import { findShim } from "./shim-loader.ts";

const workdir = mkdtempSync(join(tmpdir(), "strata-shim-"));
after(() => rmSync(workdir, { recursive: true }));

for (const [scene, claim] of [
  ["reuse", "a removed file becomes the next one, empty"],
  ["names", "a dropped relation's name stays until it is removed, its file does not"],
  ["failures", "what cannot be made leaves what is there as it is"],
  ["others", "files of storage's, of another mode and of another name become no other ones"],
  ["at-once", "of processes that make and remove files at once each has its own"],
] as const) {
  test(`spares: ${claim}`, { skip }, async () => {
    const { code, stderr } = await playScene(findShim(workdir), { scene: `spare-${scene}` });
    assert.equal(code, 0, stderr);
  });
}

test("spares: of a database that is moved in 14, which others still have open, none", {
  skip,
}, async () => {
  const scene = { scene: "spare-moved", versionDirectory: "PG_14_202107181" };
  const { code, stderr } = await playScene(findShim(workdir), scene);
  assert.equal(code, 0, stderr);
});

const BEFORE_THE_NAME = stopAt(
  "    if (fd >= 0 && rename_with(spare, path, RENAME_NOREPLACE) != 0) {",
);

test("spares: one that is being taken keeps its name to itself", { skip }, () =>
  withBrokenShim([CAN_STOP, BEFORE_THE_NAME], async (shim) => {
    const { code, stderr } = await playScene(shim, { scene: "spare-taken" });
    assert.equal(code, 0, stderr);
  }),
);

test("spares: there are at most 1024, however many files are removed", { skip }, async () => {
  let left: readonly string[] = [];
  const { code, stderr } = await playScene(findShim(workdir), {
    scene: "spare-many",
    afterwards: (directory) => {
      left = readdirSync(join(directory, "pgsql_tmp_removed"));
    },
  });
  assert.equal(code, 0, stderr);
  assert.equal(left.length, 1024 + 1, "and the empty file");
});
