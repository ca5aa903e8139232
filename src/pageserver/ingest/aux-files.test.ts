// Tests of what ingest keeps of the files of logical decoding, and what a compute gets of them.

import assert from "node:assert/strict";
import { test } from "node:test";
import { slotState } from "../../../testing/compute/slot-state.ts";
import { IngestHarness } from "../../../testing/ingest-harness.ts";
import { formatLsn, type Lsn, toLsn } from "../../base/lsn.ts";
import { readAuxFiles } from "./aux-files.ts";

const BEGIN = toLsn(100);

function pathsAt(h: IngestHarness, lsn = h.storage.lastRecordLsn, startLsn = BEGIN): string[] {
  return readAuxFiles(h.storage, startLsn, lsn)
    .map(({ path }) => path)
    .sort();
}

/** A slot's state goes to storage as a compute sends it. */
function putSlot(h: IngestHarness, name: string, restart: number, confirmed: number): Lsn {
  const bytes = slotState({ name, restartLsn: restart, confirmedFlush: confirmed });
  return h.record((ingest) => ingest.auxFile(`pg_replslot/${name}/state`, 0, bytes));
}

const snapshot = (lsn: number) =>
  `pg_logical/snapshots/${formatLsn(toLsn(lsn)).replace("/", "-")}.snap`;

test("auxiliary files: each as of its LSN, and none once it is gone", () => {
  const h = new IngestHarness();
  assert.deepEqual(pathsAt(h), []);
  const first = putSlot(h, "one", 500, 600);
  putSlot(h, "one", 700, 800);
  const both = putSlot(h, "two", 500, 600);
  h.record((ingest) => ingest.auxFileGone("pg_replslot/one/state"));
  assert.deepEqual(pathsAt(h), ["pg_replslot/two/state"]);
  assert.deepEqual(pathsAt(h, both), ["pg_replslot/one/state", "pg_replslot/two/state"]);
  const [then] = readAuxFiles(h.storage, BEGIN, first);
  assert.deepEqual(
    Buffer.from(then!.bytes),
    Buffer.from(slotState({ name: "one", restartLsn: 500, confirmedFlush: 600 })),
  );
  h.record((ingest) => ingest.auxFileGone("pg_replslot/two/state"));
  assert.deepEqual(pathsAt(h), []);
});

test("auxiliary files: a branch has none of its parent's, and its own of the same name", () => {
  const h = new IngestHarness();
  const parents = putSlot(h, "one", 500, 600);
  putSlot(h, "two", 500, 600);
  assert.deepEqual(pathsAt(h, undefined, parents), ["pg_replslot/two/state"]);
  assert.deepEqual(pathsAt(h, undefined, h.storage.lastRecordLsn), []);
  const branch = h.storage.lastRecordLsn;
  putSlot(h, "one", 900, 950);
  assert.deepEqual(pathsAt(h, undefined, branch), ["pg_replslot/one/state"]);
});

test("auxiliary files: snapshots that a slot may begin with, and those only", () => {
  const h = new IngestHarness();
  const made = [400, 500, 550, 600, 601, 900, 950, 1000];
  for (const lsn of made) {
    h.record((ingest) => ingest.auxFile(snapshot(lsn), 0, Buffer.from("snapshot")));
  }
  assert.deepEqual(pathsAt(h), [], "nobody decodes");
  putSlot(h, "one", 500, 600);
  putSlot(h, "two", 900, 950);
  const found = pathsAt(h).filter((path) => path.endsWith(".snap"));
  assert.deepEqual(found, [500, 550, 600, 900, 950].map(snapshot).sort());
  h.record((ingest) => ingest.auxFileGone(snapshot(550)));
  assert.ok(!pathsAt(h).includes(snapshot(550)));
});

test("auxiliary files: a mapping is whole, in the order of its pieces, and goes as a whole", () => {
  const h = new IngestHarness();
  const path = "pg_logical/mappings/map-5-4eb-0_1A000028-2ea-2f0";
  putSlot(h, "one", 500, 600);
  h.record((ingest) => ingest.auxFile(path, 0, Buffer.alloc(72, 1)));
  h.record((ingest) => ingest.auxFile(path, 72, Buffer.alloc(36, 2)));
  const mapping = readAuxFiles(h.storage, BEGIN, h.storage.lastRecordLsn).find(
    (file) => file.path === path,
  );
  assert.deepEqual(
    Buffer.from(mapping!.bytes),
    Buffer.concat([Buffer.alloc(72, 1), Buffer.alloc(36, 2)]),
  );
  h.record((ingest) => ingest.auxFileGone(path));
  assert.deepEqual(pathsAt(h), ["pg_replslot/one/state"]);
});

test("auxiliary files: other paths are passed over", () => {
  const h = new IngestHarness();
  putSlot(h, "one", 500, 600);
  for (const path of [
    "global/pg_control",
    "pg_replslot/../state",
    "pg_replslot/a/b/state",
    "pg_replslot/UPPER/state",
    "pg_replslot/one/state.tmp",
    "pg_logical/snapshots/../0-1.snap",
    "pg_logical/mappings/map",
    "",
  ]) {
    h.record((ingest) => ingest.auxFile(path, 0, Buffer.from("bytes")));
    assert.deepEqual(pathsAt(h), ["pg_replslot/one/state"], path);
    h.record((ingest) => ingest.auxFileGone(path));
  }
});
